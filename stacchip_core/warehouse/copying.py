"""One file copied into a store: on the server where both sides are on one, else through here; whole, or not there."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stacchip_core.errors import ReadError, StoreError, TransientReadError, TransientStoreError
from stacchip_core.sources.access import Storage, is_remote, locate
from stacchip_core.sources.gate import Gate
from stacchip_core.sources.remote import RemoteFile
from stacchip_core.warehouse.store import Store, open_store

_CHUNK = 8 * 2**20  # bytes in memory at a time


@dataclass(frozen=True, slots=True)
class Version:
    """What tells one version of a file from another.

    Attributes:
        size: bytes.
        etag: as its server names it, without quotes; of a local file its time of change; "" where nothing tells.
    """

    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Copied:
    """A file that was copied.

    Attributes:
        version: of the original.
        sha256: of its bytes; "" where they never passed here, as the server copied them.
    """

    version: Version
    sha256: str


class Original(ABC):
    """A file to be copied."""

    @abstractmethod
    def version(self) -> Version:
        """Its version by now."""

    @abstractmethod
    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop)."""

    def copy_on_server(self, store: Store, key: str) -> bool:
        """Have the server copy it; False where it can't."""
        return False

    def chunks(self, size: int) -> Iterator[bytes]:
        """All its bytes, a piece at a time."""
        for start in range(0, size, _CHUNK):
            yield self.read(start, min(size, start + _CHUNK))


class LocalOriginal(Original):
    """A file on this machine's disk."""

    def __init__(self, path: str) -> None:
        """`path` was gated."""
        self._path = Path(path)

    def version(self) -> Version:
        """Size and time of change."""
        try:
            facts = self._path.stat()
        except OSError as err:
            raise ReadError(f"{self._path.name}: {err.strerror or err}") from err
        return Version(facts.st_size, str(facts.st_mtime_ns))

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop)."""
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                return file.read(stop - start)
        except OSError as err:
            raise ReadError(f"{self._path.name}: {err.strerror or err}") from err


class StoredOriginal(Original):
    """An object in a bucket."""

    def __init__(self, store: Store, key: str) -> None:
        """`store` is its whole bucket."""
        self._store, self._key = store, key

    def version(self) -> Version:
        """Size and ETag."""
        with _as_read_errors():
            found = self._store.look(self._key)
        return Version(found.size, found.etag or found.modified.isoformat())

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop)."""
        with _as_read_errors():
            return self._store.read_range(self._key, start, stop)

    def copy_on_server(self, store: Store, key: str) -> bool:
        """Where both are on one server; one that refuses is left, as its own account may read it nevertheless."""
        try:
            return store.copy_from(self._store, self._key, key)
        except StoreError:
            return False


@contextmanager
def _as_read_errors() -> Iterator[None]:
    """A bucket that is read from is a source like others: what goes wrong there is not the destination's."""
    try:
        yield
    except TransientStoreError as err:
        raise TransientReadError(str(err)) from err
    except StoreError as err:
        raise ReadError(str(err)) from err


class WebOriginal(Original):
    """A file behind http(s)."""

    def __init__(self, remote: RemoteFile) -> None:
        """`remote` sees to it that all bytes are of one version."""
        self._remote = remote

    def version(self) -> Version:
        """Length and ETag."""
        self._remote.read(0, 1)
        return Version(self._remote.length or 0, self._remote.etag or "")

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop)."""
        return self._remote.read(start, stop)


def open_original(href: str, storage: Storage, local_roots: tuple[str, ...], gate: Gate) -> Original:
    """The file of a resolved href.

    Raises:
        HrefRefusedError: it may not be read.
        ReadError: there is no such local file.
    """
    where = locate(href, local_roots)
    if not is_remote(where):
        return LocalOriginal(where)
    parts = urlsplit(where)
    if parts.scheme in ("http", "https"):
        return WebOriginal(RemoteFile(where, gate))
    return StoredOriginal(open_store(f"{parts.scheme}://{parts.netloc}", storage), unquote(parts.path).lstrip("/"))


def copy_file(original: Original, store: Store, key: str, expected: str = "") -> Copied:
    """Copy a file to `key`, where nothing shows until it is whole.

    Args:
        original: what to copy.
        store: where to.
        key: its name there; what has it is replaced.
        expected: sha256 that its item gives, if it does.

    Raises:
        ReadError, TransientReadError, StoreError, TransientStoreError: it could not be read or written, was replaced
            meanwhile, or is not what its item says.
    """
    before = original.version()
    if not expected and original.copy_on_server(store, key):
        _check_copy(before, original.version(), store, key)
        return Copied(before, "")
    digest, size = hashlib.sha256(), 0
    with store.writing(key) as local:
        with local.open("wb") as file:
            for chunk in original.chunks(before.size):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        _check_bytes(before, original.version(), size, (digest.hexdigest(), expected))
    if store.size(key) != before.size:
        raise StoreError(f"{store.root}/{key}: {store.size(key)} bytes arrived of {before.size}: run again")
    return Copied(before, digest.hexdigest())


def _check_bytes(before: Version, after: Version, size: int, sha256: tuple[str, str]) -> None:
    """Raise before the copy gets its name."""
    found, expected = sha256
    if before != after:
        raise ReadError("the file was replaced while it was being copied: run again")
    if size != before.size:
        raise ReadError(f"the file ends after {size} bytes of {before.size}: it is truncated")
    if expected and found != expected:
        raise ReadError(f"the file's sha256 is {found}, and its item says {expected}: one of them is wrong")


def _check_copy(before: Version, after: Version, store: Store, key: str) -> None:
    """Raise where a server's copy is not the original: by size, and by ETag where both are the MD5 of the bytes."""
    copy = store.look(key)
    has_md5 = all(etag and "-" not in etag for etag in (before.etag, copy.etag))
    if before != after or copy.size != before.size or (has_md5 and copy.etag != before.etag):
        raise StoreError(f"{store.root}/{key}: the server's copy differs from the original: run again")
