"""Expiry: what is neither new nor young nor held is named in the log; nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core.errors import CommitConflictError, InputError, VersionNotFoundError
from stacchip_core.warehouse.care.expire import expire
from stacchip_core.warehouse.combined.merge import merge
from stacchip_core.warehouse.entry import LogEntry
from stacchip_core.warehouse.log import Log, Patience
from stacchip_core.warehouse.warehouse import Warehouse
from tests.care import KINDS, content, filled, grow, later, memory_warehouse, new_warehouse
from tests.dict_store import DictStore
from tests.faulty_store import FaultyStore, loses_the_answer, slow
from tests.warehouse_rows import Piece, commit_pieces

NO_WAIT = Patience(sleep=lambda _: None)
S2 = "collections/s2"


@pytest.fixture(params=KINDS)
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    found = new_warehouse(request.param, request, tmp_path)
    filled(found.store)
    return found


def entry(version: int, before: LogEntry | None, operation: str = "append") -> LogEntry:
    return LogEntry(version, before.sha256 if before else "", f"t{version}", operation, 0, ())  # type: ignore[arg-type]


def aged(ages: list[tuple[float, bool]]) -> DictStore:
    """A log whose entries are so many days apart; some of them expire others, which these don't."""
    store, before = DictStore(), None
    log = Log(store, S2)
    for version, (days, is_content) in enumerate(ages, start=1):
        store.clock += timedelta(days=days)
        before = log.append(entry(version, before, "append" if is_content else "expire"))
    return store


# --- which versions


def by_the_book(written: list[datetime], is_content: list[bool], now: datetime, keep: int, days: float) -> int:
    """The oracle: one version after the other, until one is among the newest, or was until lately."""
    for version in range(1, len(written) + 1):
        newer = sum(is_content[version:])
        is_among_newest = newer + is_content[version - 1] <= keep if is_content[version - 1] else newer < keep
        is_young = version == len(written) or now - written[version] < timedelta(days=days)
        if is_among_newest or is_young:
            return version - 1
    return len(written)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, 10.0, 40.0]), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 6),
    st.sampled_from([0.0, 5.0, 30.0, 90.0]),
)
def test_versions_neither_among_the_newest_nor_young_expire(
    ages: list[tuple[float, bool]], keep: int, days: float
) -> None:
    store = aged(ages)
    log = Log(store, S2)
    written = [store.modified(log.key(one.version)) for one in log.entries()]
    expected = by_the_book(written, [one for _, one in ages], store.clock, keep, days)
    done = expire(store, S2, keep=keep, days=days)
    assert (done.expired, done.added) == (expected, expected)
    assert done.version == len(ages) + (expected > 0)
    head = log.entries()[-1]
    assert (head.expired, head.operation == "expire" or not expected) == (expected, True)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([0.0, 40.0]), st.just(True)), min_size=1, max_size=9), st.integers(1, 4))
def test_the_same_call_again_does_nothing(ages: list[tuple[float, bool]], keep: int) -> None:
    store = aged(ages)
    first = expire(store, S2, keep=keep, days=0)
    store.clock += timedelta(days=1000)
    again = expire(store, S2, keep=keep, days=0)
    assert (again.version, again.expired, again.added) == (first.version, first.expired, 0)
    assert len(Log(store, S2).entries()) == first.version


def test_an_index_without_a_version_has_nothing_to_expire() -> None:
    assert expire(FaultyStore(), S2, keep=1).version == 0


def test_the_clock_is_the_stores() -> None:
    """All was written today by this machine's clock, and long ago by the store's."""
    store = FaultyStore()
    store.shared.clock_offset = -timedelta(days=400)
    grow(store, 3)
    assert expire(store, S2, keep=1, days=30).expired == 0, "by its own clock, the store was written to just now"
    store.shared.clock_offset = timedelta(0)
    assert expire(store, S2, keep=1, days=30).expired == 2


# --- what it changes


@pytest.mark.parametrize("index", [S2, "combined/global"])
def test_the_newest_version_says_the_same_as_before(warehouse: Warehouse, index: str) -> None:
    before, head = content(warehouse.index(index)), Log(warehouse.store, index).newest()
    assert head is not None
    done = expire(warehouse.store, index, keep=1, days=0)
    assert (done.index, done.version, done.expired, done.added) == (
        index,
        head.version + 1,
        head.version - 1,
        head.version - 1,
    )
    assert content(warehouse.index(index)) == before
    after = warehouse.index(index).entry
    assert (after.totals, after.sources, after.collection) == (head.totals, head.sources, head.collection)
    assert datetime.fromisoformat(after.stored_at) >= datetime.fromisoformat(head.stored_at)
    assert {info.path for info in (*after.kept, *after.added)} == (
        {info.path for info in (*head.kept, *head.added)} if index.startswith("combined") else set()
    )


def test_a_merge_after_it_has_nothing_to_do(warehouse: Warehouse) -> None:
    expire(warehouse.store, "combined/global", keep=1, days=0)
    version = warehouse.combined("global").version
    assert warehouse.merge("global", ["s2", "naip"]).version == version


def test_later_entries_carry_it_forward() -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    for index in (S2, "combined/global"):
        expire(warehouse.store, index, keep=1, days=0)
    expired = {index: warehouse.index(index).entry.expired for index in (S2, "combined/global")}
    assert expired == {S2: 7, "combined/global": 2}
    grow(warehouse.store, 20, start=20)
    manifest = warehouse.remove_items("s2", ["item-0021"], reason="gone")
    warehouse.merge("global", ["s2", "naip"])
    assert {index: warehouse.index(index).entry.expired for index in expired} == expired
    assert warehouse.collection("s2").entry.checkpoint > 0
    assert manifest.deleted == 1


