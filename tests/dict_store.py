"""A store in a dict: fast, with a clock that tests move, and a memory of who created what."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from stacchip_core.warehouse.contract import STAGING, Listed, Store
from tests.faulty_store import Fault, Plan

_numbers = itertools.count()


def scratch() -> Path | None:
    """A folder in memory, where there is one."""
    folder = Path("/dev/shm")
    return folder if os.access(folder, os.W_OK) else None


_SCRATCH = scratch()


class _Files(AbstractFileSystem):  # type: ignore[misc]
    """The objects of a dict, as fsspec shows them."""

    protocol = "dict"
    cachable = False

    def __init__(self, objects: dict[str, tuple[bytes, datetime]]) -> None:
        super().__init__()
        self.objects = objects

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path][0][start:end]

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[dict[str, Any]]:
        below = [name.removeprefix(f"{path}/") for name in self.objects if name.startswith(f"{path}/")]
        folders = sorted({name.split("/")[0] for name in below if "/" in name})
        return [{"name": f"{path}/{folder}", "size": 0, "type": "directory"} for folder in folders]


class DictStore(Store):
    """Objects in a dict.

    Attributes:
        objects: bytes and time of each, by path.
        clock: the time, UTC; it goes on by a millisecond with each object written.
        author: who is acting; set by the test.
        authors: who created an object, by key.
        may_delete: whether anybody has a reason to delete.
        violations: what no writer may do: change a file that others rely on, or delete without a reason.
    """

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.clock = datetime(2026, 1, 1, tzinfo=UTC)
        self.author = ""
        self.authors: dict[str, str] = {}
        self.may_delete = False
        self.violations: list[str] = []
        self._lock = threading.RLock()
        super().__init__("dict://store", "dict", _Files(self.objects))

    def _key(self, path: str) -> str:
        return path.removeprefix("dict/")

    def _read(self, path: str) -> bytes:
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path][0]

    def _create(self, path: str, data: bytes) -> None:
        with self._lock:
            if path in self.objects:
                raise FileExistsError(path)
            self.authors[self._key(path)] = self.author
            self._write(path, data)

    def _write(self, path: str, data: bytes) -> None:
        with self._lock:
            if path in self.objects and not path.endswith("/_last_checkpoint.json"):
                self.violations.append(f"{self.author} wrote over {path}")
            self.clock += timedelta(milliseconds=1)
            self.objects[path] = (bytes(data), self.clock)

    def _put(self, local: Path, path: str) -> None:
        self._write(path, local.read_bytes())

    def _look(self, path: str) -> Listed:
        return Listed(len(self._read(path)), self.objects[path][1])

    def _find(self, path: str) -> Iterator[tuple[str, Listed]]:
        with self._lock:
            found = [(name, Listed(len(body), when)) for name, (body, when) in self.objects.items()]
        return iter([(name, listed) for name, listed in found if name.startswith(f"{path}/")])

    def _delete(self, path: str) -> None:
        with self._lock:
            if path not in self.objects:
                raise FileNotFoundError(path)
            if not self.may_delete or "/log/" in path:
                self.violations.append(f"{self.author} deleted {path}")
            del self.objects[path]

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """A file in memory where there is such a folder: the machine writes tens of thousands."""
        if _SCRATCH is None:
            with super().writing(key) as local:
                yield local
            return
        local = _SCRATCH / f"stacchip-{os.getpid()}-{next(_numbers)}"
        try:
            yield local
            with self._door(key, "written"):
                self._put(local, self.path(key))
        finally:
            local.unlink(missing_ok=True)

    def keys(self, prefix: str) -> list[str]:
        """Keys below a prefix, sorted."""
        start = f"dict/{prefix}/"
        return sorted(self._key(path) for path in self.objects if path.startswith(start))

    def staged(self) -> set[str]:
        """Keys of unpublished objects."""
        return set(self.keys(STAGING))


class Numbered(Plan):
    """Faults at the operations with these numbers, from 1; each is met once.

    Attributes:
        met: operations that met one.
    """

    def __init__(self, faults: Mapping[int, Fault]) -> None:
        super().__init__(0, 0.0)
        self.left = dict(faults)
        self.met: list[str] = []
        self._count = 0

    def fault_for(self, operation: str) -> Fault | None:
        """What becomes of the next operation."""
        self._count += 1
        fault = self.left.pop(self._count, None)
        if fault is not None:
            self.met.append(f"{self._count}: {operation}")
        return fault
