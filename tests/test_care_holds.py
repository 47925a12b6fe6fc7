"""What vacuum must not take: indexes whose log is damaged, pins that name nothing, tags deleted just now."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stacchip_core import materialize
from stacchip_core.chips.assembly import prepare
from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse import checkpoint as checkpoints
from stacchip_core.warehouse.care import holds
from stacchip_core.warehouse.care.expire import expire
from stacchip_core.warehouse.care.holds import pins
from stacchip_core.warehouse.care.repair import _add_checkpoint
from stacchip_core.warehouse.care.retention import folder_of, indexes
from stacchip_core.warehouse.care.vacuum import vacuum
from stacchip_core.warehouse.care.verify import verify
from stacchip_core.warehouse.checkpoint import hint_key
from stacchip_core.warehouse.entry import sealed
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.tags import DELETED, Tag, all_tags, deleted_tags, put_tag
from stacchip_core.warehouse.warehouse import Warehouse
from tests.care import content, filled, grow, keys, later, memory_warehouse
from tests.warehouse_rows import Piece, commit_pieces, part_of
from tests.warehouses import made, scenes, spec

pytestmark = pytest.mark.slow  # each test makes and damages warehouses

S2, NAIP, GLOBAL = "collections/s2", "collections/naip", "combined/global"


@pytest.fixture(autouse=True)
def every_third_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "EVERY", 3)


@pytest.fixture
def warehouse() -> Warehouse:
    found = memory_warehouse()
    filled(found.store)
    return found


def refused(store: Store, monkeypatch: pytest.MonkeyPatch, match: str) -> None:
    """Vacuum says why it removes nothing, and removes nothing."""
    before = keys(store)
    later(monkeypatch, 1000)
    with pytest.raises(CorruptWarehouseError, match=match):
        vacuum(store, dry_run=False)
    assert before <= keys(store)


# --- indexes without part of their log


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "newest"), [(S2, 8), (NAIP, 2), (GLOBAL, 3)])
def test_whichever_log_entry_is_missing_nothing_goes(folder: str, newest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in range(1, newest):
        warehouse = memory_warehouse()
        filled(warehouse.store)
        warehouse.store.delete(Log(warehouse.store, folder).key(version))
        refused(warehouse.store, monkeypatch, f"log entry {folder}/log/{version:020d}.json is missing")


@pytest.mark.parametrize("folder", [S2, NAIP])
def test_without_the_whole_log_nothing_goes(warehouse: Warehouse, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in warehouse.store.list(f"{folder}/log"):
        warehouse.store.delete(key)
    refused(warehouse.store, monkeypatch, folder)


def test_without_any_log_nothing_that_was_committed_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pin, no hint and no checkpoint says that there was an index: its items files do."""
    store = memory_warehouse().store
    grow(store, 2)
    for key in store.list(f"{S2}/log"):
        store.delete(key)
    before = keys(store, (S2,))
    later(monkeypatch, 1000)
    done = vacuum(store, dry_run=False)
    assert keys(store, (S2,)) == before
    assert before <= set(done.unknown)


