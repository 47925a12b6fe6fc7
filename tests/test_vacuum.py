"""Vacuum: what any version needs stays, whoever writes meanwhile; what none needs goes, once it is old enough."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core.errors import CorruptWarehouseError, InputError, TransientStoreError
from stacchip_core.warehouse import checkpoint as checkpoints
from stacchip_core.warehouse.care import vacuum as vacuums
from stacchip_core.warehouse.care.expire import expire
from stacchip_core.warehouse.care.retention import histories
from stacchip_core.warehouse.care.vacuum import GRACE, SHORTEST_GRACE, vacuum
from stacchip_core.warehouse.care.verify import verify
from stacchip_core.warehouse.combined.merge import merge
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.version import CombinedVersion
from stacchip_core.warehouse.warehouse import Warehouse
from tests.care import KINDS, contents, filled, grow, keys, later, memory_warehouse, new_warehouse
from tests.faulty_store import Crash, FaultyStore, Scripted, is_overloaded
from tests.warehouse_rows import Piece, commit_parts, commit_pieces, part_of

INDEXES = ("combined/global", "collections/s2", "collections/naip")


@pytest.fixture(autouse=True)
def every_third_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "EVERY", 3)


@pytest.fixture(params=KINDS)
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    found = new_warehouse(request.param, request, tmp_path)
    filled(found.store)
    return found


def expire_all(store: Store, keep: int = 1) -> None:
    for index in INDEXES:
        expire(store, index, keep=keep, days=0)


def problems(store: Store) -> list[str]:
    return [str(problem) for problem in verify(store, deep=True).problems]


def live_paths(store: Store, name: str) -> set[str]:
    """The oracle: data files with a live row in the newest version, by folding all item rows in plain Python."""
    live: dict[tuple[object, ...], str | None] = {}
    for entry in Log(store, f"collections/{name}").entries():
        for info in entry.files("items"):
            for row in pq.read_table(io.BytesIO(store.read(info.path))).to_pylist():
                place = tuple(row[column] for column in ("key", "size_px", "stride_px", "edge"))
                if row["op"] == "delete":
                    live.pop(place, None)
                elif row["op"] != "failed":
                    live[place] = row["file"]
    return {path for path in live.values() if path}


# --- what goes and what stays


def test_a_dry_run_removes_nothing(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    expire_all(warehouse.store)
    later(monkeypatch, 30)
    before = keys(warehouse.store)
    told = warehouse.vacuum()
    assert {key for key in keys(warehouse.store) if "clock-" not in key} >= {
        key for key in before if "clock-" not in key
    }
    assert told.is_dry_run
    assert told.files
    done = warehouse.vacuum(dry_run=False)
    assert [one.path for one in told.files if not one.path.startswith("_staging/clock")] == [
        one.path for one in done.files if not one.path.startswith("_staging/clock")
    ]
    gone = before - keys(warehouse.store)
    assert gone == {one.path for one in done.files} & before
    assert {one.path: one.size for one in done.files}.keys() >= gone


def test_all_that_can_be_read_reads_the_same_afterwards(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse.tag("early", "s2", 2)
    warehouse.tag("first", "global", 1)
    store = warehouse.store
    expire_all(store)
    before = contents(warehouse, INDEXES)
    needed = live_paths(store, "s2")
    listed = {info.path for version in (1, 3) for info in warehouse.combined("global", version).entry.files("data")}
    later(monkeypatch, 30)
    assert warehouse.vacuum(dry_run=False).files
    assert contents(warehouse, INDEXES) == before
    assert {("collections/s2", 2), ("combined/global", 1)} <= before.keys(), "tagged"
    assert ("collections/s2", 5) not in before
    assert problems(store) == []
    left = {key for key in keys(store) if "/data/" in key}
    assert {key for key in left if key.startswith("collections/s2")} >= needed
    assert {key for key in left if key.startswith("combined")} == listed
    assert not [key for key in keys(store, ("_staging",)) if "clock" not in key]


def test_once_nothing_holds_them_only_the_files_of_the_newest_version_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    store = warehouse.store
    expire_all(store)
    needed = live_paths(store, "s2")
    pinned = {int(source["version"]): str(source["collection"]) for source in warehouse.combined("global").sources}  # type: ignore[call-overload]
    assert pinned[8] == "s2", "the version that is merged is the newest with items"
    later(monkeypatch, 30)
    vacuum(store, dry_run=False)
    assert {key for key in keys(store) if key.startswith("collections/s2/data")} == needed
    assert {key for key in keys(store) if key.startswith("combined/global/data")} == {
        info.path for info in warehouse.combined("global").files
    }
    assert not vacuum(store, dry_run=False).files[1:], "nothing but clocks is left to remove"


def test_without_expiry_nothing_that_was_committed_goes(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = keys(warehouse.store, ("collections", "combined"))
    part_of(warehouse.store, "s2", [Piece(77)])
    later(monkeypatch, 1000)
    done = warehouse.vacuum(dry_run=False)
    assert keys(warehouse.store, ("collections", "combined")) == committed
    assert {one.why for one in done.files} == {"left by a run", "never committed"}


def test_young_files_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    part_of(warehouse.store, "s2", [Piece(77)])
    later(monkeypatch, 6.9)
    told = vacuum(warehouse.store, dry_run=False)
    assert told.files == ()
    assert told.young >= 2
    later(monkeypatch, 7.1)
    assert {one.path.split("/")[0] for one in vacuum(warehouse.store, dry_run=False).files} == {
        "_staging",
        "collections",
    }


def test_what_is_not_ours_is_told_and_left_alone(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = [
        "collections/s2/data/notes.txt",
        "collections/README.md",
        "combined/Upper/data/x.parquet",
        "collections/s2/log/1.json",
        "collections/s2/other/x.parquet",
        "_staging/mine.parquet",
    ]
    for key in strange:
        warehouse.store.write(key, b"x")
    later(monkeypatch, 1000)
    done = warehouse.vacuum(dry_run=False)
    assert sorted(done.unknown) == sorted(strange)
    assert set(strange) <= keys(warehouse.store)


def test_logs_tags_and_hints_are_never_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    warehouse.tag("x", "s2", 3)
    expire_all(warehouse.store)
    kept = {key for key in keys(warehouse.store) if "/log/" in key or key.endswith(".json")}
    assert any(key.endswith("_last_checkpoint.json") for key in kept)
    later(monkeypatch, 1000)
    vacuum(warehouse.store, dry_run=False)
    assert kept <= keys(warehouse.store)


def test_a_grace_period_that_commits_outlive_is_refused() -> None:
    with pytest.raises(InputError, match="a grace period of 71 hours could remove files of a commit on its way"):
        vacuum(memory_warehouse().store, grace=timedelta(hours=71))
    assert SHORTEST_GRACE <= GRACE
    with pytest.raises(InputError, match="a grace period of 36501 days: expected at most 36500"):
        vacuum(memory_warehouse().store, grace=timedelta(days=36_501))


@pytest.mark.parametrize(
    "key", ["tags/paper.json", "datasets/d/work/0001/plan.json", "collections/s2/log/00000000000000000002.json"]
)
def test_where_it_can_not_be_told_what_is_needed_nothing_goes(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    warehouse.tag("paper", "global", 1)
    expire_all(warehouse.store)
    warehouse.store.write(key, b"{")
    before = keys(warehouse.store, ("collections", "combined"))
    later(monkeypatch, 1000)
    with pytest.raises(CorruptWarehouseError):
        vacuum(warehouse.store, dry_run=False)
    assert keys(warehouse.store, ("collections", "combined")) == before


# --- rules that each have a test which fails without them


def commits_between(monkeypatch: pytest.MonkeyPatch, first: str) -> list[str]:
    """A commit lands once the first of the two steps, listing files and reading logs, is done."""
    store = memory_warehouse().store
    grow(store, 2)
    part = part_of(store, "s2", [Piece(77)]).part
    later(monkeypatch, 30)
    step: Callable[..., Any] = getattr(vacuums, first)

    def then_commit(*args: Any) -> Any:
        found = step(*args)
        monkeypatch.setattr(vacuums, first, step)
        commit_parts(store, "s2", [part])
        return found

    monkeypatch.setattr(vacuums, first, then_commit)
    vacuum(store, dry_run=False)
    return problems(store)


def test_files_are_listed_before_the_logs_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert commits_between(monkeypatch, "_files") == []


def test_the_other_order_would_lose_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_way_round(store: Store, now: datetime, grace: timedelta) -> Any:
        uses = vacuums._uses(store, {}, now, grace)
        return vacuums._files(store), uses

    monkeypatch.setattr(vacuums, "_look", wrong_way_round)
    lost = commits_between(monkeypatch, "_uses")
    assert any("/data/" in problem and "missing" in problem for problem in lost)


def commit_on_its_way(store: Store) -> list[str]:
    """Vacuum comes between the writing of a run's files and its commit."""
    grow(store, 2)
    part = part_of(store, "s2", [Piece(77)]).part
    vacuum(store, dry_run=False)
    with suppress(Exception):
        commit_parts(store, "s2", [part])
    return problems(store)


