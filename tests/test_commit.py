"""Commits: whoever else is writing, each item is live exactly once, in the form its source dates last."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core.errors import CommitConflictError, CommitUnknownError, CorruptWarehouseError, InputError
from stacchip_core.index.grid import GridSpec
from stacchip_core.sources.profiles import Property
from stacchip_core.warehouse import commit as committing
from stacchip_core.warehouse.commit import Commit, commit
from stacchip_core.warehouse.items import states_of
from stacchip_core.warehouse.log import Patience
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import MemoryStore, Store, open_store
from stacchip_core.warehouse.version import CollectionVersion
from stacchip_core.warehouse.work import read_work
from tests.faulty_store import FaultyStore, fails_before, loses_the_answer, memory_store, retries_itself
from tests.warehouse_rows import Piece, chip_ids, commit_parts, commit_pieces, part_of

Model = dict[tuple[str, int], tuple[Piece, int]]  # item and size -> the live piece, and the version it is from


def version_of(store: Store, number: int | None = None) -> CollectionVersion:
    manifest = Manifest.load(store, "s2", number)
    assert manifest.head
    return CollectionVersion(manifest, manifest.head)


# --- what a commit does


def test_a_commit_tells_what_it_did() -> None:
    store = memory_store()
    first = commit_pieces(store, "s2", [Piece(1), Piece(2), Piece(3, failure="read")])
    assert (first.version, first.new, first.updated, first.failed, first.chips) == (1, 2, 0, 1, 6)
    second = commit_pieces(store, "s2", [Piece(1, form="b", rows=5), Piece(4)])
    assert (second.version, second.new, second.updated, second.failed, second.chips) == (2, 1, 1, 0, 8)
    version = version_of(store)
    assert (version.version, version.sha256) == (2, second.sha256)
    assert (version.entry.totals.items, version.entry.totals.chips, version.count()) == (3, 11, 11)


def test_nothing_new_writes_nothing() -> None:
    store = memory_store()
    pieces = [Piece(1), Piece(2, failure="read")]
    first, part = commit_pieces(store, "s2", pieces), part_of(store, "s2", pieces).part
    before = store.list("collections")
    assert commit_parts(store, "s2", [part]) == Commit("s2", 1, first.sha256, failed=1)
    assert commit_parts(store, "s2", []) == Commit("s2", 1, first.sha256)
    assert store.list("collections") == before
    assert commit_parts(store, "never", []) == Commit("never", 0, "")


def test_committing_the_same_parts_twice_is_harmless() -> None:
    store = memory_store()
    parts = [part_of(store, "s2", [Piece(1), Piece(2)]).part, part_of(store, "s2", [Piece(3)]).part]
    first = commit_parts(store, "s2", parts, read_version=0)
    again = commit_parts(store, "s2", parts, read_version=0)
    assert (again.version, again.new, again.chips) == (first.version, 0, 0)
    assert len(chip_ids(version_of(store).dataset())) == 9


def test_every_file_is_named_with_what_it_holds() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1, month=6), Piece(2, month=7), Piece(3, month=7)])
    (entry,) = Manifest.load(store, "s2").entries
    assert [(i.role, i.month, i.rows) for i in entry.added] == [
        ("data", "2024-06", 3),
        ("data", "2024-07", 6),
        ("items", None, 3),
    ]
    assert all(info.size == store.size(info.path) and info.collection == "s2" for info in entry.added)
    (june, july) = entry.files("data")
    assert (june.start, june.end) == ("2024-06-02T10:30:00Z", "2024-06-02T10:30:00Z")
    assert (july.start, july.end) == ("2024-07-03T10:30:00Z", "2024-07-04T10:30:00Z")
    west, south, east, north = july.bbox or (0, 0, 0, 0)
    assert (round(west), round(south), round(east), round(north)) == (-106, -46, -69, -29)
    assert june.columns == (("platform", "text"),)


def test_an_item_without_chips_is_live_and_in_no_file() -> None:
    store = memory_store()
    done = commit_pieces(store, "s2", [Piece(1, rows=0), Piece(2)])
    version = version_of(store)
    assert (done.new, done.chips, version.items().num_rows, version.count()) == (2, 3, 2, 3)
    assert version.items(["file", "row_group", "rows"]).to_pylist()[0] == {"file": None, "row_group": None, "rows": 0}
    (bare, _) = version.items(["datetime", "scene", "profile"]).to_pylist()
    assert (bare["datetime"], bare["profile"]) == (Piece(1).moment, "p")
    assert version.scenes([Piece(1).key], GridSpec())[Piece(1).key] == Piece(1, rows=0).scene()
    assert commit_pieces(store, "empty", [Piece(1, rows=0)]).chips == 0
    assert version_of(store).dataset().count_rows() == 3


def test_a_new_failure_is_news_and_a_known_one_is_not() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    failed = Piece(1, form="b", failure="read", reason="asset 'scl' is gone")
    assert commit_pieces(store, "s2", [failed]).version == 2
    assert chip_ids(version_of(store).dataset()) == Piece(1).chip_ids, "the rows of before stay"
    (row,) = version_of(store).failures().select(["key", "stage", "reason"]).to_pylist()
    assert row == {"key": "s2/item-0001", "stage": "read", "reason": "asset 'scl' is gone"}
    assert commit_pieces(store, "s2", [failed]).version == 2
    assert commit_pieces(store, "s2", [replace(failed, reason="timeout", is_transient=True)]).version == 3
    assert commit_pieces(store, "s2", [replace(failed, reason="after 7 s", is_transient=True)]).version == 3
    assert commit_pieces(store, "s2", [Piece(1, form="b")]).updated == 1
    assert version_of(store).failures().num_rows == 0
    assert commit_pieces(store, "s2", [failed]).version == 4, "a failure at what another has done is no news"


def test_items_of_another_collection_id_are_failures() -> None:
    store = memory_store()
    done = commit_pieces(store, "s2", [Piece(1, collection="naip"), Piece(1), Piece(2)])
    assert (done.new, done.failed, done.chips) == (2, 1, 6)
    assert commit_pieces(store, "s2", [Piece(1, collection="naip")]) == Commit("s2", 1, done.sha256, failed=1)
    version = version_of(store)
    assert (version.entry.collection, chip_ids(version.dataset())) == ("s2", [*Piece(1).chip_ids, *Piece(2).chip_ids])
    (row,) = version.failures().to_pylist()
    assert (row["key"], row["op"], row["stage"], row["rows"]) == ("naip/item-0001", "failed", "item", 0)
    assert (row["file"], row["row_group"], row["bbox"], row["datetime"]) == (None, None, None, None)
    assert row["reason"] == (
        "item item-0001: it belongs to collection 'naip', and 's2' of the warehouse holds items of 's2': "
        "index it under another name"
    )
    assert commit_pieces(store, "s2", [Piece(1, collection="", failure="discover")]).failed == 1


def test_the_collection_id_of_a_lost_race_is_kept_to() -> None:
    store = FaultyStore()
    raced(store, Piece(9, collection="naip"))
    done = commit_through(store, [Piece(1), Piece(2, collection="naip"), Piece(3)])
    assert (done.version, done.new, done.failed) == (2, 1, 2)
    assert version_of(store).items()["key"].to_pylist() == ["naip/item-0002", "naip/item-0009"]


def test_parts_of_another_collection_are_refused_and_break_nothing() -> None:
    store = memory_store()
    part = part_of(store, "a", [Piece(1)]).part
    with pytest.raises(InputError, match=r"collection 'b': the parts were made for another .* 'collections/a/data/"):
        commit_parts(store, "b", [part])
    assert commit_pieces(store, "b", [Piece(2)]).version == 1
    assert commit_parts(store, "a", [part]).version == 1


NUMBER = (Property(name="platform", type="number"),)


def test_a_property_of_another_type_is_refused_while_rows_of_the_first_are_live() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(2)])
    message = "collection 's2': property 'platform' is text in what is indexed and number in these items"
    for pieces in ([Piece(3, properties=NUMBER)], [Piece(1, recipe="r2", properties=NUMBER)]):
        with pytest.raises(InputError, match=message):
            commit_pieces(store, "s2", pieces)
    again = [Piece(number, recipe="r2", properties=NUMBER) for number in (1, 2)]
    assert commit_pieces(store, "s2", again).updated == 2
    assert commit_pieces(store, "s2", [Piece(3, properties=NUMBER)]).new == 1
    assert str(version_of(store).dataset().schema.field("platform").type) == "double"
    assert version_of(store).dataset().count_rows() == 9


def test_a_failure_whose_item_is_taken_back_is_mended() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    commit_pieces(store, "s2", [Piece(1, form="b", failure="read")])
    assert commit_pieces(store, "s2", [Piece(1)], read_version=1).version == 2, "read before the failure"
    done = commit_pieces(store, "s2", [Piece(1)])
    assert (done.version, done.updated) == (3, 1)
    assert version_of(store).failures().num_rows == 0
    assert chip_ids(version_of(store).dataset()) == Piece(1).chip_ids
    assert commit_pieces(store, "s2", [Piece(1)]).version == 3


def test_parts_that_were_committed_undo_nothing_that_came_later() -> None:
    store = memory_store()
    part = part_of(store, "s2", [Piece(1, form="z")]).part
    commit_parts(store, "s2", [part], read_version=0)
    commit_pieces(store, "s2", [Piece(1, form="b")])
    assert commit_parts(store, "s2", [part], read_version=0).version == 2
    assert chip_ids(version_of(store).dataset()) == Piece(1, form="b").chip_ids


def test_parts_with_a_failure_and_a_success_of_one_item_are_committed_once() -> None:
    store = memory_store()
    parts = [
        part_of(store, "s2", [Piece(1, "b", failure="read")]).part,
        part_of(store, "s2", [Piece(1), Piece(2)]).part,
    ]
    first = commit_parts(store, "s2", parts, read_version=0)
    again = commit_parts(store, "s2", parts, read_version=0)
    assert (again.version, again.sha256) == (first.version, first.sha256)
    assert not version_of(store).failures().num_rows


@pytest.mark.parametrize("order", [("r1", "r2"), ("r2", "r1")])
def test_two_recipes_of_overlapping_runs_settle_on_one(order: tuple[str, str]) -> None:
    store = memory_store()
    parts = [part_of(store, "s2", [Piece(1, recipe=recipe)]).part for recipe in order]
    for part in (*parts, *parts):
        commit_parts(store, "s2", [part], read_version=0)
    assert chip_ids(version_of(store).dataset()) == Piece(1, recipe="r2").chip_ids
    assert version_of(store).version == (2 if order == ("r1", "r2") else 1)


def test_a_part_of_another_release_is_read() -> None:
    store = memory_store()
    part = part_of(store, "s2", [Piece(1)]).part
    table = pq.read_table(pa.BufferReader(store.read(part)))
    other = table.drop_columns(["base", "profile"]).append_column("later", pa.array([1.5]))
    sink = pa.BufferOutputStream()
    pq.write_table(other.replace_schema_metadata(table.schema.metadata), sink)
    store.write(part, sink.getvalue().to_pybytes())
    assert commit_parts(store, "s2", [part]).new == 1
    assert version_of(store).items(["base", "profile"]).to_pylist() == [{"base": None, "profile": None}]


def test_sources_are_kept_in_the_log() -> None:
    store = memory_store()
    source = {"url": "https://api.example", "watermark": "2024-06-01T00:00:00Z"}
    commit_parts(store, "s2", [part_of(store, "s2", [Piece(1)]).part], sources=[source])
    assert version_of(store).sources == (source,)


# --- overlapping runs


def overlapping(mine: Piece, theirs: Piece, base: Piece | None = None) -> tuple[Store, Commit]:
    """Commit `mine` from a run that began before `theirs` was committed."""
    store = memory_store()
    if base:
        commit_pieces(store, "s2", [base])
    seen = Manifest.load(store, "s2").version
    part = part_of(store, "s2", [mine]).part
    commit_pieces(store, "s2", [theirs])
    return store, commit_parts(store, "s2", [part], read_version=seen)


@pytest.mark.parametrize(
    ("mine", "theirs", "stays"),
    [
        (Piece(1, form="a"), Piece(1, form="a"), "theirs"),
        (Piece(1, form="a", updated=2), Piece(1, form="b", updated=1), "mine"),
        (Piece(1, form="b", updated=1), Piece(1, form="a", updated=2), "theirs"),
        (Piece(1, form="b", updated=1), Piece(1, form="a", updated=1), "mine"),
        (Piece(1, form="a", updated=1), Piece(1, form="b", updated=1), "theirs"),
        (Piece(1, form="b"), Piece(1, form="a", updated=9), "mine"),
        (Piece(1, form="a"), Piece(1, form="b"), "theirs"),
        (Piece(1, form="a", recipe="r2"), Piece(1, form="a", recipe="r1"), "mine"),
        (Piece(1, form="a", recipe="r1"), Piece(1, form="a", recipe="r2"), "theirs"),
    ],
)
def test_of_two_forms_the_sources_time_then_the_fingerprint_decides(mine: Piece, theirs: Piece, stays: str) -> None:
    for base in (None, Piece(1, form="0")):
        store, _ = overlapping(mine, theirs, base)
        assert chip_ids(version_of(store).dataset()) == (mine if stays == "mine" else theirs).chip_ids


def test_in_one_run_after_another_any_new_form_is_an_update() -> None:
    store = memory_store()
    for form in ("b", "a", "c"):
        commit_pieces(store, "s2", [Piece(1, form=form, updated=1)])
        assert chip_ids(version_of(store).dataset()) == Piece(1, form=form).chip_ids
    commit_pieces(store, "s2", [Piece(1, form="d", updated=None)])
    assert chip_ids(version_of(store).dataset()) == Piece(1, form="d").chip_ids


def test_a_file_none_of_whose_items_is_news_is_not_listed() -> None:
    store = memory_store()
    part = part_of(store, "s2", [Piece(1, month=6), Piece(2, month=7)]).part
    commit_pieces(store, "s2", [Piece(1, month=6)])
    commit_parts(store, "s2", [part], read_version=0)
    assert [info.month for info in Manifest.load(store, "s2").entries[1].files("data")] == ["2024-07"]


# --- lost races and lost answers


def commit_through(store: Store, pieces: list[Piece]) -> Commit:
    manifest = Manifest.load(store, "s2")
    manifest.log._patience = Patience(sleep=lambda _: None)
    work = read_work(store, [part_of(store, "s2", pieces).part], read_version=manifest.version)
    return commit(manifest, work, Patience(sleep=lambda _: None))


@pytest.mark.parametrize("fault", [fails_before, loses_the_answer, retries_itself])
def test_faults_at_the_log_change_nothing(fault: Callable[[Callable[[], None]], None]) -> None:
    store = FaultyStore()
    store.faults.append(fault)
    assert commit_through(store, [Piece(1), Piece(2)]).new == 2
    assert len(Manifest.load(store, "s2").entries) == 1
    assert len(store.list("collections/s2/items")) == 1


def raced(store: FaultyStore, *theirs: Piece) -> None:
    """Let another writer commit each of these just before the next attempts."""
    for piece in theirs:

        def fault(work: Callable[[], None], piece: Piece = piece) -> None:
            plain = MemoryStore(store.root, store.path("x")[:-2], store.fs)
            commit_pieces(plain, "s2", [piece])
            work()

        store.faults.append(fault)


def test_after_a_lost_race_what_remains_goes_into_the_next_number() -> None:
    store = FaultyStore()
    raced(store, Piece(1, form="a"), Piece(2, form="z"))
    done = commit_through(store, [Piece(1, form="a"), Piece(2, form="b"), Piece(3)])
    assert (done.version, done.new, done.updated) == (3, 1, 0)
    assert [e.added[-1].rows for e in Manifest.load(store, "s2").entries] == [1, 1, 1]
    expected = [*Piece(1).chip_ids, *Piece(2, form="z").chip_ids, *Piece(3).chip_ids]
    assert chip_ids(version_of(store).dataset()) == sorted(expected)


def test_a_race_lost_to_the_same_work_leaves_nothing_to_commit() -> None:
    store = FaultyStore()
    raced(store, Piece(1))
    done = commit_through(store, [Piece(1)])
    assert (done.version, done.new) == (1, 0)
    assert len(Manifest.load(store, "s2").entries) == 1


def test_of_parts_that_a_rival_commits_meanwhile_nothing_is_left() -> None:
    store = FaultyStore()
    parts = [
        part_of(store, "s2", [Piece(1, "b", failure="read")]).part,
        part_of(store, "s2", [Piece(1), Piece(2)]).part,
    ]

    def rival(work: Callable[[], None]) -> None:
        commit_parts(MemoryStore(store.root, store.path("x")[:-2], store.fs), "s2", parts, read_version=0)
        work()

    store.faults.append(rival)
    assert commit_parts(store, "s2", parts, read_version=0).version == 1
    assert not version_of(store).failures().num_rows


def test_an_add_that_lost_to_an_older_form_becomes_an_update() -> None:
    store = FaultyStore()
    raced(store, Piece(1, form="a", updated=1, rows=7))
    done = commit_through(store, [Piece(1, form="b", updated=2)])
    assert (done.version, done.new, done.updated) == (2, 0, 1)
    assert version_of(store).entry.totals.chips == 3


def test_a_race_that_touches_none_of_mine_rewrites_nothing() -> None:
    store = FaultyStore()
    raced(store, Piece(8), Piece(9))
    assert commit_through(store, [Piece(1)]).version == 3
    assert len(store.list("collections/s2/items")) == 3


def test_too_many_lost_races_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committing, "_ATTEMPTS", 2)
    store = FaultyStore()
    raced(store, Piece(8), Piece(9))
    with pytest.raises(CommitConflictError, match="collection 's2': lost 2 races for the next version; run again"):
        commit_through(store, [Piece(1)])


def test_an_unknown_outcome_removes_nothing_and_the_next_run_resolves_it() -> None:
    store = FaultyStore()
    part = part_of(store, "s2", [Piece(1)]).part
    manifest = Manifest.load(store, "s2")
    manifest.log._patience = Patience(seconds=0)
    work = read_work(store, [part], read_version=0)

    def silence(work: Callable[[], None]) -> None:
        store.unreadable = 1
        loses_the_answer(work)

    store.faults.append(silence)
    before = store.list("collections")
    with pytest.raises(CommitUnknownError, match="nothing was removed"):
        commit(manifest, work)
    assert set(before) < set(store.list("collections"))
    assert commit_parts(store, "s2", [part], read_version=0).new == 0
    assert chip_ids(version_of(store).dataset()) == Piece(1).chip_ids


def test_work_older_than_a_day_is_refused_by_the_stores_clock(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    part = part_of(store, "s2", [Piece(1)]).part
    for hours, is_fine in ((23, True), (25, False)):
        then = time.time() - hours * 3600
        os.utime(tmp_path / part, (then, then))
        if is_fine:
            assert commit_parts(store, "s2", [part]).new == 1
            part = part_of(store, "s2", [Piece(2)]).part
        else:
            with pytest.raises(InputError, match=r"was written 25\.0 hours ago, and a commit must follow within 24"):
                commit_parts(store, "s2", [part])
    assert Manifest.load(store, "s2").version == 1


def test_a_damaged_part_is_named() -> None:
    store = memory_store()
    store.write(part := part_of(store, "s2", [Piece(1)]).part, b"PAR1")
    with pytest.raises(CorruptWarehouseError, match=part):
        commit_parts(store, "s2", [part])


# --- against a dict


def expect(model: Model, failed: Model, piece: Piece, seen: int, now: int) -> None:
    """What committing a piece does, said once more in plain words."""
    place = (piece.key, piece.size)
    form = (piece.form, piece.recipe)
    if place in model:
        live, since = model[place]
        is_mended = place in failed and failed[place][1] <= seen and not piece.failure
        if (live.form, live.recipe) == form and not is_mended:
            return
        if (live.form, live.recipe) != form:
            if live.updated and piece.updated and piece.updated < live.updated:
                return
            is_later = bool(live.updated and piece.updated and piece.updated > live.updated)
            if since > seen and not is_later and not piece.failure and form < (live.form, live.recipe):
                return
    if not piece.failure:
        model[place] = (piece, now)
        failed.pop(place, None)
    elif place not in failed or (failed[place][0].form, failed[place][0].recipe) != form:
        failed[place] = (piece, now)


pieces = st.builds(
    Piece,
    number=st.integers(0, 5),
    form=st.sampled_from("abc"),
    updated=st.sampled_from([None, 1, 2]),
    recipe=st.sampled_from(["r1", "r2"]),
    size=st.sampled_from([128, 256]),
    rows=st.integers(0, 4),
    month=st.sampled_from([6, 7]),
    failure=st.sampled_from(["", "", "", "read"]),
)
batches = st.lists(pieces, min_size=1, max_size=4, unique_by=lambda piece: (piece.key, piece.size))


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.tuples(batches, st.integers(0, 3)), min_size=1, max_size=8))
def test_any_runs_agree_with_a_dict_at_every_version(runs: list[tuple[list[Piece], int]]) -> None:
    """Each run read the manifest some versions before it commits; every version is read again at the end."""
    store, model, failed, models = memory_store(), Model(), Model(), dict[int, tuple[Model, Model]]()
    for batch, lag in runs:
        now = Manifest.load(store, "s2").version
        seen = max(0, now - lag)
        done = commit_pieces(store, "s2", batch, read_version=seen)
        before = dict(model), dict(failed)
        for piece in batch:
            expect(model, failed, piece, seen, now + 1)
        assert (done.version == now) == ((model, failed) == before)
        models[done.version] = dict(model), dict(failed)
    for number, (held, broken) in models.items():
        if not number:
            continue
        version = version_of(store, number)
        expected = sorted(chip for piece, _ in held.values() for chip in piece.chip_ids)
        assert chip_ids(version.dataset()) == expected
        assert version.count() == version.dataset().count_rows() == len(expected)
        assert version.entry.totals.items == len(held) == version.items().num_rows
        assert {(s.key, s.size_px) for s in states_of(version.items())} == set(held)
        assert {(s.key, s.size_px) for s in states_of(version.failures())} == set(broken)


def test_work_that_grew_old_while_its_machine_slept_is_refused() -> None:
    store = FaultyStore()
    raced(store, Piece(8))
    manifest = Manifest.load(store, "s2")
    work = read_work(store, [part_of(store, "s2", [Piece(1)]).part], read_version=0)

    def sleeps(_: float) -> None:
        store.shared.clock_offset += timedelta(days=2)

    with pytest.raises(InputError, match=r"its data was written 48\.0 hours ago, and a commit must follow within 24"):
        commit(manifest, work, Patience(sleep=sleeps))
