"""Item rows: what was done with each item, and where its chips are; folded, they are the state of a collection."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stacchip_core.errors import CorruptWarehouseError, InputError
from stacchip_core.index.grid import GridSpec
from stacchip_core.index.schema import conform
from stacchip_core.warehouse.entry import FileInfo
from stacchip_core.warehouse.files import open_parquet, publish, time_range
from stacchip_core.warehouse.store import Store

_TIME = pa.timestamp("us", tz="UTC")

# One row: one item at one chip size, stride and edge. `op`: "add", "update", "delete", or "failed" with stage and
# reason, in a word `cause`, `attempts` since it was last fine, first and last of them by the store's clock, and
# `found_as`, where its file is.
# `base`: URL of the item's file, or its folder relative to a local root; with `profile`, the name of the
# profile, and `item` all that a scene is made of. `file`, `row_group`, `offset`, `rows`: where its chips are, the
# first of them `offset` rows into the row group; null and 0 where it has none. `datetime`: of the item; `was`: of the
# form that an update or delete took the place of. `bbox`: of its chips, degrees.
ITEM_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("item_id", pa.string()),
        ("fingerprint", pa.string()),
        ("updated", _TIME),
        ("recipe", pa.string()),
        ("size_px", pa.int32()),
        ("stride_px", pa.int32()),
        ("edge", pa.string()),
        ("op", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("is_transient", pa.bool_()),
        ("base", pa.string()),
        ("profile", pa.string()),
        ("item", pa.string()),
        ("scene", pa.string()),
        ("file", pa.string()),
        ("row_group", pa.int32()),
        ("offset", pa.int64()),
        ("rows", pa.int64()),
        ("datetime", _TIME),
        ("was", _TIME),
        ("bbox", pa.struct([(side, pa.float64()) for side in ("xmin", "ymin", "xmax", "ymax")])),
        ("cause", pa.string()),
        ("attempts", pa.int32()),
        ("first_failed", _TIME),
        ("last_failed", _TIME),
        ("found_as", pa.string()),
    ]
)
OF_FAILURES = ("stage", "reason", "is_transient", "cause", "attempts", "first_failed", "last_failed", "found_as")
HEAVY = ("item", "scene")  # the JSON columns: nearly all bytes of an items file
LIGHT = tuple(name for name in ITEM_SCHEMA.names if name not in HEAVY)
IDENTITY = ("key", "size_px", "stride_px", "edge")
# Rows that are looked up by key are read by the row group, and each holds some 30 kB of JSON.
_ROW_GROUP_ROWS = 256


class Identity(NamedTuple):
    """What the state of a collection is keyed by: a second chip size never replaces the first."""

    key: str
    size_px: int
    stride_px: int
    edge: str


@dataclass(frozen=True, slots=True)
class ItemState:
    """What the log knows of one item at one chip size; the columns of `ITEM_SCHEMA`, and the version they are from."""

    key: str
    item_id: str
    fingerprint: str
    updated: dt.datetime | None
    recipe: str
    size_px: int
    stride_px: int
    edge: str
    op: str
    stage: str | None
    reason: str | None
    is_transient: bool | None
    file: str | None
    row_group: int | None
    rows: int
    datetime: dt.datetime | None = None
    version: int = 0
    cause: str | None = None
    attempts: int | None = None
    first_failed: dt.datetime | None = None
    last_failed: dt.datetime | None = None
    found_as: str | None = None

    @property
    def identity(self) -> Identity:
        """Its place in the state."""
        return Identity(self.key, self.size_px, self.stride_px, self.edge)


@dataclass(frozen=True, slots=True)
class States:
    """The state of a collection: tables of light columns and `version`, sorted by identity.

    Attributes:
        live: items whose chips are in the index.
        failed: items whose last attempt failed; one may also be live, with the rows of before.
        deleted: items that were live and are gone: what a run that overlapped the delete has to know.
    """

    live: pa.Table
    failed: pa.Table
    deleted: pa.Table

    def tables(self) -> tuple[pa.Table, pa.Table, pa.Table]:
        """Live, failed and deleted."""
        return self.live, self.failed, self.deleted

    def rows(self) -> pa.Table:
        """All rows, in an order of which `fold` makes the same state."""
        return pa.concat_tables([self.live, self.deleted, self.failed])


def empty_rows(columns: Sequence[str] = ITEM_SCHEMA.names) -> pa.Table:
    """No item rows."""
    return schema_with(columns).empty_table()


def schema_with(columns: Sequence[str]) -> pa.Schema:
    """Some columns of `ITEM_SCHEMA`.

    Raises:
        InputError: no such column; lists those there are.
    """
    unknown = [name for name in columns if name not in ITEM_SCHEMA.names]
    if unknown:
        raise InputError(f"items have no column {unknown[0]!r}; there are {', '.join(ITEM_SCHEMA.names)}")
    return pa.schema([ITEM_SCHEMA.field(name) for name in columns])


def with_all(table: pa.Table, schema: pa.Schema = ITEM_SCHEMA) -> pa.Table:
    """Item rows in `schema`: what an earlier release did not write is null, what a later one added is left out.

    Raises:
        CorruptWarehouseError: no release writes item rows without the columns that identify them.
    """
    missing = [name for name in IDENTITY if name in schema.names and name not in table.schema.names]
    if missing:
        raise CorruptWarehouseError(f"item rows without column {missing[0]!r}")
    return conform(table, schema)


def write_items(store: Store, draft: FileInfo, rows: pa.Table) -> FileInfo:
    """Publish an items file, sorted by key."""
    ordered = rows.sort_by([(name, "ascending") for name in IDENTITY])
    return write_slices(store, draft, ordered, [ordered])


def write_slices(store: Store, draft: FileInfo, ordered: pa.Table, slices: Iterable[pa.Table]) -> FileInfo:
    """Publish an items file of which only a slice is in memory at a time.

    Args:
        store: where to.
        draft: `path` and what else is known; rows, bounds, times, grids, size and sha256 are found out.
        ordered: its rows, sorted by identity; their JSON columns are not looked at.
        slices: the same rows in the same order, with all columns.
    """
    start, end = time_range(ordered["datetime"])
    grids = tuple(sorted(map(str, {spec for _, spec in grids_of(ordered)})))
    whole = replace(draft, rows=len(ordered), bbox=bounds_of(ordered), start=start, end=end, grids=grids)

    def write(local: Path) -> None:
        with pq.ParquetWriter(
            local,
            ITEM_SCHEMA,
            compression="zstd",
            write_page_checksum=True,
            use_dictionary=["recipe", "edge", "op", "stage", "file"],
        ) as writer:
            for rows in slices:
                writer.write_table(rows, row_group_size=_ROW_GROUP_ROWS)

    return publish(store, whole, write)


def read_items(
    store: Store, info: FileInfo, columns: Sequence[str] = LIGHT, keys: Collection[str] | None = None
) -> pa.Table:
    """Rows of an items file; with `keys`, of these items, and only their row groups are read.

    Columns that the file lacks, as one of an earlier release may, are null.

    Raises:
        InputError: no such column.
        CorruptWarehouseError: the file is not the one that was committed.
    """
    schema = schema_with(columns)
    wanted = list(dict.fromkeys([*columns, *IDENTITY]))
    chosen = None if keys is None else pa.array(sorted(keys), pa.string())
    with open_parquet(store, info) as file:
        groups = range(file.num_row_groups) if chosen is None else row_groups_with(file, "key", chosen.to_pylist())
        table = file.read_row_groups(list(groups), columns=wanted)
    table = with_all(table, schema_with(wanted))
    if chosen is not None:
        table = table.filter(pc.is_in(table["key"], chosen))
    return table.select(schema.names)


def row_groups_with(file: pq.ParquetFile, column: str, values: Sequence[str] | Sequence[int]) -> list[int]:
    """Row groups whose range of `column` holds one of `values`, which are sorted."""
    place = [leaf.path for leaf in file.schema].index(column)
    found = []
    for group in range(file.num_row_groups):
        ends = file.metadata.row_group(group).column(place).statistics
        is_known = ends is not None and ends.has_min_max
        if not is_known or bisect_left(values, ends.min) < bisect_right(values, ends.max):
            found.append(group)
    return found


def stamped(rows: pa.Table, version: int) -> pa.Table:
    """Item rows with the version that they are from."""
    return rows.append_column("version", pa.array(np.full(len(rows), version, np.int64)))


def fold(tables: Sequence[pa.Table]) -> States:
    """The state after some item rows, oldest first: what was last done with each identity, and failures since then."""
    rows = pa.concat_tables([stamped(empty_rows(LIGHT), 0), *tables]).combine_chunks()
    done = last_of_each(rows.filter(pc.not_equal(rows["op"], "failed")))
    last = last_of_each(rows)
    is_deleted = pc.equal(done["op"], "delete")
    return States(
        live=done.filter(pc.invert(is_deleted)),
        failed=last.filter(pc.equal(last["op"], "failed")),
        deleted=done.filter(is_deleted),
    )


def advance(states: States, tables: Sequence[pa.Table]) -> States:
    """The state after some more item rows."""
    return fold([states.rows(), *tables])


def rows_in(rows: pa.Table, wanted: pa.Table) -> pa.Table:
    """The rows that agree with a row of `wanted` in all of its columns."""
    columns = wanted.schema.names
    numbered = rows.select(columns).append_column("place", pa.array(np.arange(len(rows))))
    places = numbered.join(wanted, columns, join_type="left semi")["place"]
    return rows.take(places.combine_chunks().sort())


def at_spec(rows: pa.Table, spec: GridSpec) -> pa.Table:
    """Item rows of one chip size, stride and edge."""
    wanted = {"size_px": spec.size, "stride_px": spec.stride, "edge": spec.edge}
    return rows.filter(reduce(pc.and_, (pc.equal(rows[name], value) for name, value in wanted.items())))


def grids_of(rows: pa.Table) -> set[tuple[str, GridSpec]]:
    """Collection ids of item rows, with the sizes, strides and edges that they are cut at."""
    names = ("key", "item_id", "size_px", "stride_px", "edge")
    return {
        (key.removesuffix(f"/{item_id}"), GridSpec(*spec))
        for key, item_id, *spec in zip(*(rows[name].to_pylist() for name in names), strict=True)  # items, not chips
    }


def last_of_each(rows: pa.Table) -> pa.Table:
    """The last row of each identity, sorted by it."""
    numbered = rows.select(list(IDENTITY)).append_column("place", pa.array(np.arange(len(rows))))
    last = numbered.group_by(list(IDENTITY)).aggregate([("place", "max")])["place_max"]
    return rows.take(last).sort_by([(name, "ascending") for name in IDENTITY])


def states_of(rows: pa.Table) -> list[ItemState]:
    """Rows as values, for decisions that are made item by item."""
    names = [name for name in ItemState.__dataclass_fields__ if name in rows.schema.names]
    return [ItemState(**row) for row in rows.select(names).to_pylist()]


def bounds_of(rows: pa.Table) -> tuple[float, float, float, float] | None:
    """(xmin, ymin, xmax, ymax) over the items' boxes; None where none has chips."""
    boxes = rows["bbox"].combine_chunks().drop_null()
    if len(boxes) == 0:
        return None
    low = [pc.min(boxes.field(side)).as_py() for side in ("xmin", "ymin")]
    high = [pc.max(boxes.field(side)).as_py() for side in ("xmax", "ymax")]
    return (low[0], low[1], high[0], high[1])
