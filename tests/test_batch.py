"""Batches: each item indexed by itself, failures as rows, chips in files of one month and a row group an item."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stacchip_core import Indexer, IndexSettings
from stacchip_core.errors import CorruptWarehouseError, ReadError, TransientReadError
from stacchip_core.sources.item import StagedItem
from stacchip_core.warehouse.batch import index_batch, index_item, read_staged, stage
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.work import read_work
from tests.faulty_store import memory_store
from tests.scenes import Item, sentinel2_scene, utm_grid

SIZE = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the scenes lie."""
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def items(folder: Path) -> list[Item]:
    """Two scenes of June and one of July."""
    days = ("2024-06-15", "2024-07-05", "2024-06-25")
    return [
        sentinel2_scene(folder, item_id=f"S2B_32TMT_{day}", when=f"{day}T10:30:31Z", seed=n, grid=utm_grid(240))
        for n, day in enumerate(days)
    ]


@pytest.fixture
def settings(folder: Path) -> IndexSettings:
    return IndexSettings(chip_size=SIZE, local_roots=(str(folder),))


def rows_of(store: Store, part: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_work(store, [part], read_version=0).rows.to_pylist()
    return rows


def staged(items: list[Item]) -> list[StagedItem]:
    return [StagedItem(item) for item in items]


def test_items_are_staged_without_signatures(items: list[Item]) -> None:
    store = memory_store()
    signed = copy.deepcopy(items[0])
    signed["assets"] = {"red": {"href": "https://user:secret@host/red.tif?sig=token&se=2024&v=1"}}
    given = [StagedItem(signed, "some/folder"), StagedItem({"id": "x"}, error="HTTP 404\nno")]
    key = stage(store, given)
    assert b"secret" not in store.read(key) and b"token" not in store.read(key)
    back = read_staged(store, key)
    assert back[0].item["assets"]["red"]["href"] == "https://host/red.tif?v=1"
    assert (back[0].base, back[1]) == ("some/folder", given[1])
    assert signed["assets"]["red"]["href"].startswith("https://user:secret@")
    store.write(key, store.read(key)[:-4])
    with pytest.raises(CorruptWarehouseError, match=key):
        read_staged(store, key)


def test_rows_are_those_of_the_indexer_in_a_file_per_month(
    items: list[Item], settings: IndexSettings, folder: Path
) -> None:
    store = memory_store()
    result = index_batch(store, "s2", staged(items), settings)
    work = read_work(store, [result.part], read_version=0)
    assert (result.items, result.chips, result.failed, result.failures) == (3, 12, 0, ())
    assert sorted((i.month, i.rows, i.collection) for i in work.files.values()) == [
        ("2024-06", 8, "s2"),
        ("2024-07", 4, "s2"),
    ]
    for item, row in zip(items, work.rows.to_pylist(), strict=True):
        index = Indexer(item, chip_size=SIZE, local_roots=[folder]).create_index()
        with pq.ParquetFile(pa.BufferReader(store.read(row["file"]))) as file:
            found = file.read_row_group(row["row_group"]).replace_schema_metadata(None)
        assert found.equals(index.table)
        assert (row["key"], row["rows"], row["op"]) == (f"sentinel-2-l2a/{item['id']}", 4, "add")
        assert row["scene"] == index.scenes[row["key"]].to_json()
        assert row["bbox"]["xmin"] < 9.1 < row["bbox"]["xmax"] + 0.2


def test_items_that_fail_are_rows_and_the_others_go_on(items: list[Item], settings: IndexSettings) -> None:
    no_grid = copy.deepcopy(items[0]) | {"id": "no-geometry", "geometry": None}
    gone = copy.deepcopy(items[1]) | {"id": "gone"}
    gone["assets"]["scl"]["href"] += "x.tif"
    store = memory_store()
    pages = [
        *staged([no_grid, items[2], gone]),
        StagedItem({"id": "u", "collection": "sentinel-2-l2a"}, error="HTTP 404"),
    ]
    result = index_batch(store, "s2", pages, settings)
    assert (result.items, result.failed) == (1, 3)
    assert [(failure.item, failure.stage) for failure in result.failures] == [
        ("no-geometry", "item"),
        ("gone", "read"),
        ("u", "discover"),
    ]
    assert "geometry is null" in result.failures[0].reason and "no-geometry" in result.failures[0].reason
    rows = rows_of(store, result.part)
    assert [row["op"] for row in rows] == ["failed", "add", "failed", "failed"]
    assert all(
        row["rows"] == 0 and row["file"] is None and row["scene"] is None for row in rows if row["op"] == "failed"
    )


@pytest.mark.parametrize(
    ("error", "stage", "is_transient"),
    [
        (ReadError("item a: asset 'scl': truncated"), "read", False),
        (TransientReadError("item a: asset 'scl': HTTP 503"), "read", True),
        (ZeroDivisionError("oops"), "index", False),
    ],
)
def test_whatever_an_item_raises_is_its_own_failure(
    error: Exception,
    stage: str,
    is_transient: bool,
    items: list[Item],
    settings: IndexSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: Indexer) -> None:
        raise error

    monkeypatch.setattr(Indexer, "create_index", fail)
    state = index_item(StagedItem(items[0]), settings).state
    assert (state.op, state.stage, state.is_transient) == ("failed", stage, is_transient)
    assert state.reason and str(error) in state.reason
    assert items[0]["id"] in state.reason or "item a" in state.reason


def test_an_error_of_an_item_that_was_read_is_about_the_item(settings: IndexSettings, items: list[Item]) -> None:
    for item, stage_of_it in ((items[0], "item"), ({"id": "https://x/item.json"}, "discover")):
        state = index_item(StagedItem(item, error="no"), settings).state
        assert (state.op, state.stage, state.reason) == ("failed", stage_of_it, "no")


def test_dates_among_json_are_written_as_text(items: list[Item], settings: IndexSettings) -> None:
    store = memory_store()
    dated = items[0] | {"properties": {**items[0]["properties"], "seen": datetime(2024, 1, 1, tzinfo=UTC)}}
    assert read_staged(store, stage(store, staged([dated])))[0].item["properties"]["seen"].startswith("2024-01-01")
    (row,) = rows_of(store, index_batch(store, "s2", staged([dated]), settings).part)
    assert row["op"] == "add" and '"seen":"2024-01-01' in row["item"]


@pytest.mark.parametrize(
    ("base", "kept"),
    [
        ("", ""),
        ("a/b", "a/b"),
        ("https://x/item.json?sig=S&se=1", "https://x/item.json"),
        ("/home/me/scenes", None),
        ("file:///home/me/item.json", None),
    ],
)
def test_a_base_is_kept_without_signature_and_never_as_a_path_of_this_machine(
    base: str, kept: str | None, items: list[Item], settings: IndexSettings
) -> None:
    store = memory_store()
    (row,) = rows_of(store, index_batch(store, "s2", [StagedItem(items[0], base, error="no")], settings).part)
    assert (row["base"], row["profile"]) == (kept, None)


def test_a_batch_of_failures_writes_no_data(settings: IndexSettings) -> None:
    store = memory_store()
    result = index_batch(store, "s2", [StagedItem({"id": "a", "collection": "s2"})], settings)
    assert (result.items, result.chips, result.failed) == (0, 0, 1)
    assert store.list("collections") == []
    assert store.list("_staging") == [result.part]
