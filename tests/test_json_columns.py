"""Any JSON becomes columns that Parquet holds, and several of them become one."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core.warehouse.combined import json_columns
from stacchip_core.warehouse.combined.json_columns import column, common, fitted, leaves, storable

keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=8,
)


def stored(array: pa.Array) -> pa.ChunkedArray:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": array}), buffer)
    return pq.read_table(buffer)["x"]


@given(st.lists(values, max_size=5))
def test_any_values_become_an_array_that_a_file_gives_back(found: list[Any]) -> None:
    array = column(found)
    assert len(array) == len(found)
    again = stored(array)
    assert again.to_pylist() == array.to_pylist()
    assert pa.types.is_null(array.type) or leaves(storable(array.type)) == leaves(array.type)
    assert common(again.type, array.type).equals(array.type)


@given(st.lists(values, max_size=4), st.lists(values, max_size=4))
def test_columns_of_two_files_fit_into_one_type(one: list[Any], other: list[Any]) -> None:
    first, second = column(one), column(other)
    kind = storable(common(first.type, second.type))
    assert common(kind, first.type).equals(kind)
    whole = pa.concat_arrays([fitted(first, kind), fitted(second, kind)])
    assert stored(whole).to_pylist() == whole.to_pylist()
    assert [value is None for value in first.to_pylist()] == [v is None for v in whole[: len(first)].to_pylist()]
    assert pa.types.is_null(kind) == (pa.types.is_null(first.type) and pa.types.is_null(second.type))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([1, 2.5, None], [1.0, 2.5, None]),
        ([1, "a", None, {"b": [True]}], ["1", "a", None, '{"b": [true]}']),
        ([{"a": 1}, {"a": "x", "b": [1, "s"]}], [{"a": "1", "b": None}, {"a": "x", "b": ["1", "s"]}]),
        ([{"a": 1, "b": {}, "c": [], "d": None}, {}], [{"a": 1}, {"a": None}]),
        ([[], [None], [{}]], [None, None, None]),
        ([{}, {}], [None, None]),
        ([2**70, 1], [str(2**70), "1"]),
        ([True, 0], ["true", "0"]),
        (["\ud800", None], ["?", None]),
        ([[1], 2], ["[1]", "2"]),
        ([{"a": b"\x01"}, {"a": 1}], [{"a": '"01"'}, {"a": "1"}]),
    ],
)
def test_what_has_no_type_in_common_is_text_where_it_stands(found: list[Any], expected: list[Any]) -> None:
    assert column(found).to_pylist() == expected


def test_objects_with_more_members_than_a_table_should_have_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_columns, "MOST_LEAVES", 10)
    few, many = column([{"a": {"b": 1, "c": 2}}]), column([{str(n): {"b": 1} for n in range(11)}])
    assert leaves(few.type) == 2
    assert many.type == pa.string()
    assert many[0].as_py().startswith('{"0": {"b": 1}, "1"')
    assert common(few.type, many.type) == pa.string()