@pytest.mark.parametrize("kept", ["hint", "checkpoints"])
def test_what_shows_that_there_was_a_log_stops_vacuum(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_warehouse().store
    grow(store, 4)
    for key in keys(store, (S2,)):
        if "/log/" in key or (kept == "hint") == ("/checkpoints/" in key) or (key == hint_key(S2) and kept != "hint"):
            store.delete(key)
    refused(store, monkeypatch, "collections/s2 has no log")


def test_files_of_a_first_commit_that_never_landed_go(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_warehouse().store
    grow(store, 1)
    part_of(store, "new", [Piece(1, collection="new")])
    assert keys(store, ("collections/new",))
    later(monkeypatch, 30)
    vacuum(store, dry_run=False)
    assert not keys(store, ("collections/new",))


@pytest.mark.parametrize("holder", ["tag", "lock"])
def test_they_stay_where_something_names_the_index(holder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_warehouse().store
    store.write("combined/lost/data/x.parquet", b"x")
    if holder == "tag":
        put_tag(store, Tag("paper", "combined/lost", 1, "ab" * 32))
    else:
        lock = {"index": {"name": "lost", "version": 1, "sha256": "ab" * 32}}
        store.write("datasets/fields/dataset.json", json.dumps(lock).encode())
    refused(store, monkeypatch, "names combined/lost version 1, which is not there")


def test_a_damaged_index_is_there_and_the_others_are_listed(warehouse: Warehouse) -> None:
    warehouse.store.delete(Log(warehouse.store, S2).key(1))
    assert warehouse.collections() == ["naip", "s2"]
    assert set(indexes(warehouse.store)) == {S2, NAIP, GLOBAL}
    assert folder_of(warehouse.store, "s2") == S2
    assert warehouse.collection("naip").version == 2


# --- pins that name nothing


@pytest.mark.parametrize("version", [1, 99])
@pytest.mark.parametrize("holder", ["tag", "lock"])
def test_a_pin_that_names_nothing_stops_vacuum_as_verify_tells(
    warehouse: Warehouse, holder: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = warehouse.store
    if holder == "tag":
        put_tag(store, Tag("paper", GLOBAL, version, "ab" * 32))
    else:
        lock = {"index": {"name": "global", "version": version, "sha256": "ab" * 32}}
        store.write("datasets/fields/dataset.json", json.dumps(lock).encode())
    [problem] = verify(store).problems
    assert (problem.kind, problem.path.startswith(("tags/", "datasets/"))) == (holder, True)
    refused(store, monkeypatch, problem.what)


def test_a_source_that_is_gone_stops_vacuum(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse.store.delete(Log(warehouse.store, S2).key(8))
    assert {(one.kind, one.path) for one in verify(warehouse.store).problems} == {("source", f"{GLOBAL}@3")}
    refused(warehouse.store, monkeypatch, f"{GLOBAL}@3: it names collections/s2 version 8, which is not there")


# --- tags that were deleted


def expired_and_tagged(warehouse: Warehouse) -> set[str]:
    """Only a tag holds version 1 of a combined index any more; its files."""
    warehouse.tag("paper", "global", 1)
    expire(warehouse.store, GLOBAL, keep=1, days=0)
    newest = {info.path for info in warehouse.combined("global").files}
    return {info.path for info in warehouse.combined("global", 1).files} - newest


def test_a_deleted_tag_holds_its_version_for_the_grace_period(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, files = warehouse.store, expired_and_tagged(warehouse)
    before = content(warehouse.combined("global", "paper"))
    version = warehouse.combined("global", "paper")
    real, written = type(store).listing, list[str]()

    def listing(self: Store, prefix: str) -> Any:
        """Everything is a month old, but for what was written since the tag was deleted."""
        return {
            key: one if key in written else type(one)(one.size, one.modified - timedelta(days=30))
            for key, one in real(self, prefix).items()
        }

    monkeypatch.setattr(type(store), "listing", listing)
    warehouse.untag("paper")
    written += store.list(DELETED)
    assert (warehouse.tags(), len(written)) == ([], 1)
    assert not {one.path for one in vacuum(store, dry_run=False).files} & files
    assert content(version) == before
    written.clear()
    gone = {one.path: one.why for one in vacuum(store, dry_run=False).files}
    assert files <= gone.keys()
    assert store.list(DELETED) == []
    assert "of a tag that was deleted" in gone.values()


def test_renaming_a_tag_never_lets_go(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new name is created once the tags are listed, and the old one is deleted before it is read."""
    store, files = warehouse.store, expired_and_tagged(warehouse)
    real = all_tags
    later(monkeypatch, 30)

    def renamed_meanwhile(store: Store) -> list[Tag]:
        warehouse.untag("paper")
        return [tag for tag in real(store) if tag.name != "article"]

    warehouse.tag("article", "global", 1)
    monkeypatch.setattr(holds, "all_tags", renamed_meanwhile)
    monkeypatch.setattr(holds, "deleted_tags", lambda store, _: deleted_tags(store, lambda _: False))
    assert not {one.path for one in vacuum(store, dry_run=False).files} & files
    assert [tag.name for tag in real(store)] == ["article"]


def test_a_deleted_tag_of_a_lost_version_stops_nothing(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tag(warehouse.store, Tag("paper", GLOBAL, 99, "ab" * 32))
    warehouse.untag("paper")
    later(monkeypatch, 5)
    assert vacuum(warehouse.store).is_dry_run


def test_a_damaged_tag_can_be_deleted_and_set_again(warehouse: Warehouse) -> None:
    warehouse.tag("paper", "global", 1)
    warehouse.store.write("tags/paper.json", b"{")
    assert warehouse.untag("paper")
    assert warehouse.store.list(DELETED) == [], "nobody knows what it held"
    assert warehouse.tag("paper", "global", 2).version == 2


def test_a_damaged_trace_of_a_deleted_tag_is_told(warehouse: Warehouse) -> None:
    warehouse.tag("paper", "global", 1)
    warehouse.untag("paper")
    [key] = warehouse.store.list(DELETED)
    warehouse.store.write(key, sealed({"index": "x"}))
    assert [(one.kind, one.path) for one in verify(warehouse.store).problems] == [("tag", key)]
    with pytest.raises(CorruptWarehouseError, match="names no version of an index"):
        vacuum(warehouse.store, dry_run=False)


def test_what_a_repair_added_counts_for_nothing_that_expires() -> None:
    """An entry that only brings a checkpoint is no version that anybody asked to keep."""
    warehouse = memory_warehouse()
    store = warehouse.store
    grow(store, 6)
    _add_checkpoint(store, S2)
    assert expire(store, S2, keep=2, days=0).expired == 4
    commit_pieces(store, "s2", [Piece(60)])
    assert expire(store, S2, keep=2, days=0).expired == 5


def test_a_dataset_that_is_being_made_holds_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plan, until the lock is there; then the lock. So does the plan of an update."""
    warehouse = made(tmp_path / "pixels", tmp_path / "warehouse", scenes(tmp_path / "pixels")[:1])
    prepare(warehouse, spec(name="fields", limit=3))
    (held,) = pins(warehouse.store)
    assert (held.folder, held.version, held.key) == (GLOBAL, 1, "datasets/fields/work/0001/plan.json")
    warehouse.index_items([scenes(tmp_path / "more")[1]], chip_size=96, local_roots=[tmp_path / "more"])
    warehouse.merge("global", warehouse.collections())
    expire(warehouse.store, GLOBAL, keep=1, days=0)
    for collection in warehouse.collections():
        expire(warehouse.store, f"collections/{collection}", keep=1, days=0)
    later(monkeypatch, 30)
    vacuum(warehouse.store, dry_run=False)
    assert len(materialize(warehouse, spec(name="fields", limit=3, version=1))) == 3
    assert verify(warehouse.store, deep=True).is_clean
    (held,) = pins(warehouse.store)
    assert held.key == "datasets/fields/dataset.json"
