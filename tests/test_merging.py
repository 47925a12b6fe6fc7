"""Incremental merges equal a full one, hold no dead row, and write little more than what changed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core.errors import CorruptWarehouseError, InputError
from stacchip_core.sources.profiles import Property
from stacchip_core.warehouse.combined import changed, compaction, month
from stacchip_core.warehouse.combined import merge as combined
from stacchip_core.warehouse.combined import parts as parts_module
from stacchip_core.warehouse.combined.compaction import excess, is_due, parts_for
from stacchip_core.warehouse.combined.merge import merge
from stacchip_core.warehouse.combined.parts import KEPT, POINTER, Part, parts_of
from stacchip_core.warehouse.commit import commit
from stacchip_core.warehouse.entry import FileInfo
from stacchip_core.warehouse.items import read_items
from stacchip_core.warehouse.log import Log, Patience
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.version import CombinedVersion
from stacchip_core.warehouse.work import removal
from tests.faulty_store import FaultyStore, memory_store
from tests.warehouse_rows import PLATFORM, Piece, chip_ids, commit_pieces

NO_WAIT = Patience(sleep=lambda _: None)
LASTING = [name for name in KEPT if name not in POINTER]


def remove(store: Store, name: str, *pieces: Piece) -> None:
    manifest = Manifest.load(store, name)
    commit(manifest, removal(manifest, [piece.item_id for piece in pieces], "told to"))


def parts(version: CombinedVersion) -> list[Part]:
    return parts_of(version.entry)


def months_written(version: CombinedVersion) -> set[str]:
    return {str(info.month) for info in version.entry.added}


def written(version: CombinedVersion) -> int:
    return sum(info.size for info in version.entry.added)


def rows_of(version: CombinedVersion) -> pa.Table:
    """Chip rows as a tool reads them that knows nothing of items, sorted."""
    tables = [pq.read_table(pa.BufferReader(version.store.read(info.path))) for info in version.files]
    whole = pa.concat_tables([version.schema.empty_table(), *(one.replace_schema_metadata() for one in tables)])
    return whole.sort_by("chip_id")


def check(version: CombinedVersion) -> None:
    """Each item's row says where its chips are, all of them and no others."""
    told: dict[str, list[tuple[int, int, int, str]]] = {info.path: [] for info in version.files}
    names = ("file", "row_group", "offset", "rows", "item_id")
    for file, group, offset, rows, item_id in zip(*(version.items()[n].to_pylist() for n in names), strict=True):
        assert (file is None) == (rows == 0)
        if file:
            told[file].append((group, offset, rows, item_id))
    for part in parts(version):
        items = read_part(version, part)
        assert set(items["file"].drop_null().to_pylist()) <= {part.data.path if part.data else None}
    for path, places in told.items():
        with pq.ParquetFile(pa.BufferReader(version.store.read(path))) as file:
            groups = [file.read_row_group(n, columns=["item_id"])["item_id"] for n in range(file.num_row_groups)]
        expected = [item_id for _, _, rows, item_id in sorted(places) for _ in range(rows)]
        assert [one for group in groups for one in group.to_pylist()] == expected
        for group, offset, rows, item_id in places:
            assert groups[group].slice(offset, rows).to_pylist() == [item_id] * rows


def read_part(version: CombinedVersion, part: Part) -> pa.Table:
    table = pq.read_table(pa.BufferReader(version.store.read(part.items.path)), columns=["stacchip:file"])
    return table.rename_columns(["file"])


# --- against a plain dict, and a full merge


