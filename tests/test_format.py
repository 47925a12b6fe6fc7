"""The format file: made once, and no changed byte of it goes unnoticed."""

from __future__ import annotations

import json

import pytest

from stacchip_core.errors import CorruptWarehouseError, InputError, StoreError
from stacchip_core.warehouse.entry import sealed
from stacchip_core.warehouse.format import FORMAT_KEY, check_format, make_format
from tests.care import flipped
from tests.faulty_store import Fault, FaultyStore, Scripted, loses_the_answer, memory_store, retries_itself


def test_it_is_made_once() -> None:
    store = memory_store()
    make_format(store)
    first = store.read(FORMAT_KEY)
    make_format(store)
    check_format(store)
    assert store.read(FORMAT_KEY) == first
    assert json.loads(first).keys() == {"format", "version", "features", "uuid", "checksum"}


@pytest.mark.parametrize("fault", [loses_the_answer, retries_itself])
def test_an_answer_that_is_lost_changes_nothing(fault: Fault) -> None:
    store = FaultyStore()
    store.script.append(Scripted(fault, "create", FORMAT_KEY))
    try:
        make_format(store)
    except StoreError:
        make_format(store)
    check_format(store)


def test_no_changed_byte_goes_unnoticed() -> None:
    store = memory_store()
    make_format(store)
    body = store.read(FORMAT_KEY)
    for place in range(len(body)):
        for damaged in (flipped(body, place, place % 8), body[:place]):
            store.write(FORMAT_KEY, damaged)
            with pytest.raises((InputError, CorruptWarehouseError), match=r"_format\.json"):
                check_format(store)
    store.write(FORMAT_KEY, body)
    check_format(store)


def test_one_without_a_checksum_was_changed() -> None:
    store = memory_store()
    make_format(store)
    fields = json.loads(store.read(FORMAT_KEY))
    del fields["checksum"]
    store.write(FORMAT_KEY, json.dumps(fields).encode())
    with pytest.raises(CorruptWarehouseError, match="it does not agree with its own checksum"):
        check_format(store)
    store.write(FORMAT_KEY, sealed(fields))
    check_format(store)
