"""A chip index is one file: read back, it is the same table, scenes and specs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyproj import CRS

from stacchip_core.errors import InputError, ReadError, StoreError
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.index.grid import GridSpec
from stacchip_core.index.indexer import Indexer
from tests import scenes
from tests.items import utm_grid


@pytest.fixture
def index(tmp_path: Path) -> ChipIndex:
    return Indexer(scenes.sentinel2_scene(tmp_path / "px"), chip_size=100, stride=50, edge="pad",
                   local_roots=[tmp_path / "px"]).create_index()  # fmt: skip


@pytest.mark.parametrize("name", ["scene.parquet", "a b ä.parquet", "collection=x/year=2024/scene.parquet", "noext"])
def test_what_is_written_is_read_back(name: str, index: ChipIndex, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    index.write(path)
    found = ChipIndex.read(path, local_roots=["/somewhere"])
    assert found.table.equals(index.table)
    assert found.table.schema == index.table.schema
    assert dict(found.scenes) == dict(index.scenes)
    assert found.specs == index.specs == (GridSpec(100, 50, "pad"),)
    assert found.local_roots == ("/somewhere",)
    found.write(str(tmp_path / "again.parquet"))
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()


def test_no_path_of_the_machine_is_written(index: ChipIndex, tmp_path: Path) -> None:
    index.write(tmp_path / "x.parquet")
    assert index.local_roots
    assert str(tmp_path).encode() not in (tmp_path / "x.parquet").read_bytes()
    assert str(tmp_path).encode() not in b"".join((pq.read_schema(tmp_path / "x.parquet").metadata or {}).values())


def test_an_index_without_chips_is_read_back_too(tmp_path: Path) -> None:
    item = scenes.sentinel2_scene(tmp_path, grid=utm_grid(90))
    index = Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index()
    assert len(index) == 0
    assert len(index.to_geopandas()) == 0
    index.write(tmp_path / "x.parquet")
    found = ChipIndex.read(tmp_path / "x.parquet")
    assert found.table.schema == index.table.schema
    assert (len(found), found.specs) == (0, index.specs)


def test_rows_are_counted_and_shown_as_geometries(index: ChipIndex) -> None:
    frame = index.to_geopandas()
    assert len(index) == len(index.table) == len(frame) == 81
    assert frame.crs == CRS("OGC:CRS84")
    assert "bbox" not in frame.columns
    boxes = index.table["bbox"].to_pylist()
    for bounds, box in zip(frame.geometry.bounds.to_numpy(), boxes, strict=True):
        np.testing.assert_allclose(bounds, list(box.values()), atol=1e-5)
    assert set(frame.item_id) == {scene.item_id for scene in index.scenes.values()}


def test_files_that_are_no_index_are_refused_by_name(index: ChipIndex, tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"gone\.parquet") as caught:
        ChipIndex.read(tmp_path / "gone.parquet")
    assert str(tmp_path) not in str(caught.value)
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ReadError, match=r"text\.parquet"):
        ChipIndex.read(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"other\.parquet: not written by ChipIndex\.write"):
        ChipIndex.read(tmp_path / "other.parquet")
    whole = {"stacchip:scenes": "{}", "stacchip:schema_version": "1", "stacchip:specs": "[]"}
    for change in (
        {"specs": None},
        {"schema_version": None},
        {"scenes": "x"},
        {"scenes": '{"a": "{}"}'},
        {"specs": "[1]"},
    ):
        metadata = {k: v for k, v in {**whole, **{f"stacchip:{k}": v for k, v in change.items()}}.items() if v}
        pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(metadata), tmp_path / "half.parquet")
        with pytest.raises(InputError, match=r"half\.parquet: (not written by ChipIndex|its footer is damaged)"):
            ChipIndex.read(tmp_path / "half.parquet")
    index.write(tmp_path / "cut.parquet")
    content = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(ReadError, match=r"cut\.parquet"):
        ChipIndex.read(tmp_path / "cut.parquet")


def test_an_index_of_a_newer_schema_is_refused(index: ChipIndex, tmp_path: Path) -> None:
    index.write(tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    newer = {**table.schema.metadata, b"stacchip:schema_version": b"2"}
    pq.write_table(table.replace_schema_metadata(newer), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet: schema version 2, this release reads 1"):
        ChipIndex.read(tmp_path / "x.parquet")


def test_a_place_that_can_not_be_written_is_named(index: ChipIndex, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"x\.parquet: can't be written") as caught:
        index.write(tmp_path / "no folder" / "x.parquet")
    assert str(tmp_path) not in str(caught.value)


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, index: ChipIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.write(tmp_path / "index.parquet")
    before = (tmp_path / "index.parquet").read_bytes()

    def half(*args: Any, **_: Any) -> None:
        Path(args[1]).write_bytes(b"PAR1 half")
        raise OSError("disk full")

    monkeypatch.setattr("stacchip_core.index.chip_index.write_chips", half)
    with pytest.raises(StoreError, match=r"index\.parquet: can't be written: disk full"):
        index.write(tmp_path / "index.parquet")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(("parquet", "tmp"))] == ["index.parquet"]
    assert (tmp_path / "index.parquet").read_bytes() == before
