"""Chip rows gathered from many files come in the order asked for, whatever is kept, fetched again or cut in pieces."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.index.schema import chip_schema
from stacchip_core.sources.profiles import Property
from stacchip_core.warehouse.combined import gather
from stacchip_core.warehouse.combined.gather import ChipFiles, gathered
from stacchip_core.warehouse.data import columns_of, write_data
from stacchip_core.warehouse.entry import FileInfo
from stacchip_core.warehouse.store import Store
from tests.faulty_store import memory_store
from tests.warehouse_rows import PLATFORM, Piece

TEXT, NUMBER = chip_schema(PLATFORM), chip_schema((Property(name="platform", type="number"),))


@dataclass(frozen=True)
class Stored:
    """Items in files, several in a row group."""

    store: Store
    known: dict[str, FileInfo]
    items: pa.Table
    ids: list[list[str]]


def stored(layout: list[list[list[int]]]) -> Stored:
    """Files of row groups of items of so many rows."""
    store, known, rows, ids, number = memory_store(), dict[str, FileInfo](), list[dict[str, object]](), [], 0
    for groups in layout:
        path = f"collections/s2/data/{uuid.uuid4()}.parquet"
        tables = []
        for group, counts in enumerate(groups):
            offset = 0
            for count in counts:
                number += 1
                piece = Piece(number, rows=count)
                tables.append((group, piece.table()))
                rows.append({"file": path, "row_group": group, "offset": offset, "rows": count})
                ids.append(piece.chip_ids)
                offset += count
        merged = [pa.concat_tables([t for g, t in tables if g == group]) for group in range(len(groups))]
        draft = FileInfo(path, "data", 0, "", 0, columns=columns_of(TEXT), bbox=(0, 0, 1, 1))
        known[path] = write_data(store, draft, merged)
    kinds = pa.schema([("file", pa.string()), ("row_group", pa.int32()), ("offset", pa.int64()), ("rows", pa.int64())])
    return Stored(store, known, pa.Table.from_pylist(rows, schema=kinds), ids)


layouts = st.lists(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3), min_size=1, max_size=4
)


@settings(max_examples=40, deadline=None)
@given(layouts, st.randoms(use_true_random=False), st.integers(1, 4), st.sampled_from([0, 1, 1024]), st.booleans())
def test_rows_come_in_the_order_asked_for(
    layout: list[list[list[int]]], random: object, per_group: int, pieces: int, is_large: bool
) -> None:
    made = stored(layout)
    order = list(range(len(made.ids)))
    random.shuffle(order)  # type: ignore[attr-defined]
    groups = np.arange(len(order)) // per_group
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "_PIECES", pieces)
        patch.setattr(gather, "_KEPT_BYTES", 1)
        patch.setattr(gather, "_WHOLE_BYTES", 0 if is_large else 2**20)
        files = ChipFiles(made.store, made.known)
        tables = list(gathered(files, made.items.take(order), groups, TEXT))
    assert [table["chip_id"].to_pylist() for table in tables] == [
        [chip for place in order[start : start + per_group] for chip in made.ids[place]]
        for start in range(0, len(order), per_group)
    ]
    assert all(table.schema.equals(TEXT, check_metadata=True) for table in tables)


def test_files_are_let_go_once_nothing_more_is_wanted_of_them() -> None:
    made = stored([[[2]], [[2]], [[2]]])
    files = ChipFiles(made.store, made.known)
    list(gathered(files, made.items, np.arange(3), TEXT))
    assert not files._kept


def test_what_is_left_of_a_property_of_another_type_is_dead() -> None:
    store, path = memory_store(), "collections/s2/data/a.parquet"
    table = Piece(1).table()
    place = table.schema.get_field_index("platform")
    table = table.set_column(place, "platform", pa.array(["sentinel-2b"] * 3))
    info = write_data(store, FileInfo(path, "data", 0, "", 0, columns=columns_of(TEXT)), [table])
    found, lengths = ChipFiles(store, {path: info}).read(path, [0], NUMBER)
    assert found.schema.equals(NUMBER)
    assert (found["platform"].null_count, lengths) == (3, [3])
    assert found["chip_id"].to_pylist() == Piece(1).chip_ids


def test_what_the_files_do_not_hold_is_named() -> None:
    made = stored([[[2, 3]]])
    (path,) = made.known
    files = ChipFiles(made.store, made.known)
    wrong: dict[str, dict[str, list[Any]]] = {
        "row group 0 holds 5 chips, its items say 6": {"offset": [0, 3]},
        "items name row group 4, the file has 1": {"row_group": [0, 4]},
        "items name 'nowhere', the log does not": {"file": [path, "nowhere"]},
    }
    for message, values in wrong.items():
        items = made.items
        for name, column in values.items():
            place = items.schema.get_field_index(name)
            items = items.set_column(place, name, pa.array(column, items.schema.field(name).type))
        with pytest.raises(CorruptWarehouseError, match=message):
            list(gathered(files, items, np.zeros(2, np.int64), TEXT))
