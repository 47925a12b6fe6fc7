"""Parts of a combined index: a data file and an items file that hold the same items of one collection and month."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stacchip_core.errors import CorruptWarehouseError, InputError
from stacchip_core.warehouse.combined.gather import ChipFiles, gathered
from stacchip_core.warehouse.combined.order import row_groups
from stacchip_core.warehouse.combined.stac_items import OWN, stac_schema, with_schema, with_stac_footer
from stacchip_core.warehouse.data import schema_of, write_data
from stacchip_core.warehouse.entry import FileInfo, LogEntry
from stacchip_core.warehouse.files import open_parquet, publish, time_range
from stacchip_core.warehouse.items import IDENTITY, ITEM_SCHEMA, LIGHT, OF_FAILURES, bounds_of, grids_of, schema_with
from stacchip_core.warehouse.store import Store

_GROUP_ROWS = 50_000  # of a data file's row groups, up to twice that: a box of a degree should touch few of many
_ITEMS_GROUP_ROWS = 2_048  # of an items file: its footer has hundreds of columns, so not too many groups
_SLICE_BYTES = 64 * 2**20  # of a file of `ItemRows`: each row group that is written takes rows from all of them
# The item's JSON is what the other columns of an items file are made of; the rest says nothing about a live item.
_NOT_KEPT = ("item", "op", "was", *OF_FAILURES)
KEPT = tuple(name for name in ITEM_SCHEMA.names if name not in _NOT_KEPT)
POINTER = ("file", "row_group", "offset")
# What a row of a part says of an item, as far as its place and extent go.
PLACED = (*IDENTITY, "item_id", *POINTER, "rows", "datetime", "bbox")


@dataclass(frozen=True, slots=True)
class Part:
    """The items of a part and their chips.

    Attributes:
        items: the items file.
        data: the data file; None where no item has a chip.
    """

    items: FileInfo
    data: FileInfo | None = None

    @property
    def place(self) -> tuple[str, str]:
        """Collection name and month."""
        return self.items.collection, str(self.items.month)

    @property
    def files(self) -> tuple[FileInfo, ...]:
        """Data file, if there is one, and items file."""
        return (self.items,) if self.data is None else (self.data, self.items)

    @property
    def size(self) -> int:
        """Bytes of both."""
        return sum(info.size for info in self.files)


def parts_of(entry: LogEntry) -> list[Part]:
    """The parts that a version lists.

    Raises:
        CorruptWarehouseError: a data file without items.
    """
    data = {_items_path(info.path): info for info in entry.files("data")}
    parts = [Part(info, data.pop(info.path, None)) for info in entry.files("items")]
    if data:
        raise CorruptWarehouseError(f"version {entry.version} lists {next(iter(data.values())).path}, not its items")
    return parts


def _items_path(data_path: str) -> str:
    kind, name, _, *rest = data_path.split("/")
    return "/".join([kind, name, "items", *rest])


# --- reading


def read_part_items(
    store: Store, info: FileInfo, columns: Sequence[str] = LIGHT, keys: Collection[str] | None = None
) -> pa.Table:
    """Rows of a part's items file as item rows; with `keys`, of these items, and only their row groups are read.

    Raises:
        InputError: no such column, or `item`.
        CorruptWarehouseError: the file is not the one that was committed.
    """
    schema = schema_with(columns)
    if "item" in schema.names:
        raise InputError(
            "a combined index keeps items as stac-geoparquet, not as JSON: read the files of `entry.files('items')` "
            "with any reader of it, or ask the collection for its items"
        )
    kept = [name for name in schema.names if name in KEPT]
    wanted = list(dict.fromkeys([*kept, "key"]))
    with open_parquet(store, info) as file:
        table = _read(file, wanted, None if keys is None else pa.array(sorted(keys), pa.string()))
    rows = table.rename_columns([name.removeprefix(OWN) for name in table.schema.names])
    if missing := [name for name in wanted if name not in rows.schema.names]:
        raise CorruptWarehouseError(f"{store.root}/{info.path} has no column {OWN}{missing[0]}")
    given = {"op": pa.repeat(pa.scalar("add"), len(rows))}
    return pa.table(
        [
            rows[field.name].cast(field.type) if field.name in kept else given.get(field.name, pa.nulls(len(rows)))
            for field in schema
        ],
        names=schema.names,
    ).cast(schema)


def _read(file: pq.ParquetFile, columns: Sequence[str], keys: pa.Array | None) -> pa.Table:
    names = [OWN + name for name in columns]
    if keys is None:
        return file.read(columns=names)
    found = pc.is_in(file.read(columns=[OWN + "key"])[OWN + "key"], keys).to_numpy()
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
    groups = np.unique(np.searchsorted(ends, np.flatnonzero(found), side="right"))
    table = file.read_row_groups(groups.tolist(), columns=names)
    return table.filter(pc.is_in(table[OWN + "key"], keys))


def copied_items(store: Store, part: Part, is_live: NDArray[np.bool_]) -> Iterator[pa.Table]:
    """All columns of some items of a part but where their chips are, a row group at a time."""
    start = 0
    with open_parquet(store, part.items) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            chosen = is_live[start : start + len(table)]
            start += len(table)
            yield table.filter(pa.array(chosen)).drop_columns([OWN + name for name in POINTER])


# --- writing


class ItemRows:
    """Rows of items in stac-geoparquet on their way into a part, on the local disk until all of them are known.

    Only then is there a schema that holds them all, and an order that they are written in. They are known by their
    number, from 0, in the order they come.
    """

    def __init__(self, folder: Path, tables: Iterable[pa.Table]) -> None:
        """`folder` is empty and nobody else's; `tables` are taken when the first row or the schema is asked for."""
        self._folder = folder
        self._tables = tables

    @cached_property
    def schema(self) -> pa.Schema:
        """Of all rows."""
        return stac_schema(self._slices[0])

    @cached_property
    def _slices(self) -> tuple[list[pa.Schema], list[int]]:
        """Schema of each file in the folder, and the number of its first row; one number more than files."""
        schemas, ends, pending = list[pa.Schema](), [0], list[pa.Table]()

        def keep() -> None:
            schema = stac_schema(table.schema for table in pending)
            whole = pa.concat_tables([with_schema(table, schema) for table in pending]).combine_chunks()
            path = self._folder / f"{len(schemas)}.arrow"
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                writer.write_table(whole)
            schemas.append(schema)
            ends.append(ends[-1] + len(whole))
            pending.clear()

        for table in self._tables:
            pending.append(table)
            if sum(one.nbytes for one in pending) > _SLICE_BYTES:
                keep()
        if sum(map(len, pending)):
            keep()
        return schemas, ends

    def take(self, numbers: NDArray[np.int64], schema: pa.Schema) -> pa.Table:
        """Rows by number, in that order."""
        _, ends = self._slices
        slices = np.searchsorted(ends, numbers, side="right") - 1
        tables, order = [], []
        for one in np.unique(slices).tolist():
            wanted = np.flatnonzero(slices == one)
            with pa.memory_map(str(self._folder / f"{one}.arrow")) as source:
                table = pa.ipc.open_file(source).read_all()
                rows = table.take(pa.array(numbers[wanted] - ends[one]))
            tables.append(with_schema(rows, schema))
            order.append(wanted)
        return pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(order))))