@dataclass
class Model:
    """What must be live, by collection, item and size."""

    live: dict[tuple[str, int], Piece] = field(default_factory=dict)

    def commit(self, store: Store, name: str, pieces: list[Piece]) -> None:
        for piece in pieces:
            before = self.live.get((piece.key, piece.size))
            is_news = before is None or (before.form, before.recipe) != (piece.form, piece.recipe)
            if not piece.failure and is_news:
                self.live[piece.key, piece.size] = piece
        commit_pieces(store, name, pieces)

    def remove(self, store: Store, name: str, piece: Piece) -> None:
        gone = [key for key in self.live if key[0] == piece.key]
        for key in gone:
            del self.live[key]
        if gone:
            remove(store, name, piece)

    def of(self, names: set[str]) -> list[Piece]:
        return [piece for piece in self.live.values() if piece.collection in names]


pieces = st.builds(
    Piece,
    number=st.integers(0, 5),
    form=st.sampled_from("abc"),
    recipe=st.sampled_from(["r1", "r2"]),
    rows=st.integers(0, 3),
    month=st.sampled_from([6, 7, 8]),
    size=st.sampled_from([256, 256, 128]),
    collection=st.sampled_from(["a", "a", "b"]),
    failure=st.sampled_from(["", "", "", "read"]),
    properties=st.sampled_from([PLATFORM, PLATFORM, PLATFORM, ()]),
)
batches = st.lists(pieces, max_size=4, unique_by=lambda piece: (piece.key, piece.size))
steps = st.lists(
    st.tuples(batches, st.one_of(st.none(), pieces), st.sets(st.sampled_from("ab"))), min_size=2, max_size=9
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(steps)
def test_any_sequence_merged_step_by_step_equals_a_full_merge(
    steps: list[tuple[list[Piece], Piece | None, set[str]]],
) -> None:
    store, model = memory_store(), Model()
    for number, (batch, gone, chosen) in enumerate(steps):
        for name in ("a", "b"):
            model.commit(store, name, [piece for piece in batch if piece.collection == name])
        if gone is not None:
            model.remove(store, gone.collection, gone)
        there = {name for name in chosen if Manifest.load(store, name).version}
        if not there:
            continue
        version = merge(store, "global", sorted(there))
        live = model.of(there)
        assert rows_of(version)["chip_id"].to_pylist() == sorted(chip for one in live for chip in one.chip_ids)
        assert version.count() == sum(piece.rows for piece in live)
        assert version.entry.totals.items == version.items().num_rows == len(live)
        check(version)
        assert merge(store, "global", sorted(there)).sha256 == version.sha256
        full = merge(store, f"full-{number}", sorted(there))
        assert version.items(LASTING).equals(full.items(LASTING))
        names = [name for name in full.schema.names if name in version.schema.names]
        assert rows_of(version).select(names).equals(rows_of(full).select(names))
        assert version.grids() == full.grids()


# --- what is read and written


def test_new_items_of_a_month_become_a_part_of_their_own() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(n) for n in range(5)])
    first = merge(store, "global", ["s2"])
    commit_pieces(store, "s2", [Piece(9)])
    second = merge(store, "global", ["s2"])
    assert parts(second)[:1] == parts(first)
    assert [info.rows for info in second.entry.added] == [3, 1]
    assert not second.entry.removed
    check(second)


def test_a_superseded_item_has_its_part_written_again_and_no_other() -> None:
    store = memory_store()
    for numbers in ((1, 2), (3, 4), (5, 6)):
        commit_pieces(store, "s2", [Piece(n) for n in numbers])
        before = merge(store, "global", ["s2"])
    commit_pieces(store, "s2", [Piece(3, form="b", rows=2)])
    after = merge(store, "global", ["s2"])
    touched = next(part for part in parts(before) if "s2/item-0003" in keys_of(before, part))
    assert set(after.entry.removed) == {info.path for info in touched.files}
    assert [info.rows for info in after.entry.added] == [5, 2]
    check(after)


def keys_of(version: CombinedVersion, part: Part) -> list[str]:
    table = pq.read_table(pa.BufferReader(version.store.read(part.items.path)), columns=["stacchip:key"])
    keys: list[str] = table["stacchip:key"].to_pylist()
    return keys