def test_an_expired_version_can_not_be_opened(warehouse: Warehouse) -> None:
    expire(warehouse.store, S2, keep=2, days=0)
    expire(warehouse.store, "combined/global", keep=1, days=0)
    message = "collection 's2' version 2 expired; versions 7 to 9 can be read"
    with pytest.raises(VersionNotFoundError, match=message):
        warehouse.collection("s2", 2)
    with pytest.raises(VersionNotFoundError, match="combined index 'global' version 2 expired; versions 3 to 4 can be"):
        warehouse.combined("global", 2)
    assert [warehouse.collection("s2", version).version for version in (7, 8, 9)] == [7, 8, 9]
    readable = {one.version for one in warehouse.versions("s2") if one.is_readable}
    assert readable == {7, 8, 9}


def test_what_is_tagged_locked_or_merged_can_be_opened(warehouse: Warehouse) -> None:
    before = {version: content(warehouse.collection("s2", version)) for version in (2, 3, 6)}
    first = content(warehouse.combined("global", 1))
    warehouse.tag("two", "s2", 2)
    pin = f'{{"index": {{"name": "global", "version": 1, "sha256": "{warehouse.combined("global", 1).sha256}"}}}}'
    warehouse.store.create("datasets/fields/work/0001/plan.json", pin.encode())
    expire(warehouse.store, "combined/global", keep=1, days=0)
    expire(warehouse.store, S2, keep=1, days=0)
    assert content(warehouse.combined("global", 1)) == first, "a dataset is being made from it"
    assert content(warehouse.collection("s2", 2)) == content(warehouse.collection("s2", "two")) == before[2]
    assert content(warehouse.collection("s2", 3)) == before[3], "the dataset's version was merged from it"
    with pytest.raises(VersionNotFoundError, match="version 6 expired"):
        warehouse.collection("s2", 6)
    assert {one.version for one in warehouse.versions("s2") if one.is_readable} == {2, 3, 8, 9}
    warehouse.untag("two")
    with pytest.raises(VersionNotFoundError, match="version 2 expired"):
        warehouse.collection("s2", 2)


def test_the_message_names_those_that_are_held_too() -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    warehouse.tag("two", "s2", 2)
    for index in ("combined/global", S2):
        expire(warehouse.store, index, keep=1, days=0)
    with pytest.raises(VersionNotFoundError, match="version 6 expired; versions 2 and 8 to 9 can be read"):
        warehouse.collection("s2", 6)


def test_a_dry_run_tells_the_same_and_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    later(monkeypatch, 2)
    told = warehouse.expire("s2", keep=1, days=1, dry_run=True)
    assert (told.version, told.is_dry_run) == (8, True)
    assert len(Log(warehouse.store, S2).entries()) == 8
    done = warehouse.expire("s2", keep=1, days=1)
    assert (done.expired, done.added, done.is_dry_run) == (told.expired, told.added, False)


def test_what_is_expired_can_not_be_tagged() -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    expire(warehouse.store, S2, keep=1, days=0)
    with pytest.raises(VersionNotFoundError, match="version 1 expired"):
        warehouse.tag("late", "s2", 1)


# --- races and faults


def test_a_lost_race_is_tried_again_from_the_winners_version() -> None:
    store = FaultyStore()
    grow(store, 4)
    store.faults.append(slow(lambda: commit_pieces(store.inner, "s2", [Piece(70)])))
    done = expire(store, S2, keep=2, days=0, patience=NO_WAIT)
    entries = Log(store, S2).entries()
    assert [one.operation for one in entries] == ["append"] * 5 + ["expire"]
    assert (done.version, done.expired) == (6, 3)
    assert entries[-1].totals.items == entries[-2].totals.items == 6


def test_an_answer_that_is_lost_expires_once() -> None:
    store = FaultyStore()
    grow(store, 4)
    store.faults.append(loses_the_answer)
    assert expire(store, S2, keep=2, days=0).version == 5
    assert len(Log(store, S2).entries()) == 5


@pytest.mark.slow
def test_who_loses_every_race_is_told() -> None:
    store = FaultyStore()
    grow(store, 3)

    def beat() -> None:
        log = Log(store.inner, S2)
        head = log.entries()[-1]
        log.append(replace(head, version=head.version + 1, prev_sha256=head.sha256, txn="x", added=(), sha256=""))

    store.faults.extend([slow(beat)] * 100)
    with pytest.raises(CommitConflictError, match="collections/s2: lost 100 races"):
        expire(store, S2, keep=1, days=0, patience=NO_WAIT)


@pytest.mark.parametrize(("keep", "days"), [(0, 1.0), (1, -1.0), (1, 1e7), (1, float("inf")), (1, float("nan"))])
def test_settings_out_of_bounds_are_refused(keep: int, days: float) -> None:
    with pytest.raises(InputError, match="keep at least 1 version"):
        expire(DictStore(), S2, keep=keep, days=days)


def test_young_versions_stay_until_the_clock_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    assert warehouse.expire("global", keep=1).added == 0
    later(monkeypatch, 91)
    assert warehouse.expire("global", keep=1).added == 2
    assert merge(warehouse.store, "global", ["s2"]).version == 5
    assert datetime.fromisoformat(warehouse.combined("global", 4).entry.stored_at) > datetime.now(UTC)
