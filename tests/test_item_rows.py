"""Item rows: columns come and go between releases; what a caller gets wrong is not blamed on a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stacchip_core.errors import CorruptWarehouseError, InputError
from stacchip_core.index.grid import GridSpec
from stacchip_core.warehouse.entry import FileInfo
from stacchip_core.warehouse.files import publish
from stacchip_core.warehouse.items import IDENTITY, ITEM_SCHEMA, at_spec, read_items, schema_with, with_all
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store
from tests.faulty_store import memory_store
from tests.warehouse_rows import Piece, commit_pieces


def committed() -> tuple[Store, FileInfo]:
    store = memory_store()
    commit_pieces(store, "s2", [Piece(1), Piece(2), Piece(2, size=128)])
    return store, Manifest.load(store, "s2").entries[0].files("items")[0]


def rewritten(store: Store, info: FileInfo, table: pa.Table) -> FileInfo:
    """The items file as another release would have written it."""

    def write(local: Path) -> None:
        pq.write_table(table, local)

    return publish(store, replace(info, path=info.path.replace(".parquet", "x.parquet")), write)


def test_columns_that_a_file_lacks_are_null_and_unknown_ones_are_left_out() -> None:
    store, info = committed()
    whole = read_items(store, info, ITEM_SCHEMA.names)
    other = whole.drop_columns(["base", "profile"]).append_column("later", pa.array([1, 2, 3]))
    found = read_items(store, rewritten(store, info, other), ITEM_SCHEMA.names, {"s2/item-0002"})
    assert found.schema.equals(ITEM_SCHEMA)
    assert found["base"].null_count == found["profile"].null_count == 2
    assert found["scene"].equals(whole["scene"].slice(1))


def test_rows_without_identity_are_damaged() -> None:
    store, info = committed()
    whole = read_items(store, info, ITEM_SCHEMA.names)
    for name in IDENTITY:
        with pytest.raises(CorruptWarehouseError, match=f"without column '{name}'"):
            with_all(whole.drop_columns([name]))
        with pytest.raises(CorruptWarehouseError, match=f"without column '{name}'"):
            read_items(store, rewritten(store, info, whole.drop_columns([name])), ["item_id"])


def test_an_unknown_column_is_the_callers_error() -> None:
    store, info = committed()
    with pytest.raises(InputError, match="items have no column 'nope'; there are key, item_id"):
        schema_with(["nope"])
    with pytest.raises(InputError, match="items have no column 'nope'; there are key, item_id"):
        read_items(store, info, ["nope"])


def test_keys_that_are_no_texts_are_not_blamed_on_the_file() -> None:
    store, info = committed()
    with pytest.raises(pa.ArrowTypeError):
        read_items(store, info, ["key"], [7])  # type: ignore[list-item]


def test_rows_of_one_size_stride_and_edge() -> None:
    store, info = committed()
    rows = read_items(store, info)
    assert at_spec(rows, GridSpec(256, 256))["key"].to_pylist() == [Piece(1).key, Piece(2).key]
    assert at_spec(rows, GridSpec(128, 128))["key"].to_pylist() == [Piece(2).key]
    for spec in (GridSpec(128, 64), GridSpec(128, 128, "pad")):
        assert at_spec(rows, spec).num_rows == 0
