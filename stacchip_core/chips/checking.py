"""Whether a dataset is what its lock says, and how two datasets differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stacchip_core.chips.dataset import Dataset
from stacchip_core.chips.formats.table import open_shard, reading
from stacchip_core.chips.lock import DatasetLock, ShardInfo
from stacchip_core.chips.shards import Files, arrays_sha256, files_sha256
from stacchip_core.chips.stored import joined, stored_sizes
from stacchip_core.errors import StacchipError
from stacchip_core.warehouse.store import Store


def verify_dataset(dataset: Dataset, *, deep: bool = False) -> tuple[str, ...]:
    """What is wrong with a dataset, a sentence each; nothing where all is as its lock says.

    Args:
        dataset: an open one; that its table of chips is the lock's was proven when it was opened.
        deep: read every byte, for the checksums of files and of arrays; else sizes are compared.
    """
    return (*_table_problems(dataset), *_shard_problems(dataset, deep))


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """How a dataset differs from another.

    Attributes:
        settings: key of the spec, "index", or "library <name>" -> what it is in the one and in the other.
        only_in_first, only_in_second: ids of chips.
        common: chips in both.
        other_pixels: ids of chips in both whose pixels differ; only those of shards that differ are read.
    """

    settings: dict[str, tuple[Any, Any]]
    only_in_first: tuple[str, ...]
    only_in_second: tuple[str, ...]
    common: int
    other_pixels: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether both hold the same chips with the same pixels, whatever they were made from."""
        return not (self.only_in_first or self.only_in_second or self.other_pixels)


def diff_datasets(first: Dataset, second: Dataset) -> DatasetDiff:
    """What changed from one dataset, or one of its revisions, to another; pixels are compared in whatever format."""
    rows = [{chip_id: row for row, chip_id in enumerate(one.chips["chip_id"].to_pylist())} for one in (first, second)]
    common = [chip_id for chip_id in rows[0] if chip_id in rows[1]]
    return DatasetDiff(
        settings=_settings(first.lock, second.lock),
        only_in_first=tuple(chip_id for chip_id in rows[0] if chip_id not in rows[1]),
        only_in_second=tuple(chip_id for chip_id in rows[1] if chip_id not in rows[0]),
        common=len(common),
        other_pixels=tuple(_other_pixels(first, second, common, rows)),
    )


def _other_pixels(first: Dataset, second: Dataset, common: list[str], rows: list[dict[str, int]]) -> Iterator[str]:
    same = {info.arrays_sha256 for info in first.lock.shards} & {info.arrays_sha256 for info in second.lock.shards}
    sure = {info.number for info in first.lock.shards if info.arrays_sha256 in same}
    shard_of = first.chips["shard"].to_pylist()
    for chip_id in common:  # one chip of each in memory at a time
        if shard_of[rows[0][chip_id]] in sure:
            continue
        one, other = first[rows[0][chip_id]], second[rows[1][chip_id]]
        if [*one] != [*other] or not all(_equal(one[band], other[band]) for band in one):
            yield chip_id


def _equal(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))


def _settings(first: DatasetLock, second: DatasetLock) -> dict[str, tuple[Any, Any]]:
    sides = []
    for lock in (first, second):
        libraries = {f"library {name}": version for name, version in lock.libraries.items()}
        sides.append({**lock.spec.model_dump(mode="json"), "index": str(lock.index), **libraries})
    names = dict.fromkeys([*sides[0], *sides[1]])
    pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _table_problems(dataset: Dataset) -> Iterator[str]:
    """Where the table of chips and the lock disagree on what is where."""
    shards, offsets = dataset.chips["shard"].to_numpy(), dataset.chips["offset"].to_numpy()
    if len(dataset) != dataset.lock.chips:
        yield f"the lock says {dataset.lock.chips} chips, its table has {len(dataset)}"
    for info in dataset.lock.shards:
        if sorted(offsets[shards == info.number]) != list(range(info.chips)):
            yield f"shard {info.number}: the lock says {info.chips} chips, the table has them at other offsets"


def _shard_problems(dataset: Dataset, deep: bool) -> Iterator[str]:
    for info in dataset.lock.shards:
        if info.key is None:
            continue
        try:
            problem = _problem(dataset.store, info, dataset.lock.spec.format, deep)
        except StacchipError as err:
            problem = f"can't be read: {err}"
        if problem:
            yield f"shard {info.number} ({info.key}): {problem}"


def _problem(store: Store, info: ShardInfo, form: str, deep: bool) -> str | None:
    key = info.key or ""
    sizes = stored_sizes(store, key)
    if sum(sizes.values()) != info.size:
        return f"{sum(sizes.values())} bytes in {len(sizes)} files, the lock says {info.size}"
    if not deep:
        return None
    files: Files = {path: (store.read(joined(key, path)),) for path in sizes}
    if files_sha256(files) != info.sha256:
        return "its bytes are not those that the lock names"
    shard = open_shard(store, key, form)
    with reading(store, key):
        return None if arrays_sha256(shard) == info.arrays_sha256 else "its chips are not those that the lock names"
