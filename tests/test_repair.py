"""Repair: it says first; what can be read is never given up; afterwards nothing is wrong that could be mended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pytest

from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse import checkpoint as checkpoints
from stacchip_core.warehouse import files
from stacchip_core.warehouse.care import repair as repairing
from stacchip_core.warehouse.care.expire import expire
from stacchip_core.warehouse.care.repair import repair
from stacchip_core.warehouse.care.salvage import salvage
from stacchip_core.warehouse.care.vacuum import vacuum
from stacchip_core.warehouse.care.verify import verify
from stacchip_core.warehouse.checkpoint import Checkpoint, hint_key, read_hint
from stacchip_core.warehouse.combined.merge import merge
from stacchip_core.warehouse.entry import sealed
from stacchip_core.warehouse.log import Log, Patience
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.warehouse import Warehouse
from tests.care import KINDS, content, filled, flipped, grow, keys, later, memory_warehouse, new_warehouse
from tests.faulty_store import Crash, FaultyStore, slow
from tests.warehouse_rows import Piece, commit_pieces

pytestmark = pytest.mark.slow  # each test makes and damages warehouses

S2, GLOBAL = "collections/s2", "combined/global"
NO_WAIT = Patience(sleep=lambda _: None)


@pytest.fixture(autouse=True)
def every_third_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "EVERY", 3)


@pytest.fixture(params=KINDS)
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    found = new_warehouse(request.param, request, tmp_path)
    filled(found.store)
    return found


def damage(store: Store, key: str) -> None:
    body = store.read(key)
    store.write(key, flipped(body, len(body) // 2))


def wrong(store: Store) -> set[str]:
    return {problem.kind for problem in verify(store, deep=True).problems}


def live_file(store: Store, name: str, item_id: str) -> str:
    live = Manifest.load(store, name).states().live.to_pylist()
    return str(next(row["file"] for row in live if row["item_id"] == item_id))


def chips(store: Store, name: str) -> set[str]:
    return set(content(Warehouse(store.root).collection(name))[0])


def test_of_a_sound_warehouse_nothing_is_mended(warehouse: Warehouse) -> None:
    before = keys(warehouse.store)
    for dry_run in (True, False):
        done = warehouse.repair(dry_run=dry_run)
        assert (done.actions, done.left, done.is_dry_run) == ((), (), dry_run)
    assert keys(warehouse.store) == before


# --- hints and checkpoints


@pytest.mark.parametrize("body", [b"{", sealed({"version": 1}), None])
def test_a_hint_is_written_anew(body: bytes | None) -> None:
    store = memory_warehouse().store
    filled(store)
    expected = read_hint(store, S2)
    if body is None:
        store.delete(hint_key(S2))
    else:
        store.write(hint_key(S2), body)
    told = repair(store)
    assert [action.path for action in told.actions] == [hint_key(S2)]
    assert read_hint(store, S2) != expected, "a dry run"
    assert repair(store, dry_run=False).left == ()
    assert read_hint(store, S2) == expected
    assert wrong(store) == set()


def test_a_hint_to_no_checkpoint_is_taken_away() -> None:
    store = memory_warehouse().store
    grow(store, 2)
    store.write(hint_key(S2), b"{")
    repair(store, dry_run=False)
    assert wrong(store) == set()
    assert not store.exists(hint_key(S2))


@pytest.mark.parametrize(("which", "how"), [("items", "changed"), ("files", "missing"), ("both", "changed")])
def test_a_checkpoint_gets_the_bytes_back_that_the_log_names(which: str, how: str) -> None:
    store = memory_warehouse().store
    grow(store, 8)
    before = {key: store.read(key) for key in keys(store) if "/checkpoints/" in key}
    for entry in Log(store, S2).entries():
        one = Checkpoint.of(store, entry)
        if one is not None:
            paths = {"items": [one.items.path], "files": [one.files.path], "both": [one.items.path, one.files.path]}
            for path in paths[which]:
                damage(store, path) if how == "changed" else store.delete(path)
    assert wrong(store) == {"checkpoint"}
    told = repair(store)
    assert "write" in told.actions[0].what
    assert told.left == ()
    repair(store, dry_run=False)
    assert wrong(store) == set()
    assert {key: store.read(key) for key in before} == before
    assert len(Log(store, S2).entries()) == 8, "nothing had to be committed"


def test_where_the_same_bytes_can_not_be_made_the_next_version_gets_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warehouse = memory_warehouse()
    store = warehouse.store
    grow(store, 9)
    before = content(warehouse.collection("s2"))
    newest = Log(store, S2).entries()[-1].checkpoint
    damage(store, Log(store, S2).read(newest).files("checkpoints")[0].path)
    monkeypatch.setattr(checkpoints, "_GROUP_ROWS", 1)  # as another release may write them
    repair(store, dry_run=False)
    head = Log(store, S2).entries()[-1]
    assert (head.version, head.checkpoint, read_hint(store, S2)) == (10, 10, 10)
    assert content(warehouse.collection("s2")) == before
    assert [problem.kind for problem in verify(store, deep=True).problems] == ["checkpoint"], "older versions use it"
    expire(store, S2, keep=1, days=0)
    grow(store, 1, start=20)
    assert content(warehouse.collection("s2"))[0] > []


# --- data files of a collection


def test_what_a_combined_index_holds_is_taken_from_there(warehouse: Warehouse) -> None:
    store = warehouse.store
    path = live_file(store, "s2", "item-0003")
    items = {row["item_id"] for row in Manifest.load(store, "s2").states().live.to_pylist() if row["file"] == path}
    before, merged = content(warehouse.collection("s2")), content(warehouse.combined("global"))
    damage(store, path)
    told = warehouse.repair()
    assert [action.path for action in told.actions] == [S2]
    assert f"move {len(items)} items that can still be read" in told.actions[0].what
    assert warehouse.collection("s2").version == 8
    assert warehouse.repair(dry_run=False).left == ()
    entry = warehouse.collection("s2").entry
    assert (entry.version, entry.counts.deleted, entry.counts.updated) == (9, 0, len(items))
    assert content(warehouse.collection("s2")) == before
    assert content(warehouse.merge("global", ["s2", "naip"])) == merged
    table = warehouse.collection("s2").dataset().to_table()
    assert table.sort_by("chip_id").equals(
        warehouse.combined("global").dataset().to_table(filter=pc.field("collection") == "s2").sort_by("chip_id")
    )


def unmerged(store: Store) -> str:
    """A data file whose items no combined index holds: two new ones, and a new form of a third."""
    commit_pieces(store, "s2", [Piece(70), Piece(71), Piece(3, form="late")])
    return live_file(store, "s2", "item-0070")


def test_what_can_not_be_read_is_let_go_and_the_rest_stays(warehouse: Warehouse) -> None:
    store = warehouse.store
    path = unmerged(store)
    lost = {"item-0070", "item-0071", "item-0003"}
    before = content(warehouse.collection("s2"))[0]
    damage(store, path)
    assert "and release 3 others" in warehouse.repair().actions[0].what
    assert warehouse.repair(dry_run=False).left == ()
    expected = [chip for chip in before if chip.split("/")[1] not in lost]
    assert content(warehouse.collection("s2"))[0] == expected, "readers work again, and lose nothing that can be read"
    entry = warehouse.collection("s2").entry
    assert (entry.counts.deleted, entry.counts.updated) == (3, 0)
    deleted = Manifest.load(store, "s2").states().deleted.to_pylist()
    assert {row["item_id"] for row in deleted if row["reason"] == f"data file {path} is damaged"} == lost


def test_what_was_let_go_is_new_to_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = memory_warehouse()
    store = warehouse.store
    filled(store)
    damage(store, unmerged(store))
    repair(store, dry_run=False)
    done = commit_pieces(store, "s2", [Piece(70), Piece(71), Piece(3, form="late")])
    assert (done.new, done.updated) == (3, 0)
    merged = merge(store, "global", ["s2", "naip"])
    assert set(content(warehouse.collection("s2"))[0]) <= set(content(merged)[0])
    for index in (S2, "collections/naip", GLOBAL):
        expire(store, index, keep=1, days=0)
    later(monkeypatch, 30)
    vacuum(store, dry_run=False)
    assert wrong(store) == set(), "once no version that can be opened needs the damaged file"


@pytest.mark.parametrize("block", [0, 7, 15])
def test_rows_of_whole_blocks_are_moved(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Of a large file only the blocks that were hit are lost; here a block is 4 kB, and a file is large from 1 byte."""
    monkeypatch.setattr(files, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(files, "WHOLE_BYTES", 0)
    warehouse = memory_warehouse()
    store = warehouse.store
    pieces = [*(Piece(number, rows=700) for number in range(12)), Piece(50)]
    commit_pieces(store, "s2", pieces[:-1])
    commit_pieces(store, "s2", pieces[-1:])
    path = live_file(store, "s2", "item-0000")
    body = store.read(path)
    assert len(body) > 2**16 + 16 * 4096, "pyarrow reads the last 64 kB with the footer"
    store.write(path, flipped(body, block * 4096 + 100))
    repair(store, dry_run=False)
    counts, totals = warehouse.collection("s2").entry.counts, warehouse.collection("s2").entry.totals
    assert (0 < counts.deleted < 4, counts.updated + counts.deleted) == (True, 12)
    assert (totals.items, totals.chips) == (counts.updated + 1, 700 * counts.updated + 3)
    left, items = content(warehouse.collection("s2"))
    live = {row["key"] for row in items}
    assert left == sorted(chip for piece in pieces if piece.key in live for chip in piece.chip_ids)
    states = Manifest.load(store, "s2").states()
    assert path not in states.live["file"].to_pylist()
    assert {row["item_id"] for row in states.deleted.to_pylist()} == {p.item_id for p in pieces if p.key not in live}
    texts = warehouse.collection("s2").items(["key", "item"]).to_pylist()
    assert all(json.loads(row["item"])["id"] in row["key"] for row in texts)
    assert wrong(store) == {"data"}, "the version before still needs it"


def test_a_commit_meanwhile_is_kept() -> None:
    store = FaultyStore(memory_warehouse().store)
    grow(store, 3)
    path = live_file(store.inner, "s2", "item-0001")
    damage(store.inner, path)
    store.faults.append(slow(lambda: commit_pieces(store.inner, "s2", [Piece(1, form="new", month=7)])))
    salvage(store, "s2", {path}, NO_WAIT)
    live = {row["item_id"]: row["fingerprint"] for row in Manifest.load(store.inner, "s2").states().live.to_pylist()}
    assert live["item-0001"] == "new"
    assert len(Log(store.inner, S2).entries()) in (4, 5)
    assert "item-0000" in live


# --- combined indexes


@pytest.mark.parametrize("role", ["data", "items"])
def test_damaged_files_of_a_combined_index_are_made_anew(warehouse: Warehouse, role: str) -> None:
    store = warehouse.store
    before = content(warehouse.combined("global"))
    hit = [info.path for info in warehouse.combined("global").entry.files("data" if role == "data" else "items")]
    damage(store, hit[0])
    store.delete(hit[-1])
    told = warehouse.repair()
    assert [action.path for action in told.actions] == [GLOBAL]
    assert warehouse.combined("global").version == 3
    assert warehouse.repair(dry_run=False).left == ()
    version = warehouse.combined("global")
    assert version.version == 4
    assert content(version) == before
    assert not set(hit[:1]) & {info.path for info in (*version.entry.kept, *version.entry.added)}
    assert verify(store, deep=True).problems, "the version before still needs them"
    expire(store, GLOBAL, keep=1, days=0)
    assert wrong(store) == set()


def test_what_only_old_versions_need_is_left(warehouse: Warehouse) -> None:
    store = warehouse.store
    old = {i.path for i in warehouse.combined("global", 1).files} - {i.path for i in warehouse.combined("global").files}
    damage(store, min(old))
    done = warehouse.repair(dry_run=False)
    assert done.actions == ()
    assert [problem.path for problem in done.left] == [min(old)]
    assert "let the versions expire that do" in done.left[0].todo
    assert warehouse.combined("global").version == 3


# --- what can't be mended


def log_entry(store: Store) -> str:
    return Log(store, S2).key(4)


def items_file(store: Store) -> str:
    return Log(store, S2).entries()[-1].files("items")[0].path


@pytest.mark.parametrize(("which", "version"), [(log_entry, 4), (items_file, None)])
def test_what_nothing_can_replace_is_said_plainly(which: Callable[[Store], str], version: int | None) -> None:
    store = memory_warehouse().store
    filled(store)
    key = which(store)
    damage(store, key)
    before = keys(store)
    done = repair(store, dry_run=False)
    own = next(problem for problem in done.left if problem.path == key)
    assert "nothing in the warehouse can replace what is lost: restore the object from a backup" in own.todo
    assert keys(store) == before, "nothing was made worse"
    with pytest.raises(CorruptWarehouseError):
        Manifest.load(store, "s2", version).states()


@pytest.mark.parametrize("which", [log_entry, items_file])
def test_what_is_left_is_not_left_to_repair(which: Callable[[Store], str]) -> None:
    """Where repair had nothing to do for a problem, running it again is no advice."""
    store = memory_warehouse().store
    filled(store)
    for info in Log(store, S2).entries()[0].files("data"):
        damage(store, info.path)
    store.write(hint_key(S2), b"{")
    damage(store, which(store))
    for dry_run in (True, False):
        done = repair(store, dry_run=dry_run)
        assert {problem.kind for problem in done.left} & {"hint", "data"}
        assert not [problem for problem in done.left if "stacchip repair" in problem.todo]
        lost = [problem for problem in done.left if problem.kind in ("hint", "data")]
        assert all("restore the object" in problem.todo and "; " in problem.what for problem in lost)


def test_a_step_that_fails_is_not_told_as_done(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_warehouse().store
    filled(store)
    head = Log(store, "combined/global").newest()
    assert head is not None
    damage(store, head.files("data")[0].path)
    assert [action.path for action in repair(store).actions] == ["combined/global"]

    def fails(*_: object) -> None:
        raise CorruptWarehouseError("a file of its collection is damaged too")

    monkeypatch.setattr(repairing, "merge", fails)
    done = repair(store, dry_run=False)
    assert not done.actions
    assert [(problem.kind, "damaged too" in problem.what) for problem in done.left] == [("combined", True)]


# --- together, and with crashes


def test_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = memory_warehouse()
    store = warehouse.store
    filled(store)
    damage(store, live_file(store, "s2", "item-0003"))
    damage(store, warehouse.combined("global").files[0].path)
    damage(store, Log(store, S2).read(Log(store, S2).entries()[-1].checkpoint).files("checkpoints")[0].path)
    store.write(hint_key(S2), b"")
    told = repair(store)
    assert [action.path for action in told.actions] == [hint_key(S2), S2, S2, GLOBAL]
    assert repair(store, dry_run=False).left == ()
    for index in (S2, GLOBAL):
        expire(store, index, keep=1, days=0)
    assert wrong(store) == set()
    assert repair(store).actions == ()


@pytest.mark.slow
def test_crashed_anywhere_it_is_finished_by_the_next() -> None:
    sound = memory_warehouse().store
    filled(sound)
    number = 60
    while True:
        inner = memory_warehouse().store
        for key in ["_format.json", *keys(sound, ("collections", "combined"))]:
            inner.write(key, sound.read(key))
        lost = live_file(inner, "s2", "item-0003")
        damage(inner, lost)
        damage(inner, Warehouse(inner.root).combined("global").files[0].path)
        store = FaultyStore(inner)
        store.crash_at = (number, "after" if number % 2 else "before")
        is_done = False
        try:
            repair(store, dry_run=False)
            is_done = True
        except Crash:
            repair(inner, dry_run=False)
        for index in (S2, GLOBAL):
            expire(inner, index, keep=1, days=0)
        assert wrong(inner) == set()
        assert any("item-0000" in chip for chip in chips(inner, "s2"))
        if is_done:
            break
        number += 43
    assert number > 100
