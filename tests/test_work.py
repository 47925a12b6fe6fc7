"""Taking items out of a collection, whoever else commits meanwhile; and how far each source was followed."""

from __future__ import annotations

import pytest

from stacchip_core.errors import LookupFailedError
from stacchip_core.warehouse.commit import Commit, commit
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import MemoryStore
from stacchip_core.warehouse.version import CollectionVersion
from stacchip_core.warehouse.work import followed, removal
from tests.faulty_store import memory_store
from tests.warehouse_rows import Piece, chip_ids, commit_parts, commit_pieces, part_of


def newest(store: MemoryStore) -> CollectionVersion:
    manifest = Manifest.load(store, "s2")
    assert manifest.head is not None
    return CollectionVersion(manifest, manifest.head)


def remove(store: MemoryStore, *numbers: int, seen: Manifest | None = None) -> Commit:
    manifest = seen or Manifest.load(store, "s2")
    return commit(manifest, removal(manifest, [Piece(number).item_id for number in numbers], "gone from the source"))


def live(store: MemoryStore) -> list[str]:
    return chip_ids(newest(store).dataset())


# --- deletes


def test_a_removed_item_is_gone_at_every_size_and_older_versions_keep_it() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(1, size=128, rows=5), Piece(2)])
    done = remove(store, 1)
    assert (done.version, done.deleted, done.new, done.updated, done.chips) == (2, 2, 0, 0, 0)
    assert live(store) == Piece(2).chip_ids
    totals = newest(store).entry.totals
    assert (totals.items, totals.chips) == (1, 3)
    before = Manifest.load(store, "s2", 1)
    assert before.head is not None
    assert CollectionVersion(before, before.head).dataset().count_rows() == 11


def test_a_removal_says_why_and_what_it_took_the_place_of() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    remove(store, 1)
    (table,) = Manifest.load(store, "s2").changes_since(1)
    (row,) = table.to_pylist()
    assert (row["op"], row["reason"], row["rows"], row["file"]) == ("delete", "gone from the source", 0, None)
    assert row["was"] == Piece(1).moment
    assert row["fingerprint"] == Piece(1).form


def test_an_update_says_when_the_form_was_that_it_replaces() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1, month=5)])
    commit_pieces(store, "s2", [Piece(1, form="b", month=7)])
    (table,) = Manifest.load(store, "s2").changes_since(1)
    (row,) = table.to_pylist()
    assert (row["op"], row["was"], row["datetime"]) == ("update", Piece(1, month=5).moment, Piece(1, month=7).moment)


def test_removing_also_takes_failures_off_the_list() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1, failure="read"), Piece(2), Piece(3)])
    commit_pieces(store, "s2", [Piece(2, form="b", failure="read")])
    assert newest(store).failures()["item_id"].to_pylist() == [Piece(1).item_id, Piece(2).item_id]
    done = remove(store, 1, 2)
    assert newest(store).failures().num_rows == 0
    assert live(store) == Piece(3).chip_ids
    assert newest(store).entry.totals.items == 1
    assert (done.version, done.deleted) == (3, 1), "one was live, the other only on the list"


def test_failures_of_items_that_never_became_its_own_are_removed_too() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1, failure="read")])
    assert remove(store, 1).deleted == 0
    commit_pieces(store, "s2", [Piece(2), Piece(4), Piece(3, collection="other")])
    assert newest(store).failures()["key"].to_pylist() == ["other/item-0003"]
    remove(store, 3)
    assert newest(store).failures().num_rows == 0
    assert live(store) == [*Piece(2).chip_ids, *Piece(4).chip_ids]


def test_what_is_not_there_can_not_be_removed() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    with pytest.raises(LookupFailedError, match="collection 's2' has no item item-0009"):
        remove(store, 1, 9)
    remove(store, 1)
    with pytest.raises(LookupFailedError, match="has no item item-0001"):
        remove(store, 1)
    assert len(Log(store, "collections/s2").entries()) == 2


def test_removing_twice_from_one_view_is_one_removal() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(2)])
    seen = Manifest.load(store, "s2")
    assert remove(store, 1, seen=seen).version == 2
    again = remove(store, 1, seen=seen)
    assert (again.version, again.deleted) == (2, 0)
    assert live(store) == Piece(2).chip_ids


def test_a_form_that_came_meanwhile_is_not_removed() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    seen = Manifest.load(store, "s2")
    commit_pieces(store, "s2", [Piece(1, form="b")])
    assert remove(store, 1, seen=seen).deleted == 0
    assert live(store) == Piece(1, form="b").chip_ids


def test_a_removed_item_that_is_found_again_comes_back() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    remove(store, 1)
    done = commit_pieces(store, "s2", [Piece(1)])
    assert (done.version, done.new) == (3, 1)
    assert live(store) == Piece(1).chip_ids
    remove(store, 1)
    assert live(store) == []


def test_a_run_that_overlapped_a_removal_does_not_bring_the_item_back() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1, updated=3)])
    slow = part_of(store, "s2", [Piece(1, form="b", updated=3), Piece(2)])
    remove(store, 1)
    done = commit_parts(store, "s2", [slow.part], read_version=1)
    assert (done.new, done.updated) == (1, 0)
    assert live(store) == Piece(2).chip_ids


def test_a_form_that_its_source_dates_later_than_the_removed_one_comes_back_even_so() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1, updated=3)])
    slow = part_of(store, "s2", [Piece(1, form="b", updated=4)])
    remove(store, 1)
    assert commit_parts(store, "s2", [slow.part], read_version=1).new == 1
    assert live(store) == Piece(1, form="b").chip_ids


# --- sources


def test_of_one_source_the_later_watermark_stays() -> None:
    first = {"url": "https://a", "watermark": "2024-06-01T00:00:00Z"}
    later = {"url": "https://a", "watermark": "2024-06-02T00:00:00Z"}
    assert followed([later], [first]) == (later,)
    assert followed([first], [later]) == (later,)
    assert followed([first], [{"url": "https://a"}]) == (first,)


def test_sources_with_a_watermark_are_carried_on_and_others_told_once() -> None:
    store = memory_store()
    api = {"url": "https://a", "filters": {"cloud": 20}, "watermark": "2024-06-01T00:00:00Z"}
    parts = [part_of(store, "s2", [Piece(number)]).part for number in range(3)]
    commit_parts(store, "s2", parts[:1], sources=[api])
    commit_parts(store, "s2", parts[1:2], sources=[{"items": 7}])
    commit_parts(store, "s2", parts[2:])
    entries = Log(store, "collections/s2").entries()
    assert [list(map(dict, entry.sources)) for entry in entries] == [[api], [api, {"items": 7}], [api]]
    assert Manifest.load(store, "s2").sources == ({**api},)


def test_an_entry_carries_the_stores_own_time() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    (entry,) = Log(store, "collections/s2").entries()
    (items,) = entry.files("items")
    assert entry.stored_at == store.modified(items.path).isoformat().replace("+00:00", "Z")
