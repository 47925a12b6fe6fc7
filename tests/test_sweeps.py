"""Sweeps in parts, and a bulk file before an API: in the end the index holds what the source has, each item once."""

from __future__ import annotations

import datetime as dt
import uuid
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from stacchip_core import Warehouse
from stacchip_core.sources import windows
from stacchip_core.sources.source import Source
from stacchip_core.warehouse.followed import Followed
from stacchip_core.warehouse.memory import Following, Memory, text_of
from tests.hostile_stac import COLLECTION, Hostile, serving
from tests.test_geoparquet_source import write_items
from tests.tiny import TINY, tiny_item

JSON = dict[str, Any]
CHIPS = 4  # of an item of 32 pixels, cut by 16
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def scene(name: str, day: int, **properties: Any) -> JSON:
    given = {"updated": text_of(START + dt.timedelta(days=day + 1)), **properties}
    when = text_of(START + dt.timedelta(days=day)).replace("+00:00", "Z")
    return tiny_item(name, when=when, href="https://example.invalid/data.tif", **given)


def some(number: int) -> dict[str, JSON]:
    return {f"item-{n:03d}": scene(f"item-{n:03d}", 10 * n) for n in range(number)}


def run(warehouse: Warehouse, source: Source, rules: Following) -> Followed:
    return warehouse.follow(source, rules=rules, profile=TINY, chip_size=16)


def check(warehouse: Warehouse, truth: dict[str, JSON]) -> None:
    """Live items are the truth's in their latest form, and the rows are theirs, each chip once."""
    version = warehouse.collection(COLLECTION)
    rows = version.dataset().to_table(columns=["chip_id", "item_id", "platform"])
    assert set(version.items(["item_id"])["item_id"].to_pylist()) == set(truth)
    assert version.count() == len(rows) == len(pc.unique(rows["chip_id"])) == CHIPS * len(truth)
    platforms = dict(zip(rows["item_id"].to_pylist(), rows["platform"].to_pylist(), strict=True))
    assert platforms == {name: item["properties"]["platform"] for name, item in truth.items()}


@pytest.fixture
def warehouse() -> Warehouse:
    return Warehouse(f"memory://sweeps/{uuid.uuid4()}", create=True)


@pytest.mark.slow
def test_a_sweep_that_a_budget_ends_is_carried_on_with_and_is_complete(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What appears under old dates, changes without saying so, or goes, is for a sweep to find."""
    monkeypatch.setattr(windows, "SPLIT_ABOVE", 10)
    with serving(Hostile(some(64))) as server:
        source = Source(url=server.url, collections=(COLLECTION,), page_size=8)
        rules = Following(sweep_hours=0, sweep_items=15, confirm_hours=0)
        assert run(warehouse, source, rules).total.new == 64
        for day in (5, 215, 415, 625):
            server.items[f"late-{day}"] = scene(f"late-{day}", day)
        for name in ("item-010", "item-050"):
            server.items[name]["properties"]["platform"] = "tiny-9"
        gone = [server.items.pop(name)["id"] for name in ("item-003", "item-060")]
        counts, under_way = list[tuple[int, int, int]](), list[bool]()
        while not counts or under_way[-1]:
            done = run(warehouse, source, rules)
            assert done.is_complete
            memory = Memory.of(warehouse.collection(COLLECTION).sources, source.summary())
            counts.append((done.total.new, done.total.updated, done.total.deleted))
            under_way.append(bool(memory.sweep_at))
        assert len(counts) > 2, "one run reads a part"
        assert [sum(column) for column in zip(*counts, strict=True)] == [4, 2, 0]
        assert max(counts)[0] < 4, "no run read all of it"
        live = warehouse.collection(COLLECTION).items(["item_id"])["item_id"].to_pylist()
        assert set(live) == {*server.items, *gone}
        deleted = 0
        for _ in counts:
            deleted += run(warehouse, source, rules).total.deleted
        assert deleted == 2, "gone in two whole sweeps"
        check(warehouse, server.items)


def test_after_a_bulk_file_the_api_adds_what_is_new_and_indexes_nothing_twice(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    truth = some(40)
    bulk = Source(url=str(write_items(tmp_path / "bulk.parquet", list(truth.values()))))
    rules = Following(confirm_hours=0)
    assert run(warehouse, bulk, rules).total.new == 40
    check(warehouse, truth)
    with serving(Hostile(dict(truth))) as server:
        for n in range(3):
            server.items[f"new-{n}"] = scene(f"new-{n}", 1000 + n)
        server.items["item-007"] = scene("item-007", 70, platform="tiny-2", updated=text_of(dt.datetime.now(dt.UTC)))
        api = Source(url=server.url, collections=(COLLECTION,), page_size=7)
        done = run(warehouse, api, rules)
        assert (done.is_complete, done.total.new, done.total.updated, done.total.deleted) == (True, 3, 1, 0)
        check(warehouse, server.items)
        server.items["new-3"] = scene("new-3", 3, updated=text_of(dt.datetime.now(dt.UTC)))
        again = run(warehouse, api, rules)
        assert (again.total.new, again.total.updated, again.total.deleted) == (1, 0, 0)
        check(warehouse, server.items)
        assert run(warehouse, api, rules).total.new == 0
