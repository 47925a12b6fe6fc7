"""Items of stac-geoparquet come back as they were: what stac-geoparquet itself writes is the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import stac_geoparquet.arrow as oracle

from stacchip_core.sources.geoparquet import read_rows
from stacchip_core.sources.item import fingerprint
from stacchip_core.sources.source import Source
from tests.catalogs import found, ids
from tests.data import ITEMS, needs_shared_data
from tests.stac_server import serving_files
from tests.tiny import tiny_item

JSON = dict[str, Any]


def write_items(path: Path, items: list[JSON]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    oracle.to_parquet(oracle.parse_stac_items_to_arrow(items), path)
    return path


@needs_shared_data
def test_real_items_are_read_as_stac_geoparquet_reads_them(tmp_path: Path) -> None:
    """It can't write every item, and leaves out of some what Parquet has no form for; what it has written counts."""
    read = same = 0
    for path in sorted(ITEMS.rglob("*.json")):
        item = json.loads(path.read_text())
        try:
            written = write_items(tmp_path / "one.parquet", [item])
            [theirs] = oracle.stac_table_to_items(pq.read_table(written))
        except (pa.ArrowException, ValueError, TypeError, KeyError, AttributeError):
            continue
        [ours] = read_rows(str(written), "one")
        assert fingerprint(ours) == fingerprint(theirs), path.name
        assert ours["geometry"] == json.loads(json.dumps(theirs["geometry"])), path.name
        read, same = read + 1, same + (fingerprint(ours) == fingerprint(item))
    assert (read >= 60, same >= 50) == (True, True), (read, same)


def test_items_with_different_assets_and_properties_keep_their_own(tmp_path: Path) -> None:
    one, two = tiny_item("a", note="x"), tiny_item("b", cloud=12.5)
    two["assets"]["more"] = {"href": "./more.tif"}
    path = write_items(tmp_path / "items.parquet", [one, two])
    assert [fingerprint(item) for item in read_rows(str(path), "items")] == [fingerprint(one), fingerprint(two)]


def test_a_folder_of_files_is_a_source_and_so_is_one_on_the_network(tmp_path: Path) -> None:
    write_items(tmp_path / "x" / "a.parquet", [tiny_item("a"), tiny_item("b", platform="tiny-2")])
    write_items(tmp_path / "x" / "y" / "c.parquet", [tiny_item("c", when="2023-01-01T00:00:00Z")])
    write_items(tmp_path / "x" / "_hidden" / "d.parquet", [tiny_item("d")])
    assert ids(Source(url=str(tmp_path / "x"))) == ["a", "b", "c"]
    assert ids(Source(url=str(tmp_path / "x"), query=("platform = tiny-2",))) == ["b"]
    assert [one.base for one in found(Source(url=str(tmp_path / "x")))] == ["", "", "y"]
    with serving_files(tmp_path / "x") as url:
        assert ids(Source(url=f"{url}a.parquet", datetime="2024")) == ["a", "b"]


def test_a_file_that_is_none_is_a_failure_and_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no Parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    write_items(tmp_path / "c.parquet", [tiny_item("c")])
    errors = [staged.error or "" for staged in found(Source(url=str(tmp_path)))]
    assert ["readable Parquet" in errors[0], "no column 'id'" in errors[1], errors[2]] == [True, True, ""]