def test_an_item_that_moves_to_another_month_leaves_the_one_before() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(2), Piece(3, month=7)])
    merge(store, "global", ["s2"])
    commit_pieces(store, "s2", [Piece(1, form="b", month=8)])
    commit_pieces(store, "s2", [Piece(1, form="c", month=7)])
    version = merge(store, "global", ["s2"])
    assert months_written(version) == {"2024-06", "2024-07"}
    assert chip_ids(version.dataset()) == sorted(
        chip for piece in (Piece(1, form="c"), Piece(2), Piece(3)) for chip in piece.chip_ids
    )
    check(version)


def test_what_came_and_went_between_two_merges_is_nothing_new() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    first = merge(store, "global", ["s2"])
    commit_pieces(store, "s2", [Piece(2)])
    remove(store, "s2", Piece(2))
    assert merge(store, "global", ["s2"]).sha256 == first.sha256


def test_a_deleted_item_is_gone_and_a_part_without_items_too() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(2), Piece(3, month=7)])
    merge(store, "global", ["s2"])
    remove(store, "s2", Piece(1), Piece(3))
    version = merge(store, "global", ["s2"])
    assert chip_ids(version.dataset()) == sorted(Piece(2).chip_ids)
    assert [part.items.month for part in parts(version)] == ["2024-06"]
    remove(store, "s2", Piece(2))
    assert merge(store, "global", ["s2"]).entry.totals.items == 0


def test_months_that_nothing_touches_are_not_read() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(2, month=7), Piece(3, month=8)])
    first = merge(store, "global", ["s2"])
    commit_pieces(store, "s2", [Piece(2, form="b", month=7)])
    bodies = {info.path: store.read(info.path) for part in parts(first) for info in part.files}
    for part in parts(first):
        for info in part.files if part.items.month != "2024-07" else ():
            store.fs.rm(store.path(info.path))
    for info in Manifest.load(store, "s2").log.read(1).added:
        store.fs.rm(store.path(info.path))
    version = merge(store, "global", ["s2"])
    for path, body in bodies.items():
        store.write(path, body)
    assert chip_ids(version.dataset()) == sorted(
        chip for piece in (Piece(1), Piece(2, form="b"), Piece(3)) for chip in piece.chip_ids
    )


def test_json_of_unchanged_items_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(n) for n in range(6)])
    merge(store, "global", ["s2"])
    commit_pieces(store, "s2", [Piece(2, form="b")])
    asked: list[str] = []
    true = Manifest.rows_of

    def watched(self: Manifest, live: pa.Table, columns: list[str]) -> pa.Table:
        asked.extend(live["key"].to_pylist())
        return true(self, live, columns)

    monkeypatch.setattr(Manifest, "rows_of", watched)
    version = merge(store, "global", ["s2"])
    assert asked == ["s2/item-0002"]
    check(version)


# --- pins that can't be used


def test_a_pin_of_another_history_is_an_error_until_the_collection_is_taken_up_anew() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    commit_pieces(store, "naip", [Piece(1, collection="naip")])
    head = merge(store, "global", ["naip", "s2"]).entry
    commit_pieces(store, "s2", [Piece(2)])
    pins = (head.sources[0], {**head.sources[1], "sha256": "0" * 64})
    entry = replace(head, version=2, prev_sha256=head.sha256, txn="t", added=(), kept=head.added, sources=pins)
    Log(store, "combined/global").append(entry)
    with pytest.raises(CorruptWarehouseError, match="version 1 of collection 's2', sha256 000000000000"):
        merge(store, "global", ["naip", "s2"])
    merge(store, "global", ["naip"])
    version = merge(store, "global", ["naip", "s2"])
    expected = [Piece(1, collection="naip"), Piece(1), Piece(2)]
    assert chip_ids(version.dataset()) == sorted(chip for piece in expected for chip in piece.chip_ids)
    check(version)


