"""Item rows: folded, they are the last word on each item; stored, they are read by key."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse import files
from stacchip_core.warehouse.entry import FileInfo
from stacchip_core.warehouse.items import (
    ITEM_SCHEMA,
    LIGHT,
    Identity,
    advance,
    fold,
    read_items,
    rows_in,
    stamped,
    states_of,
    write_items,
)
from tests.faulty_store import memory_store

DRAFT = FileInfo("collections/s2/items/a.parquet", "items", 0, "", 0)


def row(key: str, op: str = "add", size: int = 256, **more: object) -> dict[str, object]:
    known = {"key": key, "item_id": key, "fingerprint": "f", "recipe": "r", "size_px": size, "stride_px": size}
    return {**known, "edge": "drop", "op": op, "rows": 1, **more}


def table(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=ITEM_SCHEMA)


steps = st.lists(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([128, 256]), st.sampled_from(["add", "delete", "failed"])),
        max_size=6,
        unique_by=lambda step: step[:2],
    ),
    max_size=8,
)


@given(steps, st.integers(0, 8))
def test_a_fold_is_a_dict_that_is_written_over(versions: list[list[tuple[str, int, str]]], cut: int) -> None:
    tables, live, failed = [], dict[Identity, int](), dict[Identity, int]()
    for number, version in enumerate(versions, start=1):
        tables.append(stamped(table(*(row(k, op, size) for k, size, op in version)).select(list(LIGHT)), number))
        for key, size, op in version:
            identity = Identity(key, size, size, "drop")
            failed.pop(identity, None)
            if op == "failed":
                failed[identity] = number
            elif op == "add":
                live[identity] = number
            else:
                live.pop(identity, None)
    for states in (fold(tables), advance(fold(tables[:cut]), tables[cut:])):
        assert {state.identity: state.version for state in states_of(states.live)} == live
        assert {state.identity: state.version for state in states_of(states.failed)} == failed
        assert [s.identity for s in states_of(states.live)] == sorted(live)


@given(st.sets(st.text(min_size=1, max_size=5), max_size=40), st.data())
def test_rows_are_found_by_key_across_row_groups(keys: set[str], data: st.DataObject) -> None:
    store = memory_store()
    rows = table(*(row(key, item=f"{{{key}}}") for key in keys))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stacchip_core.warehouse.items._ROW_GROUP_ROWS", 3)
        info = write_items(store, DRAFT, rows)
        assert info.rows == len(keys)
        assert read_items(store, info, ["key"])["key"].to_pylist() == sorted(keys)
        wanted = set(data.draw(st.lists(st.sampled_from(sorted(keys))))) if keys else set()
        for limit in (files.WHOLE_BYTES, 0):
            patch.setattr(files, "WHOLE_BYTES", limit)
            found = read_items(store, info, ["item", "key"], {*wanted, "not there"})
            assert found["key"].to_pylist() == sorted(wanted)
            assert found["item"].to_pylist() == [f"{{{key}}}" for key in sorted(wanted)]


def test_rows_in_takes_rows_that_agree_in_every_column() -> None:
    rows = table(row("a"), row("a", size=128), row("b"))
    assert rows_in(rows, pa.table({"key": ["a"]}))["size_px"].to_pylist() == [256, 128]
    one = rows_in(rows, pa.table({"key": ["a", "b"], "size_px": pa.array([128, 128], pa.int32())}))
    assert one["key"].to_pylist() == ["a"]


@given(st.data())
@settings(max_examples=100)
def test_a_changed_byte_never_gives_wrong_rows(data: st.DataObject) -> None:
    store = memory_store()
    info = write_items(store, DRAFT, table(*(row(f"k{n:03d}", item="x" * 50) for n in range(100))))
    whole, rows = store.read(info.path), read_items(store, info, ITEM_SCHEMA.names)
    body = bytearray(whole)
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    store.write(info.path, bytes(body))
    with pytest.raises(CorruptWarehouseError, match=r"collections/s2/items/a\.parquet was changed: expected \d+ bytes"):
        read_items(store, info, ITEM_SCHEMA.names)
    with pytest.MonkeyPatch.context() as patch:  # a large file, of which only parts are read
        patch.setattr(files, "WHOLE_BYTES", 0)
        try:
            assert read_items(store, info, ITEM_SCHEMA.names).equals(rows)
        except CorruptWarehouseError as err:
            assert info.path in str(err)


@pytest.mark.parametrize("limit", [files.WHOLE_BYTES, 0])
def test_a_file_cut_off_exchanged_or_gone_is_named(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WHOLE_BYTES", limit)
    store = memory_store()
    info = write_items(store, DRAFT, table(*(row(f"k{n:03d}", item="x" * 50) for n in range(100))))
    whole = store.read(info.path)
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        store.write(info.path, whole[:length])
        with pytest.raises(CorruptWarehouseError, match=r"collections/s2/items/a\.parquet (was changed|is damaged)"):
            read_items(store, info, ITEM_SCHEMA.names)
    store.write(info.path, whole)
    with pytest.raises(CorruptWarehouseError, match="holds 100 rows, the log says 99"):
        read_items(store, replace(info, rows=99))
    store.fs.rm(store.path(info.path))
    with pytest.raises(CorruptWarehouseError, match="is named by the log and is not there"):
        read_items(store, info)
