"""Every file of a combined version passes the validator of the GeoParquet project."""

from __future__ import annotations

from pathlib import Path

import geoparquet_validator
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import warehouses

# Of the third class, "distribution", the items file of a few items has nothing to show: it is advice for large files.
CLASSES = ("core", "covering")


def test_every_file_of_a_combined_version_conforms(tmp_path: Path) -> None:
    warehouse = warehouses.made(tmp_path, tmp_path / "warehouse")
    entry = warehouse.combined("global").entry
    paths = [tmp_path / "warehouse" / info.path for role in ("data", "items") for info in entry.files(role)]
    assert len(paths) == 6, "a data and an items file of each of three collections"
    for path in paths:
        report = geoparquet_validator.check(str(path))
        assert [failed for name in CLASSES for failed in geoparquet_validator.failed(report, name)] == [], path
        passed = {outcome["id"] for outcome in report["outcomes"] if outcome["status"] == "pass"}
        assert {"/conf/core/wkb", "/conf/core/crs-projjson", "/conf/covering/bbox-paths"} <= passed, path


@pytest.mark.parametrize("key", [b"geo", None])
def test_the_validator_tells_what_is_none(tmp_path: Path, key: bytes | None) -> None:
    warehouse = warehouses.made(tmp_path, tmp_path / "warehouse", [warehouses.scenes(tmp_path)[0]])
    (info,) = warehouse.combined("global").files
    table = pq.read_table(tmp_path / "warehouse" / info.path)
    spoiled = table.set_column(table.schema.get_field_index("geometry"), "geometry", pa.array([b"x"] * len(table)))
    kept = {name: value for name, value in table.schema.metadata.items() if name != key}
    pq.write_table(spoiled.replace_schema_metadata(kept), tmp_path / "spoiled.parquet")
    assert geoparquet_validator.failed(geoparquet_validator.check(str(tmp_path / "spoiled.parquet")), "core")
