"""Immutable Parquet files: published under a fresh name, described for the log, proven when read."""

from __future__ import annotations

import atexit
import base64
import hashlib
import io
import os
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

from stacchip_core.errors import (
    CorruptWarehouseError,
    ObjectNotFoundError,
    StacchipError,
    StoreError,
    TransientStoreError,
)
from stacchip_core.warehouse.entry import FileInfo
from stacchip_core.warehouse.outcome import Outcome, explain, outcome_of
from stacchip_core.warehouse.store import Store

# Files up to this size are fetched in one request and proven by their sha256; of larger ones the blocks that hold what
# is asked for, proven one by one. A request to a bucket takes as long as one or two MiB of its answer.
WHOLE_BYTES = 2 * 2**20
BLOCK_BYTES = 2**20


def publish(store: Store, draft: FileInfo, write: Callable[[Path], None]) -> FileInfo:
    """Write a file and say what was written.

    Args:
        store: where to.
        draft: what the file will hold, and its path, which nobody else uses; size and hashes are found out.
        write: fills the local file it is given.
    """
    with store.writing(draft.path) as local:
        write(local)
        size, sha256, blocks = _hashes(local)
    stored = store.size(draft.path)
    if stored != size:
        raise TransientStoreError(f"{store.root}/{draft.path}: {size} bytes were sent, {stored} are stored: try again")
    return replace(draft, size=size, sha256=sha256, blocks=blocks)


def read_whole(store: Store, info: FileInfo) -> bytes:
    """Bytes of a file that a log entry names.

    Raises:
        CorruptWarehouseError: it is gone, or not the file that was committed.
    """
    try:
        data = store.read(info.path)
    except ObjectNotFoundError as err:
        raise _gone(store, info) from err
    found = hashlib.sha256(data).hexdigest()
    if len(data) != info.size or found != info.sha256:
        raise CorruptWarehouseError(
            f"{store.root}/{info.path} was changed: expected {info.size} bytes with sha256 {info.sha256[:12]}, "
            f"found {len(data)} with {found[:12]}"
        )
    return data


# What Arrow's threads may hold for a moment after a scan has ended: files, and the filesystem that they are of.
_OPEN: weakref.WeakSet[ProvenFile] = weakref.WeakSet()
_RECENT: deque[FileSystem] = deque(maxlen=4)
_LONGEST_WAIT = 2.0  # seconds, where a scan was left in the middle
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_OPEN.clear)  # the parent's threads are not there


class ProvenFile(io.RawIOBase):
    """A file that a log entry names, open for reading: every byte it gives agrees with the entry.

    Parquet's own checksums leave footers and page headers out, where one flipped bit can hide a column or prune a row
    group without anybody noticing.
    """

    def __init__(self, store: Store, info: FileInfo) -> None:
        """Nothing is read yet."""
        super().__init__()
        _OPEN.add(self)
        self._store, self._info = store, info
        self._sums = base64.b64decode(info.blocks)
        self._place = 0
        self._held, self._from = b"", 0  # the bytes of the last request

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; returns the new place."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._info.size}[whence]
        return self._place

    def readall(self) -> bytes:
        """All bytes from here on."""
        return self.read(-1)

    def read(self, size: int | None = -1) -> bytes:
        """Bytes from here on, `size` at most; all for -1 or None."""
        stop = self._info.size if size is None or size < 0 else min(self._place + size, self._info.size)
        start, self._place = self._place, max(stop, self._place)
        return self._range(start, stop) if start < stop else b""

    def _range(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), of which those at hand are not fetched again."""
        if self._info.size <= WHOLE_BYTES and not self._held:
            self._held = read_whole(self._store, self._info)
        until = self._from + len(self._held)
        if self._from <= start and stop <= until:
            return self._held[start - self._from : stop - self._from]
        head = self._held[start - self._from :] if self._from <= start < until else b""
        first = (start + len(head)) // BLOCK_BYTES * BLOCK_BYTES
        self._held, self._from = self._blocks(first, stop), first
        return head + self._held[start + len(head) - first : stop - first]

    def _blocks(self, first: int, stop: int) -> bytes:
        """Whole blocks from `first`, itself the start of one, to that which holds the byte before `stop`."""
        last = min(-(-stop // BLOCK_BYTES) * BLOCK_BYTES, self._info.size)
        try:
            data = self._store.read_range(self._info.path, first, last)
        except ObjectNotFoundError as err:
            raise _gone(self._store, self._info) from err
        number, view = first // BLOCK_BYTES, memoryview(data)
        found = _sums(view[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES))
        if len(data) != last - first or found != self._sums[4 * number : 4 * number + len(found)]:
            raise CorruptWarehouseError(
                f"{self._store.root}/{self._info.path} was changed: bytes {first} to {last} are not those committed"
            )
        return data


class _ProvenHandler(FSSpecHandler):  # type: ignore[misc]
    """What pyarrow opens files with: those that the log names, proven."""

    def __init__(self, store: Store, infos: Iterable[FileInfo]) -> None:
        super().__init__(store.fs)
        self._store = store
        self._infos = {store.path(info.path): info for info in infos}

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(ProvenFile(self._store, self._infos[path]), mode="r")

    open_input_stream = open_input_file


def proven_filesystem(store: Store, infos: Iterable[FileInfo]) -> FileSystem:
    """A filesystem for pyarrow that holds just these files, at `store.path(info.path)`; damage read in one raises."""
    filesystem = PyFileSystem(_ProvenHandler(store, infos))
    _RECENT.append(filesystem)
    return filesystem


@atexit.register
def _let_readers_end() -> None:
    """Wait for Arrow's threads to close what they hold: one that comes back to an interpreter that ends aborts it."""
    deadline = time.monotonic() + _LONGEST_WAIT
    while len(_OPEN) and time.monotonic() < deadline:
        time.sleep(0.001)


