"""A warehouse on a local disk: files survive a power cut, and appear under their names whole or not at all."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from pyarrow.fs import FileSystem, LocalFileSystem

from stacchip_core.warehouse.contract import STAGING, Listed, Store, is_key


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

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """A file beside the others, moved to its name in one step."""
        path = self.path(key)
        with self._unpublished() as local:
            with self._filling(key):
                yield local
            with self._door(key, "written"):
                self._put(local, path)

    def _read(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def _write(self, path: str, data: bytes) -> None:
        with self._unpublished() as local:
            local.write_bytes(data)
            self._put(local, path)

    def _create(self, path: str, data: bytes) -> None:
        with self._unpublished() as local:
            local.write_bytes(data)
            link(local, Path(path))

    def _look(self, path: str) -> Listed:
        return _listed(path, Path(path).stat())

    def _find(self, path: str) -> Iterator[tuple[str, Listed]]:
        for name, facts in files_below(path):
            yield name, _listed(name, facts)

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly in the folder `prefix`, sorted; links to folders are folders."""
        with self._door(prefix, "listed"):
            return [name for name in names_in(self.path(prefix)) if is_key(name)]

    def _delete(self, path: str) -> None:
        remove(Path(path))

    def _put(self, local: Path, path: str) -> None:
        move(local, Path(path))

    def _unpublished(self) -> AbstractContextManager[Path]:
        return unpublished(Path(self._base) / STAGING)


@contextmanager
def unpublished(folder: Path) -> Iterator[Path]:
    """A fresh name in `folder` to fill; what is left there afterwards is this call's own and goes."""
    local = folder / f"tmp-{uuid.uuid4()}"
    make_folder(folder)
    try:
        yield local
    finally:
        local.unlink(missing_ok=True)


def link(local: Path, path: Path) -> None:
    """Give a filled file its name; fails where the name is taken, however many try at once."""
    _sync(local)
    make_folder(path.parent)
    os.link(local, path)
    _sync(path.parent)


def move(local: Path, path: Path) -> None:
    """Give a filled file its name, in place of what has it."""
    _sync(local)
    make_folder(path.parent)
    local.replace(path)
    _sync(path.parent)


def remove(path: Path) -> None:
    """Remove a file for good; its folder stays, as a writer may just be about to use it."""
    path.unlink()
    _sync(path.parent)


def names_in(folder: str) -> list[str]:
    """Names of the folders in a folder, sorted; none where there is no such folder."""
    try:
        with os.scandir(folder) as found:
            return sorted(entry.name for entry in found if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_below(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Path and facts of every file below a folder; links to folders are not followed."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(entry.path)
            continue
        try:
            facts = entry.stat()
        except FileNotFoundError:  # gone since the folder was read
            continue
        if stat.S_ISREG(facts.st_mode):
            yield entry.path, facts


def _listed(path: str, facts: os.stat_result) -> Listed:
    if not stat.S_ISREG(facts.st_mode):
        raise FileNotFoundError(path)
    return Listed(facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, to stay."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