def test_an_index_that_disagrees_with_the_log_is_merged_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(2, month=7)])
    first = merge(store, "global", ["s2"])
    without = tuple(info for info in first.entry.added if info.month != "2024-06")
    Log(store, "combined/global").append(
        replace(first.entry, version=2, prev_sha256=first.sha256, txn="t", added=(), kept=without)
    )
    commit_pieces(store, "s2", [Piece(1, form="b")])
    version = merge(store, "global", ["s2"])
    assert chip_ids(version.dataset()) == sorted([*Piece(1, form="b").chip_ids, *Piece(2).chip_ids])
    check(version)


# --- compaction


def test_a_month_settles_into_one_part_once_nothing_touches_it() -> None:
    store = memory_store()
    for n in range(3):
        commit_pieces(store, "s2", [Piece(n)])
        version = merge(store, "global", ["s2"])
    assert len(parts(version)) == 3, "few parts of a month that is still filled are left alone"
    commit_pieces(store, "s2", [Piece(8, month=7)])
    settled = merge(store, "global", ["s2"])
    assert [(part.items.month, part.items.rows) for part in parts(settled)] == [("2024-06", 3), ("2024-07", 1)]
    check(settled)
    commit_pieces(store, "s2", [Piece(9, month=7)])
    assert months_written(merge(store, "global", ["s2"])) == {"2024-07"}


def test_a_month_that_is_filled_is_compacted_when_its_parts_are_many() -> None:
    store = memory_store()
    counts = []
    for n in range(12):
        commit_pieces(store, "s2", [Piece(n, rows=2)])
        version = merge(store, "global", ["s2"])
        counts.append(len(parts(version)))
        check(version)
    assert max(counts) <= 6
    assert 1 in counts[3:]


def test_full_parts_are_never_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(month, "FULL_BYTES", 1)
    store = memory_store()
    for n in range(6):
        commit_pieces(store, "s2", [Piece(n)])
        version = merge(store, "global", ["s2"])
        assert not version.entry.removed
    assert len(parts(version)) == 6


def test_a_large_month_is_split_along_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "PART_BYTES", 30_000)
    store = memory_store()
    commit_pieces(store, "s2", [Piece(n, rows=40) for n in range(24)])
    version = merge(store, "global", ["s2"])
    assert len(parts(version)) > 1
    assert sum(part.items.rows for part in parts(version)) == 24
    assert max(part.items.rows for part in parts(version)) - min(part.items.rows for part in parts(version)) <= 1
    check(version)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=8))
def test_the_rule_bounds_what_stands_beside_the_biggest_part(sizes: list[int]) -> None:
    others = sum(sizes) - max(sizes)
    if not is_due(sizes, is_touched=False):
        assert len(sizes) == 1 or others * 16 < max(sizes)
    if not is_due(sizes, is_touched=True):
        assert len(sizes) <= 3 or others * 4 < max(sizes)
    assert excess(sizes) == others / max(sizes)
    assert parts_for(sum(sizes)) >= 1


def test_each_byte_is_written_a_few_times_until_its_part_is_full() -> None:
    """Daily merges of a month: bytes written over bytes there are, by the rule alone."""
    day, sizes, total = 1_000_000, list[int](), 0
    for _ in range(90):
        sizes.append(day)
        total += day
        if is_due(sizes, is_touched=True):
            total += sum(sizes) - day
            sizes = [sum(sizes)]
    assert total <= 6 * 90 * day
    assert len(sizes) <= 3 + 90 // 5


def test_settling_never_pays_for_many_months_at_once() -> None:
    store = memory_store()
    for n in range(3):
        commit_pieces(store, "s2", [Piece(n * 5 + m, month=m) for m in range(1, 6)])
        merge(store, "global", ["s2"])
    commit_pieces(store, "s2", [Piece(90, month=12)])
    version = merge(store, "global", ["s2"])
    assert len(months_written(version)) == 1 + compaction.SETTLED_PER_MERGE


# --- bytes


