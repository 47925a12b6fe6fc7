"""Datasets and streams as PyTorch reads them. torch is imported when one is made, and is no dependency."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal

import numpy as np

from stacchip_core.chips.epoch import Deal, Rows
from stacchip_core.chips.feed import Chip, Feed, Source, State, rows_of_split
from stacchip_core.chips.shards import row_of
from stacchip_core.errors import InputError, StacchipError

Sample = dict[str, Any]  # band -> tensor (layers, height, width), and what tells the chip
Transform = Callable[[Sample], Any]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of the chips of an epoch.

    Attributes:
        split: the chips of this split alone; None: of all.
        on_error: whether a chip that can't be read is raised, or left out with a line in the log.
        threads: places read ahead, each by a thread of the process.
        transform: makes of a sample what the loader gets.
    """

    split: str | None = None
    on_error: Literal["raise", "skip"] = "raise"
    threads: int = 2
    transform: Transform | None = None


class ChipsByRow:
    """Map-style dataset: sample i is chip i of a split, for torch's own samplers."""

    def __init__(self, source: Source, split: str | None = None, transform: Transform | None = None) -> None:
        """Take the chips of a split.

        Raises:
            InputError: there are none, or torch is not installed.
        """
        _torch()
        self._source, self._transform = source, transform
        self._rows = rows_of_split(source.chips, split)
        self._ids = source.chips["chip_id"].combine_chunks()

    def __len__(self) -> int:
        """Number of chips."""
        return len(self._rows)

    def __getitem__(self, place: int) -> Any:
        """A sample: band -> tensor, and `chip_id`."""
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Iterable[int]) -> list[Any]:
        """The samples of a batch: torch asks for all at once, so that chips of one place are read together."""
        rows = [int(self._rows[row_of(place, len(self), "dataset")]) for place in places]
        found: dict[int, Chip | StacchipError] = {}
        groups: Rows = self._source.groups
        for group in dict.fromkeys(groups[rows].tolist()):
            found |= self._source.read(sorted({row for row in rows if groups[row] == group}))
        return [self._sample(row, found[row]) for row in rows]

    def _sample(self, row: int, chip: Chip | StacchipError) -> Any:
        if isinstance(chip, StacchipError):
            raise chip
        return _transformed({"chip_id": self._ids[row].as_py(), **_tensors(chip)}, self._transform)


class ChipsByEpoch:
    """Iterable dataset, dealt to ranks and a loader's workers; see `Deal`, and `Feed` for resuming."""

    def __init__(self, source: Source, deal: Deal | None, wish: Wish) -> None:
        """Take a source; without a deal, rank and world size are those of torch.distributed where that runs.

        Raises:
            InputError: no chip is of the split, or torch is not installed.
        """
        torch = _torch()
        self._transform = wish.transform
        feed = Feed(source, deal or _deal_here(), split=wish.split, on_error=wish.on_error, threads=wish.threads)
        feed.keep_epoch_in(torch.zeros(1, dtype=torch.int64).share_memory_())  # workers that are kept see it too
        self.feed = feed

    def __len__(self) -> int:
        """Chips of an epoch for this rank, as many as for each other."""
        return len(self.feed)

    def __iter__(self) -> Iterator[Any]:
        """Samples of this worker: band -> tensor, `chip_id`, and `place`, which `done` takes."""
        worker = import_module("torch.utils.data").get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        for place, row, chip in self.feed.part(number, count):
            sample = {"chip_id": self.feed.chip_id(row), "place": place, **_tensors(chip)}
            yield _transformed(sample, self._transform)

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch; call it before each."""
        self.feed.set_epoch(epoch)

    def done(self, places: Any) -> None:
        """Count chips as seen, by the `place` of their samples: with workers, after each batch."""
        self.feed.done(np.asarray(places, np.int64))

    def state_dict(self) -> State:
        """Where the epoch stands."""
        return self.feed.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; make the loader afterwards."""
        self.feed.load_state_dict(state)


def by_row(source: Source, *, split: str | None = None, transform: Transform | None = None) -> Any:
    """A `torch.utils.data.Dataset` of a dataset or a stream.

    Raises:
        InputError: no chip is of the split, or torch is not installed.
    """
    return _dataset_class()(source, split, transform)


def by_epoch(source: Source, deal: Deal | None = None, wish: Wish | None = None) -> Any:
    """A `torch.utils.data.IterableDataset` of a dataset or a stream.

    Raises:
        InputError: no chip is of the split, or torch is not installed.
    """
    return _iterable_class()(source, deal, wish or Wish())


def __getattr__(name: str) -> Any:
    """The classes that need torch, where a worker process looks them up to unpickle one (PEP 562)."""
    if name in (made := {"TorchDataset": _dataset_class, "TorchIterable": _iterable_class}):
        return made[name]()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _dataset_class() -> Any:
    base = _torch().utils.data.Dataset
    return type("TorchDataset", (ChipsByRow, base), {"__module__": __name__, "__doc__": ChipsByRow.__doc__})


@cache
def _iterable_class() -> Any:
    base = _torch().utils.data.IterableDataset
    return type("TorchIterable", (ChipsByEpoch, base), {"__module__": __name__, "__doc__": ChipsByEpoch.__doc__})


def _torch() -> Any:
    try:
        import_module("torch.utils.data")
        return import_module("torch")
    except ImportError as err:
        raise InputError("PyTorch is not installed here: pip install torch") from err


def _deal_here() -> Deal:
    """Rank and world size of the process group that this process is in, if there is one."""
    distributed = _torch().distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return Deal()
    return Deal(rank=distributed.get_rank(), world_size=distributed.get_world_size())


def _tensors(chip: Chip) -> Sample:
    torch = _torch()
    return {band: torch.from_numpy(np.ascontiguousarray(pixels)) for band, pixels in chip.items()}


def _transformed(sample: Sample, transform: Transform | None) -> Any:
    return sample if transform is None else transform(sample)
