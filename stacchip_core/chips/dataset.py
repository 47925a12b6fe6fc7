"""A chip dataset: made from a spec in a warehouse, and read back chip by chip."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stacchip_core.chips.assembly import finish, is_finished, prepare, write_group, write_shard
from stacchip_core.chips.feed import Chip
from stacchip_core.chips.formats.table import open_shard, reading
from stacchip_core.chips.lock import DatasetLock, DatasetPlan, parsed
from stacchip_core.chips.measure import clay_form
from stacchip_core.chips.shards import Pixels, Shard, row_of
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.chips.stored import stored_sizes
from stacchip_core.chips.update import prepare_update
from stacchip_core.chips.work import in_threads
from stacchip_core.errors import (
    CorruptWarehouseError,
    InputError,
    ObjectNotFoundError,
    StacchipError,
)
from stacchip_core.sources.access import Storage
from stacchip_core.warehouse.store import Store, open_store
from stacchip_core.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from stacchip_core.chips.epoch import Deal
    from stacchip_core.chips.leakage import LeakageReport
    from stacchip_core.chips.torch import Wish

logger = logging.getLogger(__name__)

_OPEN_SHARDS = 8  # shards whose headers a dataset keeps at hand


def materialize(
    warehouse: Warehouse, spec: ChipSpec, *, storage: Storage | None = None, workers: int = 2, pictures: bool = False
) -> Dataset:
    """Write the chips a spec means as a dataset of the warehouse, or finish or find the one already there.

    A chip that can't be read becomes a failure, and the rest is written. The STAC item, `item.json`, comes last.

    Args:
        warehouse: holds the index, and takes the dataset.
        spec: which chips, of which bands, in which form.
        storage: how to reach the items' assets; None: as the warehouse is reached.
        workers: threads, each of which cuts a group of items, then writes a shard; the result is the same with any.
        pictures: draw `report.html` too, which takes a second or some.

    Raises:
        SpecError: see `select`; or the dataset's name is taken by another spec.
        ReadError: not one chip could be read.
    """
    plan = prepare(warehouse, spec)
    if not is_finished(warehouse, spec.name):
        carry_out(warehouse, plan, storage=storage, workers=workers)
    lock = finish(warehouse, spec.name)
    if lock.failures:
        logger.warning(
            "dataset %r: %d of its chips could not be read; `failures` lists them with the reasons, and an update "
            "tries them again",
            *(spec.name, lock.failures),
        )
    return _described(warehouse, spec.name, has_pictures=pictures)


def update(
    warehouse: Warehouse,
    name: str,
    *,
    version: int | None = None,
    storage: Storage | None = None,
    workers: int = 2,
) -> Dataset:
    """Retry the chips of a dataset that failed, and make anew what a newer version of its index makes stale.

    All other shards stay as they are, byte for byte; `Dataset.open(..., revision=)` opens the dataset as it was before.

    Args:
        warehouse: holds the dataset and its index.
        name: of a finished dataset.
        version: of the index; None: the latest where the spec asked for that, else the one it named.
        storage: how to reach the items' assets; None: as the warehouse is reached.
        workers: threads.

    Raises:
        InputError: the dataset is not finished.
        SpecError: see `select`.
    """
    plan = prepare_update(warehouse, name, version=version)
    if plan is not None:
        carry_out(warehouse, plan, storage=storage, workers=workers)
        finish(warehouse, name)
    return _described(warehouse, name, has_pictures=warehouse.store.exists(f"datasets/{name}/report.html"))


def carry_out(warehouse: Warehouse, plan: DatasetPlan, *, storage: Storage | None, workers: int) -> None:
    """Cut all groups, then write all shards of a plan."""
    threads = max(1, workers // max(1, len(plan.groups)))

    def cut_one(number: int) -> None:
        write_group(warehouse, plan.name, number, storage=storage, threads=threads)
        logger.info("dataset %r: group %d of %d", plan.name, number + 1, len(plan.groups))

    def write_one(number: int) -> None:
        write_shard(warehouse, plan.name, number)
        logger.info("dataset %r: shard %d of %d", plan.name, number + 1, len(plan.shards))

    in_threads(cut_one, len(plan.groups), workers)
    in_threads(write_one, len(plan.shards), min(workers, plan.shards_at_a_time))


def _described(warehouse: Warehouse, name: str, *, has_pictures: bool) -> Dataset:
    """A finished dataset with its STAC item, and its page where that is wanted; those of its lock stay as they are."""
    path = f"{warehouse.root}/datasets/{name}"
    dataset = Dataset.open(path, warehouse.storage)
    is_new = not dataset.has_item
    if has_pictures and (is_new or not dataset.store.exists("report.html")):
        dataset.write_report()
        dataset = Dataset.open(path, warehouse.storage)  # without the shards that were drawn from in memory
    if is_new:
        dataset.write_item()  # last: where it is, so is the rest
    return dataset


class Dataset:
    """A finished dataset: `dataset[i]` is a chip, band -> array (layers, height, width).

    Shards are opened when first needed, so that a dataset may be handed to another process, or opened before
    a fork.

    Attributes:
        path: folder or URL of the dataset.
        lock: what it was made from.
        chips: one row per chip, in the order of the dataset, with `shard` and `offset`.
        failures: chips that could not be read, with `reason`.
    """

    def __init__(self, store: Store, storage: Storage | None = None, revision: int | None = None) -> None:
        """Take the dataset at the root of a store; use `Dataset.open`."""
        self.path = store.root
        name = "dataset.json" if revision is None else f"locks/{revision:04d}.json"
        self.lock = parsed(DatasetLock, _lock_bytes(store, name), f"{store.root}/{name}")
        content = store.read(self.lock.chips_key)
        if hashlib.sha256(content).hexdigest() != self.lock.chips_sha256:
            raise CorruptWarehouseError(
                f"dataset {self.path}: {self.lock.chips_key} is not the one that the lock names"
            )
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            everything = file.read().replace_schema_metadata(None)
        is_there = pc.equal(everything["status"], "ok")
        self.chips: pa.Table = everything.filter(is_there)
        self.failures: pa.Table = everything.filter(pc.invert(is_there))
        self._storage = storage
        self._here = _Here(os.getpid(), store, {})
        self._shard_numbers = self.chips["shard"].to_numpy()
        self._offsets = self.chips["offset"].to_numpy()

    @classmethod
    def open(cls, path: str | Path, storage: Storage | None = None, *, revision: int | None = None) -> Dataset:
        """The dataset in a local folder or at a URL; with `revision`, as it was before later updates.

        Raises:
            ObjectNotFoundError: there is no lock: no dataset, one not finished, or no such revision.
        """
        return cls(open_store(path, storage), storage, revision)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens it anew."""
        return (_reopened, (self.path, self._storage, self.lock.revision))

    @property
    def store(self) -> Store:
        """Where its files lie, opened by this process."""
        if self._here.pid != os.getpid():  # clients of object storage don't outlive a fork
            self._here = _Here(os.getpid(), open_store(self.path, self._storage), {})
        return self._here.store

    def __repr__(self) -> str:
        """Name, index version and size."""
        return f"Dataset({self.lock.name!r}, {self.lock.index}, {len(self)} chips)"

    def __len__(self) -> int:
        """Number of chips."""
        return int(self.chips.num_rows)

    def __getitem__(self, place: SupportsIndex) -> dict[str, Pixels]:
        """The chip of row `place`.

        Raises:
            TypeError, ChipNotFoundError: there is no such row.
            CorruptWarehouseError: its shard is not whole.
        """
        row = row_of(place, len(self), f"dataset {self.lock.name!r}")
        number = int(self._shard_numbers[row])
        shard = self._shard(number)
        with reading(self.store, str(self.lock.shards[number].key)):
            return shard.chip(int(self._offsets[row]))

    def __iter__(self) -> Iterator[tuple[dict[str, Any], dict[str, Pixels]]]:
        """Rows of `chips` (columns to values, without geometry), and their chips."""
        rows = self.chips.drop_columns(["geometry", "bbox"])
        for place in range(len(self)):  # one chip in memory at a time
            yield rows.slice(place, 1).to_pylist()[0], self[place]

    def write_report(self) -> str | None:
        """Write `report.html`, a page with pictures, beside the shards; None, and a line in the log, where it can't be.

        Returns:
            Its path or URL.
        """
        from stacchip_core.chips.report import draw_report

        page = draw_report(self)
        return None if page is None else self._write("report.html", page.encode())

    def write_item(self) -> str:
        """Write `item.json`, the dataset as a STAC item, beside the shards.

        Returns:
            Its path or URL.
        """
        from stacchip_core.chips.stac import stac_item

        return self._write("item.json", json.dumps(stac_item(self), indent=2).encode())

    @property
    def has_item(self) -> bool:
        """Whether `item.json` is there, and says what this lock does."""
        from stacchip_core.chips.stac import is_item_of

        try:
            return is_item_of(self.store.read("item.json"), self.lock)
        except ObjectNotFoundError:
            return False

    def leakage(self) -> LeakageReport:
        """How well its splits keep apart: distances, overlaps, the same ground at other times.

        Raises:
            InputError: it has no splits.
        """
        from stacchip_core.chips.leakage import leakage

        if "split" not in self.chips.column_names:
            raise InputError(f"dataset {self.lock.name!r} has no splits; ask for them with split in its spec")
        return leakage(self.chips)

    def clay_metadata(self) -> dict[str, Any]:
        """Its statistics in the form of Clay's `metadata.yaml`, an entry for each collection."""
        return clay_form(self.lock, self.chips)

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """Key below the dataset's folder -> bytes."""
        return {key: sum(stored_sizes(self.store, key).values()) for key in keys}

    def nodata_of(self, place: int) -> dict[str, float | None]:
        """Band -> the value that stands for "no measurement" in the chip of row `place`."""
        labels = self._shard(int(self._shard_numbers[place])).labels
        return {band: values[int(self._offsets[place])] for band, values in labels.nodata.items()}

    @property
    def groups(self) -> NDArray[np.int64]:
        """Per chip, the number of its shard: chips of a shard are best read together."""
        return np.asarray(self._shard_numbers, np.int64)

    def read(self, places: Iterable[int]) -> dict[int, Chip | StacchipError]:
        """Place -> its chip, or why it can't be read."""
        return {place: self._chip_or_error(place) for place in places}

    def to_torch(self, *, split: str | None = None, transform: Callable[[dict[str, Any]], Any] | None = None) -> Any:
        """A map-style `torch.utils.data.Dataset` of the chips of a split: band -> tensor, and `chip_id`."""
        from stacchip_core.chips.torch import by_row

        return by_row(self, split=split, transform=transform)

    def to_torch_iterable(self, deal: Deal | None = None, wish: Wish | None = None) -> Any:
        """A `torch.utils.data.IterableDataset` of epochs, for several ranks and workers, which resumes in mid-epoch."""
        from stacchip_core.chips.torch import by_epoch

        return by_epoch(self, deal, wish)

    def _chip_or_error(self, place: int) -> Chip | StacchipError:
        try:
            return self[place]
        except StacchipError as err:
            return err

    def _write(self, key: str, content: bytes) -> str:
        self.store.write(key, content)
        return f"{self.path}/{key}"

    def _shard(self, number: int) -> Shard:
        """An open shard of this process; the first opened of many is let go."""
        store, info = self.store, self.lock.shards[number]
        here = self._here
        if info.key is None:
            raise CorruptWarehouseError(
                f"dataset {self.path}: its table has chips in shard {number}, its lock has none"
            )
        shard = here.shards.get(number)
        if shard is None:
            shard = here.shards[number] = open_shard(store, info.key, self.lock.spec.format, size=info.size)
            for first in list(here.shards)[:-_OPEN_SHARDS]:
                here.shards.pop(first, None)  # another thread may have been faster
        return shard


def _lock_bytes(store: Store, name: str) -> bytes:
    try:
        return store.read(name)
    except ObjectNotFoundError as err:
        is_begun = bool(store.list("work"))
        what = (
            "is not finished: make it once more, and it carries on" if is_begun else f"is no dataset: it has no {name}"
        )
        raise ObjectNotFoundError(f"{store.root} {what}") from err


def _reopened(path: str, storage: Storage | None, revision: int) -> Dataset:
    return Dataset.open(path, storage, revision=revision)


@dataclass(frozen=True, slots=True)
class _Here:
    """What a dataset has open in one process."""

    pid: int
    store: Store
    shards: dict[int, Shard]
