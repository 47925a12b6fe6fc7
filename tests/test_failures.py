"""Items that fail: on record with their cause, tried again when due or when asked, off the list once they are in."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stacchip_core import FailureBudget, Warehouse
from stacchip_core.errors import FailureBudgetError
from stacchip_core.index.indexer import IndexSettings
from stacchip_core.sources.crawl import checked_item
from stacchip_core.sources.source import Source
from stacchip_core.warehouse.again import could_hold
from stacchip_core.warehouse.backoff import AT_ONCE, DEFAULT_BACKOFF
from stacchip_core.warehouse.commit import Commit
from stacchip_core.warehouse.contract import Store
from tests.broken import PROFILE, WAYS, Folder, tiny_item
from tests.file_server import serve

BROKEN = dict(enumerate(WAYS, start=2))
SIZE = 16


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Eight items, five of them broken, each in another way."""
    return Folder.made(tmp_path / "items", 8, BROKEN)


@pytest.fixture
def warehouse(tmp_path: Path, folder: Folder) -> Warehouse:
    return Warehouse(tmp_path / "w", create=True, local_roots=[folder.path])


def index(warehouse: Warehouse, folder: Folder, **more: Any) -> Commit:
    """A run over all items of the folder."""
    done = warehouse.index_items(folder.paths, name="tiny", chip_size=SIZE, **more)
    assert isinstance(done, Commit)
    return done


def listed(warehouse: Warehouse) -> dict[str, str]:
    """Cause of each failure, by item."""
    rows = warehouse.collection("tiny").failures().to_pylist()
    return {row["item_id"]: row["cause"] for row in rows}


def later(monkeypatch: pytest.MonkeyPatch, time: timedelta) -> None:
    """The store's clock goes on."""
    real = Store.now

    def now(self: Store) -> datetime:
        return real(self) + time

    monkeypatch.setattr(Store, "now", now)


def test_failures_are_on_record_by_cause_and_all_others_are_committed(warehouse: Warehouse, folder: Folder) -> None:
    done = index(warehouse, folder)
    assert (done.new, done.failed, done.is_partial, done.waiting) == (3, 5, True, 0)
    assert dict(done.causes) == dict.fromkeys(WAYS, 1)
    rows = warehouse.collection("tiny").failures().to_pylist()
    assert [row["cause"] for row in rows] == sorted(WAYS)
    for row in rows:
        number = next(n for n, way in BROKEN.items() if way == row["cause"])
        is_path = row["cause"] == "bad-json"
        assert row["item_id"] == (f"tiny-{number:05d}.json" if is_path else f"tiny-{number:05d}")
        assert row["found_as"] == f"tiny-{number:05d}.json"
        assert (row["attempts"], row["first_failed"]) == (1, row["last_failed"])
        assert abs(row["last_failed"] - warehouse.store.now()) < timedelta(minutes=10), "by the store's clock"


def test_a_run_over_an_unchanged_catalog_writes_nothing_while_failures_wait(
    warehouse: Warehouse, folder: Folder
) -> None:
    index(warehouse, folder)
    before = warehouse.store.list("collections")
    again = index(warehouse, folder)
    assert (again.version, again.tried, again.waiting) == (1, 0, 5)
    assert warehouse.store.list("collections") == before