@contextmanager
def open_parquet(store: Store, info: FileInfo, body: bytes | None = None) -> Iterator[pq.ParquetFile]:
    """A Parquet file for reading; damage met in the block is a CorruptWarehouseError naming the file.

    Only reading belongs into the block: what else fails there would be blamed on the file.

    Args:
        store: where it is.
        info: as the log names it.
        body: its bytes, where `read_whole` has fetched them already.
    """
    with naming(store, info.path):
        source = ProvenFile(store, info) if body is None else pa.BufferReader(body)
        with pq.ParquetFile(source, pre_buffer=body is None) as file:
            if file.metadata.num_rows != info.rows:
                raise CorruptWarehouseError(
                    f"{store.root}/{info.path} holds {file.metadata.num_rows} rows, the log says {info.rows}"
                )
            yield file


@contextmanager
def naming(store: Store, path: str) -> Iterator[None]:
    """Translate what pyarrow raises while reading the file at `path`; only reading belongs into the block."""
    try:
        yield
    except (StacchipError, MemoryError):  # of Arrow too: a lack of memory says nothing about the file
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError) as err:
        where = f"{store.root}/{path}"
        if isinstance(err, PermissionError):
            raise StoreError(f"{where}: could not be read: {explain(err)}") from err
        match outcome_of(err):
            case Outcome.TRANSIENT:
                raise TransientStoreError(f"{where}: could not be read just now: {explain(err)}") from err
            case Outcome.MISSING:
                raise CorruptWarehouseError(f"{where} is named by the log and is not there") from err
            case _:
                raise CorruptWarehouseError(f"{where} is damaged: {explain(err)}") from err


def time_range(times: pa.ChunkedArray) -> tuple[str | None, str | None]:
    """First and last of some datetimes as ISO 8601 texts."""
    ends = pc.min_max(times).as_py()
    first, last = ends["min"], ends["max"]
    return iso(first) if first else None, iso(last) if last else None


def iso(moment: datetime) -> str:
    """UTC as ISO 8601."""
    return moment.isoformat().replace("+00:00", "Z")


def _gone(store: Store, info: FileInfo) -> CorruptWarehouseError:
    return CorruptWarehouseError(f"{store.root}/{info.path} is named by the log and is not there")


def _hashes(path: Path) -> tuple[int, str, str]:
    """Size, sha256, and the sums of the blocks, of a local file."""
    sha256, sums, size = hashlib.sha256(), bytearray(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            sha256.update(block)
            sums += _sums([memoryview(block)])
            size += len(block)
    return size, sha256.hexdigest(), base64.b64encode(sums).decode()


def _sums(blocks: Iterable[memoryview]) -> bytes:
    return b"".join(zlib.crc32(block).to_bytes(4, "big") for block in blocks)
