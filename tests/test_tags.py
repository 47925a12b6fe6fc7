"""Tags: a name means one version for ever, and says so when it is not that version any more."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core.errors import CorruptWarehouseError, InputError, StoreError, VersionNotFoundError
from stacchip_core.warehouse.entry import sealed
from stacchip_core.warehouse.tags import Tag, all_tags, drop_tag, key_of, parse_tag, put_tag, read_tag
from stacchip_core.warehouse.warehouse import Warehouse
from tests.care import KINDS, content, filled, flipped, memory_warehouse, new_warehouse
from tests.faulty_store import Fault, FaultyStore, loses_the_answer, retries_itself

TAG = Tag("paper", "combined/global", 3, "ab" * 32)


@pytest.fixture(params=KINDS)
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    found = new_warehouse(request.param, request, tmp_path)
    filled(found.store)
    return found


def test_a_tag_reads_the_version_that_it_names(warehouse: Warehouse) -> None:
    for index in ("combined/global", "collections/s2"):
        kind, name = index.split("/")
        warehouse.tag(f"first-{name}", index, 2)
        expected = content(warehouse.index(index, 2))
        open_index = warehouse.combined if kind == "combined" else warehouse.collection
        assert content(open_index(name, version=f"first-{name}")) == expected
    assert [(tag.name, tag.index, tag.version) for tag in warehouse.tags()] == [
        ("first-global", "combined/global", 2),
        ("first-s2", "collections/s2", 2),
    ]
    assert all(tag.sha256 == warehouse.index(tag.index, tag.version).sha256 for tag in warehouse.tags())


def test_a_tag_of_the_newest_version_stays_behind_when_that_grows(warehouse: Warehouse) -> None:
    tag = warehouse.tag("now", "global")
    before = content(warehouse.combined("global"))
    warehouse.merge("global", collections=["s2"])
    assert warehouse.combined("global").version == tag.version + 1
    assert content(warehouse.combined("global", "now")) == before


def test_the_same_tag_again_is_harmless_and_another_is_refused(warehouse: Warehouse) -> None:
    first = warehouse.tag("paper", "global", 1)
    assert warehouse.tag("paper", "combined/global", 1) == first
    message = "tag 'paper' names combined/global version 1, not collections/s2 version 2"
    with pytest.raises(InputError, match=message):
        warehouse.tag("paper", "s2", 2)
    assert warehouse.tags() == [first]


def test_a_deleted_tag_is_gone_and_its_name_free(warehouse: Warehouse) -> None:
    warehouse.tag("paper", "global", 1)
    assert [warehouse.untag("paper") for _ in range(2)] == [True, False]
    assert warehouse.tags() == []
    assert warehouse.tag("paper", "global", 2).version == 2


@pytest.mark.parametrize("fault", [loses_the_answer, retries_itself])
def test_a_tag_whose_answer_was_lost_is_there(fault: Fault) -> None:
    store = FaultyStore()
    store.faults.append(fault)
    try:
        put_tag(store, TAG)
    except StoreError:
        assert fault is loses_the_answer
    assert put_tag(store, TAG) == read_tag(store, "paper") == TAG


def test_of_several_who_take_a_name_one_gets_it(warehouse: Warehouse) -> None:
    def take(version: int) -> bool:
        try:
            put_tag(warehouse.store, Tag("race", "combined/global", version, "ab" * 32))
        except InputError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(take, range(1, 9)))
    assert sum(won) == 1
    assert read_tag(warehouse.store, "race").version == won.index(True) + 1


@pytest.mark.parametrize("name", ["", "Paper", "a/b", "../x", "a b", "17", "-x", "x" * 64])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is no name for a tag"):
        key_of(name)


def test_an_unknown_tag_lists_those_there_are() -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    with pytest.raises(VersionNotFoundError, match="no tag 'nope'; there are none yet"):
        warehouse.combined("global", "nope")
    warehouse.tag("paper", "global")
    warehouse.tag("thesis", "s2")
    with pytest.raises(VersionNotFoundError, match="no tag 'nope'; there are paper, thesis"):
        warehouse.combined("global", "nope")
    with pytest.raises(InputError, match="tag 'thesis' names collections/s2 version 8, not one of combined/global"):
        warehouse.combined("global", "thesis")


def test_a_number_as_text_is_no_tag() -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    for index in ("combined/global", "collections/s2"):
        with pytest.raises(InputError, match="version '1' is text: versions are numbers, such as 1, and"):
            warehouse.index(index, "1")


def test_what_does_not_exist_is_not_tagged() -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    for index, version in (("global", 9), ("combined/s2", 1), ("nope", None)):
        with pytest.raises(VersionNotFoundError):
            warehouse.tag("paper", index, version)
    with pytest.raises(InputError, match="'a/b/c' is no index"):
        warehouse.tag("paper", "a/b/c")
    assert warehouse.tags() == []


def test_a_version_that_was_replaced_is_told() -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    for index in ("combined/global", "collections/s2"):
        put_tag(warehouse.store, Tag(f"old-{index[:4]}", index, 2, "ab" * 32))
        with pytest.raises(
            CorruptWarehouseError, match=f"tag tags/old-{index[:4]}.json names a version with sha256 abab"
        ):
            warehouse.index(index, f"old-{index[:4]}")


@given(st.data())
def test_no_changed_byte_goes_unnoticed(data: st.DataObject) -> None:
    fields = {"index": TAG.index, "version": TAG.version, "sha256": TAG.sha256}
    body = sealed(fields)
    assert parse_tag("paper", body, "x") == TAG
    place, bit = data.draw(st.integers(0, len(body) - 1)), data.draw(st.integers(0, 7))
    for damaged in (flipped(body, place, bit), body[:place], body + b"\n"):
        with pytest.raises(CorruptWarehouseError, match="tag x was changed"):
            parse_tag("paper", damaged, "x")


@pytest.mark.parametrize("change", [{"index": "datasets/x"}, {"version": "3"}, {"sha256": None}, {"index": None}])
def test_a_tag_that_names_nothing_is_damaged(change: dict[str, object]) -> None:
    fields = {"index": TAG.index, "version": TAG.version, "sha256": TAG.sha256}
    with pytest.raises(CorruptWarehouseError, match="it names no version of an index"):
        parse_tag("paper", sealed(fields | change), "x")


def test_other_files_beside_tags_are_left_alone() -> None:
    warehouse = memory_warehouse()
    put_tag(warehouse.store, TAG)
    for key in ("tags/README.txt", "tags/Upper.json", "tags/deep/x.json", "tags/12.json"):
        warehouse.store.write(key, json.dumps({}).encode())
    assert all_tags(warehouse.store) == [TAG]
    drop_tag(warehouse.store, "paper")
    assert all_tags(warehouse.store) == []
    assert len([key for key in warehouse.store.list("tags") if not key.startswith("tags/deleted/")]) == 4