@dataclass(frozen=True)
class PartWriter:
    """Writes parts of one collection and month.

    Attributes:
        store: where to.
        folder: "combined/<name>".
        stem: "<txn>/part-<number>", which nobody else uses.
        draft: what is known of every file: collection, month, collection id, columns.
        chips: the files that chip rows come from.
        items: the rows of their items.
    """

    store: Store
    folder: str
    stem: str
    draft: FileInfo
    chips: ChipFiles
    items: ItemRows

    def write(self, rows: pa.Table, number: int) -> Part:
        """Write a part.

        Args:
            rows: columns `PLACED`, and `number`, that of the row in `items`; in the order of the part.
            number: of the part.
        """
        groups = row_groups(rows["rows"].to_numpy(), _GROUP_ROWS)
        start, end = time_range(rows["datetime"])
        name = f"{self.stem}-{number}.parquet"
        known = replace(self.draft, bbox=bounds_of(rows), start=start, end=end)
        data = replace(known, path=f"{self.folder}/data/{name}", role="data")
        items = replace(known, path=f"{self.folder}/items/{name}", role="items", columns=())
        has_chips = rows["rows"].to_numpy() > 0
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(self._write_items, items, rows, groups, data.path)
            placed = rows.filter(pa.array(has_chips))
            tables = gathered(self.chips, placed, groups[has_chips], schema_of(data.columns))
            written = write_data(self.store, data, tables) if has_chips.any() else None
            return Part(writing.result(), written)

    def _write_items(self, draft: FileInfo, rows: pa.Table, groups: NDArray[np.int64], file: str) -> FileInfo:
        numbers, pointers = rows["number"].to_numpy(), _pointers(rows["rows"].to_numpy(), groups, file)
        schema = self.items.schema
        for field in pointers.schema:
            schema = schema.append(field)
        schema = with_stac_footer(schema)
        grids = tuple(sorted(map(str, {spec for _, spec in grids_of(rows)})))

        def write(local: Path) -> None:
            with pq.ParquetWriter(local, schema, compression="zstd") as writer:
                for start in range(0, len(rows), _ITEMS_GROUP_ROWS):
                    own = slice(start, start + _ITEMS_GROUP_ROWS)
                    table = self.items.take(numbers[own], self.items.schema)
                    for name in pointers.schema.names:
                        table = table.append_column(name, pointers[name].slice(start, len(table)))
                    writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=len(table))

        return publish(self.store, replace(draft, rows=len(rows), grids=grids), write)


def _pointers(rows: NDArray[np.int64], groups: NDArray[np.int64], file: str) -> pa.Table:
    """Where the chips of items are in a data file; null where there are none."""
    before = np.cumsum(rows) - rows
    first = np.searchsorted(groups[rows > 0], groups)
    offset = before - (before[rows > 0][np.minimum(first, max(0, (rows > 0).sum() - 1))] if rows.any() else 0)
    has_none = pa.array(rows == 0)
    values = {
        "file": pa.repeat(pa.scalar(file), len(rows)),
        "row_group": pa.array(groups.astype(np.int32)),
        "offset": pa.array(offset),
    }
    return pa.table(
        {OWN + name: pc.if_else(has_none, pa.scalar(None, values[name].type), values[name]) for name in POINTER}
    )
