"""Combined indexes: no dead row, one schema, all files listed; unchanged months are listed again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core.errors import CorruptWarehouseError, InputError, LookupFailedError
from stacchip_core.index.grid import GridSpec
from stacchip_core.sources.profiles import Property
from stacchip_core.warehouse.combined import gather, month, parts
from stacchip_core.warehouse.combined.merge import merge
from stacchip_core.warehouse.combined.order import in_hilbert_order
from stacchip_core.warehouse.combined.parts import KEPT
from stacchip_core.warehouse.items import IDENTITY, states_of
from stacchip_core.warehouse.log import Log, Patience
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import MemoryStore, Store
from stacchip_core.warehouse.version import CombinedVersion
from tests.faulty_store import FaultyStore, loses_the_answer, memory_store
from tests.warehouse_rows import PLATFORM, Piece, chip_ids, commit_pieces

NO_WAIT = Patience(sleep=lambda _: None)


def ids_in_files(version: CombinedVersion) -> list[str]:
    """Chip ids as a tool finds them that is given the list of files and nothing else."""
    tables = [pq.read_table(pa.BufferReader(version.store.read(info.path))) for info in version.files]
    return sorted(chip for table in tables for chip in table["chip_id"].to_pylist())


def paths(version: CombinedVersion) -> set[str]:
    return {info.path for info in (*version.entry.kept, *version.entry.added)}


def months(version: CombinedVersion) -> list[tuple[str, str | None, str]]:
    return sorted((info.collection, info.month, info.role) for info in version.entry.added)


def seeded() -> Store:
    """Two collections: s2 with June and July, naip with June."""
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(2), Piece(3, month=7)])
    commit_pieces(store, "naip", [Piece(1, collection="naip")])
    return store


# --- versions


def test_a_version_holds_exactly_the_live_rows() -> None:
    store = seeded()
    commit_pieces(store, "s2", [Piece(1, form="b", rows=5), Piece(4, failure="read")])
    version = merge(store, "global", ["s2", "naip"])
    live = [Piece(1, form="b", rows=5), Piece(2), Piece(3, month=7), Piece(1, collection="naip")]
    expected = sorted(chip for piece in live for chip in piece.chip_ids)
    assert ids_in_files(version) == chip_ids(version.dataset()) == expected
    assert version.count() == version.dataset().count_rows() == len(expected)
    assert (version.version, version.entry.totals.items) == (1, 4)


def test_a_version_pins_its_sources() -> None:
    store = seeded()
    version = merge(store, "global", ["s2", "naip"])
    assert [dict(source) for source in version.sources] == [
        {"collection": name, "version": 1, "sha256": Manifest.load(store, name).sha256} for name in ("naip", "s2")
    ]


def test_identical_input_makes_no_version() -> None:
    store = seeded()
    first = merge(store, "global", ["s2", "naip"])
    before = store.list("combined")
    again = merge(store, "global", ["naip", "s2", "s2"])
    assert (again.version, again.sha256) == (first.version, first.sha256)
    commit_pieces(store, "s2", [Piece(9, failure="read")])
    assert merge(store, "global", ["naip", "s2"]).version == 1, "a failure changes no row"
    assert store.list("combined") == before


def test_only_what_changed_is_written() -> None:
    store = seeded()
    first = merge(store, "global", ["s2", "naip"])
    assert months(first) == [
        (*place, role)
        for place in (("naip", "2024-06"), ("s2", "2024-06"), ("s2", "2024-07"))
        for role in ("data", "items")
    ]
    commit_pieces(store, "s2", [Piece(7, month=7)])
    second = merge(store, "global", ["s2", "naip"])
    assert months(second) == [("s2", "2024-07", "data"), ("s2", "2024-07", "items")]
    assert len(second.entry.kept) == 6
    assert paths(first) < paths(second)
    assert not second.entry.removed
    assert ids_in_files(second) == chip_ids(second.dataset())


def test_collections_come_and_go_without_rewriting_the_others() -> None:
    store = seeded()
    first = merge(store, "global", ["s2"])
    both = merge(store, "global", ["s2", "naip"])
    assert paths(first) < paths(both)
    without = merge(store, "global", ["naip"])
    assert paths(without) < paths(both)
    assert not without.entry.added
    assert chip_ids(without.dataset()) == Piece(1, collection="naip").chip_ids


def test_old_versions_read_as_they_were() -> None:
    store = seeded()
    held = {}
    for number in range(5):
        commit_pieces(store, "s2", [Piece(number, form=f"f{number}"), Piece(20 + number, month=7)])
        version = merge(store, "global", ["s2"])
        held[version.version] = (version.sha256, chip_ids(version.dataset()))
    log = Log(store, "combined/global")
    for number, (sha256, ids) in held.items():
        again = CombinedVersion(store, "global", log.read(number))
        assert (again.sha256, chip_ids(again.dataset())) == (sha256, ids)


def test_sizes_stand_side_by_side() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1, size=256), Piece(1, size=128)])
    version = merge(store, "global", ["s2"])
    assert version.items()["size_px"].to_pylist() == [128, 256]
    assert version.dataset().count_rows() == 6


@pytest.mark.parametrize("sizes", [(256, 128), (128, 256)])
def test_each_size_has_the_scene_that_its_rows_were_made_from(sizes: tuple[int, int]) -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1, form="old", updated=1, size=sizes[0])])
    commit_pieces(store, "s2", [Piece(1, form="new", updated=2, size=sizes[1])])
    version = merge(store, "global", ["s2"])
    for size, form in zip(sizes, ("old", "new"), strict=True):
        assert version.scenes([Piece(1).key], GridSpec(size, size))[Piece(1).key].properties["form"] == form


def test_sizes_are_told_by_the_log_and_only_files_that_can_hold_a_scene_are_read() -> None:
    store = seeded()
    commit_pieces(store, "s2", [Piece(3, month=7, size=128)])
    version = merge(store, "global", ["s2", "naip"])
    expected = {"naip": {GridSpec()}, "s2": {GridSpec(), GridSpec(128, 128)}}
    assert version.grids() == expected == super(CombinedVersion, version).grids()
    for info in version.entry.files("items"):
        if (info.collection, info.month) != ("s2", "2024-07"):
            store.fs.rm(store.path(info.path))
    assert version.grids() == expected
    assert version.scenes([Piece(3).key], GridSpec(128, 128))[Piece(3).key].item_id == Piece(3).item_id
    with pytest.raises(CorruptWarehouseError, match="is named by the log and is not there"):
        version.scenes([Piece(3).key], GridSpec())


def test_items_are_the_same_however_few_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def items_after_merge() -> pa.Table:
        store = memory_store()
        commit_pieces(store, "s2", [Piece(n, rows=n % 3) for n in (5, 1, 9, 3, 7)])
        commit_pieces(store, "s2", [Piece(n, form="b", rows=2) for n in (4, 1, 6)] + [Piece(1, size=128)])
        version = merge(store, "global", ["s2"])
        assert len(version.entry.files("items")) == 1
        return version.items([name for name in KEPT if name != "file"])

    whole = items_after_merge()
    monkeypatch.setattr(month, "_SLICE_ITEMS", 2)
    assert items_after_merge().equals(whole)
    assert whole.num_rows == 8


# --- one schema


def test_all_files_of_a_version_have_one_schema() -> None:
    store = memory_store()
    orbit = (Property(name="sat:orbit_state", type="text"), Property(name="gsd", type="number"))
    commit_pieces(store, "a", [Piece(1, collection="a")])
    commit_pieces(store, "b", [Piece(1, collection="b", properties=orbit)])
    merge(store, "global", ["a"])
    version = merge(store, "global", ["a", "b"])
    schemas = [pq.read_schema(pa.BufferReader(store.read(info.path))) for info in version.files]
    assert [schema.names for schema in schemas] == [version.schema.names] * 2
    assert set(version.schema.names) >= {"platform", "sat:orbit_state", "gsd"}
    assert version.schema.names[-2:] == ["geometry", "bbox"]
    assert version.dataset().to_table().schema.equals(version.schema)
    kept = merge(store, "global", ["a"])
    assert kept.schema.equals(version.schema), "columns stay, so that nothing is rewritten when a collection leaves"
    assert not kept.entry.added


def test_a_property_of_two_types_is_refused_by_name() -> None:
    store = memory_store()
    commit_pieces(store, "a", [Piece(1, collection="a")])
    number = (Property(name="platform", type="number"),)
    commit_pieces(store, "b", [Piece(1, collection="b", properties=number)])
    with pytest.raises(InputError, match="property 'platform' is text in some items and number in others"):
        merge(store, "global", ["a", "b"])


def test_two_names_of_one_collection_id_are_refused() -> None:
    store = seeded()
    commit_pieces(store, "s2-elsewhere", [Piece(1)])
    with pytest.raises(InputError, match="'s2' and 's2-elsewhere' both hold items of 's2'"):
        merge(store, "global", ["s2", "s2-elsewhere"])
    with pytest.raises(InputError, match="name at least one collection"):
        merge(store, "global", [])


def test_collections_with_nothing_but_failures_can_be_merged() -> None:
    store = memory_store()
    for name in ("a", "b"):
        commit_pieces(store, name, [Piece(1, collection=name, failure="read")])
    version = merge(store, "global", ["a", "b"])
    assert (version.version, version.count(), version.dataset().count_rows(), version.items().num_rows) == (1, 0, 0, 0)
    assert merge(store, "global", ["a", "b"]).version == 1


# --- order and row groups


def test_items_lie_in_hilbert_order_with_their_rows_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_GROUP_ROWS", 10)
    store = memory_store()
    pieces = [Piece(number, rows=1 + number % 5) for number in range(1, 24)]
    commit_pieces(store, "s2", pieces)
    version = merge(store, "global", ["s2"])
    (info,) = version.files
    with pq.ParquetFile(pa.BufferReader(store.read(info.path))) as file:
        lengths = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        order = file.read(columns=["item_id"])["item_id"].to_pylist()
    assert sum(lengths) == info.rows == sum(piece.rows for piece in pieces)
    assert len(lengths) == info.rows // 10 and min(lengths) > 10 - 5 and max(lengths) < 20 + 5
    seen = list(dict.fromkeys(order))
    assert order == [item for item in seen for _ in range(order.count(item))]
    live = Manifest.load(store, "s2").states().live
    assert seen == in_hilbert_order(live, IDENTITY)["item_id"].to_pylist()


def test_items_point_into_the_combined_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_GROUP_ROWS", 7)
    store = memory_store()
    commit_pieces(store, "s2", [Piece(number, rows=number % 4, month=6 + number % 2) for number in range(1, 15)])
    version = merge(store, "global", ["s2"])
    offsets = dict(zip(*(version.items()[name].to_pylist() for name in ("key", "offset")), strict=True))
    for state in states_of(version.items()):
        assert (state.file is None) == (state.rows == 0)
        if state.file:
            assert state.file in {info.path for info in version.files} and state.row_group is not None
            with pq.ParquetFile(pa.BufferReader(store.read(state.file))) as file:
                group = file.read_row_group(state.row_group, columns=["item_id"])["item_id"].to_pylist()
            offset = offsets[state.key]
            assert group[offset : offset + state.rows] == [state.item_id] * state.rows
            assert group.count(state.item_id) == state.rows


NUMBER = (Property(name="platform", type="number"),)


def test_a_type_that_all_live_rows_have_changed_to_is_taken() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(2, month=7)])
    merge(store, "global", ["s2"])
    commit_pieces(store, "s2", [Piece(n, month=m, recipe="r2", properties=NUMBER) for n, m in ((1, 6), (2, 7))])
    version = merge(store, "global", ["s2"])
    assert version.dataset().to_table().schema.field("platform").type == pa.float64()
    assert version.dataset().count_rows() == 6


def test_two_types_in_live_rows_are_refused_until_one_is_indexed_again() -> None:
    store = memory_store()
    commit_pieces(store, "a", [Piece(1, collection="a")])
    commit_pieces(store, "b", [Piece(1, collection="b", properties=NUMBER)])
    with pytest.raises(InputError, match="property 'platform' is text in some items and number in others"):
        merge(store, "global", ["a", "b"])
    commit_pieces(store, "b", [Piece(1, collection="b", recipe="r2")])
    assert merge(store, "global", ["a", "b"]).count() == 6


# --- items and scenes


def test_scenes_are_read_by_key_and_a_missing_one_is_named() -> None:
    store = seeded()
    commit_pieces(store, "s2", [Piece(1, form="b")])
    version = merge(store, "global", ["s2", "naip"])
    scenes = version.scenes(["s2/item-0001", "naip/item-0001"], GridSpec())
    assert {key: scene.properties["form"] for key, scene in scenes.items()} == {
        "s2/item-0001": "b",
        "naip/item-0001": "a",
    }
    with pytest.raises(LookupFailedError, match="global@1 holds no item s2/item-0099"):
        version.scenes(["s2/item-0099"], GridSpec())
    with pytest.raises(InputError, match="keeps items as stac-geoparquet, not as JSON"):
        version.items(["key", "item"])


# --- races, faults, damage


def test_a_lost_race_starts_from_the_winner_and_uses_what_was_written() -> None:
    store = FaultyStore()
    commit_pieces(store, "s2", [Piece(1)])
    commit_pieces(store, "naip", [Piece(1, collection="naip")])

    def winner(work: Callable[[], None]) -> None:
        merge(MemoryStore(store.root, store.path("x")[:-2], store.fs), "global", ["naip"])
        work()

    store.faults.append(winner)
    version = merge(store, "global", ["s2", "naip"], NO_WAIT)
    assert (version.version, len(version.entry.kept), len(version.entry.added)) == (2, 2, 2)
    assert ids_in_files(version) == sorted([*Piece(1).chip_ids, *Piece(1, collection="naip").chip_ids])


def test_a_lost_answer_is_no_second_version() -> None:
    store = FaultyStore()
    commit_pieces(store, "s2", [Piece(1)])
    store.faults.append(loses_the_answer)
    assert merge(store, "global", ["s2"], NO_WAIT).version == 1
    assert Log(store, "combined/global").entries()[-1].version == 1


def test_threads_merging_at_once_make_one_version() -> None:
    store = seeded()
    made: list[int] = []
    threads = [
        threading.Thread(target=lambda: made.append(merge(store, "global", ["s2", "naip"]).version)) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1] * 5


@pytest.mark.parametrize("whole", [0, gather._WHOLE_BYTES])
def test_a_damaged_source_is_named_and_makes_no_version(whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_WHOLE_BYTES", whole)
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1, rows=200)])
    (info,) = Manifest.load(store, "s2").entries[0].files("data")
    body = bytearray(store.read(info.path))
    body[len(body) // 3] ^= 0xFF
    store.write(info.path, bytes(body))
    with pytest.raises(CorruptWarehouseError, match=info.path):
        merge(store, "global", ["s2"])
    store.fs.rm(store.path(info.path))
    with pytest.raises(CorruptWarehouseError, match=f"{info.path} is named by the log and is not there"):
        merge(store, "global", ["s2"])
    assert Log(store, "combined/global").entries() == ()


def test_a_row_group_of_another_length_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    true = Manifest.states

    def lying(self: Manifest, keys: object = None) -> object:
        states = true(self)
        place = states.live.schema.get_field_index("rows")
        return replace(states, live=states.live.set_column(place, "rows", pa.array([4])))

    monkeypatch.setattr(Manifest, "states", lying)
    with pytest.raises(CorruptWarehouseError, match="row group 0 holds 3 chips, its items say 4"):
        merge(store, "global", ["s2"])


# --- against a set


pieces = st.builds(
    Piece,
    number=st.integers(0, 4),
    form=st.sampled_from("ab"),
    rows=st.integers(0, 3),
    month=st.sampled_from([6, 7]),
    collection=st.sampled_from(["a", "b"]),
    properties=st.sampled_from([(), PLATFORM]),
)
steps = st.lists(
    st.tuples(st.lists(pieces, max_size=3, unique_by=lambda p: p.key), st.sets(st.sampled_from("ab"), min_size=1)),
    min_size=1,
    max_size=6,
)


@pytest.mark.slow
@settings(max_examples=40)
@given(steps)
def test_any_merges_hold_the_live_rows_of_their_collections(steps: list[tuple[list[Piece], set[str]]]) -> None:
    store, live = memory_store(), dict[str, Piece]()
    for batch, chosen in steps:
        for name in ("a", "b"):
            own = [piece for piece in batch if piece.collection == name]
            for piece in own:
                if piece.key not in live or live[piece.key].form != piece.form:
                    live[piece.key] = piece
            commit_pieces(store, name, own)
        there = [name for name in sorted(chosen) if Manifest.load(store, name).version]
        if not there:
            continue
        version = merge(store, "global", there)
        expected = sorted(c for piece in live.values() if piece.collection in there for c in piece.chip_ids)
        assert ids_in_files(version) == chip_ids(version.dataset()) == expected
        assert version.count() == len(expected)
        assert sorted(version.items()["key"].to_pylist()) == sorted(k for k, p in live.items() if p.collection in there)
        assert merge(store, "global", there).sha256 == version.sha256


def test_collection_ids_of_which_one_begins_the_other_are_not_merged() -> None:
    """naip with item x/a, and naip/x with item a, have one key."""
    store = memory_store()
    for name, collection in (("naip", "naip"), ("x", "naip/x")):
        commit_pieces(store, name, [Piece(1, collection=collection)])
    with pytest.raises(InputError, match="collection ids 'naip' and 'naip/x' could give one key to two items"):
        merge(store, "global", ["naip", "x"])
