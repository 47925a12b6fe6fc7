"""Data files: chip rows as GeoParquet, of one collection and one month each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stacchip_core.errors import InputError
from stacchip_core.index.schema import chip_schema, property_names, with_footer, writer_options
from stacchip_core.sources.profiles import Property, PropertyType
from stacchip_core.warehouse.entry import FileInfo
from stacchip_core.warehouse.files import publish
from stacchip_core.warehouse.store import Store

Columns = tuple[tuple[str, str], ...]  # name and type of each carried property, as the log keeps them

_TYPES: dict[pa.DataType, PropertyType] = {pa.string(): "text", pa.float64(): "number", pa.bool_(): "boolean"}


def columns_of(schema: pa.Schema) -> Columns:
    """The carried properties of a chip table."""
    return tuple((name, _TYPES[schema.field(name).type]) for name in property_names(schema))


def schema_of(columns: Columns) -> pa.Schema:
    """The chip table with these carried properties."""
    return chip_schema(Property.model_validate({"name": name, "type": kind}) for name, kind in columns)


def union(several: Iterable[Columns]) -> Columns:
    """Every carried property of several files, each once, in the order they are met.

    Raises:
        InputError: one name with two types.
    """
    found: dict[str, str] = {}
    for name, kind in (column for columns in several for column in columns):
        if found.setdefault(name, kind) != kind:
            raise InputError(
                f"property {name!r} is {found[name]} in some items and {kind} in others: give it one type in the "
                "profiles, and index those items again"
            )
    return tuple(found.items())


def retyped(columns: Columns, live: Columns) -> Columns:
    """The carried properties of earlier rows, with the types that live rows have by now, then those new in `live`."""
    types = dict(live)
    return tuple({**{name: types.get(name, kind) for name, kind in columns}, **types}.items())


def clash(one: Columns, other: Columns) -> tuple[str, str, str] | None:
    """The first property that both carry with different types: name, type in `one`, type in `other`."""
    types = dict(other)
    return next(((name, kind, types[name]) for name, kind in one if types.get(name, kind) != kind), None)


def write_data(store: Store, draft: FileInfo, groups: Iterable[pa.Table]) -> FileInfo:
    """Publish chip rows, each table of `groups` a row group; at most one of them is in memory.

    Args:
        store: where to.
        draft: `path`, `bbox`, `columns` and what else is known; rows, size and sha256 are counted.
        groups: tables of the schema that `draft.columns` gives, none empty.
    """
    schema = with_footer(schema_of(draft.columns), draft.bbox)
    rows = 0

    def write(local: Path) -> None:
        nonlocal rows
        with pq.ParquetWriter(local, schema, **writer_options(schema)) as writer:
            for group in groups:
                writer.write_table(group.replace_schema_metadata(schema.metadata), row_group_size=len(group))
                rows += len(group)

    return replace(publish(store, draft, write), rows=rows)
