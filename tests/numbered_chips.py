"""Chips that are told by their numbers, and the chips of a warehouse on an S3 server, to deal out to processes."""

from __future__ import annotations

import hashlib
import multiprocessing as mp
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import pyarrow as pa

from stacchip_core import ReadError, StacchipError, Storage, Warehouse
from stacchip_core.chips.epoch import Rows
from stacchip_core.chips.feed import Chip, Feed
from stacchip_core.warehouse.store import open_store
from tests.s3_fake import S3Fake
from tests.scenes import Item
from tests.warehouses import SIZE

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


@contextmanager
def s3_elsewhere() -> Iterator[Storage]:
    """An S3 server in a process of its own: while GDAL waits for an answer, a server beside it may not get to run."""
    context = mp.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        assert here.poll(120)
        yield Storage(endpoint=here.recv())
    finally:
        process.terminate()
        process.join(60)


def _serve(parent: Connection) -> None:
    with S3Fake() as fake:
        parent.send(fake.endpoint)
        with suppress(EOFError):
            parent.recv()  # never: until the parent ends this


def warehouse_on_s3(storage: Storage, folder: Path, items: list[Item]) -> Warehouse:
    """A warehouse in a bucket, and the rasters of its items there too."""
    bucket = f"b{uuid.uuid4().hex}"
    store = open_store(f"s3://{bucket}/pixels", storage)
    store.fs.mkdir(bucket)
    there = deepcopy(items)
    for asset in (asset for item in there for asset in item["assets"].values()):
        path = Path(asset["href"])
        key = path.relative_to(folder).as_posix()
        if path.is_file():  # thumbnails are named only
            store.write(key, path.read_bytes())
        asset["href"] = f"{store.root}/{key}"
    warehouse = Warehouse(f"s3://{bucket}/warehouse", create=True, storage=storage)
    warehouse.index_items(there, chip_size=SIZE, storage=storage)
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
