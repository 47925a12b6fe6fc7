"""Object storage: the only door to it. Keys are relative to a root; an object is whole or not there."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem

from stacchip_core.errors import (
    InputError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreError,
    TransientStoreError,
    UnsafeStoreError,
)
from stacchip_core.sources.access import Storage
from stacchip_core.warehouse.outcome import Outcome, explain, outcome_of

STAGING = "_staging"  # unpublished bytes: parts, temporary files, probes; nothing here is ever authority
_SEGMENT = r"[^/\\\x00-\x1f\x7f]+"
# s3fs: listings are never remembered, and pyarrow asks for the ranges it wants, so reading ahead of it would fetch
# megabytes for a footer. botocore's attempts and s3fs's multiply: by default a server that never answers was waited
# for more than ten minutes, with these two minutes.
_RETRIES = {"mode": "standard", "total_max_attempts": 3}
_S3_OPTIONS = {
    "use_listings_cache": False,
    "default_cache_type": "none",
    "config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": _RETRIES},
}
_CACHELESS = {"use_listings_cache": False}
_OPTIONS: dict[str, dict[str, Any]] = {"s3": _S3_OPTIONS, "s3a": _S3_OPTIONS, "gs": _CACHELESS, "az": _CACHELESS}
_Texts = list[str]  # `Store.list` hides the built-in where the class is defined
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")


class Store(ABC):
    """Objects below one root, on whatever storage.

    Nothing here deletes: an error handler that removes what it wrote can remove what was committed.

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
        if not _KEY.fullmatch(key) or any(part in (".", "..") for part in key.split("/")):
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
        """Bytes [start, stop) of an object; fewer where it ends before."""
        with self._door(key, "read"):
            data: bytes = self.fs.cat_file(self.path(key), start=start, end=stop)
            return data

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
        with self._door(key, "created"):
            self._create(self.path(key), data)

    def exists(self, key: str) -> bool:
        """Whether there is an object; raises where the store does not say."""
        try:
            self.size(key)
        except ObjectNotFoundError:
            return False
        return True

    def size(self, key: str) -> int:
        """Bytes of an object."""
        with self._door(key, "looked up"):
            return self._size(self.path(key))

    def modified(self, key: str) -> datetime:
        """When an object was written, UTC, by the store's clock."""
        with self._door(key, "looked up"):
            moment: datetime = self.fs.modified(self.path(key))
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

    def list(self, prefix: str) -> _Texts:
        """Keys of all objects in the folder `prefix` and below it, sorted; none where there is no such folder."""
        path = self.path(prefix)
        with self._door(prefix, "listed"):
            found = self._find(path)
        return sorted(prefix + name.removeprefix(path) for name in found if name.startswith(f"{path}/"))

    def folders(self, prefix: str) -> _Texts:
        """Names of the folders directly in the folder `prefix`, sorted; none where there is no such folder."""
        path = self.path(prefix)
        try:
            with self._door(prefix, "listed"):
                found = self.fs.ls(path, detail=True)
        except ObjectNotFoundError:
            return []
        names = {info["name"].rstrip("/").rpartition("/")[2] for info in found if info["type"] == "directory"}
        return sorted(names)

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """A local file to fill; on leaving without an error it becomes the object, at once and whole."""
        path = self.path(key)
        with tempfile.TemporaryDirectory(prefix="stacchip-") as folder:
            local = Path(folder) / "object"
            yield local
            with self._door(key, "written"):
                self._put(local, path)

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
                case Outcome.REFUSED:
                    raise StoreError(f"{where}: could not be {done}: {explain(err)}") from err

    def _read(self, path: str) -> bytes:
        data: bytes = self.fs.cat_file(path)
        return data

    def _write(self, path: str, data: bytes) -> None:
        self.fs.pipe_file(path, data)

    @abstractmethod
    def _create(self, path: str, data: bytes) -> None: ...

    def _size(self, path: str) -> int:
        info = self.fs.info(path)
        if info["type"] != "file":
            raise FileNotFoundError(path)
        return int(info["size"])

    def _find(self, path: str) -> _Texts:
        found: _Texts = self.fs.find(path)
        return found

    def _put(self, local: Path, path: str) -> None:
        self.fs.put_file(str(local), path)


