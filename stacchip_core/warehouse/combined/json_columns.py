"""JSON values as Arrow columns: types by inference, one type for several columns, text for what has none in common."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

import pyarrow as pa

# What pyarrow raises for values of several types, integers beyond 64 bits, and text that is no Unicode.
_NO_TYPE = (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError)
# Beyond this a column is kept as JSON text: items whose assets are keyed by file name would bring ten columns each.
MOST_LEAVES = 4000
_TEXT = pa.string()
_PLAIN = {
    type(None): pa.null(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    bytes: pa.binary(),
}


def column(values: Sequence[Any]) -> pa.Array:
    """JSON values as an array: objects as structs, lists as lists.

    Where values have no type in common, at the top or somewhere inside, what stands there becomes text: texts as they
    are, all else as JSON. What is null or empty in all of them has no type that every reader knows: members of objects
    are left out for that, and lists and objects are null.
    """
    try:
        found = pa.array(values)
    except _NO_TYPE:
        kind = reduce(common, map(_type_of, values), pa.null())
        return _rebuilt(values, storable(kind))
    return fitted(found, storable(found.type))


def common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds values of both; text where there is none."""
    if one.equals(other) or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if _is_number(one) and _is_number(other):
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        return pa.list_(common(one.value_type, other.value_type))
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        members = {field.name: field.type for field in one}
        for field in other:
            members[field.name] = common(members.get(field.name, pa.null()), field.type)
        return pa.struct(list(members.items()))
    return _TEXT


def storable(kind: pa.DataType) -> pa.DataType:
    """The type as a file can hold it: nothing empty inside, and text for more leaves than a table should have."""
    kind = _without_empty(kind)
    return kind if leaves(kind) <= MOST_LEAVES else _TEXT


def leaves(kind: pa.DataType) -> int:
    """Parquet columns that values of a type take."""
    if pa.types.is_struct(kind):
        return sum(leaves(field.type) for field in kind)
    return leaves(kind.value_type) if pa.types.is_list(kind) else 1


def fitted(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """An array as one of a wider type, as `common` and `storable` give it."""
    if array.type.equals(kind):
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if pa.types.is_struct(array.type) and pa.types.is_struct(kind):
        names = {field.name: place for place, field in enumerate(array.type)}
        members = [
            fitted(array.field(names[field.name]), field.type)
            if field.name in names
            else pa.nulls(len(array), field.type)
            for field in kind
        ]
        return pa.StructArray.from_arrays(members, fields=list(kind), mask=array.is_null())
    if _is_number(array.type) and pa.types.is_float64(kind):
        return array.cast(kind, safe=False)
    return _rebuilt(array.to_pylist(), kind)


def _rebuilt(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    return pa.array([_fit(value, kind) for value in values], kind)


def _fit(value: Any, kind: pa.DataType) -> Any:
    """A JSON value as one of a type that has room for it."""
    if value is None or pa.types.is_null(kind):
        return None
    if pa.types.is_struct(kind):
        return {field.name: _fit(value.get(field.name), field.type) for field in kind}
    if pa.types.is_list(kind):
        return [_fit(one, kind.value_type) for one in value]
    if pa.types.is_string(kind):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=bytes.hex)
        return text.encode("utf-8", "replace").decode()
    return float(value) if pa.types.is_float64(kind) else value


def _type_of(value: Any) -> pa.DataType:
    if isinstance(value, dict):
        # a key that is no Unicode can't name a member: the whole object becomes text
        if all(isinstance(key, str) and key.isprintable() for key in value):
            return pa.struct([(key, _type_of(member)) for key, member in value.items()])
        return _TEXT
    if isinstance(value, list):
        return pa.list_(reduce(common, map(_type_of, value), pa.null()))
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return _TEXT
    return _PLAIN.get(type(value), _TEXT)


def _without_empty(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        inner = _without_empty(kind.value_type)
        return pa.null() if pa.types.is_null(inner) else pa.list_(inner)
    if not pa.types.is_struct(kind):
        return kind
    members = [(field.name, _without_empty(field.type)) for field in kind]
    members = [(name, inner) for name, inner in members if not pa.types.is_null(inner)]
    return pa.struct(members) if members else pa.null()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_int64(kind) or pa.types.is_float64(kind))
