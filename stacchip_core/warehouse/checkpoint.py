"""Checkpoints: the state of a collection at a version, so that its log need not be read from the start."""

from __future__ import annotations

import json
import logging
import re
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import reduce
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stacchip_core.errors import CorruptWarehouseError, ObjectNotFoundError, StoreError
from stacchip_core.warehouse.entry import FileInfo, LogEntry, sealed
from stacchip_core.warehouse.files import open_parquet, publish, read_whole
from stacchip_core.warehouse.items import LIGHT, States, empty_rows, fold, row_groups_with, stamped, with_all
from stacchip_core.warehouse.store import Store

logger = logging.getLogger(__name__)

EVERY = 16  # versions from one checkpoint to the next: a reader fetches two small files for each version in between

_GROUP_ROWS = 4096  # items of a row group, which holds whole buckets: some 300 kB
_FEW = 8  # items up to which their buckets are fetched one by one; for more of them the whole file, in one request
_PATH = re.compile(r".*/checkpoints/(\d{20})-[0-9a-f-]{36}-(items|files)\.parquet")

_STATE = stamped(empty_rows(LIGHT), 0).schema.append(pa.field("bucket", pa.uint16()))
_REPEATED = ["recipe", "edge", "op", "stage", "base", "profile", "file", "cause"]
_FILES = pa.schema(
    [
        (name, pa.int64() if name == "version" else pa.string())
        for name in ("path", "role", "version", "columns", "info")
    ]
)


class DamagedCheckpointError(CorruptWarehouseError):
    """A checkpoint can't be read; the log can, from the checkpoint before it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a collection at a version.

    Attributes:
        version: the version that it is the state of; that of the entry which names it is greater.
        items: file of item states without their JSON, by hash of their keys: live, failed and deleted.
        files: file that lists the data and items files known at that version.
    """

    store: Store
    version: int
    items: FileInfo
    files: FileInfo

    @classmethod
    def of(cls, store: Store, entry: LogEntry) -> Checkpoint | None:
        """The checkpoint that an entry names; None where it names none."""
        named = {match[2]: (int(match[1]), i) for i in entry.added if (match := _PATH.fullmatch(i.path))}
        if named.keys() != {"items", "files"}:
            return None
        (version, items), (_, files) = named["items"], named["files"]
        return cls(store, version, items, files)

    def states(self, keys: Collection[str] | None = None) -> States:
        """Live, failed and deleted items; with `keys`, of these items, of which only the buckets are read."""
        columns = _STATE.names[:-1]
        return fold([rows.select(columns) for rows in self._buckets(keys)])

    def buckets(self) -> Iterator[pa.Table]:
        """All rows, with `bucket`, a row group at a time: by bucket, which no two of them share."""
        return self._buckets(None)

    def listed(self) -> pa.Table:
        """Data and items files, with `role`, `version` (that added it), `columns` and all of its `info` as JSON."""
        with _damaged(), open_parquet(self.store, self.files) as file:
            return file.read()

    def _buckets(self, keys: Collection[str] | None) -> Iterator[pa.Table]:
        if not self.items.rows:
            return
        chosen = None if keys is None else pa.array(sorted(keys), pa.string())
        with _damaged():
            body = read_whole(self.store, self.items) if keys is None or len(keys) > _FEW else None
            with open_parquet(self.store, self.items, body) as file:
                wanted = None if keys is None else sorted(map(bucket_of, keys))
                groups = range(file.num_row_groups) if wanted is None else row_groups_with(file, "bucket", wanted)
                for group in groups:
                    rows = with_all(file.read_row_group(group), _STATE)  # an earlier release has fewer columns
                    yield rows if chosen is None else rows.filter(pc.is_in(rows["key"], chosen))


