"""Ranges of a remote file as a file object for GDAL: the header kept, blocks fetched side by side ahead of decoding."""

from __future__ import annotations

import io
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from stacchip_core.errors import ReadError, StacchipError
from stacchip_core.sources.identity import FileIdentity
from stacchip_core.sources.remote import RemoteFile, Traffic

T = TypeVar("T")

# The first request of every file: GDAL's own default for COGs (GDAL_INGESTED_BYTES_AT_OPEN in cogeo.org's guide).
HEADER_BYTES = 32_768
# What GDAL reads piece by piece beyond it (an index at the end of a file) comes at least so many bytes at a time.
_AHEAD_BYTES = 16_384
# Blocks no further apart are one request: 64 KiB take less than the 30 ms that a request does, at 20 Mbit/s.
_GAP_BYTES = 65_536
# No request is longer, unless one block is: several at once are faster than one long one.
_REQUEST_BYTES = 4 * 2**20
# Fetched and not yet decoded, per file.
_HELD_BYTES = 256 * 2**20
# No block of a file is larger than a decoded one may be.
MAX_READ_BYTES = 256 * 2**20
_AT_ONCE = 16  # requests of this process


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Bytes [offset, offset + size) of a file."""

    offset: int
    size: int

    @property
    def stop(self) -> int:
        """First byte after it."""
        return self.offset + self.size


def coalesced(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The requests that fetch `ranges`: in order, near ones joined, those within the header left out."""
    requests: list[Range] = []
    for one in sorted(set(ranges)):
        if one.stop <= HEADER_BYTES or one.size <= 0:
            continue
        last = requests[-1] if requests else None
        joined = Range(last.offset, max(last.stop, one.stop) - last.offset) if last else one
        if (
            last is not None
            and one.offset - last.stop <= _GAP_BYTES
            and (joined.size <= _REQUEST_BYTES or one.stop <= last.stop)
        ):
            requests[-1] = joined
        else:
            requests.append(one)
    return tuple(requests)