@pytest.mark.parametrize("months", [(6,), (5, 6, 7, 8)])
def test_updates_write_at_most_a_fifth_more_than_the_files_they_touch(months: tuple[int, ...]) -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(n, rows=30, month=5 + n % 4) for n in range(80)])
    first = merge(store, "global", ["s2"])
    again = [Piece(n, form="b", rows=30, month=5 + n % 4) for n in range(80) if 5 + n % 4 in months][:10]
    commit_pieces(store, "s2", again)
    version = merge(store, "global", ["s2"])
    touched = sum(info.size for info in first.entry.added if info.path in version.entry.removed)
    assert 0 < written(version) <= 1.2 * touched
    assert {part.items.month for part in parts(first) if part not in parts(version)} == months_written(version)
    check(version)


def test_a_part_that_is_written_anyway_takes_new_items_only_as_far_as_it_has_room() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(n, rows=30) for n in range(30)])
    merge(store, "global", ["s2"])
    commit_pieces(store, "s2", [Piece(1, form="b", rows=30), *(Piece(n, rows=30) for n in range(100, 160))])
    version = merge(store, "global", ["s2"])
    assert sorted(part.items.rows for part in parts(version)) == [30, 60]
    check(version)


# --- crashes and races


class Crash(Exception):
    """The process died."""


@pytest.mark.parametrize("survives", range(6))
def test_a_crash_between_writes_leaves_the_version_before(survives: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(2, month=7), Piece(3, month=8)])
    first = merge(store, "global", ["s2"])
    before = chip_ids(first.dataset())
    commit_pieces(store, "s2", [Piece(1, form="b"), Piece(2, form="b", month=7), Piece(4, month=8)])
    left = survives
    true = type(store).writing

    def dies(self: Store, key: str) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash
        return true(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "writing", dies)
        with pytest.raises(Crash):
            merge(store, "global", ["s2"])
    log = Log(store, "combined/global")
    newest = log.newest()
    assert newest is not None and newest.sha256 == first.sha256
    assert chip_ids(CombinedVersion(store, "global", newest).dataset()) == before
    version = merge(store, "global", ["s2"])
    assert version.version == 2
    check(version)


def test_a_lost_race_writes_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    commit_pieces(store, "naip", [Piece(1, collection="naip")])
    merge(store, "global", ["s2"])
    commit_pieces(store, "s2", [Piece(2), Piece(3, month=7)])
    true, calls = combined._entry, []

    def late(*args: object) -> object:
        calls.append(args)
        if len(calls) == 1:  # another merge, of another set of collections, wins the number
            merge(store, "global", ["naip", "s2"])
        return true(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(combined, "_entry", late)
    version = merge(store, "global", ["s2"], NO_WAIT)
    assert version.version == 3
    assert chip_ids(version.dataset()) == sorted(
        chip for piece in (Piece(1), Piece(2), Piece(3, month=7)) for chip in piece.chip_ids
    )
    check(version)


def test_columns_that_come_have_all_parts_written_once_and_values_kept() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(2, month=7)])
    first = merge(store, "global", ["s2"])
    orbit = (*PLATFORM, Property(name="sat:orbit_state", type="text"))
    commit_pieces(store, "s2", [Piece(3, month=8, properties=orbit)])
    version = merge(store, "global", ["s2"])
    assert set(version.entry.removed) == {info.path for info in first.entry.added}
    assert {info.columns for info in version.files} == {(("platform", "text"), ("sat:orbit_state", "text"))}
    check(version)
    assert merge(store, "global", ["s2"]).sha256 == version.sha256