def bucket_of(key: str) -> int:
    """Bucket of an item, 0 to 65535: the upper half of the CRC-32 of its key."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) >> 16


def write_checkpoint(
    store: Store, folder: str, before: Checkpoint | None, entries: Sequence[LogEntry], tables: Sequence[pa.Table]
) -> Checkpoint:
    """Write the state after some entries; a row group of it is in memory at a time.

    Nobody reads it until an entry of the log names its files.

    Args:
        store: where to.
        folder: of the collection.
        before: the last checkpoint.
        entries: all that follow it.
        tables: their item rows, light columns and `version`, oldest first.
    """
    head = entries[-1]
    stem = f"{folder}/checkpoints/{head.version:020d}-{uuid.uuid4()}"
    files, versions, rows = set[str](), set[int](), 0

    def write_items(local: Path) -> None:
        nonlocal rows
        with pq.ParquetWriter(local, _STATE, compression="zstd", use_dictionary=_REPEATED) as writer:
            for group in _groups(_folded(before, tables)):
                writer.write_table(group, row_group_size=len(group))
                rows += len(group)
                files.update(pc.unique(group["file"].drop_null()).to_pylist())
                versions.update(pc.unique(group["version"]).to_pylist())

    items = publish(store, FileInfo(f"{stem}-items.parquet", "checkpoints", 0, "", 0), write_items)
    listed = _still_known(files_known(before, entries), head.expired, files, versions)
    draft = FileInfo(f"{stem}-files.parquet", "checkpoints", 0, "", len(listed))
    named = publish(store, draft, lambda local: pq.write_table(listed, local, compression="zstd"))
    return Checkpoint(store, head.version, replace(items, rows=rows), named)


def read_hint(store: Store, folder: str) -> int | None:
    """Version of an entry that names a checkpoint, as far as the hint file knows; None where it tells nothing."""
    try:
        body = store.read(hint_key(folder))
        data = json.loads(body)
        version = data["version"]
        return version if sealed(data) == body and isinstance(version, int) and version > 0 else None
    except (ObjectNotFoundError, CorruptWarehouseError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_hint(store: Store, folder: str, version: int) -> None:
    """Note that entry `version` names a checkpoint; without the note readers list the log, so failing is no error."""
    try:
        store.write(hint_key(folder), hint_body(version))
    except StoreError as err:
        logger.info("%s: the hint to its checkpoint could not be written: %s", folder, err)


def hint_body(version: int) -> bytes:
    """The hint file that names entry `version`."""
    return sealed({"version": version})


def hint_key(folder: str) -> str:
    """Key of the hint file of a collection."""
    return f"{folder}/_last_checkpoint.json"


def _folded(before: Checkpoint | None, tables: Sequence[pa.Table]) -> Iterator[pa.Table]:
    """The new state by bucket: each row group of the old one with the later rows of its buckets."""
    later = _by_bucket(_with_buckets(pa.concat_tables([_STATE.empty_table().drop_columns(["bucket"]), *tables])))
    buckets, start = later["bucket"].to_numpy(), 0
    for rows in before.buckets() if before else ():
        stop = int(np.searchsorted(buckets, rows["bucket"][-1].as_py(), side="right"))
        yield _advanced(rows, later.slice(start, stop - start))
        start = stop
    yield _advanced(_STATE.empty_table(), later.slice(start))


def _advanced(rows: pa.Table, later: pa.Table) -> pa.Table:
    """State rows after later rows of the same buckets; those of items that did not change are left as they are."""
    is_changed = pc.is_in(rows["key"], later["key"])
    changed = pa.concat_tables([rows.filter(is_changed), later]).drop_columns(["bucket"])
    return _by_bucket(pa.concat_tables([rows.filter(pc.invert(is_changed)), _with_buckets(fold([changed]).rows())]))


def _with_buckets(rows: pa.Table) -> pa.Table:
    buckets = np.fromiter(map(bucket_of, rows["key"].to_pylist()), np.uint16, len(rows))
    return rows.append_column("bucket", pa.array(buckets))


def _by_bucket(rows: pa.Table) -> pa.Table:
    """Rows by bucket, in their order where that is the same."""
    return rows.take(pa.array(np.argsort(rows["bucket"].to_numpy(), kind="stable")))


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Slices of `_GROUP_ROWS` rows to twice as many, where a table has so many: no bucket is cut."""
    for table in tables:
        starts = np.flatnonzero(np.diff(table["bucket"].to_numpy(), prepend=-1, append=2**16))
        wanted = np.linspace(0, len(table), max(1, len(table) // _GROUP_ROWS), endpoint=False)
        cuts = np.unique(starts[np.searchsorted(starts, wanted)])
        for start, stop in pairwise([*cuts[cuts < len(table)].tolist(), len(table)]):
            yield table.slice(start, stop - start)


def files_known(before: Checkpoint | None, entries: Sequence[LogEntry]) -> pa.Table:
    """The table of `Checkpoint.listed` after some more entries."""
    rows = [
        {
            "path": info.path,
            "role": info.role,
            "version": entry.version,
            "columns": json.dumps(info.columns),
            "info": json.dumps(asdict(info)),
        }
        for entry in entries
        for info in entry.added
        if info.role != "checkpoints"
    ]
    later = pa.Table.from_pylist(rows, _FILES)
    return pa.concat_tables([before.listed(), later]) if before else later


def _still_known(listed: pa.Table, expired: int, files: Collection[str], versions: Collection[int]) -> pa.Table:
    """Files without those that only expired versions needed."""
    is_kept = [
        pc.greater(listed["version"], expired),
        pc.is_in(listed["path"], pa.array(sorted(files), pa.string())),
        pc.and_(pc.equal(listed["role"], "items"), pc.is_in(listed["version"], pa.array(sorted(versions), pa.int64()))),
    ]
    return listed.filter(reduce(pc.or_, is_kept)).combine_chunks()


@contextmanager
def _damaged() -> Iterator[None]:
    try:
        yield
    except CorruptWarehouseError as err:
        raise DamagedCheckpointError(str(err)) from err
