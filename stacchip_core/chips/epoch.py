"""Which chips each process sees in an epoch, and in which order: arithmetic on row numbers, without pixels or torch.

All chips are put in one order for the epoch, which every process computes alike. Each rank takes as long a stretch of
it as the others, each of its workers a stretch of that. Stretches, and not every n-th chip, so that a block of a file
is decoded by one process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stacchip_core.errors import InputError

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Deal:
    """How the chips of an epoch are ordered, and dealt to ranks and workers.

    Attributes:
        rank, world_size: which of how many processes that train together this is; each gets as many chips.
        uneven: where the chips can't be shared evenly, "drop" leaves the last of the epoch's order out (fewer than
            `world_size`; others in each epoch, if shuffled); "pad" gives the first of it a second time.
        batch_size: of the loader: workers get whole batches, so that a rank has one broken batch at most.
        seed: of the shuffle, together with the number of the epoch.
        shuffle: whether chips change their order from epoch to epoch.
        mix: chips that are held in memory to be shuffled among each other; they come from places that are read whole,
            such as blocks of a file or a shard, and which are shuffled too.
    """

    rank: int = 0
    world_size: int = 1
    uneven: Literal["drop", "pad"] = "drop"
    batch_size: int = 1
    seed: int = 0
    shuffle: bool = True
    mix: int = 256

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            InputError: names the value.
        """
        if not 0 <= self.rank < self.world_size:
            raise InputError(f"rank {self.rank}: expected 0 to world_size - 1, of world_size {self.world_size}")
        if self.uneven not in ("drop", "pad"):
            raise InputError(f"uneven={self.uneven!r}: expected 'drop' or 'pad'")
        for name in ("batch_size", "mix"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: expected 1 or more")
        if self.seed < 0:
            raise InputError(f"seed={self.seed}: expected 0 or more")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of an epoch: rows in their order, and the window of each, whose chips are read together."""

    rows: Rows
    windows: Rows

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.rows)

    def __getitem__(self, places: Rows | slice) -> Stretch:
        """The part of it at some places."""
        return Stretch(self.rows[places], self.windows[places])


def whole_epoch(groups: Rows, deal: Deal, epoch: int) -> Stretch:
    """All rows in the order of an epoch, the same for every rank and worker.

    Groups are shuffled, and laid end to end; then chips are shuffled within windows of `deal.mix` of them. Unshuffled,
    groups follow each other by number, each a window or several.

    Args:
        groups: per row, the number of the place that it is read with.
        deal: seed, shuffle and mix of it count.
        epoch: its number.
    """
    places = np.arange(len(groups))
    if not deal.shuffle:
        rows = np.argsort(groups, kind="stable")
        starts = np.flatnonzero(np.diff(groups[rows], prepend=-1))
        within = places - np.repeat(starts, np.diff(starts, append=len(rows)))
        is_new = (within % deal.mix == 0).astype(np.int64)
        return Stretch(rows, np.cumsum(is_new))
    random = np.random.default_rng([deal.seed, epoch])
    names, group = np.unique(groups, return_inverse=True)
    rows = np.argsort(random.permutation(len(names))[group], kind="stable")
    windows = places // deal.mix
    return Stretch(rows[np.lexsort((random.random(len(rows)), windows))], windows)


def share_of_rank(epoch: Stretch, deal: Deal) -> Stretch:
    """The stretch of an epoch that a rank sees: as many chips as every other rank.

    Raises:
        InputError: there are fewer chips than ranks, and the rest is dropped.
    """
    ranks, count = deal.world_size, len(epoch)
    each = -(-count // ranks) if deal.uneven == "pad" else count // ranks
    if not each:
        raise InputError(f"{count} chips for {ranks} ranks: each would get none; choose more chips, or uneven='pad'")
    return epoch[np.arange(deal.rank * each, (deal.rank + 1) * each) % count]


def part_of_worker(places: Rows, deal: Deal, worker: int, workers: int) -> Rows:
    """The stretch of a rank's places that one of its workers sees: whole batches, as many as the others or one less."""
    batches = -(-len(places) // deal.batch_size)
    first, last = (batches * n // workers for n in (worker, worker + 1))
    return places[first * deal.batch_size : last * deal.batch_size]


def windows_of(stretch: Stretch) -> list[slice]:
    """Where each window of a stretch begins and ends."""
    edges = [*np.flatnonzero(np.diff(stretch.windows, prepend=-1)).tolist(), len(stretch)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def spans(is_set: NDArray[np.bool_]) -> list[list[int]]:
    """Half-open ranges of places that are set; short, since chips are done nearly in order."""
    edges = np.flatnonzero(np.diff(is_set.astype(np.int8), prepend=0, append=0))
    return [[int(start), int(stop)] for start, stop in edges.reshape(-1, 2)]


def from_spans(ranges: Iterable[Iterable[int]], count: int) -> NDArray[np.bool_]:
    """Inverse of `spans`."""
    is_set = np.zeros(count, dtype=np.bool_)
    for start, stop in ranges:
        is_set[start:stop] = True
    return is_set


def rows_sha256(rows: Rows) -> str:
    """Checksum of rows in their order."""
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
