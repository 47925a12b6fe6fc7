"""Rasters kept open between chips, by each thread its own."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakSet

from stacchip_core.sources.access import Storage
from stacchip_core.sources.cog import Raster, RasterRef, open_raster
from stacchip_core.sources.identity import FileIdentity
from stacchip_core.sources.scene import Scene, SceneAsset

T = TypeVar("T")

# Files kept open per thread: a scene of 13 bands, four times over.
_MAX_OPEN = 52


def ref_of(scene: Scene, asset: SceneAsset, storage: Storage, local_roots: tuple[str, ...]) -> RasterRef:
    """The file of an asset, and what its scene knows of it."""
    return RasterRef(
        *(asset.href, scene.item_id, asset.key, asset.media_type, storage, local_roots),
        nodata=asset.nodata,
        layers=len(asset.layers),
        host=scene.host,
        indexed=FileIdentity(asset.size, asset.etag),
    )


class OwnThread:
    """A thread of this process to read on.

    A thread that forks leaves its network connections to the child, on which answers of the one would reach the other:
    GDAL keeps them by thread. So what may be forked, the main thread above all, has others read for it.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._pid = 0
        self._pool: ThreadPoolExecutor | None = None

    def run(self, read: Callable[[], T]) -> T:
        """What `read` gives, or raises."""
        if self._pool is None or self._pid != os.getpid():
            self._pid, self._pool = os.getpid(), ThreadPoolExecutor(1, "reader")
        return self._pool.submit(read).result()

    def __reduce__(self) -> tuple[type[OwnThread], tuple[()]]:
        """Another process has its own."""
        return (OwnThread, ())


class Handles:
    """Open rasters of all threads of one process; those of a thread go when it ends."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self._begin()

    def open(self, ref: RasterRef) -> Raster:
        """The calling thread's own handle on a raster.

        Raises:
            HrefRefusedError, ReadError, TransientReadError: see `open_raster`.
        """
        if self._pid != os.getpid():  # a handle carried over a fork shares its file position with the parent
            self._begin()
        files: _ThreadFiles | None = getattr(self._mine, "files", None)
        if files is None:
            files = self._mine.files = _ThreadFiles()
            with self._lock:
                self._everyones.add(files)
        return files.open(ref)

    def close(self) -> None:
        """Close the rasters of all threads, none of which may be reading."""
        if self._pid != os.getpid():
            self._begin()
        with self._lock:
            for files in self._everyones:
                files.close()

    def __reduce__(self) -> tuple[type[Handles], tuple[()]]:
        """Another process opens its own."""
        return (Handles, ())

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._everyones: WeakSet[_ThreadFiles] = WeakSet()


class _ThreadFiles:
    """Open rasters of one thread, the least recently used closed first."""

    def __init__(self) -> None:
        self._rasters: OrderedDict[RasterRef, Raster] = OrderedDict()

    def open(self, ref: RasterRef) -> Raster:
        if ref not in self._rasters:
            self._rasters[ref] = open_raster(ref)
            if len(self._rasters) > _MAX_OPEN:
                self._rasters.popitem(last=False)[1].close()
        self._rasters.move_to_end(ref)
        return self._rasters[ref]

    def close(self) -> None:
        while self._rasters:
            self._rasters.popitem()[1].close()
