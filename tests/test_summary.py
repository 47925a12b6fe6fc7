"""A warehouse at a glance: the numbers are those that its versions hold, at a cost that does not grow with them."""

from __future__ import annotations

from collections import Counter

import pytest

from stacchip_core.warehouse import summary
from stacchip_core.warehouse.combined.merge import merge
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.summary import summarize
from stacchip_core.warehouse.warehouse import Warehouse
from tests.care import filled, flipped, grow, memory_warehouse
from tests.s3_fake import S3Fake
from tests.warehouse_rows import Piece, commit_pieces


@pytest.fixture
def warehouse() -> Warehouse:
    one = memory_warehouse()
    filled(one.store)
    return one


def test_indexes_are_what_their_newest_versions_hold(warehouse: Warehouse) -> None:
    found = summarize(warehouse.store)
    assert not found.problems
    assert [one.folder for one in found.combined] == ["combined/global"]
    assert [one.folder for one in found.collections] == ["collections/naip", "collections/s2"]
    for one in (*found.combined, *found.collections):
        version = warehouse.index(one.folder)
        assert (one.version, one.totals.chips) == (version.version, version.count())
        assert one.totals.items == len(version.items(["key"]))
        assert [point.version for point in one.points] == list(range(1, version.version + 1))
    combined = found.combined[0]
    assert combined.size == sum(info.size for info in warehouse.combined("global").files)
    assert {(s.collection, s.version, s.newest) for s in combined.sources} == {("s2", 8, 8), ("naip", 2, 2)}


def test_a_combined_index_that_lags_behind_says_how_far(warehouse: Warehouse) -> None:
    grow(warehouse.store, 1, name="naip", collection="naip", start=50)
    (combined,) = summarize(warehouse.store).combined
    assert {(s.collection, s.newest - s.version) for s in combined.sources} == {("s2", 0), ("naip", 1)}


def test_months_count_the_live_rows_of_a_combined_index(warehouse: Warehouse) -> None:
    rows = warehouse.combined("global").dataset().to_table(columns=["collection", "datetime", "item_id"]).to_pylist()
    chips = Counter((row["collection"], f"{row['datetime']:%Y-%m}") for row in rows)
    items = Counter({(r["collection"], f"{r['datetime']:%Y-%m}", r["item_id"]): 1 for r in rows})
    found = summarize(warehouse.store).months
    assert {(one.collection, one.month): one.chips for one in found} == chips
    assert {(one.collection, one.month): one.items for one in found} == Counter(key[:2] for key in items)


def test_a_collection_of_no_combined_index_has_months_of_its_own() -> None:
    store = memory_warehouse().store
    grow(store, 2, name="lone", collection="lone")
    found = summarize(store).months
    assert {one.collection for one in found} == {"lone"}
    assert all(one.items is None and one.chips > 0 for one in found)


def test_boxes_are_those_of_the_items(warehouse: Warehouse) -> None:
    found = summarize(warehouse.store).boxes
    for name, boxes in found.items():
        live = warehouse.collection(name).items(["bbox"])["bbox"].to_pylist()
        for box in live:
            assert any(all(abs(a - b) < 1e-4 for a, b in zip(box.values(), own, strict=True)) for own in boxes), (
                name,
                box,
            )


def test_failures_are_those_that_nothing_later_mended(warehouse: Warehouse) -> None:
    found = summarize(warehouse.store).causes
    assert [(one.collection, one.items, one.item) for one in found] == [("s2", 1, "item-0090")]
    commit_pieces(warehouse.store, "s2", [Piece(90), Piece(91, failure="read"), Piece(92, failure="read")])
    (again,) = summarize(warehouse.store).causes
    assert (again.items, again.item) == (2, "item-0091")
    assert again.reason


def test_runs_are_the_newest_entries_of_all_logs(warehouse: Warehouse) -> None:
    found = summarize(warehouse.store).runs
    assert len(found) == 13
    assert [one.at for one in found] == sorted((one.at for one in found), reverse=True)
    assert {one.operation for one in found} == {"append", "merge"}
    assert all("stacchip-core" in one.writer for one in found)


def test_what_is_damaged_is_told_and_the_rest_is_shown(warehouse: Warehouse) -> None:
    key = Log(warehouse.store, "collections/naip").key(2)
    warehouse.store.write(key, flipped(warehouse.store.read(key), 20))
    warehouse.store.write("datasets/odd/dataset.json", b"[1")
    found = summarize(warehouse.store)
    assert set(found.problems) == {"collections/naip", "datasets/odd"}
    assert key in found.problems["collections/naip"]
    assert [one.name for one in found.collections] == ["s2"]
    assert found.months


def test_an_empty_warehouse_has_an_empty_summary() -> None:
    found = summarize(memory_warehouse().store)
    assert not any((found.collections, found.combined, found.months, found.causes, found.datasets, found.runs))


def test_the_cost_does_not_grow_with_the_warehouse(s3_fake: S3Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COMMITS_READ", 5), ("MERGES_READ", 3), ("FAILURE_COMMITS", 4), ("FOOTERS_READ", 6)):
        monkeypatch.setattr(summary, name, value)
    store = s3_fake.new_store()
    Warehouse(store.root, create=True, storage=s3_fake.storage)
    costs = []
    for start in (0, 10, 20):
        grow(store, 10, start=start)
        merge(store, "global", ["s2"])
        before = s3_fake.count("GET")
        assert summarize(store).collections[0].version == start + 10
        costs.append(s3_fake.count("GET") - before)
    assert max(costs[1:]) <= costs[0] + 12, costs  # as many entries follow the newest checkpoint, more or less
