"""Warehouses that can be copied, aged and looked at as a whole, on every kind of store."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from stacchip_core.errors import StacchipError, VersionNotFoundError
from stacchip_core.warehouse.entry import KINDS
from stacchip_core.warehouse.format import make_format
from stacchip_core.warehouse.store import Store, open_store
from stacchip_core.warehouse.warehouse import Warehouse
from tests.dict_store import DictStore
from tests.model import Reader, check_collection, check_combined, digest
from tests.quick import opened
from tests.s3_fake import S3Fake


class World(ABC):
    """A store and what is around it."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def warehouse(self) -> Warehouse:
        """Without faults."""
        return opened(self.store)

    @abstractmethod
    def copy(self) -> Self:
        """The same once more: what is done there does not show here."""

    @abstractmethod
    def age(self, time: timedelta) -> None:
        """Let time go by, for what is there and for the store's clock."""

    def objects(self) -> dict[str, int]:
        """Size of every object by key."""
        return {key: one.size for top in ("_staging", "tags", *KINDS) for key, one in self.store.listing(top).items()}


class MemoryWorld(World):
    """In a dict."""

    store: DictStore

    def __init__(self, store: DictStore | None = None) -> None:
        super().__init__(store or DictStore())

    def copy(self) -> Self:
        other = DictStore()
        other.objects.update(self.store.objects)
        other.clock, other.may_delete = self.store.clock, True
        return type(self)(other)

    def age(self, time: timedelta) -> None:
        self.store.clock += time


class DiskWorld(World):
    """In a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(open_store(folder))
        self.folder = folder
        self._copies = 0

    def copy(self) -> Self:
        self._copies += 1
        other = self.folder.with_name(f"{self.folder.name}-{self._copies}")
        shutil.rmtree(other, ignore_errors=True)
        if self.folder.is_dir():
            shutil.copytree(self.folder, other)
        return type(self)(other)

    def age(self, time: timedelta) -> None:
        for path in self.folder.rglob("*"):
            if path.is_file():
                then = path.stat().st_mtime - time.total_seconds()
                os.utime(path, (then, then))


class S3World(World):
    """In a bucket of an S3 server with a lock."""

    def __init__(self, fake: S3Fake, store: Store | None = None) -> None:
        super().__init__(store or fake.new_store())
        self.fake = fake

    def copy(self) -> Self:
        other = self.fake.new_store()
        names = [root.removeprefix("s3://").split("/")[0] for root in (self.store.root, other.root)]
        kept = self.fake.buckets._buckets
        kept[names[1]] = {key: list(stored) for key, stored in kept[names[0]].items()}
        return type(self)(self.fake, other)

    def age(self, time: timedelta) -> None:
        self.fake.buckets.clock_offset += time


def make(world: World) -> None:
    """Make it a warehouse."""
    make_format(world.store)


@dataclass(frozen=True)
class View:
    """What a warehouse holds, by its folders.

    Attributes:
        heads: number of the newest version.
        chips: ids of the chips of the newest version, sorted.
        digests: hash of all that is read of each version that can be read.
    """

    heads: Mapping[str, int]
    chips: Mapping[str, tuple[str, ...]]
    digests: Mapping[tuple[str, int], str]


def look(world: World, known: Reader | None = None, *, with_versions: bool = True) -> View:
    """Prove a warehouse's logs, all chips of its newest versions and, by production code, its versions.

    Args:
        world: the warehouse.
        known: what was read before a vacuum removed what only old versions needed.
        with_versions: also read all versions.
    """
    reader, heads = known.on(world.store) if known else Reader(world.store), dict[str, int]()
    for kind in KINDS:
        for name in world.store.folders(kind):
            folder = f"{kind}/{name}"
            reader.extend(folder, prove=False)
            if reader.head(folder):
                heads[folder] = reader.head(folder)
    for folder, head in heads.items():
        (check_collection if folder.startswith("collections") else check_combined)(reader, folder, head)
    chips = {folder: tuple(reader.chips_at(folder, head)) for folder, head in heads.items()}
    digests = {
        (folder, number): told
        for folder, head in heads.items()
        for number in (range(1, head + 1) if with_versions else ())
        if (told := read_digest(world.warehouse, folder, number))
    }
    return View(heads, chips, digests)


def read_digest(warehouse: Warehouse, folder: str, number: int) -> str | None:
    """Hash of all that is read of a version; None where it says that it can't be read."""
    kind, name = folder.split("/")
    try:
        version = warehouse.collection(name, number) if kind == "collections" else warehouse.combined(name, number)
        return digest(version)
    except VersionNotFoundError:
        return None
    except StacchipError as err:
        return f"damaged: {type(err).__name__}"
