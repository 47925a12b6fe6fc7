"""Object storage: the only door to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cached_property
from inspect import signature
from pathlib import Path
from urllib.parse import urlsplit

from stacchip_core.errors import InputError
from stacchip_core.sources.access import Storage
from stacchip_core.sources.objects import filesystem
from stacchip_core.warehouse.contract import STAGING, Listed, Store, listed
from stacchip_core.warehouse.disk import LocalStore
from stacchip_core.warehouse.outcome import is_past_the_end

__all__ = ["STAGING", "Listed", "LocalStore", "MemoryStore", "ObjectStore", "S3Store", "Store", "open_store"]


class ObjectStore(Store):
    """A bucket, through its fsspec filesystem: Google Cloud Storage, Azure, and S3 with what is said below.

    An exclusive create is one conditional request: `ifGenerationMatch=0` in gcsfs, `overwrite=False` in adlfs.
    Neither of the two is run by our tests.
    """

    def _create(self, path: str, data: bytes) -> None:
        self.fs.pipe_file(path, data, mode="create")

    def _read_range(self, path: str, start: int, stop: int) -> bytes:
        try:
            return super()._read_range(path, start, stop)
        except Exception as err:  # each library has its own
            if is_past_the_end(err):
                return b""
            raise

    def _is_beside(self, other: Store) -> bool:
        """One kind of bucket behind one endpoint; whether our account may read the other bucket, only a try tells."""
        ends = [
            store.fs.storage_options.get("endpoint_url") for store in (self, other) if isinstance(store, ObjectStore)
        ]
        return type(other) is type(self) and ends[0] == ends[1]


class S3Store(ObjectStore):
    """A bucket on any S3 server that honours `If-None-Match: *`; tested over HTTP against several."""

    def _read(self, path: str) -> bytes:
        """One request: s3fs would ask for the size first, fetch parts at a time, and fill a short one up with zeros."""
        data: bytes = self.fs.cat_file(path, **self._in_one)
        return data

    @cached_property
    def _in_one(self) -> dict[str, int]:
        """The option that says so; older releases of s3fs lack it, and do so anyway."""
        return {"max_concurrency": 1} if "max_concurrency" in signature(self.fs._cat_file).parameters else {}

    def _find(self, path: str) -> Iterator[tuple[str, Listed]]:
        """One request for each page: s3fs would look an empty folder up as an object, then list it again."""
        parent, _, name = path.rpartition("/")
        for found, info in self.fs.find(parent, prefix=f"{name}/", detail=True).items():
            yield found, listed(info)


class MemoryStore(Store):
    """Objects in this process's memory, for tests."""

    _lock = threading.RLock()  # fsspec looks first and writes then, and walks a dict that must not grow meanwhile

    def _create(self, path: str, data: bytes) -> None:
        with self._lock:
            if self.fs.exists(path):
                raise FileExistsError(path)
            self.fs.pipe_file(path, data)

    def _write(self, path: str, data: bytes) -> None:
        with self._lock:
            super()._write(path, data)

    def _put(self, local: Path, path: str) -> None:
        self._write(path, local.read_bytes())

    def _find(self, path: str) -> Iterator[tuple[str, Listed]]:
        with self._lock:
            return iter([(name, self._look(name)) for name in self.fs.find(path)])

    def _look(self, path: str) -> Listed:
        return Listed(self.fs.size(path), self.fs.modified(path))

    def _delete(self, path: str) -> None:
        with self._lock:
            super()._delete(path)


def open_store(root: str | Path, storage: Storage | None = None) -> Store:
    """The store at a local path, or at an s3://, gs://, az:// or memory:// URL.

    Raises:
        InputError: another scheme, or a URL without a bucket.
    """
    text = str(root)
    scheme = urlsplit(text).scheme.lower() if "://" in text else ""
    if scheme in ("", "file"):
        base = str(Path(urlsplit(text).path if scheme else text).expanduser().resolve())
        return LocalStore(base, base, filesystem("file"))
    kinds = {"s3": S3Store, "s3a": S3Store, "gs": ObjectStore, "az": ObjectStore, "memory": MemoryStore}
    if scheme not in kinds or not urlsplit(text).netloc:
        raise InputError(
            f"warehouse {text!r}: expected a local path or <scheme>://<bucket>/<prefix> with scheme s3, gs or az"
        )
    fs = filesystem(scheme, storage or Storage())
    return kinds[scheme](text, fs._strip_protocol(text), fs)