def is_whole(store: Store, found: list[str]) -> bool:
    return not [one for one in found if "_format" not in one] and len(Log(store, "collections/s2").entries()) == 3


def test_a_commit_on_its_way_is_left_alone() -> None:
    store = memory_warehouse().store
    assert is_whole(store, commit_on_its_way(store))


def test_without_grace_a_commit_on_its_way_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vacuums, "_is_old", lambda *_: True)
    store = memory_warehouse().store
    assert not is_whole(store, commit_on_its_way(store))


def behind() -> FaultyStore:
    """A store whose clock is a month behind this machine's."""
    store = FaultyStore()
    store.shared.clock_offset = -timedelta(days=30)
    return store


def test_ages_are_by_the_stores_clock() -> None:
    store = behind()
    assert is_whole(store, commit_on_its_way(store))


def test_by_this_machines_clock_a_commit_on_its_way_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vacuums, "_now", lambda _: datetime.now(UTC))
    store = behind()
    assert not is_whole(store, commit_on_its_way(store))


def expired_just_now() -> tuple[int, list[str]]:
    """Somebody reads a version of a month ago when it expires and vacuum comes: files removed, and what is wrong."""
    store = FaultyStore(memory_warehouse().store)
    store.shared.clock_offset = -timedelta(days=30)
    filled(store)
    version = CombinedVersion(store, "global", Log(store, "combined/global").read(1))
    store.shared.clock_offset = timedelta(0)
    expire(store, "combined/global", keep=1, days=0)
    removed = len([one for one in vacuum(store, dry_run=False).files if one.path.startswith("combined")])
    try:
        version.dataset().to_table()
    except (CorruptWarehouseError, OSError) as err:
        return removed, [str(err)]
    return removed, []