def test_a_due_failure_is_tried_again_and_counted(
    warehouse: Warehouse, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index(warehouse, folder)
    first = {row["key"]: row for row in warehouse.collection("tiny").failures().to_pylist()}
    later(monkeypatch, timedelta(hours=1.1))
    again = index(warehouse, folder)
    assert (again.version, again.new, again.failed, again.failed_again) == (2, 0, 5, 5)
    for row in warehouse.collection("tiny").failures().to_pylist():
        assert (row["attempts"], row["first_failed"]) == (2, first[row["key"]]["first_failed"])
        assert row["last_failed"] > row["first_failed"]
    assert index(warehouse, folder).waiting == 5, "twice as long now"
    later(monkeypatch, timedelta(hours=1))
    assert index(warehouse, folder).failed == 5


def test_a_mended_item_comes_in_when_due_or_at_once_when_asked(
    warehouse: Warehouse, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index(warehouse, folder)
    folder.mend(2)
    folder.mend(3)
    assert index(warehouse, folder).waiting == 5
    done = index(warehouse, folder, retry_failed=True)
    assert (done.new, done.failed) == (2, 3)
    folder.mend(4)
    later(monkeypatch, timedelta(hours=3))
    assert (index(warehouse, folder).new, len(listed(warehouse))) == (1, 2)


def test_an_item_whose_form_has_changed_does_not_wait(warehouse: Warehouse, folder: Folder) -> None:
    index(warehouse, folder)
    folder.write(5, tiny_item(5, "whole.tif", changed=1))
    done = index(warehouse, folder)
    assert (done.new, done.waiting) == (1, 4)
    assert "tiny-00005" not in listed(warehouse)


def test_a_file_that_could_not_be_read_is_off_the_list_once_it_yields_an_item(
    warehouse: Warehouse, folder: Folder
) -> None:
    index(warehouse, folder)
    assert listed(warehouse)["tiny-00006.json"] == "bad-json"
    folder.mend(6)
    done = index(warehouse, folder)
    assert (done.new, done.waiting) == (1, 4), "a file that is another is read at once"
    assert not {"tiny-00006.json", "tiny-00006"} & listed(warehouse).keys()
    assert index(warehouse, folder).version == done.version


def test_an_item_that_was_live_goes_off_the_list_too_when_its_file_is_back(
    warehouse: Warehouse, folder: Folder
) -> None:
    index(warehouse, folder)
    whole = folder.item_path(0).read_text()
    folder.break_(0, "bad-json")
    assert index(warehouse, folder).failed == 1
    assert listed(warehouse)["tiny-00000.json"] == "bad-json"
    assert warehouse.collection("tiny").items().num_rows == 3, "its chips stay meanwhile"
    folder.item_path(0).write_text(whole)
    index(warehouse, folder)
    assert "tiny-00000.json" not in listed(warehouse)
    before = warehouse.collection("tiny").version
    assert index(warehouse, folder).version == before


def test_retry_failed_commits_exactly_what_was_mended(warehouse: Warehouse, folder: Folder) -> None:
    index(warehouse, folder)
    for number in BROKEN:
        folder.mend(number)
    done = warehouse.retry_failed("tiny")
    assert (done.new, done.updated, done.failed) == (5, 0, 0)
    version = warehouse.collection("tiny")
    assert (listed(warehouse), version.items().num_rows, version.count()) == ({}, 8, 8)
    assert version.items()["attempts"].null_count == 8
    assert warehouse.retry_failed("tiny").version == done.version, "nothing is left to try"
    assert index(warehouse, folder).version == done.version


def test_retry_failed_counts_what_fails_again(warehouse: Warehouse, folder: Folder) -> None:
    index(warehouse, folder)
    for attempts in (2, 3):
        done = warehouse.retry_failed("tiny")
        assert (done.version, done.new, done.failed, done.failed_again) == (attempts, 0, 5, 5)
        assert set(warehouse.collection("tiny").failures()["attempts"].to_pylist()) == {attempts}
        assert listed(warehouse).keys() == {f"tiny-{n:05d}" + (".json" if n == 6 else "") for n in BROKEN}


def test_items_given_as_json_are_retried_as_they_were_given(warehouse: Warehouse, folder: Folder) -> None:
    items = [tiny_item(2, "own-2.tif"), tiny_item(0)]
    done = warehouse.index_items(items, name="tiny", chip_size=SIZE)
    assert isinstance(done, Commit) and (done.new, done.failed) == (1, 1)
    folder.mend(2)
    assert warehouse.retry_failed("tiny").new == 1


def test_failures_live_on_through_checkpoints(
    warehouse: Warehouse, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stacchip_core.warehouse import checkpoint

    monkeypatch.setattr(checkpoint, "EVERY", 2)
    index(warehouse, folder)
    before = warehouse.collection("tiny").failures().drop_columns(["version"])
    for number in range(20, 25):
        folder.write(number, tiny_item(number))
        index(warehouse, folder)
    version = warehouse.collection("tiny")
    assert version.manifest.checkpoint is not None
    assert version.failures().drop_columns(["version"]).equals(before)
    assert index(warehouse, folder).waiting == 5


def test_too_many_failures_end_a_run_and_what_is_committed_stays(warehouse: Warehouse, folder: Folder) -> None:
    with pytest.raises(FailureBudgetError, match=r"5 of 8 items failed .*3 were committed.*retry_failed"):
        index(warehouse, folder, budget=FailureBudget(max_failed=4))
    version = warehouse.collection("tiny")
    assert (version.items().num_rows, version.failures().num_rows) == (3, 5)
    assert index(warehouse, folder, budget=FailureBudget(max_failed=0, max_failed_share=0)).waiting == 5


def test_failures_of_a_source_are_told_from_those_of_others(warehouse: Warehouse, folder: Folder) -> None:
    local, api = Source(url=str(folder.path)), Source(url="https://stac.example.com/v1")
    assert could_hold(local, "a/b.json") and not could_hold(local, "https://stac.example.com/v1/x.json")
    assert could_hold(api, "https://stac.example.com/other") and not could_hold(api, "https://b.example.com/v1")
    assert could_hold(api, "") and not could_hold(api, "a/b.json")
    index(warehouse, folder)
    settings = IndexSettings(chip_size=SIZE, local_roots=(str(folder.path),))
    assert warehouse.failed_items("tiny", settings, local, DEFAULT_BACKOFF) == []
    at_once = DEFAULT_BACKOFF.model_copy(update={"lasting_hours": 0})
    assert len(warehouse.failed_items("tiny", settings, local, at_once)) == 5
    assert warehouse.failed_items("tiny", settings, api, at_once) == []


def test_two_runs_that_retry_at_once_count_one_try_and_the_same_parts_count_once(
    warehouse: Warehouse, folder: Folder
) -> None:
    index(warehouse, folder)
    settings = IndexSettings(chip_size=SIZE, local_roots=(str(folder.path),))
    items = warehouse.failed_items("tiny", settings, Source(url=str(folder.path)), AT_ONCE)
    parts, read_version = [], 0
    for _ in range(2):
        found = warehouse.classify("tiny", items, settings, backoff=AT_ONCE)
        read_version = found.version
        key = warehouse.stage([*found.new, *found.updated])
        parts.append(warehouse.index_batch("tiny", key, settings).part)
    versions = [warehouse.commit("tiny", [part], read_version=read_version).version for part in (*parts, parts[0])]
    assert versions == [2, 2, 2]
    assert set(warehouse.collection("tiny").failures()["attempts"].to_pylist()) == {2}


def test_a_failure_that_is_removed_is_off_the_list_and_begins_anew(warehouse: Warehouse, folder: Folder) -> None:
    index(warehouse, folder)
    warehouse.remove_items("tiny", ["tiny-00002", "tiny-00006.json"], reason="gone from the source")
    assert len(listed(warehouse)) == 3
    done = index(warehouse, folder)
    assert (done.failed, done.failed_again, done.waiting) == (2, 0, 3)
    assert set(warehouse.collection("tiny").failures()["attempts"].to_pylist()) == {1}


@pytest.mark.slow
def test_of_ten_thousand_items_the_hundred_broken_ones_are_listed_and_retried(tmp_path: Path) -> None:
    broken = {number: WAYS[number // 100 % 5] for number in range(50, 10_000, 100)}
    folder = Folder.made(tmp_path / "items", 10_000, broken)
    warehouse = Warehouse(tmp_path / "w", create=True, local_roots=[folder.path])
    begin = time.process_time()
    done = index(warehouse, folder, profile=PROFILE)
    print(f"10,000 items in {time.process_time() - begin:.1f} s of CPU")
    assert (done.new, done.failed) == (9_900, 100)
    assert Counter(listed(warehouse).values()) == dict.fromkeys(WAYS, 20)
    for number in broken:
        folder.mend(number)
    retried = warehouse.retry_failed("tiny", profile=PROFILE)
    assert (retried.new, retried.updated, retried.failed) == (100, 0, 0)
    version = warehouse.collection("tiny")
    assert (version.items().num_rows, listed(warehouse)) == (10_000, {})
    fresh = version.items(["item_id"])["item_id"].to_pylist()
    before = set(warehouse.collection("tiny", done.version).items(["item_id"])["item_id"].to_pylist())
    assert set(fresh) - before == {f"tiny-{number:05d}" for number in broken}


@pytest.mark.server
def test_an_item_of_an_api_is_read_again_by_itself(tmp_path: Path) -> None:
    """A page of a search is named by a token that means nothing later; an item's own address stays."""
    folder = Folder.made(tmp_path / "items", 1, {0: "not-found"})
    with serve(folder.path) as server:
        item = tiny_item(0, "own-0.tif")
        own = f"{server.url}/tiny-00000.json"
        folder.write(0, item)
        staged = checked_item(item, f"{server.url}/search?token=7", own)
        assert staged.found_as == own
        warehouse = Warehouse(tmp_path / "w", create=True)
        settings = IndexSettings(chip_size=SIZE)
        found = warehouse.classify("tiny", [staged], settings)
        part = warehouse.index_batch("tiny", warehouse.stage(found.new), settings).part
        assert warehouse.commit("tiny", [part], read_version=0).failed == 1
        assert listed(warehouse) == {"tiny-00000": "not-found"}
        folder.mend(0)
        assert warehouse.retry_failed("tiny").new == 1
        assert "/tiny-00000.json" in server.paths()
    assert listed(warehouse) == {}
