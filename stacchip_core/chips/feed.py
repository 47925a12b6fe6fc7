"""Chips for training: epochs over a dataset or a stream, in processes side by side, begun again where they stopped."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stacchip_core.chips.epoch import (
    Deal,
    Rows,
    Stretch,
    from_spans,
    part_of_worker,
    rows_sha256,
    share_of_rank,
    spans,
    whole_epoch,
    windows_of,
)
from stacchip_core.errors import InputError, StacchipError

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

Chip = dict[str, NDArray[Any]]
State = dict[str, Any]  # plain JSON values


class Source(Protocol):
    """Chips that can be read by the numbers of their rows: a `Dataset` or a `ChipStream`."""

    chips: pa.Table

    @property
    def groups(self) -> Rows:
        """Per row, the number of the place that it is best read with."""

    def read(self, rows: Iterable[int]) -> Mapping[int, Chip | StacchipError]:
        """Row -> its chip, or why it can't be read."""


class Fed(NamedTuple):
    """A chip, its row in the source, and its place in the epoch of its rank."""

    place: int
    row: int
    chip: Chip


@dataclass(slots=True)
class _Progress:
    """What is done of an epoch of a rank, by place; `worker` is who did it, where that is one of several."""

    epoch: int
    done: NDArray[np.bool_]
    worker: tuple[int, int] | None = None


