"""Checkpoints: the state that the whole log gives, from fewer requests; a hint that is never wrong; damage is told."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse import checkpoint as checkpoints
from stacchip_core.warehouse.checkpoint import Checkpoint, bucket_of, hint_key, read_hint, write_hint
from stacchip_core.warehouse.commit import commit
from stacchip_core.warehouse.files import publish
from stacchip_core.warehouse.items import States, fold
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import MemoryStore
from stacchip_core.warehouse.version import CollectionVersion
from stacchip_core.warehouse.work import removal
from tests.faulty_store import memory_store
from tests.warehouse_rows import Piece, commit_pieces

FOLDER = "collections/s2"
SIDES = ("live", "failed", "deleted")


@pytest.fixture(autouse=True)
def every_third_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "EVERY", 3)


def from_the_start(store: MemoryStore, version: int | None = None) -> States:
    """The oracle: the whole log folded, without checkpoints."""
    log = Log(store, FOLDER)
    entries = log.entries()
    return fold(Manifest(log, "s2", entries[:version]).changes_since(0))


def rows(table: pa.Table) -> Any:
    return table.to_pylist()


def filled(count: int) -> MemoryStore:
    """Commits of two items each: one new, one whose form changes every time; every fourth takes an item out."""
    store = memory_store()
    for number in range(count):
        commit_pieces(store, "s2", [Piece(number), Piece(1000, form=f"f{number:03d}", updated=None)])
        if number % 4 == 3:
            manifest = Manifest.load(store, "s2")
            commit(manifest, removal(manifest, [Piece(number - 1).item_id], "gone"))
    return store


def test_a_commit_names_a_checkpoint_once_enough_versions_have_passed() -> None:
    store = filled(8)
    entries = Log(store, FOLDER).entries()
    named = [entry.version for entry in entries if entry.files("checkpoints")]
    assert named == [4, 7, 10]
    assert [entry.checkpoint for entry in entries] == [0, 0, 0, 4, 4, 4, 7, 7, 7, 10]
    assert [Checkpoint.of(store, entries[version - 1]).version for version in named] == [3, 6, 9]  # type: ignore[union-attr]
    assert read_hint(store, FOLDER) == 10


def test_every_version_reads_the_same_with_and_without_checkpoints() -> None:
    store = filled(9)
    for version in range(1, len(Log(store, FOLDER).entries()) + 1):
        manifest, oracle = Manifest.load(store, "s2", version), from_the_start(store, version)
        assert manifest.base in (0, *range(max(1, version - 4), version))
        for side in SIDES:
            assert rows(getattr(manifest.states(), side)) == rows(getattr(oracle, side))
        keys = {Piece(number).key for number in (0, 2, 1000)}
        for side in SIDES:
            wanted = [row for row in rows(getattr(oracle, side)) if row["key"] in keys]
            assert rows(getattr(manifest.states(keys), side)) == wanted


@settings(max_examples=15)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.integers(0, 40), st.sampled_from("abc"), st.sampled_from(["", "read"]), st.sampled_from([128, 256])
            ),
            min_size=1,
            max_size=12,
        ),
        min_size=4,
        max_size=9,
    ),
    st.sampled_from([2, 5, 4096]),
)
def test_folding_by_buckets_is_folding(runs: Sequence[Sequence[tuple[int, str, str, int]]], group_rows: int) -> None:
    store = memory_store()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "_GROUP_ROWS", group_rows)
        for run in runs:
            pieces = [Piece(number, form=form, failure=failure, size=size) for number, form, failure, size in run]
            commit_pieces(store, "s2", pieces)
    manifest, oracle = Manifest.load(store, "s2"), from_the_start(store)
    for side in SIDES:
        assert rows(getattr(manifest.states(), side)) == rows(getattr(oracle, side))
    if manifest.checkpoint is not None:
        groups = [set(group["bucket"].to_pylist()) for group in manifest.checkpoint.buckets()]
        assert all(max(one) < min(other) for one, other in pairwise(groups))
        found = [row for group in manifest.checkpoint.buckets() for row in group.to_pylist()]
        assert all(row["bucket"] == bucket_of(row["key"]) for row in found)


def test_json_and_chips_of_items_from_before_a_checkpoint_are_found() -> None:
    store = filled(8)
    manifest = Manifest.load(store, "s2")
    assert manifest.base == 9
    assert manifest.head is not None
    version = CollectionVersion(manifest, manifest.head)
    ids = [Piece(number).item_id for number in (0, 1, 3, 4, 5, 7, 1000)]
    assert version.items(["item_id"])["item_id"].to_pylist() == ids
    assert [json.loads(text)["id"] for text in version.items(["item"])["item"].to_pylist()] == ids
    assert version.dataset().count_rows() == version.count() == 7 * 3


@pytest.mark.parametrize("body", [None, b"", b"{}", b'{"version":4}', b"\xff\xfe", b"[" * 5000])
def test_a_wrong_or_missing_hint_costs_time_only(body: bytes | None) -> None:
    store = filled(8)
    oracle = rows(from_the_start(store).live)
    if body is None:
        store.fs.rm(store.path(hint_key(FOLDER)))
    else:
        store.write(hint_key(FOLDER), body)
    assert read_hint(store, FOLDER) is None
    assert rows(Manifest.load(store, "s2").states().live) == oracle


@pytest.mark.parametrize("version", [1, 3, 4, 5, 9, 10, 11, 4000])
def test_a_hint_to_any_version_leads_to_the_head(version: int) -> None:
    store = filled(8)
    write_hint(store, FOLDER, version)
    manifest = Manifest.load(store, "s2")
    assert (manifest.version, manifest.base) == (10, 9)
    assert rows(manifest.states().live) == rows(from_the_start(store).live)


@pytest.mark.parametrize("which", ["items", "files"])
@pytest.mark.parametrize("damage", ["gone", "flipped", "cut"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_used(
    which: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(8)
    oracle = rows(from_the_start(store).live)
    checkpoint = Manifest.load(store, "s2").checkpoint
    assert checkpoint is not None
    path = getattr(checkpoint, which).path
    body = store.read(path)
    if damage == "gone":
        store.fs.rm(store.path(path))
    else:
        store.write(path, body[:-9] if damage == "cut" else body[:40] + bytes([body[40] ^ 1]) + body[41:])
    with caplog.at_level(logging.WARNING):
        manifest = Manifest.load(store, "s2")
        assert rows(manifest.states().live) == oracle
        files = manifest.data_files()
    assert set(manifest.states().live["file"].to_pylist()) <= set(files)
    assert f"{which}.parquet" in caplog.text
    assert "stacchip repair" in caplog.text
    commit_pieces(store, "s2", [Piece(77)])
    assert Piece(77).key in Manifest.load(store, "s2").states().live["key"].to_pylist()


def test_when_no_checkpoint_can_be_read_the_log_is_read_from_the_start() -> None:
    store = filled(8)
    oracle = rows(from_the_start(store).live)
    for key in store.list(f"{FOLDER}/checkpoints"):
        store.delete(key)
    for version in (10, 9, 7, 5):
        live = Manifest.load(store, "s2", version).states().live
        assert rows(live) == rows(from_the_start(store, version).live)
    assert rows(Manifest.load(store, "s2").states().live) == oracle


def test_a_rival_that_was_first_leaves_the_checkpoint_usable() -> None:
    store = filled(3)
    slow = Manifest.load(store, "s2")
    made = slow.with_checkpoint()
    assert made is not None
    assert made.version == 3
    commit_pieces(store, "s2", [Piece(50)])
    head = Manifest.load(store, "s2")
    assert head.version == 4
    assert rows(head.states().live) == rows(from_the_start(store).live)


def test_a_broken_chain_behind_the_hint_is_named() -> None:
    store = filled(8)
    log = Log(store, FOLDER)
    store.write(log.key(10), store.read(log.key(9)))
    with pytest.raises(CorruptWarehouseError, match=r"10\.json says that it is version 9"):
        Manifest.load(store, "s2")


def test_a_checkpoint_of_an_earlier_release_lacks_columns_and_is_read_nevertheless() -> None:
    store = memory_store()
    pieces = [Piece(number) for number in range(3)]
    for number in range(4):
        commit_pieces(store, "s2", [*pieces, Piece(10 + number, failure="read")])
    manifest = Manifest.load(store, "s2")
    new = manifest.checkpoint
    assert new is not None
    table = pq.read_table(pa.BufferReader(store.read(new.items.path)))
    old = table.drop_columns(["cause", "attempts", "first_failed", "last_failed", "found_as"])
    assert pc.any(pc.equal(table["op"], "failed")).as_py()
    draft = replace(new.items, path=new.items.path.replace("-items", "x-items"))
    info = publish(store, draft, lambda local: pq.write_table(old, local))
    found, whole = Checkpoint(store, new.version, info, new.files).states(), new.states()
    assert found.live.equals(whole.live) and found.failed["attempts"].null_count == len(found.failed) > 0
    later = manifest.changes_since(new.version)
    assert rows(fold([found.rows(), *later]).failed.select(["key"])) == rows(
        fold([whole.rows(), *later]).failed.select(["key"])
    )
