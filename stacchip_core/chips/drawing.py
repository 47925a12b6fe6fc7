"""The seeded draw: of the rows that meet a spec's conditions, those that are taken, and their order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import shapely

from stacchip_core.chips.area import Area
from stacchip_core.chips.conditions import Condition, all_of, boxes
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.chips.splits import with_split

_DRAW = "__draw"  # the seeded hash, while rows are being drawn
_PRUNE_ROWS = 20_000  # rows gathered beyond twice what was kept before the surplus is let go


def draw(dataset: ds.Dataset, wanted: Sequence[Condition], spec: ChipSpec, area: Area | None = None) -> pa.Table:
    """Rows that meet the conditions, by ascending keyed hash, at most `limit` of them.

    In this order: the conditions and the area; the split's buffer, so that what it leaves out uses up no cap;
    `per_item` chips of each item, those with the smallest hashes; of these `per_cell` of each collection and cell; of
    these `limit`. So when an index grows, new chips displace old ones and bring none back.

    The index is read once, in batches; beside some batches, only rows that may still be taken are in memory: at most
    `limit`, or where there is a cap, `per_item` a chosen item (or `per_cell` a cell).
    """
    shapes = _shapes(spec, area)
    gathered = _Gathered(spec)
    for batch in dataset.to_batches(filter=all_of(wanted), batch_readahead=4, fragment_readahead=2):
        rows = pa.Table.from_batches([batch])
        for shape in shapes:
            rows = _within(rows, shape)
        rows = with_split(rows, spec) if rows.num_rows else rows
        if rows.num_rows:
            gathered.add(rows.append_column(_DRAW, pa.array(keyed_hashes(rows["chip_id"].to_pylist(), spec.seed))))
    taken = gathered.taken()
    return with_split(dataset.schema.empty_table(), spec) if taken is None else taken.drop_columns([_DRAW])


def keyed_hashes(chip_ids: Sequence[str], seed: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """One number per chip id, uniform and independent for different seeds: BLAKE2b keyed by the seed."""
    keyed = hashlib.blake2b(digest_size=8, key=seed.to_bytes(8, "big"))
    digests = []
    for chip_id in chip_ids:  # no array form of a keyed hash that is the same everywhere; about a microsecond each
        one = keyed.copy()
        one.update(chip_id.encode())
        digests.append(one.digest())
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


@dataclass(slots=True)
class _Gathered:
    """Rows that may still be taken."""

    spec: ChipSpec
    tables: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    kept: int = 0

    def add(self, rows: pa.Table) -> None:
        self.tables.append(rows)
        self.rows += rows.num_rows
        is_capped = (self.spec.limit, self.spec.per_item, self.spec.per_cell) != (None, None, None)
        if is_capped and self.rows > 2 * self.kept + _PRUNE_ROWS:
            self.tables = [self._pruned()]
            self.rows = self.kept = self.tables[0].num_rows

    def taken(self) -> pa.Table | None:
        """What is taken in the end, in its order; None where nothing was added."""
        if not self.tables:
            return None
        rows = _best_of(_sorted(pa.concat_tables(self.tables)), ("collection", "item_id"), self.spec.per_item)
        return _best_of(rows, ("collection", "grid_cell"), self.spec.per_cell)[: self.spec.limit]

    def _pruned(self) -> pa.Table:
        """Without rows that no later row can bring in: the first cap alone may be applied before the end."""
        rows = _sorted(pa.concat_tables(self.tables))
        if self.spec.per_item is not None:
            return _best_of(rows, ("collection", "item_id"), self.spec.per_item)
        if self.spec.per_cell is not None:
            return _best_of(rows, ("collection", "grid_cell"), self.spec.per_cell)
        return rows[: self.spec.limit]


def _sorted(rows: pa.Table) -> pa.Table:
    order = pc.sort_indices(rows, sort_keys=[(_DRAW, "ascending"), ("chip_id", "ascending")])
    return rows.combine_chunks().take(order)


def _best_of(rows: pa.Table, group: tuple[str, str], most: int | None) -> pa.Table:
    """The first `most` rows of each group, in the order of the rows; all where there is no cap."""
    if most is None:
        return rows
    groups = np.zeros(rows.num_rows, dtype=np.int64)
    for name in group:
        codes = rows[name].combine_chunks().dictionary_encode(null_encoding="encode").indices.to_numpy()
        groups = np.unique(groups * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True)[1]
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    ranks = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    is_taken = np.zeros(len(order), dtype=bool)
    is_taken[order] = ranks < most
    return rows.filter(pa.array(is_taken))


def _shapes(spec: ChipSpec, area: Area | None) -> list[shapely.Geometry]:
    """What outlines must meet, each of them."""
    found = [] if area is None else [area.shape]
    if spec.bbox is not None:
        found.append(shapely.union_all([shapely.box(*box) for box in boxes(spec.bbox)]))
    for shape in found:
        shapely.prepare(shape)
    return found


def _within(rows: pa.Table, shape: shapely.Geometry) -> pa.Table:
    """Rows whose outline meets a shape."""
    if rows.num_rows == 0:
        return rows
    return rows.filter(pa.array(shapely.intersects(shape, shapely.from_wkb(rows["geometry"].to_numpy()))))
