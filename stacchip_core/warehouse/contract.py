"""What every store keeps to. Keys are relative to a root; an object is whole or not there."""

from __future__ import annotations

import re
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

from stacchip_core.errors import (
    CorruptWarehouseError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreError,
    TransientStoreError,
    UnsafeStoreError,
)
from stacchip_core.warehouse.outcome import Outcome, explain, outcome_of

STAGING = "_staging"  # unpublished bytes: parts, temporary files, probes; nothing here is ever authority
_CREATE_MAX = 32 * 2**20  # more might go up in parts, and Ceph ignores the condition on those
_TIMES = ("LastModified", "last_modified", "mtime")  # as s3fs, adlfs and gcsfs name the time of an object
_Texts = list[str]  # `Store.list` hides the built-in where the class is defined
_SEGMENT = r"[^/\\\x00-\x1f\x7f]+"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")


@dataclass(frozen=True, slots=True)
class Listed:
    """What a listing says of an object.

    Attributes:
        size: bytes.
        modified: when it was written, UTC, by the store's clock.
        etag: version of its bytes, as the store names it, without quotes; "" where it names none.
    """

    size: int
    modified: datetime
    etag: str = ""


class Store(ABC):
    """Objects below one root, on whatever storage.

    Only vacuum, untag, repair (of a hint) and a dataset that is finished call `delete`: an error handler that removes
    what it wrote can remove what was committed.

    Attributes:
        root: URL or absolute path, as messages show it.
        fs: the fsspec filesystem.
    """

    def __init__(self, root: str, base: str, fs: Any) -> None:
        """`base` is the root as `fs` spells it."""
        self.root = root.rstrip("/")
        self.fs = fs
        self._base = base.rstrip("/")

    def __repr__(self) -> str:
        """Class and root."""
        return f"{type(self).__name__}({self.root!r})"

    def path(self, key: str) -> str:
        """`key` as `fs` and `arrow_filesystem` spell it.

        Raises:
            StoreError: the key is absolute, or leads out of the root.
        """
        if not is_key(key):
            raise StoreError(f"{self.root}: {key[:200]!r} is no key: expected names joined by '/', below the root")
        return f"{self._base}/{key}"

    @cached_property
    def arrow_filesystem(self) -> FileSystem:
        """The same storage for pyarrow; for reading."""
        return PyFileSystem(FSSpecHandler(self.fs))

    def read(self, key: str) -> bytes:
        """Whole object.

        Raises:
            ObjectNotFoundError: certainly not there; refused access is a StoreError and never "missing".
            TransientStoreError: no answer, or a passing failure.
        """
        with self._door(key, "read"):
            return self._read(self.path(key))

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of an object; fewer where it ends before. Nothing is asked for where that is no byte."""
        if not 0 <= start <= stop:
            raise StoreError(f"{self.root}/{key}: [{start}, {stop}) is no range of bytes")
        if start == stop:  # S3 takes a range that ends before it starts for no range, and sends everything
            return b""
        with self._door(key, "read"):
            return self._read_range(self.path(key), start, stop)

    def write(self, key: str, data: bytes) -> None:
        """Put an object, over the old one if there is one; readers see either, whole."""
        with self._door(key, "written"):
            self._write(self.path(key), data)

    def create(self, key: str, data: bytes) -> None:
        """Put an object only where there is none: of any number of writers, one succeeds.

        Raises:
            ObjectExistsError: the key is taken, possibly by this very call where an answer was lost on the way.
            TransientStoreError: nobody knows whether it happened: read the key back.
        """
        if len(data) > _CREATE_MAX:
            raise StoreError(f"{self.root}/{key}: {len(data)} bytes are too many to be created in one request")
        with self._door(key, "created"):
            self._create(self.path(key), data)

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine, so this may be tried again after any failure.

        Never for an error handler, see the class.
        """
        with suppress(ObjectNotFoundError), self._door(key, "deleted"):
            self._delete(self.path(key))

    def exists(self, key: str) -> bool:
        """Whether there is an object; raises where the store does not say."""
        try:
            self.size(key)
        except ObjectNotFoundError:
            return False
        return True

    def size(self, key: str) -> int:
        """Bytes of an object."""
        return self.look(key).size

    def look(self, key: str) -> Listed:
        """Size, time and version of an object."""
        with self._door(key, "looked up"):
            return self._look(self.path(key))

    def copy_from(self, other: Store, other_key: str, key: str) -> bool:
        """Have the storage copy an object of another store, over the old one if there is one; False where it can't."""
        if not self._is_beside(other):
            return False
        with self._door(key, "copied"):
            self._copy(other.path(other_key), self.path(key))
        return True

    def modified(self, key: str) -> datetime:
        """When an object was written, UTC, by the store's clock."""
        return self.look(key).modified

    def now(self) -> datetime:
        """The store's clock, UTC: the time of an empty object written for this, which stays below `STAGING`."""
        key = f"{STAGING}/clock-{uuid.uuid4()}"
        self.write(key, b"")
        return self.modified(key)

    def listing(self, prefix: str) -> dict[str, Listed]:
        """All objects in the folder `prefix` and below it, by key, sorted; none where there is no such folder.

        Takes as many requests as the listing has pages. What has no key of ours, as the empty "folder/" that consoles
        make, is left out.
        """
        path = self.path(prefix)
        with self._door(prefix, "listed"):
            names = {name: one for name, one in self._find(path) if name.startswith(f"{path}/")}
        found = {prefix + name.removeprefix(path): one for name, one in names.items()}
        return {key: found[key] for key in sorted(found) if is_key(key)}

    def list(self, prefix: str) -> _Texts:
        """Keys of all objects in the folder `prefix` and below it, sorted; none where there is no such folder."""
        return [*self.listing(prefix)]

    def folders(self, prefix: str) -> _Texts:
        """Names of the folders directly in the folder `prefix`, sorted; none where there is no such folder."""
        path = self.path(prefix)
        try:
            with self._door(prefix, "listed"):
                found = self.fs.ls(path, detail=True)
        except ObjectNotFoundError:
            return []
        paths = {info["name"].rstrip("/") for info in found if info["type"] == "directory"} - {path}
        return sorted(name for name in (path.rpartition("/")[2] for path in paths) if is_key(name))

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """A local file to fill; on leaving without an error it becomes the object, at once and whole."""
        path = self.path(key)
        with tempfile.TemporaryDirectory(prefix="stacchip-") as folder:
            local = Path(folder) / "object"
            with self._filling(key):
                yield local
            with self._door(key, "written"):
                self._put(local, path)

    @contextmanager
    def _filling(self, key: str) -> Iterator[None]:
        """Translate what the disk says while a local file is filled: that it is full, above all."""
        try:
            yield
        except OSError:
            with self._door(key, "written"):
                raise

    def probe(self) -> None:
        """Make sure that the store refuses to create a key twice.

        Raises:
            UnsafeStoreError: it does not, so that two writers could both believe that they committed.
        """
        key = f"{STAGING}/probe-{uuid.uuid4()}"
        with suppress(ObjectExistsError):  # nobody else knows this key: ours, and an answer was lost on the way
            self.create(key, b"first")
        try:
            self.create(key, b"second")
        except ObjectExistsError:
            if self.read(key) == b"first":
                return
        raise UnsafeStoreError(
            f"{self.root}: the store let a key be created twice, so commits on it could be lost; "
            "use one that honours If-None-Match (S3), or a local disk"
        )

    @contextmanager
    def _door(self, key: str, done: str) -> Iterator[None]:
        """Translate what the storage library raises."""
        try:
            yield
        except StoreError:
            raise
        except Exception as err:
            where = f"{self.root}/{key}"
            match outcome_of(err):
                case Outcome.EXISTS:
                    raise ObjectExistsError(f"{where}: already exists") from err
                case Outcome.MISSING:
                    raise ObjectNotFoundError(f"{where}: no such object") from err
                case Outcome.TRANSIENT:
                    raise TransientStoreError(f"{where}: could not be {done} just now: {explain(err)}") from err
                case Outcome.IN_THE_WAY:
                    raise CorruptWarehouseError(f"{where} is damaged: a folder stands in its place") from err
                case Outcome.REFUSED:
                    raise StoreError(f"{where}: could not be {done}: {explain(err)}") from err

    def _read(self, path: str) -> bytes:
        data: bytes = self.fs.cat_file(path)
        return data

    def _read_range(self, path: str, start: int, stop: int) -> bytes:
        data: bytes = self.fs.cat_file(path, start=start, end=stop)
        return data

    def _write(self, path: str, data: bytes) -> None:
        self.fs.pipe_file(path, data)

    @abstractmethod
    def _create(self, path: str, data: bytes) -> None: ...

    def _look(self, path: str) -> Listed:
        info = self.fs.info(path)
        if info["type"] != "file":
            raise FileNotFoundError(path)
        return listed(info)

    def _find(self, path: str) -> Iterator[tuple[str, Listed]]:
        for name, info in self.fs.find(path, detail=True).items():
            yield name, listed(info)

    def _delete(self, path: str) -> None:
        self.fs.rm_file(path)

    def _put(self, local: Path, path: str) -> None:
        self.fs.put_file(str(local), path)

    def _is_beside(self, other: Store) -> bool:
        """Whether the storage can copy from there by itself."""
        return False

    def _copy(self, source: str, path: str) -> None:
        self.fs.cp_file(source, path)


def is_key(text: str) -> bool:
    return bool(_KEY.fullmatch(text)) and not any(part in (".", "..") for part in text.split("/"))


def listed(info: Mapping[str, Any]) -> Listed:
    """Size and time of an object, from what its filesystem says of it."""
    moment: datetime = next(info[name] for name in _TIMES if info.get(name) is not None)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return Listed(int(info["size"]), moment, str(info.get("ETag") or info.get("etag") or "").strip('"'))
