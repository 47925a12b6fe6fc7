"""Chip rows of items, gathered from many files into an order: read ahead by threads, a row group at a time."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.index.schema import conform
from stacchip_core.warehouse.entry import FileInfo
from stacchip_core.warehouse.files import naming, open_parquet, read_whole
from stacchip_core.warehouse.store import Store

# Files up to this size are fetched whole, in one request: those of a collection hold a few items each.
_WHOLE_BYTES = 8 * 2**20
# Such files are kept while rows of theirs are still to come, up to so many bytes; beyond, they are fetched again.
_KEPT_BYTES = 96 * 2**20
_READERS = 4
_AHEAD = 1  # row groups read ahead of the one that is written
_PIECES = 1024  # of more than so many pieces, a row group is put together row by row

Integers = NDArray[np.int64]


class ChipFiles:
    """Data files that chip rows are read from, by any number of threads."""

    def __init__(self, store: Store, known: Mapping[str, FileInfo]) -> None:
        """`known` are the files by path."""
        self._store, self._known = store, known
        self._kept: OrderedDict[str, tuple[bytes, pq.FileMetaData]] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    def read(self, path: str, groups: list[int], schema: pa.Schema) -> tuple[pa.Table, list[int]]:
        """Some row groups of a file in `schema`, and the rows of each; a property that it does not carry is null.

        Raises:
            CorruptWarehouseError: the file is not known, has no such row group, or is not the one that was committed.
        """
        info = self._known.get(path)
        if info is None:
            raise CorruptWarehouseError(f"{self._store.root}: items name {path!r}, the log does not")
        if info.size > _WHOLE_BYTES:
            with open_parquet(self._store, info) as file:
                return _read(file, path, groups, schema)
        body, footer = self._whole(info)
        with naming(self._store, path), pq.ParquetFile(pa.BufferReader(body), metadata=footer) as file:
            return _read(file, path, groups, schema)

    def done(self, path: str) -> None:
        """No more rows of this file are wanted."""
        with self._lock:
            if found := self._kept.pop(path, None):
                self._bytes -= len(found[0])

    def _whole(self, info: FileInfo) -> tuple[bytes, pq.FileMetaData]:
        with self._lock:
            if info.path in self._kept:
                self._kept.move_to_end(info.path)
                return self._kept[info.path]
        body = read_whole(self._store, info)
        with naming(self._store, info.path):
            footer = pq.read_metadata(pa.BufferReader(body))
        with self._lock:
            if info.path not in self._kept:
                self._kept[info.path] = body, footer
                self._bytes += len(body)
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1][0])
        return body, footer


def _read(file: pq.ParquetFile, path: str, groups: list[int], schema: pa.Schema) -> tuple[pa.Table, list[int]]:
    if groups[-1] >= file.num_row_groups:
        raise CorruptWarehouseError(f"{path}: items name row group {groups[-1]}, the file has {file.num_row_groups}")
    table = file.read_row_groups(groups, use_threads=False).replace_schema_metadata()
    if not table.schema.equals(schema):
        # a property changes its type once no live row has a value of the old one: what is left there is dead
        kept = [field.name for field in schema if table.schema.get_field_index(field.name) >= 0]
        same = [name for name in kept if table.schema.field(name).type.equals(schema.field(name).type)]
        table = conform(table.select(same), schema)
    return table, [file.metadata.row_group(group).num_rows for group in groups]


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the rows of some items are, in the order that they are wanted in; arrays of shape (n,)."""

    file: Integers
    row_group: Integers
    offset: Integers
    rows: Integers

    def of(self, chosen: slice | NDArray[np.bool_]) -> _Places:
        return _Places(self.file[chosen], self.row_group[chosen], self.offset[chosen], self.rows[chosen])


@dataclass(frozen=True, slots=True)
class _Job:
    """Whole row groups of one file that are being read: number of the file, and numbers of the groups, rising."""

    file: int
    groups: Integers
    table: Future[tuple[pa.Table, list[int]]]