def test_what_has_just_expired_stays_for_those_who_have_it_open() -> None:
    assert expired_just_now() == (0, [])


def test_without_that_rule_it_is_taken_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vacuums, "histories", lambda store, *_: histories(store))
    removed, wrong = expired_just_now()
    assert removed
    assert wrong


# --- together with all else


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(0, 5), st.integers(0, 9)),
        st.tuples(st.just("remove"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("merge"), st.just(0), st.just(0)),
        st.tuples(st.just("tag"), st.integers(0, 1), st.integers(1, 9)),
        st.tuples(st.just("untag"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("expire"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("vacuum"), st.just(0), st.just(0)),
    ),
    max_size=14,
)


@pytest.mark.slow
@settings(max_examples=8)
@given(ACTS)
def test_no_version_that_can_be_read_ever_changes(acts: list[tuple[str, int, int]]) -> None:
    warehouse = memory_warehouse()
    store, seen = warehouse.store, dict[tuple[str, int], object]()
    indexes = ("collections/s2", "combined/global")
    grow(store, 4)
    merge(store, "global", ["s2"])
    with pytest.MonkeyPatch.context() as patch:
        for number, (act, which, value) in enumerate([*acts, ("merge", 0, 0), ("vacuum", 0, 0)]):
            index = indexes[which % 2]
            later(patch, 30 * number)
            match act:
                case "commit":
                    commit_pieces(store, "s2", [Piece(which, form=f"v{value}", month=5 + value % 2)])
                case "remove":
                    with suppress(KeyError):
                        warehouse.remove_items("s2", [Piece(which).item_id], reason="test")
                case "merge":
                    merge(store, "global", ["s2"])
                case "tag":
                    with suppress(KeyError, ValueError):
                        warehouse.tag(f"tag-{value % 4}", index, value)
                case "untag":
                    warehouse.untag(f"tag-{which}")
                case "expire":
                    expire(store, index, keep=value, days=0)
                case "vacuum":
                    vacuum(store, dry_run=False)
            now = contents(warehouse, indexes)
            assert all(seen[place] == found for place, found in now.items() if place in seen)
            seen |= now
    assert problems(store) == []


@pytest.mark.slow
def test_crashed_anywhere_it_is_finished_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch, 30)
    warehouse = memory_warehouse()
    filled(warehouse.store)
    expire_all(warehouse.store)
    before = contents(warehouse, INDEXES)
    number = 0
    while True:
        store = FaultyStore(warehouse.store)
        store.crash_at = (number, "after" if number % 2 else "before")
        try:
            vacuum(store, dry_run=False)
        except Crash:
            assert contents(warehouse, INDEXES) == before
            number += 11
            continue
        break
    assert number > 70
    assert problems(warehouse.store) == []


def test_two_at_once_are_harmless(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    expire_all(warehouse.store)
    before = contents(warehouse, INDEXES)
    later(monkeypatch, 30)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: vacuum(warehouse.store, dry_run=False), range(2)))
    assert contents(warehouse, INDEXES) == before
    assert problems(warehouse.store) == []


def test_a_store_that_refuses_is_an_error_and_the_rest_can_go_later(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FaultyStore(memory_warehouse().store)
    filled(store)
    expire_all(store)
    later(monkeypatch, 30)
    store.script.append(Scripted(is_overloaded, "delete"))
    with pytest.raises(TransientStoreError):
        vacuum(store, dry_run=False)
    vacuum(store, dry_run=False)
    assert problems(store) == []


def test_a_late_listing_keeps_more_never_less(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FaultyStore(memory_warehouse().store)
    store.shared.late_listings = 30
    filled(store)
    expire_all(store)
    later(monkeypatch, 30)
    vacuum(store, dry_run=False)
    store.shared.late_listings = 0
    assert problems(store) == []
