"""Chips that are told by their numbers, and the chips of a warehouse on an S3 server, to deal out to processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from copy import deepcopy
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stacchip_core import ReadError, StacchipError, Warehouse
from stacchip_core.chips.epoch import Rows
from stacchip_core.chips.feed import Chip, Feed
from tests.s3_fake import S3Fake
from tests.scenes import Item
from tests.warehouses import SIZE, scenes

Sight = tuple[int, str, str]  # place, chip id, digest of its pixels


class NumberedChips:
    """A source in memory: the pixel of chip i is i; it keeps which rows were read together."""

    def __init__(
        self, groups: Iterable[int], *, broken: Iterable[int] = (), splits: Iterable[str] | None = None
    ) -> None:
        self.groups: Rows = np.array(list(groups), np.int64)
        self.broken = set(broken)
        self.reads: list[list[int]] = []
        columns = {"chip_id": [f"chip-{n}" for n in range(len(self.groups))]}
        self.chips = pa.table(columns if splits is None else {**columns, "split": list(splits)})

    def __len__(self) -> int:
        return len(self.groups)

    def read(self, rows: Iterable[int]) -> dict[int, Chip | StacchipError]:
        together = list(rows)
        self.reads.append(together)
        return {row: self._chip(row) for row in together}

    def _chip(self, row: int) -> Chip | StacchipError:
        return ReadError(f"chip {row} is broken") if row in self.broken else {"red": np.full((1, 2, 2), row)}


def uploaded(fake: S3Fake, folder: Path, items: list[Item]) -> list[Item]:
    """The items with their rasters in a bucket."""
    store, moved = fake.new_store(), deepcopy(items)
    for asset in (asset for item in moved for asset in item["assets"].values()):
        path = Path(asset["href"])
        key = path.relative_to(folder).as_posix()
        if path.is_file():  # thumbnails are named only
            store.write(key, path.read_bytes())
        asset["href"] = f"{store.root}/{key}"
    return moved


def warehouse_on_s3(fake: S3Fake, folder: Path, items: list[Item] | None = None, **settings: Any) -> Warehouse:
    """A warehouse in a bucket, of items whose rasters are in another."""
    there = uploaded(fake, folder, scenes(folder) if items is None else items)
    root = fake.new_store().root
    warehouse = Warehouse(root, create=True, storage=fake.storage)
    warehouse.index_items(there, chip_size=SIZE, storage=fake.storage, **settings)
    warehouse.merge("global", collections=warehouse.collections())
    return warehouse


def digest(chip: Chip) -> str:
    done = hashlib.sha256()
    for band, pixels in chip.items():
        done.update(f"{band} {pixels.dtype} {pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes())
    return done.hexdigest()


def see(feed: Feed, worker: int, workers: int, answers: SimpleQueue[tuple[int, int, list[Sight]]]) -> None:
    """What one worker process of a rank sees."""
    sights = [(one.place, feed.chip_id(one.row), digest(one.chip)) for one in feed.part(worker, workers)]
    answers.put((feed.deal.rank, worker, sights))