class ObjectStore(Store):
    """A bucket: S3 through s3fs, Google Cloud Storage and Azure through their fsspec filesystems.

    An exclusive create is one conditional request (S3: `If-None-Match: *`). The S3 path is tested against a real HTTP
    server; gcsfs (`ifGenerationMatch=0`) and adlfs (`overwrite=False`) offer the same and are not run by our tests.
    """

    def _create(self, path: str, data: bytes) -> None:
        self.fs.pipe_file(path, data, mode="create")


class MemoryStore(Store):
    """Objects in this process's memory, for tests."""

    _lock = threading.Lock()

    def _create(self, path: str, data: bytes) -> None:
        with self._lock:  # fsspec looks first and writes then
            if self.fs.exists(path):
                raise FileExistsError(path)
            self.fs.pipe_file(path, data)

    def _find(self, path: str) -> _Texts:
        with self._lock:  # fsspec walks a dict that must not grow meanwhile
            return super()._find(path)


class LocalStore(Store):
    """Files below a folder, durable when a call returns.

    Bytes are written and synced under a temporary name, then linked (create: the link fails where the name is taken)
    or moved (write) to their own. fsspec's exclusive create is not used: it looks first and writes then, and two of
    eight racing processes were seen to win.
    """

    @cached_property
    def arrow_filesystem(self) -> FileSystem:
        """The local disk, without a detour through Python."""
        return LocalFileSystem()

    def modified(self, key: str) -> datetime:
        """When a file was written, UTC."""
        with self._door(key, "looked up"):
            return datetime.fromtimestamp(Path(self.path(key)).stat().st_mtime, UTC)

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """A file beside the others, moved to its name in one step."""
        path = self.path(key)
        with self._temporary() as local:
            yield local
            with self._door(key, "written"):
                self._put(local, path)

    def _read(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def _write(self, path: str, data: bytes) -> None:
        with self._temporary() as local:
            local.write_bytes(data)
            self._put(local, path)

    def _create(self, path: str, data: bytes) -> None:
        with self._temporary() as local:
            local.write_bytes(data)
            _sync(local)
            _make_folder(Path(path).parent)
            os.link(local, path)
            _sync(Path(path).parent)

    def _put(self, local: Path, path: str) -> None:
        _sync(local)
        _make_folder(Path(path).parent)
        local.replace(path)
        _sync(Path(path).parent)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """An unpublished name; what is left there afterwards is this call's own and goes."""
        local = Path(self._base) / STAGING / f"tmp-{uuid.uuid4()}"
        _make_folder(local.parent)
        try:
            yield local
        finally:
            local.unlink(missing_ok=True)


def open_store(root: str | Path, storage: Storage | None = None) -> Store:
    """The store at a local path, or at an s3://, gs://, az:// or memory:// URL.

    Raises:
        InputError: another scheme, or a URL without a bucket.
    """
    text = str(root)
    scheme = urlsplit(text).scheme.lower() if "://" in text else ""
    if scheme in ("", "file"):
        base = str(Path(urlsplit(text).path if scheme else text).expanduser().resolve())
        return LocalStore(base, base, fsspec.filesystem("file"))
    kinds = {"s3": ObjectStore, "s3a": ObjectStore, "gs": ObjectStore, "az": ObjectStore, "memory": MemoryStore}
    if scheme not in kinds or not urlsplit(text).netloc:
        raise InputError(
            f"warehouse {text!r}: expected a local path or <scheme>://<bucket>/<prefix> with scheme s3, gs or az"
        )
    options = {**(storage or Storage()).fsspec_options(scheme), **_OPTIONS.get(scheme, {})}
    fs = fsspec.filesystem(scheme, **options)
    if scheme in ("s3", "s3a"):
        fs.retries = 2
    return kinds[scheme](text, fs._strip_protocol(text), fs)


def _sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)
