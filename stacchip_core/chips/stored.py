"""Shards where they are stored, for the libraries that read them: a file to seek in, and a store for Zarr."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, BufferPrototype

from stacchip_core.errors import ObjectNotFoundError
from stacchip_core.warehouse.store import Store

_REQUESTS = 8  # at a time


def stored_sizes(store: Store, key: str) -> dict[str, int]:
    """Bytes of each file that a shard has now, by path inside it ("" where it is one file)."""
    paths = [name.removeprefix(f"{key}/") for name in store.list(key)] or [""]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        sizes = pool.map(lambda path: _size(store, joined(key, path)), paths)
        return {path: size for path, size in zip(paths, sizes, strict=True) if size is not None}


def joined(key: str, path: str) -> str:
    """Key of a file of a shard."""
    return f"{key}/{path}" if path else key


class StoredFile(io.RawIOBase):
    """An object, read by range as whoever holds it seeks and reads."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        """`size` is that of the object."""
        self._store, self._key, self._size = store, key, size
        self._place = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Offset of the next byte read."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, as any file."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """One request, for as much as fits."""
        stop = min(self._place + len(buffer), self._size)
        content = self._store.read_range(self._key, self._place, stop) if stop > self._place else b""
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


class StoredShard(ZarrStore):
    """A Zarr shard through our store's door, so that what fails is our error; for reading only.

    A file that is listed and gone is an error: Zarr takes a missing one for chips of nothing but nodata. The ends of
    files are remembered: there Zarr keeps where each chip lies, and would ask for it again with every chip.
    """

    def __init__(self, store: Store, key: str, sizes: Mapping[str, int]) -> None:
        """`sizes` are those of its files, by path."""
        super().__init__(read_only=True)
        self._store, self._key, self._sizes = store, key, dict(sizes)
        self._ends: dict[tuple[str, int], bytes] = {}

    def __eq__(self, other: object) -> bool:
        """Whether it is the same shard of the same store."""
        return isinstance(other, StoredShard) and (self._store, self._key) == (other._store, other._key)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        """Where it is."""
        return f"{self._store.root}/{self._key}"

    @property
    def supports_writes(self) -> bool:
        """No."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """No."""
        return False

    @property
    def supports_listing(self) -> bool:
        """Yes."""
        return True

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """A file, or a range of it; None where the shard has no such file."""
        if key not in self._sizes:
            return None
        return prototype.buffer.from_bytes(await asyncio.to_thread(self._read, key, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several of `get`."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether the shard has a file."""
        return key in self._sizes

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refuse."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """Paths of all files."""
        for path in self._sizes:
            yield path

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Paths that begin so."""
        for path in self._sizes:
            if path.startswith(prefix):
                yield path

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names of the files and folders in a folder."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        inside = (path.removeprefix(folder) for path in self._sizes if path.startswith(folder))
        for name in dict.fromkeys(path.split("/")[0] for path in inside):
            yield name

    def _read(self, path: str, part: ByteRequest | None) -> bytes:
        key, size = joined(self._key, path), self._sizes[path]
        match part:
            case None:
                return self._store.read(key)
            case RangeByteRequest(start, end):
                return self._store.read_range(key, start, end)
            case OffsetByteRequest(offset):
                return self._store.read_range(key, offset, size)
            case SuffixByteRequest(suffix):
                if (path, suffix) not in self._ends:
                    self._ends[path, suffix] = self._store.read_range(key, max(0, size - suffix), size)
                return self._ends[path, suffix]


def _size(store: Store, key: str) -> int | None:
    try:
        return store.size(key)
    except ObjectNotFoundError:
        return None
