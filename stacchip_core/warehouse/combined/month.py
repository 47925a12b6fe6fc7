"""One month of a collection on its way into a combined index: which parts stay, and which are written anew."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse.combined.compaction import FULL_BYTES, excess, is_due, parts_for
from stacchip_core.warehouse.combined.gather import ChipFiles
from stacchip_core.warehouse.combined.order import in_hilbert_order
from stacchip_core.warehouse.combined.parts import (
    KEPT,
    PLACED,
    POINTER,
    ItemRows,
    Part,
    PartWriter,
    copied_items,
    read_part_items,
)
from stacchip_core.warehouse.combined.stac_items import OWN, stac_table
from stacchip_core.warehouse.data import Columns
from stacchip_core.warehouse.entry import FileInfo
from stacchip_core.warehouse.items import IDENTITY, LIGHT, empty_rows, stamped
from stacchip_core.warehouse.manifest import Manifest

_GROWTH = 1.2  # a part that is written for its dead rows takes new ones up to this share of its bytes
_ITEM_BYTES = 2_000  # of an item in an items file, for estimates: its JSON of some 20 kB, compressed beside its like
_SLICE_ITEMS = 512  # items whose JSON is in memory at a time: some 100 MB

Mask = NDArray[np.bool_]


class StrayItemsError(CorruptWarehouseError):
    """Items that the collection's log has replaced are not in the parts that should hold them."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows that end up together: the live ones of some parts, and new ones.

    Attributes:
        parts: numbers of the parts.
        fresh: which of the new rows, shape (n,).
        size: bytes that they will take, more or less.
        is_kept: a part that stays as it is.
    """

    parts: tuple[int, ...]
    fresh: Mask
    size: int
    is_kept: bool = False

    def joined(self, other: _Run) -> _Run:
        """Both as one."""
        return _Run((*self.parts, *other.parts), self.fresh | other.fresh, self.size + other.size)


@dataclass(frozen=True)
class Month:
    """What a version of a combined index holds of one collection and month, and what has changed since.

    Attributes:
        manifest: the collection, at the version that is merged.
        month: "YYYY-MM".
        parts: of the present version.
        new: light item rows, with `version`, that are not in them yet; None: none.
        gone: columns of `IDENTITY` of items whose rows in the parts are dead; None: none.
        columns: carried properties of the next version.
    """

    manifest: Manifest
    month: str
    parts: tuple[Part, ...]
    new: pa.Table | None
    gone: pa.Table | None
    columns: Columns

    @property
    def is_touched(self) -> bool:
        """Whether items have come, changed or gone."""
        return self.new is not None or self.gone is not None

    @property
    def is_written(self) -> bool:
        """Whether anything has to be written: also a part that lacks columns of the next version."""
        return self.is_touched or any(map(self._is_outdated, self.parts))

    @property
    def key(self) -> tuple[object, ...]:
        """What decides the result, beside the versions of the collection."""
        return self.month, tuple(part.items.path for part in self.parts), self.columns

    @property
    def open_sizes(self) -> list[int]:
        """Bytes of the parts that are not full."""
        return [part.size for part in self.parts if part.size < FULL_BYTES]

    def written(self, folder: str, stem: str) -> tuple[Part, ...]:
        """The parts of the next version, of which those that are new have been written to `folder`.

        Raises:
            StrayItemsError: rows that should be dead are in no part.
        """
        runs, parts = self._runs(), list[Part]()
        for number, run in enumerate(runs):
            parts.extend([self.parts[run.parts[0]]] if run.is_kept else self._write(run, folder, f"{stem}-{number}"))
        return tuple(parts)

    # --- what is written

    def _runs(self) -> list[_Run]:
        """Each part by itself, new rows where there is room or by themselves; or all that is not full as one."""
        runs = [self._run_of(number) for number in range(len(self.parts))]
        left = ~reduce(np.logical_or, (run.fresh for run in runs), np.zeros(len(self._fresh), bool))
        if left.any():
            runs = self._with_new(runs, _Run((), left, self._bytes_of(left)))
        opened = [run for run in runs if run.size < FULL_BYTES]
        if not is_due([run.size for run in opened], is_touched=self.is_touched):
            return runs
        return [*(run for run in runs if run.size >= FULL_BYTES), reduce(_Run.joined, opened)]

    def _run_of(self, number: int) -> _Run:
        """A part, without its dead rows, and with what took their place."""
        part, dead = self.parts[number], self._dead.get(number)
        if dead is None:
            nothing = np.zeros(len(self._fresh), bool)
            return _Run((number,), nothing, part.size, is_kept=not self._is_outdated(part))
        back = self._came_from == number
        return _Run((number,), back, int(part.size * (1 - dead.mean())) + self._bytes_of(back))

    def _with_new(self, runs: list[_Run], new: _Run) -> list[_Run]:
        """New rows in a part that is written anyway, if one has room; else by themselves."""
        room = [0 if run.is_kept else _GROWTH * self.parts[run.parts[0]].size - run.size for run in runs]
        best = int(np.argmax(room)) if room else 0
        if not room or room[best] < new.size:
            return [*runs, new]
        return [run.joined(new) if number == best else run for number, run in enumerate(runs)]

    def _is_outdated(self, part: Part) -> bool:
        return part.data is not None and part.data.columns != self.columns

    def _bytes_of(self, chosen: Mask) -> int:
        """What new rows will take, more or less."""
        rows = self._fresh.filter(pa.array(chosen))
        per_chip = {path: info.size / info.rows for path, info in self._known.items()}
        placed = rows.filter(pc.is_valid(rows["file"])).group_by("file").aggregate([("rows", "sum")]).to_pylist()
        return int(len(rows) * _ITEM_BYTES + sum(one["rows_sum"] * per_chip.get(one["file"], 0) for one in placed))

    @cached_property
    def _fresh(self) -> pa.Table:
        """New rows in the order that their JSON is read in."""
        rows = stamped(empty_rows(LIGHT), 0) if self.new is None else self.new
        return rows.sort_by([(name, "ascending") for name in ("version", *IDENTITY)]).combine_chunks()

    @cached_property
    def _known(self) -> dict[str, FileInfo]:
        """Data files of the collection that new rows point to, by path."""
        paths = pc.unique(self._fresh["file"].drop_null()).to_pylist()
        return self.manifest.data_files(paths) if paths else {}

    @cached_property
    def _gone_rows(self) -> pa.Table:
        """Where the dead rows are: columns of `IDENTITY`, number of the part, and place in it."""
        rows = empty_rows(IDENTITY)
        found = [rows.append_column("part", pa.array([], pa.int64())).append_column("place", pa.array([], pa.int64()))]
        for number, part in enumerate(self.parts if self.gone is not None else ()):
            rows = read_part_items(self.manifest.store, part.items, IDENTITY)
            rows = rows.append_column("part", pa.array(np.full(len(rows), number)))
            rows = rows.append_column("place", pa.array(np.arange(len(rows))))
            found.append(rows.join(self.gone, list(IDENTITY), join_type="left semi"))
        gone = pa.concat_tables(found)
        if self.gone is not None and len(gone) != len(self.gone):
            raise StrayItemsError(
                f"collection {self.manifest.name!r}: {len(self.gone)} items of {self.month} were replaced or deleted, "
                f"{len(gone)} of them are in the combined index"
            )
        return gone

    @cached_property
    def _dead(self) -> dict[int, Mask]:
        """Which rows of a part are dead, shape (n,), for parts that have such rows."""
        part, place = self._gone_rows["part"].to_numpy(), self._gone_rows["place"].to_numpy()
        numbers = np.unique(part).tolist()
        return {n: np.isin(np.arange(self.parts[n].items.rows), place[part == n]) for n in numbers}

    @cached_property
    def _came_from(self) -> NDArray[np.int64]:
        """Number of the part that held the form before of each new row, shape (n,); -1: none."""
        rows = self._fresh.select(list(IDENTITY)).append_column("order", pa.array(np.arange(len(self._fresh))))
        found = rows.join(self._gone_rows.select([*IDENTITY, "part"]), list(IDENTITY)).sort_by("order")
        numbers: NDArray[np.int64] = found["part"].fill_null(-1).to_numpy()
        return numbers

    # --- writing

    def _write(self, run: _Run, folder: str, stem: str) -> list[Part]:
        """Write a run, as several parts where it is large."""
        with tempfile.TemporaryDirectory(prefix="stacchip-") as local:
            items = ItemRows(Path(local), self._item_tables(run))
            rows = pa.concat_tables([empty_rows(PLACED), *self._placed(run)])
            rows = in_hilbert_order(rows.append_column("number", pa.array(np.arange(len(rows)))), IDENTITY)
            copied = {part.data.path: part.data for part in map(self.parts.__getitem__, run.parts) if part.data}
            draft = FileInfo(
                "",
                "data",
                0,
                "",
                0,
                collection=self.manifest.name,
                month=self.month,
                columns=self.columns,
                collection_id=self.manifest.collection,
            )
            chips = ChipFiles(self.manifest.store, self._known | copied)
            writer = PartWriter(self.manifest.store, folder, stem, draft, chips, items)
            return [writer.write(own, number) for number, own in enumerate(_split(rows, parts_for(run.size)))]

    def _placed(self, run: _Run) -> Iterator[pa.Table]:
        """Where the chips of the run's items are: live rows of its parts, then new ones."""
        for number in run.parts:
            rows = read_part_items(self.manifest.store, self.parts[number].items, PLACED)
            yield rows.filter(pa.array(self._is_live(number)))
        for light in self._slices(run):
            yield light.select(list(PLACED))

    def _item_tables(self, run: _Run) -> Iterator[pa.Table]:
        """The same items in the same order, as stac-geoparquet; new ones are converted from their JSON."""
        for number in run.parts:
            yield from copied_items(self.manifest.store, self.parts[number], self._is_live(number))
        own = [name for name in KEPT if name not in POINTER]
        for light in self._slices(run):
            found = self.manifest.rows_of(light, ["item", *own])
            if len(found) != len(light):
                raise CorruptWarehouseError(f"items of collection {self.manifest.name!r} are missing from its files")
            table = stac_table([json.loads(text) for text in found["item"].to_pylist()])
            for name in own:
                table = table.append_column(OWN + name, found[name])
            yield table

    def _slices(self, run: _Run) -> Iterator[pa.Table]:
        """New rows, as many at a time as may be in memory with their JSON, each slice in the order of identity."""
        rows = self._fresh.filter(pa.array(run.fresh))
        for start in range(0, len(rows), _SLICE_ITEMS):
            yield rows.slice(start, _SLICE_ITEMS).sort_by([(name, "ascending") for name in IDENTITY])

    def _is_live(self, number: int) -> Mask:
        dead = self._dead.get(number)
        return np.ones(self.parts[number].items.rows, bool) if dead is None else ~dead


def settling(months: Sequence[Month], most: int) -> list[str]:
    """Months that nothing touches any more and whose parts become one: those with most beside the biggest."""
    due = [month for month in months if not month.is_written and is_due(month.open_sizes, is_touched=False)]
    return [month.month for month in sorted(due, key=lambda month: -excess(month.open_sizes))[:most]]


def _split(rows: pa.Table, count: int) -> list[pa.Table]:
    """Rows as `count` tables of like bytes, fewer where there are no more items; none empty."""
    weight = rows["rows"].to_numpy() + 1
    share = (np.cumsum(weight) - weight) * count // max(1, int(weight.sum()))
    starts: list[int] = np.flatnonzero(np.diff(share, prepend=-1)).tolist()
    if not starts:
        return []
    return [rows.slice(a, b - a) for a, b in zip(starts, [*starts[1:], len(rows)], strict=True)]