class RangeReader(io.RawIOBase):
    """A remote file for GDAL. For one thread at a time; what it fetches ahead, it fetches in several.

    GDAL can't be told of an error through a file object, so a read that fails is short and `failure` says why.
    """

    def __init__(self, remote: RemoteFile) -> None:
        """Nothing is read yet."""
        self._remote = remote
        self._position = 0
        self._header: bytes | None = None
        self._ahead = (0, b"")
        self._blocks: dict[int, bytes] = {}
        self._starts: list[int] = []
        self.failure: StacchipError | None = None

    @property
    def traffic(self) -> Traffic:
        """Requests and bytes so far."""
        return self._remote.traffic

    @property
    def identity(self) -> FileIdentity:
        """What tells this state of the file from another, as far as it is known by now."""
        return self._remote.identity

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position; only the end needs the file's length."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        self._position = offset + (self._length() if base is None else base)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Bytes from the position on; fewer at the end of the file, or where `failure` has been set."""
        try:
            stop = self._length() if size < 0 else self._position + size
            found = self._bytes(self._position, stop)
        except StacchipError as err:
            self.failure = err
            return b""
        self._position += len(found)
        return found

    def load_header(self) -> None:
        """Read the first bytes, so that an error is told as it is.

        Raises:
            HrefRefusedError, ReadError, TransientReadError: as `RemoteFile.read`.
        """
        if self._header is None:
            self._header = self._remote.read(0, HEADER_BYTES)
            if not self._header:
                raise ReadError("the file is empty")

    def header(self) -> bytes:
        """The first `HEADER_BYTES`.

        Raises:
            HrefRefusedError, ReadError, TransientReadError: as `RemoteFile.read`; or the file is empty.
        """
        self.load_header()
        return self._header or b""

    def prefetch(self, ranges: Iterable[Range]) -> list[Range]:
        """Fetch ranges at once, in as few requests as `coalesced` says, to be read from memory once.

        Returns the ranges that were fetched, or are in the header; others did not fit into memory.

        Raises:
            HrefRefusedError, ReadError, TransientReadError: as `RemoteFile.read`; or a range ends past the file.
        """
        self.load_header()
        wanted = self._affordable(one for one in sorted(set(ranges)))
        length = self._length()
        if past := [one for one in wanted if one.stop > length]:
            raise ReadError(f"the file ends at byte {length}, and a block of it at {past[-1].stop}: it is cut off")
        requests = coalesced(wanted)
        bodies = _all_of(self._remote, requests)
        starts = [request.offset for request in requests]
        for one in wanted:
            place = bisect_right(starts, one.offset) - 1
            if place >= 0 and one.stop <= requests[place].stop:  # else it is in the header
                begin = one.offset - starts[place]
                self._blocks[one.offset] = bodies[place][begin : begin + one.size]
        self._starts = sorted(self._blocks)
        return wanted

    def _affordable(self, ranges: Iterable[Range]) -> list[Range]:
        """The first ranges of those asked for that fit into memory; room is made by letting older ones go."""
        chosen, size = list[Range](), 0
        for one in ranges:
            size += one.size
            if size > _HELD_BYTES:
                break
            chosen.append(one)
        held = sum(map(len, self._blocks.values()))
        while self._blocks and held + size > _HELD_BYTES:
            held -= len(self._blocks.pop(next(iter(self._blocks))))
        return chosen

    def _length(self) -> int:
        self.load_header()
        return self._remote.length or 0

    def _bytes(self, start: int, stop: int) -> bytes:
        self.load_header()
        header, length = self._header or b"", self._length()
        stop = min(stop, length)
        if start >= stop:
            return b""
        if stop - start > MAX_READ_BYTES:
            raise ReadError(f"{stop - start} bytes are asked for at once; no block is so large", rule="block-bytes")
        if stop <= len(header):
            return header[start:stop]
        if (held := self._held(start, stop)) is not None:
            return held
        begin, ahead = self._ahead
        if not begin <= start < stop <= begin + len(ahead):
            begin, ahead = start, self._remote.read(start, min(length, max(stop, start + _AHEAD_BYTES)))
            self._ahead = (begin, ahead) if stop - start < _AHEAD_BYTES else (0, b"")
        return ahead[start - begin : stop - begin]

    def _held(self, start: int, stop: int) -> bytes | None:
        """Bytes of a block that was fetched ahead, which is let go once it is read whole."""
        place = bisect_right(self._starts, start) - 1
        offset = self._starts[place] if place >= 0 else -1
        block = self._blocks.get(offset)
        if block is None or stop > offset + len(block):
            return None
        if stop - start == len(block):
            del self._blocks[offset]
        return block[start - offset : stop - offset]


def _all_of(remote: RemoteFile, requests: Sequence[Range]) -> list[bytes]:
    if len(requests) < 2:
        return [remote.read(one.offset, one.stop) for one in requests]
    return list(_pool().map(lambda one: remote.read(one.offset, one.stop), requests))


_shared: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def _pool() -> ThreadPoolExecutor:
    """Threads of this process for requests; one that was forked off starts its own."""
    with _lock:
        if os.getpid() not in _shared:
            _shared.clear()
            _shared[os.getpid()] = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="ranges")
        return _shared[os.getpid()]


class OpenedAgain(io.RawIOBase):
    """The file of a reader, opened once more: at a place of its own, with what the reader has fetched."""

    def __init__(self, reader: RangeReader) -> None:
        """At its start; the reader is used by the same thread."""
        self._reader = reader
        self._place = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position of the next read."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position."""
        return self._at_my_place(lambda: self._reader.seek(offset, whence))

    def read(self, size: int = -1) -> bytes:
        """Bytes from the position on, as the reader gives them."""
        return self._at_my_place(lambda: self._reader.read(size))

    def _at_my_place(self, task: Callable[[], T]) -> T:
        theirs = self._reader.tell()
        self._reader.seek(self._place)
        try:
            return task()
        finally:
            self._place = self._reader.tell()
            self._reader.seek(theirs)
