"""Immutable Parquet files: published under a fresh name, described for the log, proven when read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

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

# Files up to this size are fetched in one request and proven by their sha256; of larger ones only what is asked for is
# read, proven by Parquet's page checksums.
WHOLE_BYTES = 8 * 2**20


def publish(store: Store, draft: FileInfo, write: Callable[[Path], None]) -> FileInfo:
    """Write a file and say what was written.

    Args:
        store: where to.
        draft: what the file will hold, and its path, which nobody else uses; size and sha256 are found out.
        write: fills the local file it is given.
    """
    with store.writing(draft.path) as local:
        write(local)
        size, sha256 = local.stat().st_size, _sha256_of_file(local)
    stored = store.size(draft.path)
    if stored != size:
        raise TransientStoreError(f"{store.root}/{draft.path}: {size} bytes were sent, {stored} are stored: try again")
    return replace(draft, size=size, sha256=sha256)


def read_whole(store: Store, info: FileInfo) -> bytes:
    """Bytes of a file that a log entry names.

    Raises:
        CorruptWarehouseError: it is gone, or not the file that was committed.
    """
    try:
        data = store.read(info.path)
    except ObjectNotFoundError as err:
        raise CorruptWarehouseError(f"{store.root}/{info.path} is named by the log and is not there") from err
    found = hashlib.sha256(data).hexdigest()
    if len(data) != info.size or found != info.sha256:
        raise CorruptWarehouseError(
            f"{store.root}/{info.path} was changed: expected {info.size} bytes with sha256 {info.sha256[:12]}, "
            f"found {len(data)} with {found[:12]}"
        )
    return data


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
        if body is None and info.size <= WHOLE_BYTES:
            body = read_whole(store, info)
        if body is not None:
            source = pa.BufferReader(body)
        else:
            source = store.arrow_filesystem.open_input_file(store.path(info.path))
        with pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=body is None) as file:
            footer = file.metadata
            in_groups = sum(footer.row_group(group).num_rows for group in range(footer.num_row_groups))
            if not footer.num_rows == in_groups == info.rows:
                raise CorruptWarehouseError(
                    f"{store.root}/{info.path} holds {in_groups} rows, the log says {info.rows}"
                )
            yield file


@contextmanager
def naming(store: Store, path: str) -> Iterator[None]:
    """Translate what pyarrow raises while reading the file at `path`; only reading belongs into the block."""
    try:
        yield
    except StacchipError:
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
    return _iso(ends["min"]), _iso(ends["max"])


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment else None


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
