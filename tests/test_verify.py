"""Verify: whatever is damaged, missing or wrong in a warehouse is named; what is sound is not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core.errors import TransientStoreError
from stacchip_core.warehouse import checkpoint as checkpoints
from stacchip_core.warehouse.care.expire import expire
from stacchip_core.warehouse.care.problems import LOG_FIRST
from stacchip_core.warehouse.care.repair import repair
from stacchip_core.warehouse.care.vacuum import vacuum
from stacchip_core.warehouse.care.verify import verify
from stacchip_core.warehouse.checkpoint import Checkpoint, hint_key
from stacchip_core.warehouse.combined.merge import merge
from stacchip_core.warehouse.entry import FileInfo, LogEntry, Totals
from stacchip_core.warehouse.files import publish
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.tags import Tag, put_tag
from tests.care import KINDS, filled, flipped, grow, keys, later, memory_warehouse, new_warehouse
from tests.faulty_store import FaultyStore, Scripted, is_overloaded
from tests.warehouse_rows import Piece, commit_pieces

S2, GLOBAL = "collections/s2", "combined/global"


@pytest.fixture(autouse=True, scope="module")
def every_third_version() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "EVERY", 3)
        yield


@pytest.fixture(scope="module")
def sound(every_third_version: None) -> Store:
    """A warehouse with a tag and a dataset; who damages it puts back what was there."""
    warehouse = memory_warehouse()
    filled(warehouse.store)
    warehouse.tag("paper", "global", 2)
    sha256 = warehouse.combined("global", 1).sha256
    lock = f'{{"index": {{"name": "global", "version": 1, "sha256": "{sha256}"}}}}'
    warehouse.store.create("datasets/fields/dataset.json", lock.encode())
    return warehouse.store


def found(store: Store, *, deep: bool = True) -> set[tuple[str, str]]:
    return {(problem.kind, problem.path) for problem in verify(store, deep=deep).problems}


def checked_keys(store: Store) -> list[str]:
    """Every file whose bytes somebody relies on."""
    return sorted(["_format.json", *keys(store, ("collections", "combined", "tags"))])


def kind_of(key: str) -> str:
    parts = key.split("/")
    if parts[0] in ("_format.json", "tags"):
        return {"_format.json": "format", "tags": "tag"}[parts[0]]
    if parts[2] in ("log", "_last_checkpoint.json"):
        return {"log": "log", "_last_checkpoint.json": "hint"}[parts[2]]
    return "combined" if parts[0] == "combined" else {"checkpoints": "checkpoint"}.get(parts[2], parts[2])


# --- sound warehouses


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_warehouse_is_clean(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    warehouse = new_warehouse(kind, request, tmp_path)
    assert warehouse.verify(deep=True).is_clean, "empty"
    filled(warehouse.store)
    warehouse.tag("paper", "global", 2)
    for deep in (False, True):
        report = warehouse.verify(deep=deep)
        assert report.problems == ()
        logs = keys(warehouse.store, ("collections", "combined"))
        assert report.checked["log entries"] == sum("/log/" in key for key in logs)
        assert report.checked["files"] == sum(key.endswith(".parquet") for key in logs)
        assert report.checked["tags"] == report.checked["hints"] == 1
        assert report.checked.get("files read", 0) == (report.checked["files"] if deep else 0)


def test_a_cheap_verification_reads_no_file_of_rows(sound: Store) -> None:
    store = FaultyStore(sound)
    assert verify(store).is_clean
    assert not store.count("read*", "*.parquet")
    assert store.count("size") == 0, "sizes are from listings"


def test_what_vacuum_took_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    for index in (S2, "collections/naip", GLOBAL):
        expire(warehouse.store, index, keep=1, days=0)
    later(monkeypatch, 30)
    assert vacuum(warehouse.store, dry_run=False).files
    assert found(warehouse.store) == set()


def test_how_far_it_is_is_told(sound: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        verify(sound, deep=True)
    for what in ("rows", "versions", "checkpoints", "merges"):
        assert f"{S2}: looking at its {what}" in caplog.text
    for what in ("files compared with their items", "versions counted", "entries looked at for checkpoints"):
        assert what in caplog.text
    assert f"{GLOBAL}: 3 of 3 versions compared with their files" in caplog.text


def test_writers_that_go_on_meanwhile_raise_no_alarm() -> None:
    store = memory_warehouse().store
    filled(store)
    is_done = threading.Event()

    def write() -> None:
        for number in range(40):
            if is_done.is_set():
                break
            commit_pieces(store, "s2", [Piece(600 + number)])
            merge(store, "global", ["s2", "naip"])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for deep in (False, True, False):
            assert found(store, deep=deep) == set()
    finally:
        is_done.set()
        writer.join()


def test_a_store_without_an_answer_proves_nothing(sound: Store) -> None:
    for operation, key in (("read", "_format.json"), ("read", "*/log/*3.json"), ("listing", S2), ("read", "*.parquet")):
        store = FaultyStore(sound)
        store.script.append(Scripted(is_overloaded, operation, key))
        with pytest.raises(TransientStoreError):
            verify(store, deep=True)


# --- damage


@pytest.mark.slow
@settings(max_examples=20)
@given(st.data())
def test_every_changed_byte_is_found(sound: Store, data: st.DataObject) -> None:
    kinds = sorted({kind_of(key) for key in checked_keys(sound)})
    assert kinds == ["checkpoint", "combined", "data", "format", "hint", "items", "log", "tag"]
    kind = data.draw(st.sampled_from(kinds))
    key = data.draw(st.sampled_from([key for key in checked_keys(sound) if kind_of(key) == kind]))
    body = sound.read(key)
    place = data.draw(st.integers(0, len(body) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "longer"]))
    damaged = {"flip": flipped(body, place, place % 8), "cut": body[:place], "longer": body + b"x"}[how]
    sound.write(key, damaged)
    try:
        assert (kind_of(key), key) in found(sound)
    finally:
        sound.write(key, body)


@pytest.mark.slow
@pytest.mark.parametrize("deep", [False, True])
def test_every_missing_file_is_found(sound: Store, deep: bool) -> None:
    """Without the newest entry of a log, or a tag or hint, a warehouse is as whole as before it was written."""
    newest = {Log(sound, folder).key(len(Log(sound, folder).entries())) for folder in (S2, "collections/naip", GLOBAL)}
    for key in checked_keys(sound):
        body = sound.read(key)
        sound.delete(key)
        try:
            problems = found(sound, deep=deep)
        finally:
            sound.write(key, body)
        if kind_of(key) in ("tag", "hint") or key == Log(sound, GLOBAL).key(3):
            assert problems == set()
        elif key in newest:
            assert problems, "combined versions name it"
        else:
            assert (kind_of(key), key) in problems
    assert found(sound) == set()


def test_sizes_are_seen_without_reading(sound: Store) -> None:
    for key in [key for key in checked_keys(sound) if key.endswith(".parquet")]:
        body = sound.read(key)
        sound.write(key, body[:-1])
        try:
            assert (kind_of(key), key) in found(sound, deep=False)
        finally:
            sound.write(key, body)


def test_each_problem_says_what_to_do(sound: Store) -> None:
    data = next(key for key in checked_keys(sound) if kind_of(key) == "data")
    body = sound.read(data)
    sound.write(data, flipped(body, 100))
    try:
        report = verify(sound, deep=True)
    finally:
        sound.write(data, body)
    own = next(problem for problem in report.problems if problem.path == data)
    assert "its bytes were changed: sha256" in own.what
    assert "`stacchip repair` releases its items" in own.todo or "the newest version does not need it" in own.todo
    assert report.to_json()["problems"][0].keys() == {"kind", "path", "what", "todo"}
    assert not report.is_clean


# --- what agrees with its checksums and is wrong nevertheless


def copied(sound: Store) -> Store:
    store = memory_warehouse().store
    for key in [*checked_keys(sound), "datasets/fields/dataset.json"]:
        store.write(key, sound.read(key))
    return store


def add_entry(store: Store, folder: str, change: Callable[[LogEntry], dict[str, Any]]) -> LogEntry:
    """An entry that a writer with a fault might commit after the newest."""
    log = Log(store, folder)
    head = log.entries()[-1]
    kept = (*head.kept, *head.added) if folder == GLOBAL else ()
    fields: dict[str, Any] = {"version": head.version + 1, "prev_sha256": head.sha256, "txn": "x", "sha256": ""}
    plain = replace(head, **fields, added=(), kept=kept, counts=type(head.counts)())
    return log.append(replace(plain, **change(plain)))


def test_the_copy_is_sound(sound: Store) -> None:
    store = copied(sound)
    add_entry(store, GLOBAL, lambda _: {})
    add_entry(store, S2, lambda _: {})
    assert found(store) == set()


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("folder", [S2, GLOBAL])
def test_wrong_totals_are_found(sound: Store, folder: str, deep: bool) -> None:
    store = copied(sound)
    wrong = add_entry(store, folder, lambda head: {"totals": Totals(head.totals.items + 1, head.totals.chips)})
    assert ("counts", Log(store, folder).key(wrong.version)) in found(store, deep=deep)


def test_chips_of_a_collection_are_counted(sound: Store) -> None:
    store = copied(sound)
    wrong = add_entry(store, S2, lambda head: {"totals": Totals(head.totals.items, head.totals.chips + 1)})
    assert ("rows", f"{S2}@{wrong.version}") in found(store)


def test_an_item_that_stands_in_it_twice_is_found(sound: Store) -> None:
    store = copied(sound)

    def twice(head: LogEntry) -> dict[str, Any]:
        part = next(info for info in head.kept if info.role == "items" and info.collection == "s2")
        path = part.path.replace("/items/", "/items/again-")
        store.write(path, store.read(part.path))
        totals = Totals(head.totals.items + part.rows, head.totals.chips)
        return {"kept": (*head.kept, replace(part, path=path)), "totals": totals}

    add_entry(store, GLOBAL, twice)
    assert ("rows", f"{GLOBAL}@4") in found(store)


def without_items(head: LogEntry) -> dict[str, Any]:
    part = next(info for info in head.kept if info.role == "items" and info.collection == "naip")
    totals = Totals(head.totals.items - part.rows, head.totals.chips)
    return {"kept": tuple(info for info in head.kept if info.path != part.path), "totals": totals}


def without_data(head: LogEntry) -> dict[str, Any]:
    part = next(info for info in head.kept if info.role == "data" and info.collection == "naip")
    totals = Totals(head.totals.items, head.totals.chips - part.rows)
    return {"kept": tuple(info for info in head.kept if info.path != part.path), "totals": totals}


def without_either(head: LogEntry) -> dict[str, Any]:
    kept = tuple(info for info in head.kept if info.collection != "naip")
    rows = {role: sum(info.rows for info in kept if info.role == role) for role in ("items", "data")}
    return {"kept": kept, "totals": Totals(rows["items"], rows["data"])}


@pytest.mark.parametrize("change", [without_items, without_data, without_either])
def test_rows_without_items_and_items_without_rows_are_found(
    sound: Store, change: Callable[[LogEntry], dict[str, Any]]
) -> None:
    store = copied(sound)
    add_entry(store, GLOBAL, change)
    assert ("rows", f"{GLOBAL}@4") in found(store)


def rewritten(store: Store, info: FileInfo, change: Callable[[pa.Table], pa.Table], stem: str) -> FileInfo:
    """A file with other rows, written as a release with a fault would."""
    table = pq.read_table(pa.BufferReader(store.read(info.path)))
    path = f"{info.path.rpartition('/')[0]}/{stem}.parquet"
    changed = change(table)
    draft = replace(info, path=path, rows=len(changed))
    return publish(store, draft, lambda local: pq.write_table(changed, local, row_group_size=max(1, len(changed))))


def test_chips_of_another_item_are_found(sound: Store) -> None:
    """Two items of one row group have changed places."""
    store = copied(sound)

    def swapped(head: LogEntry) -> dict[str, Any]:
        part = next(info for info in head.kept if info.role == "data" and info.collection == "s2" and info.rows > 3)
        body = store.read(part.path)
        table = pq.read_table(pa.BufferReader(body))
        store.write(part.path, body)
        other = publish(store, part, lambda local: pq.write_table(table.take(list(range(len(table)))[::-1]), local))
        return {"kept": tuple(other if info.path == part.path else info for info in head.kept)}

    add_entry(store, GLOBAL, swapped)
    data = next(
        i for i in Log(store, GLOBAL).entries()[-1].kept if i.role == "data" and i.collection == "s2" and i.rows > 3
    )
    assert data.path in {path for _, path in found(store)}


def test_a_checkpoint_that_is_not_the_log_is_found(sound: Store) -> None:
    store = copied(sound)
    number, entry = next((one.version, one) for one in reversed(Log(store, S2).entries()) if one.files("checkpoints"))
    old = Checkpoint.of(store, entry)
    assert old is not None
    shorter = rewritten(
        store,
        old.items,
        lambda table: table.slice(1),
        old.items.path.rpartition("/")[2].replace("-items.parquet", "")[:20]
        + "-"
        + "0" * 8
        + "-0000-0000-0000-"
        + "0" * 12
        + "-items",
    )
    add_entry(store, S2, lambda head: {"added": (shorter, old.files), "checkpoint": head.version})
    assert number < len(Log(store, S2).entries())
    assert ("checkpoint", shorter.path) in found(store)


def test_a_combined_index_that_is_not_its_collections_is_found(sound: Store) -> None:
    store = copied(sound)
    first = Log(store, GLOBAL).entries()[0]
    add_entry(store, GLOBAL, lambda _: {"kept": (*first.kept, *first.added), "totals": first.totals})
    assert found(store) == {("rows", f"{GLOBAL}@4")}


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("tags/other.json", "tag"),
        ("datasets/other/work/0001/plan.json", "lock"),
        ("datasets/broken/work/0001/plan.json", "lock"),
    ],
)
@pytest.mark.parametrize(("version", "sha256"), [(2, "ab" * 32), (99, "ab" * 32)])
def test_what_names_a_version_that_is_not_there_is_found(
    sound: Store, key: str, kind: str, version: int, sha256: str
) -> None:
    store = copied(sound)
    if kind == "tag":
        put_tag(store, Tag("other", GLOBAL, version, sha256))
    elif "broken" in key:
        store.create(key, b'{"index": {"name": "global"}}')
    else:
        pin = f'{{"index": {{"name": "global", "version": {version}, "sha256": "{sha256}"}}}}'
        store.create(key, pin.encode())
    assert found(store, deep=False) == {(kind, key)}


def test_a_source_that_is_not_there_is_found(sound: Store) -> None:
    store = copied(sound)
    add_entry(store, GLOBAL, lambda head: {"sources": tuple({**one, "sha256": "ab" * 32} for one in head.sources)})
    assert ("source", f"{GLOBAL}@4") in found(store, deep=False)


def test_a_hint_to_an_entry_without_checkpoint_is_found(sound: Store) -> None:
    store = copied(sound)
    for version in (1, 99):
        checkpoints.write_hint(store, S2, version)
        assert found(store, deep=False) == {("hint", hint_key(S2))}


def test_a_log_that_was_replaced_by_another_is_found(sound: Store) -> None:
    store, other = copied(sound), memory_warehouse().store
    grow(other, 4)
    key = Log(store, S2).key(2)
    store.write(key, other.read(key))
    assert ("log", key) in found(store, deep=False)


def test_of_a_damaged_log_the_rest_is_still_looked_at(sound: Store) -> None:
    store = copied(sound)
    key = Log(store, S2).key(6)
    store.write(key, b"{")
    data = next(key for key in checked_keys(store) if kind_of(key) == "combined")
    store.write(data, b"short")
    problems = found(store, deep=False)
    assert {("log", key), ("combined", data)} <= problems
    assert ("source", f"{GLOBAL}@3") in problems, "it was made of a version that can't be trusted any more"


@pytest.mark.parametrize("damage", [Store.delete, partial(Store.write, data=b"{")])
def test_what_a_damaged_log_can_not_prove_is_left_alone(sound: Store, damage: Callable[[Store, str], None]) -> None:
    """Nobody is told to delete a tag that is sound, nor that an entry names no checkpoint which does."""
    store = copied(sound)
    damage(store, Log(store, GLOBAL).key(1))
    damage(store, Log(store, S2).key(2))
    problems = verify(store, deep=True).problems
    assert not [problem for problem in problems if problem.kind == "hint"]
    pinned = [problem for problem in problems if problem.kind in ("tag", "lock")]
    assert {problem.path for problem in pinned} == {"tags/paper.json", "datasets/fields/dataset.json"}
    assert {problem.todo for problem in pinned} == {LOG_FIRST}
    assert set(pinned) <= set(repair(store).left)


def test_a_stray_entry_far_ahead_is_told_in_one_line(sound: Store) -> None:
    store = copied(sound)
    log = Log(store, S2)
    store.write(log.key(10**8), store.read(log.key(1)))
    (problem,) = [one for one in verify(store).problems if one.kind == "log"]
    assert problem.path == log.key(10**8)
    assert "entries before it are not" in problem.what
