"""An index at a version: live rows alone, in one schema, read lazily; damage is never taken for rows."""

from __future__ import annotations

import pyarrow.compute as pc
import pytest

from stacchip_core.errors import CorruptWarehouseError, InputError, LookupFailedError
from stacchip_core.index.grid import GridSpec
from stacchip_core.sources.profiles import Property
from stacchip_core.warehouse.items import LIGHT
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.version import CollectionVersion
from tests.faulty_store import memory_store
from tests.warehouse_rows import PLATFORM, Piece, chip_ids, commit_pieces


def version_of(store: Store) -> CollectionVersion:
    manifest = Manifest.load(store, "s2")
    assert manifest.head
    return CollectionVersion(manifest, manifest.head)


def half_dead() -> Store:
    """Items 1 to 3 in one file, of which 2 is live in another form."""
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1, rows=2), Piece(2, rows=3), Piece(3, rows=4)])
    commit_pieces(store, "s2", [Piece(2, form="b", rows=5)])
    return store


def test_dead_row_groups_are_neither_read_nor_counted() -> None:
    version = version_of(half_dead())
    dataset = version.dataset()
    expected = sorted([*Piece(1, rows=2).chip_ids, *Piece(2, form="b", rows=5).chip_ids, *Piece(3, rows=4).chip_ids])
    assert chip_ids(dataset) == expected
    assert dataset.count_rows() == version.count() == 11
    assert dataset.count_rows(filter=pc.field("item_id") == "item-0002") == 5
    assert dataset.to_table(filter=pc.field("chip_id") == Piece(2, rows=3).chip_ids[0]).num_rows == 0
    assert sum(batch.num_rows for batch in dataset.to_batches(columns=["bbox"])) == 11
    assert {info.rows for info in version.files} == {9, 5}


def test_a_file_without_live_rows_is_not_listed() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    commit_pieces(store, "s2", [Piece(1, form="b")])
    version = version_of(store)
    assert [info.path for info in version.files] == [Manifest.load(store, "s2").entries[1].files("data")[0].path]
    assert version.dataset().count_rows() == 3


def test_counting_reads_no_data_file() -> None:
    store = half_dead()
    version = version_of(store)
    for info in version.files:
        store.fs.rm(store.path(info.path))
    assert version.count() == 11
    assert repr(version) == f"<IndexVersion s2@2: 11 chips, sha256 {version.sha256[:12]}>"


def test_files_of_several_profiles_have_one_schema() -> None:
    store = memory_store()
    orbit = (Property(name="sat:orbit_state", type="text"),)
    commit_pieces(store, "s2", [Piece(1), Piece(2, properties=orbit)])
    commit_pieces(store, "s2", [Piece(3, properties=()), Piece(4, properties=(*orbit, *PLATFORM))])
    table = version_of(store).dataset().to_table()
    assert table.num_rows == 12
    assert {"platform", "sat:orbit_state"} < set(table.schema.names)
    assert table["platform"].null_count == table["sat:orbit_state"].null_count == 12


def test_an_empty_version_is_an_empty_dataset() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1, failure="read")])
    version = version_of(store)
    assert (version.count(), version.files, version.items().num_rows) == (0, (), 0)
    assert version.dataset().to_table().num_rows == 0
    assert version.scenes([], GridSpec()) == {}


def test_items_are_light_unless_asked_for_more() -> None:
    version = version_of(half_dead())
    assert version.items().schema.names == list(LIGHT)
    table = version.items(["key", "scene"])
    assert table["key"].to_pylist() == [Piece(n).key for n in (1, 2, 3)]
    assert all(text.startswith("{") for text in table["scene"].to_pylist())


def test_scenes_are_those_of_the_live_rows() -> None:
    store = half_dead()
    commit_pieces(store, "s2", [Piece(2, form="c", failure="read"), Piece(1, form="z", size=128)])
    scenes = version_of(store).scenes([Piece(n).key for n in (1, 2)], GridSpec(256, 256))
    assert {key: scene.properties["form"] for key, scene in scenes.items()} == {Piece(1).key: "a", Piece(2).key: "b"}
    small = version_of(store).scenes([Piece(1).key], GridSpec(128, 128))
    assert small[Piece(1).key].properties["form"] == "z", "each size has the form that its chips were made from"
    with pytest.raises(LookupFailedError, match="s2@3 holds no item s2/item-0009 at 256-256-drop"):
        version_of(store).scenes([Piece(9).key], GridSpec(256, 256))
    with pytest.raises(LookupFailedError, match="s2@3 holds no item s2/item-0002 at 128-128-drop"):
        version_of(store).scenes([Piece(2).key], GridSpec(128, 128))


def test_a_column_that_items_do_not_have_is_the_callers_error() -> None:
    with pytest.raises(InputError, match="items have no column 'nope'; there are key, item_id"):
        version_of(half_dead()).items(["nope"])


def test_a_changed_byte_is_an_error_and_never_rows() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1, rows=500)])
    version = version_of(store)
    (info,) = version.files
    whole = store.read(info.path)
    for place in range(0, len(whole), len(whole) // 60):
        store.write(info.path, whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(CorruptWarehouseError, match=info.path):
            version.dataset().to_table()


def test_item_rows_that_name_an_unlisted_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    version = version_of(half_dead())
    monkeypatch.setattr(Manifest, "data_files", lambda self, paths=None: {})
    with pytest.raises(CorruptWarehouseError, match="items of collection 's2' name 'collections/s2/data/"):
        version.dataset()