def gathered(files: ChipFiles, items: pa.Table, groups: Integers, schema: pa.Schema) -> Iterator[pa.Table]:
    """Chip rows of items in their order, a table for each row group.

    Args:
        files: where they are.
        items: `file`, `row_group`, `offset` and `rows` of items that have chips.
        groups: the row group that each item goes into, shape (n,), rising.
        schema: of the tables.

    Raises:
        CorruptWarehouseError: a file does not hold what the items say.
    """
    names = items["file"].combine_chunks().dictionary_encode()
    paths = names.dictionary.to_pylist()
    group, offset, rows = (items[name].to_numpy().astype(np.int64) for name in ("row_group", "offset", "rows"))
    places = _Places(names.indices.to_numpy().astype(np.int64), group, offset, rows)
    starts = np.flatnonzero(np.diff(groups, prepend=-1)).tolist()
    parts = [places.of(slice(*ends)) for ends in zip(starts, [*starts[1:], len(groups)], strict=True)]
    last = {code: number for number, part in enumerate(parts) for code in np.unique(part.file).tolist()}
    pool = ThreadPoolExecutor(_READERS)
    try:
        ahead: deque[list[_Job]] = deque()
        for number in range(len(parts) + _AHEAD):
            if number < len(parts):
                ahead.append(_start(pool, files, paths, parts[number], schema))
            if number >= _AHEAD:
                yield _assembled(parts[number - _AHEAD], ahead.popleft(), paths)
                for code in np.unique(parts[number - _AHEAD].file).tolist():
                    if last[code] == number - _AHEAD:
                        files.done(paths[code])
    finally:
        pool.shutdown(cancel_futures=True)


def _start(
    pool: ThreadPoolExecutor, files: ChipFiles, paths: list[str], part: _Places, schema: pa.Schema
) -> list[_Job]:
    """Begin to read what a row group is made of, file by file in the order that they are met."""
    codes, first = np.unique(part.file, return_index=True)
    jobs = []
    for code in codes[np.argsort(first)].tolist():
        groups = np.unique(part.row_group[part.file == code])
        jobs.append(_Job(code, groups, pool.submit(files.read, paths[code], groups.tolist(), schema)))
    return jobs


def _assembled(part: _Places, jobs: list[_Job], paths: list[str]) -> pa.Table:
    """The rows of a row group in their order."""
    starts, tables, base = np.zeros(len(part.rows), np.int64), list[pa.Table](), 0
    for job in jobs:
        table, lengths = job.table.result()
        is_own = part.file == job.file
        own = part.of(is_own)
        place = np.searchsorted(job.groups, own.row_group)
        there, until = np.array(lengths, np.int64), own.offset + own.rows
        if (until > there[place]).any():
            group = int(own.row_group[until > there[place]][0])
            raise CorruptWarehouseError(
                f"{paths[job.file]}: row group {group} holds {there[job.groups == group][0]} chips, its items say "
                f"{until[own.row_group == group].max()}"
            )
        starts[is_own] = base + (np.cumsum(there) - there)[place] + own.offset
        tables.append(table)
        base += len(table)
    return _moved(pa.concat_tables(tables), starts, part.rows)


def _moved(table: pa.Table, starts: Integers, rows: Integers) -> pa.Table:
    """Pieces of a table, in the order given; those that follow each other are one."""
    breaks = np.flatnonzero(starts[1:] != starts[:-1] + rows[:-1]) + 1
    if len(breaks) >= _PIECES:
        within = np.arange(int(rows.sum())) - np.repeat(np.cumsum(rows) - rows, rows)
        return table.combine_chunks().take(pa.array(np.repeat(starts, rows) + within))
    firsts, until = starts[[0, *breaks]], (starts + rows)[[*(breaks - 1), -1]]
    return pa.concat_tables([table.slice(a, b - a) for a, b in zip(firsts.tolist(), until.tolist(), strict=True)])