def test_an_update_that_does_not_say_what_it_replaced_is_no_base(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(2, month=7)])
    merge(store, "global", ["s2"])
    commit_pieces(store, "s2", [Piece(1, form="b", month=7)])
    true = read_items

    def silent(store: Store, info: FileInfo, *args: object) -> pa.Table:
        table = true(store, info, *args)  # type: ignore[arg-type]
        place = table.schema.get_field_index("was")
        return table if place < 0 else table.set_column(place, "was", pa.nulls(len(table), pa.timestamp("us", "UTC")))

    monkeypatch.setattr("stacchip_core.warehouse.manifest.read_items", silent)
    assert (
        changed.changed_since(Manifest.load(store, "s2"), 1, Log(store, "collections/s2").read(1).sha256).gone is None
    )
    version = merge(store, "global", ["s2"])
    assert chip_ids(version.dataset()) == sorted([*Piece(1, form="b").chip_ids, *Piece(2).chip_ids])


@pytest.mark.parametrize("bytes_", [0, 20_000])
def test_items_are_the_same_in_however_many_files_they_wait(bytes_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def merged() -> tuple[pa.Table, pa.Table]:
        store = memory_store()
        for form in "ab":
            commit_pieces(store, "s2", [Piece(n, form=form, rows=n % 3) for n in range(9)])
        version = merge(store, "global", ["s2"])
        (part,) = parts(version)
        whole = pq.read_table(pa.BufferReader(store.read(part.items.path)))
        return version.items(LASTING), whole.drop_columns(["stacchip:file"])

    expected = merged()
    monkeypatch.setattr(month, "_SLICE_ITEMS", 2)
    monkeypatch.setattr(parts_module, "_SLICE_BYTES", bytes_)
    found = merged()
    assert found[0].equals(expected[0])
    assert found[1].equals(expected[1])


# --- the age of what is committed


def test_parts_kept_from_long_ago_do_not_make_a_merge_old() -> None:
    store = FaultyStore()
    commit_pieces(store, "s2", [Piece(1), Piece(2)])
    merge(store, "global", ["s2"])
    store.shared.clock_offset = timedelta(days=40)
    commit_pieces(store, "s2", [Piece(3)])
    version = merge(store, "global", ["s2"])
    assert (version.version, version.count()) == (2, 9)
    assert version.entry.kept


def test_a_merge_whose_files_took_more_than_a_day_is_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FaultyStore()
    commit_pieces(store, "s2", [Piece(1), Piece(2, month=7)])
    write = month.Month.written

    def write_slowly(self: month.Month, folder: str, stem: str) -> tuple[Part, ...]:
        made = write(self, folder, stem)
        store.shared.clock_offset += timedelta(hours=25)
        return made

    monkeypatch.setattr(month.Month, "written", write_slowly)
    with pytest.raises(InputError, match="took more than 24 hours to write: merge again"):
        merge(store, "global", ["s2"])
    assert Log(store, "combined/global").entries() == ()


# --- a log that lost entries


def test_a_collection_whose_log_lost_what_was_merged_is_an_error_and_not_a_smaller_index() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    commit_pieces(store, "s2", [Piece(2)])
    merge(store, "global", ["s2"])
    store.delete(Log(store, "collections/s2").key(2))
    message = "made of version 2 of collection 's2'.* has none there: entries were lost or replaced"
    with pytest.raises(CorruptWarehouseError, match=message):
        merge(store, "global", ["s2"])
    commit_pieces(store, "s2", [Piece(3)])
    with pytest.raises(
        CorruptWarehouseError, match=r"made of version 2 of collection 's2', sha256 \w{12}, and its log"
    ):
        merge(store, "global", ["s2"])
    assert len(Log(store, "combined/global").entries()) == 1


def test_a_version_counts_the_items_that_it_changed() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(2), Piece(3)])
    first = merge(store, "global", ["s2"]).entry.counts
    commit_pieces(store, "s2", [Piece(1, form="b", month=7), Piece(2, form="b"), Piece(4), Piece(5)])
    remove(store, "s2", Piece(3))
    second = merge(store, "global", ["s2"]).entry.counts
    assert (first.new, first.updated, first.deleted) == (3, 0, 0)
    assert (second.new, second.updated, second.deleted) == (2, 2, 1)