class Feed:
    """Epochs over a source for one rank; iterating gives what is to be seen of the epoch set last.

    What is opened to read chips is opened by the process and thread that reads them, so that a feed may be made before
    a fork, or be pickled.
    """

    def __init__(
        self,
        source: Source,
        deal: Deal | None = None,
        *,
        split: str | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        threads: int = 2,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            source: a `Dataset`, or what `stream` gives.
            deal: rank, shuffle and the like.
            split: take the chips of this split alone.
            on_error: whether a chip that can't be read ends the epoch, or is left out with a line in the log; the
                latter gives a rank fewer chips than the others.
            threads: read so many places ahead, each by a thread.

        Raises:
            InputError: no chip is of that split; says which splits there are.
        """
        self.source, self.deal = source, deal or Deal()
        self._on_error, self._threads = on_error, threads
        self._rows = rows_of_split(source.chips, split)
        self._ids = source.chips["chip_id"].combine_chunks()
        self._epoch: MutableSequence[int] = cast(MutableSequence[int], np.zeros(1, np.int64))
        self._share: tuple[int, Stretch] | None = None
        self._begun = self._progress = _Progress(-1, np.zeros(0, np.bool_))

    def __len__(self) -> int:
        """Chips of an epoch for this rank: as many as for each other."""
        return len(self._share_of(self.epoch))

    def __iter__(self) -> Iterator[Fed]:
        """What is to be seen of the epoch."""
        return self.part(0, 1)

    @property
    def epoch(self) -> int:
        """Number of the epoch set last."""
        return int(self._epoch[0])

    def keep_epoch_in(self, memory: MutableSequence[int]) -> None:
        """Keep the number of the epoch in memory that processes share, which else each has of its own."""
        memory[0] = self.epoch
        self._epoch = memory

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch: chips come in another order in each. Call it before every epoch."""
        if epoch < 0:
            raise InputError(f"epoch {epoch}: expected 0 or more")
        self._epoch[0] = epoch

    def chip_id(self, row: int) -> str:
        """Id of the chip of a row of the source."""
        return str(self._ids[row].as_py())

    def part(self, worker: int, workers: int) -> Iterator[Fed]:
        """What one of the workers of this rank sees of the epoch.

        Raises:
            StacchipError: a chip can't be read, unless those are skipped.
            InputError: the state loaded is that of another of the workers.
        """
        share, begun = self._share_of(self.epoch), self._beginning()
        left = np.flatnonzero(~begun.done)
        mine = left if begun.worker else part_of_worker(left, self.deal, worker, workers)
        if begun.worker and begun.worker != (worker, workers):
            raise InputError(
                "the state was saved by worker {} of {}, and is loaded by worker {} of {}; resume with as many".format(
                    *begun.worker, worker, workers
                )
            )
        progress = begun
        if workers > 1:  # all that others do counts as done
            progress = _Progress(begun.epoch, np.ones(len(share), np.bool_), (worker, workers))
            progress.done[mine] = False
        self._progress = progress
        for place, found in self._read(share, mine):
            progress.done[place] = True
            row = int(share.rows[place])
            if not isinstance(found, StacchipError):
                yield Fed(place, row, found)
            elif self._on_error == "raise":
                raise found
            else:
                logger.warning("chip %s is left out: %s", self.chip_id(row), found)

    def done(self, places: Sequence[int] | Rows) -> None:
        """Count chips as seen, where a loader's workers read them: only who asks the loader knows which it gave out."""
        if self._progress.epoch != self.epoch or self._progress.done.all():
            self._progress = self._beginning()
        self._progress.done[np.asarray(places, np.int64)] = True

    def state_dict(self) -> State:
        """Where the epoch stands, as plain JSON values: load it to see the rest of the epoch, and nothing twice."""
        now = self._progress if self._progress.epoch == self.epoch else self._beginning()
        return {**self._identity(now.epoch), "done": spans(now.done), "worker": now.worker and list(now.worker)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the epoch of a state; iterating it sees what was not done, and other epochs are whole.

        Loaders that keep their workers from epoch to epoch are to be made afterwards.

        Raises:
            InputError: it is the state of other chips, another rank or another order; says what differs.
        """
        identity = self._identity(int(state["epoch"]))
        if differing := [name for name, value in identity.items() if state.get(name) != value]:
            told = ", ".join(f"{name} was {state.get(name)!r}, is {identity[name]!r}" for name in differing)
            raise InputError(f"the state is not of this feed: {told}")
        self.set_epoch(int(state["epoch"]))
        done = from_spans(state["done"], len(self))
        worker = state["worker"] and (int(state["worker"][0]), int(state["worker"][1]))
        self._begun = _Progress(self.epoch, done, worker)
        self._progress = self._beginning()

    def _beginning(self) -> _Progress:
        """What is done of the epoch before it is begun: as loaded, all of it perhaps; else nothing."""
        if self._begun.epoch != self.epoch:
            return _Progress(self.epoch, np.zeros(len(self), np.bool_))
        return _Progress(self.epoch, self._begun.done.copy(), self._begun.worker)

    def _identity(self, epoch: int) -> State:
        """What a state must have in common with the feed that takes it."""
        deal = {name: value for name, value in asdict(self.deal).items() if name != "batch_size"}
        return {"epoch": epoch, **deal, "rows_sha256": rows_sha256(self._share_of(epoch).rows)}

    def _share_of(self, epoch: int) -> Stretch:
        if self._share is None or self._share[0] != epoch:
            order = whole_epoch(self.source.groups[self._rows], self.deal, epoch)
            rows = Stretch(self._rows[order.rows], order.windows)
            self._share = (epoch, share_of_rank(rows, self.deal))
        return self._share[1]

    def _read(self, share: Stretch, places: Rows) -> Iterator[tuple[int, Chip | StacchipError]]:
        """Chips at places of a share in order, window by window; those of a group are read together."""
        mine, groups = share[places], self.source.groups
        windows = windows_of(mine)
        tasks = (rows for window in windows for rows in _by_group(mine.rows[window], groups))
        results = read_ahead(self.source.read, tasks, self._threads)
        for window in windows:
            found: dict[int, Chip | StacchipError] = {}
            rows = [int(row) for row in mine.rows[window]]
            while len(found) < len(rows):
                found.update(next(results))
            for place, row in zip(places[window], rows, strict=True):
                yield int(place), found.pop(row)


def rows_of_split(chips: pa.Table, split: str | None) -> Rows:
    """Numbers of the rows of a split; None: of all.

    Raises:
        InputError: there are none; says which splits there are.
    """
    if split is None:
        return np.arange(chips.num_rows)
    names = chips["split"].to_pylist() if "split" in chips.column_names else []
    rows = np.flatnonzero(np.array(names, dtype=object) == split)
    if not len(rows):
        there = ", ".join(sorted({str(name) for name in names})) or "none: its spec has no split"
        raise InputError(f"no chip is in split {split!r}; there are {there}")
    return rows


def read_ahead(read: Callable[[T], R], tasks: Iterable[T], threads: int) -> Iterator[R]:
    """Results in the order of the tasks, of which `threads` are worked at while others wait to be taken."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, "read-ahead") as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(read, task))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def _by_group(rows: Rows, groups: Rows) -> list[list[int]]:
    """Rows of a window that are read together, each sorted."""
    ordered = np.sort(rows)
    ordered = ordered[np.argsort(groups[ordered], kind="stable")]
    cuts = np.flatnonzero(np.diff(groups[ordered])) + 1
    return [part.tolist() for part in np.split(ordered, cuts) if len(part)]
