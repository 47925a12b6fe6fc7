"""The manifest: what an item that was found means, and what its rows are at any version."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core import IndexSettings
from stacchip_core.errors import CorruptWarehouseError, VersionNotFoundError
from stacchip_core.sources.item import StagedItem, fingerprint
from stacchip_core.sources.profiles import load_profile
from stacchip_core.warehouse.backoff import AT_ONCE
from stacchip_core.warehouse.classify import (
    Verdict,
    candidate,
    classify,
    collection_of,
    compare,
    newest_of_each,
)
from stacchip_core.warehouse.items import ItemState, states_of
from stacchip_core.warehouse.manifest import Manifest
from tests.faulty_store import memory_store
from tests.warehouse_rows import Piece, commit_pieces

SETTINGS = IndexSettings()
UPDATED = (None, "2024-06-01T00:00:00Z", "2024-06-02T00:00:00+02:00", "2024-06-02T00:00:00Z")


def item(number: int = 1, form: str = "a", updated: str | None = None, collection: str | None = "s2") -> StagedItem:
    properties = {"datetime": "2024-06-01T00:00:00Z", "form": form} | ({"updated": updated} if updated else {})
    found = {"type": "Feature", "id": f"item-{number:04d}", "collection": collection, "properties": properties}
    return StagedItem(
        {**found, "assets": {"red": {"href": "https://x/red.tif", "type": "image/tiff", "roles": ["data"]}}}
    )


def live_as(staged: StagedItem, settings: IndexSettings = SETTINGS) -> Piece:
    """The piece that indexing this item would have made."""
    state = candidate(staged, settings).state
    day = state.updated.day if state.updated else None
    return Piece(
        int(state.item_id[-4:]), form=state.fingerprint, recipe=state.recipe, updated=day, size=settings.chip_size
    )


# --- classifying


def test_items_are_new_updated_or_the_same() -> None:
    store = memory_store()
    same, changed, fresh = item(1), item(2), item(3)
    commit_pieces(store, "s2", [live_as(same), live_as(changed)])
    found = classify(Manifest.load(store, "s2"), [same, item(2, form="b"), fresh], SETTINGS)
    assert (found.new, found.updated, found.same, found.stale) == ((fresh,), (item(2, form="b"),), 1, ())
    assert (found.name, found.version) == ("s2", 1)


def test_links_and_signatures_are_no_change() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [live_as(item())])
    signed = item()
    signed.item["links"] = [{"rel": "self", "href": "https://elsewhere"}]
    signed.item["assets"]["red"]["href"] += "?sig=abc&se=2024"
    assert classify(Manifest.load(store, "s2"), [signed], SETTINGS).same == 1


def test_another_size_is_another_index_of_the_item() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [live_as(item())])
    for settings in (IndexSettings(chip_size=128), IndexSettings(stride=64), IndexSettings(edge="pad")):
        assert classify(Manifest.load(store, "s2"), [item()], settings).new == (item(),)
    both = [live_as(item()), live_as(item(), IndexSettings(chip_size=128))]
    commit_pieces(store, "s2", both)
    assert Manifest.load(store, "s2").states().live["size_px"].to_pylist() == [128, 256]


def test_a_changed_recipe_alone_is_no_update_but_told() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [live_as(item(1)), replace(live_as(item(2)), recipe="of long ago")])
    found = classify(Manifest.load(store, "s2"), [item(1), item(2)], SETTINGS)
    assert (found.new, found.updated, found.same, found.stale) == ((), (), 2, ("s2/item-0002",))


def test_an_older_form_than_the_committed_is_left() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [live_as(item(form="b", updated=UPDATED[3]))])
    found = classify(Manifest.load(store, "s2"), [item(form="a", updated=UPDATED[1])], SETTINGS)
    assert (found.new, found.updated, found.same, found.older) == ((), (), 0, 1)


def test_items_that_failed_are_tried_again() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [replace(live_as(item()), failure="read")])
    (again,) = classify(Manifest.load(store, "s2"), [item()], SETTINGS, backoff=AT_ONCE).new
    assert again == replace(item(), attempts=1)
    found = classify(Manifest.load(store, "s2"), [item(), item(2)], SETTINGS)
    assert (found.new, found.waiting) == ((item(2),), 1)


def test_an_item_that_could_not_be_read_is_taken_along() -> None:
    broken = StagedItem({"id": "https://x/item.json"}, error="HTTP 404")
    found = classify(Manifest.load(memory_store(), "s2"), [broken], SETTINGS)
    assert found.new == (broken,)


def test_of_several_forms_found_the_latest_is_taken() -> None:
    forms = [item(form="a", updated=UPDATED[2]), item(form="b", updated=UPDATED[3]), item(form="c")]
    assert classify(Manifest.load(memory_store(), "s2"), forms, SETTINGS).new == (forms[1],)
    ties = [item(form="a"), item(form="b")]
    chosen = [newest_of_each([candidate(s, SETTINGS) for s in order]) for order in (ties, ties[::-1])]
    assert [*chosen[0].values()] == [*chosen[1].values()]
    assert next(iter(chosen[0].values())).state.fingerprint == max(fingerprint(s.item) for s in ties)


def test_an_item_of_another_collection_id_is_new_with_its_error() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [live_as(item())])
    (other,) = classify(Manifest.load(store, "s2"), [item(), item(collection="S_2")], SETTINGS).new
    assert other.item == item(collection="S_2").item
    assert other.error and "'S_2', and 's2' of the warehouse holds items of 's2'" in other.error
    most = [item(1, collection="b"), item(2, collection="b"), item(3, collection="a"), item(4, collection=None)]
    found = classify(Manifest.load(memory_store(), "s2"), most, SETTINGS).new
    assert [(one.item["collection"], bool(one.error)) for one in found] == [
        ("b", False),
        ("b", False),
        ("a", True),
        ("b", False),
    ]


def test_an_unreadable_item_does_not_count_as_one_of_another_collection() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [live_as(item())])
    broken = StagedItem({"id": "missing.json"}, error="no such file")
    settings = IndexSettings(profile=load_profile("naip"))
    assert classify(Manifest.load(store, "s2"), [broken], settings).new == (broken,)


def test_an_item_that_is_live_after_its_later_form_failed_is_committed_again() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [live_as(item())])
    commit_pieces(store, "s2", [replace(live_as(item(form="b")), failure="read")])
    assert classify(Manifest.load(store, "s2"), [item()], SETTINGS).updated == (replace(item(), attempts=1),)
    commit_pieces(store, "s2", [live_as(item())])
    assert classify(Manifest.load(store, "s2"), [item()], SETTINGS).same == 1


def test_an_item_without_collection_belongs_to_its_profile() -> None:
    assert collection_of({"collection": "x"}, SETTINGS) == "x"
    assert collection_of({"id": "a", "properties": {}}, IndexSettings(profile=load_profile("naip"))) == "naip"
    assert collection_of({"id": "a"}, SETTINGS) == ""


@given(st.sampled_from("ab"), st.sampled_from(UPDATED), st.sampled_from("ab"), st.sampled_from(UPDATED))
def test_the_sources_time_and_the_fingerprint_decide(form: str, updated: str, other: str, when: str) -> None:
    found, live = (candidate(item(form=f, updated=u), SETTINGS).state for f, u in ((form, updated), (other, when)))
    verdict = compare(found, live)
    assert compare(found, None) is Verdict.NEW
    assert (verdict is Verdict.SAME) == (found.fingerprint == live.fingerprint)
    if verdict is Verdict.OLDER:
        assert updated and when and datetime.fromisoformat(updated) < datetime.fromisoformat(when)
        assert compare(live, found) is Verdict.UPDATED


def test_hostile_items_are_classified_and_not_believed() -> None:
    hostile = [
        StagedItem({"id": "a", "collection": "s2"}),
        StagedItem({"id": 7, "collection": "s2", "properties": None}),
        StagedItem({"id": "../../x", "collection": "s2", "properties": [], "assets": 3}),
        StagedItem({"collection": "s2", "properties": {"updated": "yesterday"}, "assets": {"red": None}}),
    ]
    found = classify(Manifest.load(memory_store(), "s2"), hostile, SETTINGS)
    assert found.new == tuple(hostile)


# --- folding


def test_a_manifest_is_of_one_version() -> None:
    store = memory_store()
    for number in range(3):
        commit_pieces(store, "s2", [Piece(number)])
    assert [Manifest.load(store, "s2", version).states().live.num_rows for version in (1, 2, 3, None)] == [1, 2, 3, 3]
    with pytest.raises(VersionNotFoundError, match="collections/s2 has no version 4; it has versions 1 to 3"):
        Manifest.load(store, "s2", 4)
    empty = Manifest.load(store, "other")
    assert (empty.version, empty.sha256, empty.head, empty.collection) == (0, "", None, "")


def test_a_look_up_by_key_is_a_part_of_the_whole() -> None:
    store = memory_store()
    for number in range(6):
        commit_pieces(store, "s2", [Piece(n, form=f"f{number}") for n in range(number, number + 3)])
    manifest = Manifest.load(store, "s2")
    whole = {state.key: state for state in states_of(manifest.states().live)}
    keys = {"s2/item-0001", "s2/item-0007", "s2/none"}
    found = {state.key: state for state in states_of(manifest.states(keys).live)}
    assert found == {key: whole[key] for key in keys if key in whole}


def test_rows_come_from_the_version_that_holds_them() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1, form="a"), Piece(2, form="a")])
    commit_pieces(store, "s2", [Piece(1, form="b"), Piece(3, failure="read")])
    manifest = Manifest.load(store, "s2")
    rows = manifest.rows_of(manifest.states().live, ["key", "item", "fingerprint"])
    assert rows["key"].to_pylist() == ["s2/item-0001", "s2/item-0002"]
    assert rows["fingerprint"].to_pylist() == ["b", "a"]
    assert rows["item"].to_pylist() == ['{"id":"item-0001","form":"b"}', '{"id":"item-0002","form":"a"}']


def test_damaged_items_are_named_when_folded() -> None:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1)])
    manifest = Manifest.load(store, "s2")
    path = manifest.entries[0].files("items")[0].path
    store.write(path, store.read(path)[:-1])
    with pytest.raises(CorruptWarehouseError, match=path):
        manifest.states()


def test_states_name_their_identity() -> None:
    state = Piece(1, updated=3).indexed().state
    assert isinstance(state, ItemState)
    assert state.identity == ("s2/item-0001", 256, 256, "drop")
    assert state.updated == datetime(2024, 6, 3, tzinfo=UTC)
