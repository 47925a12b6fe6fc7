"""Train, validation and test: which chip goes where, by its place on the ground alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from stacchip_core.chips.choices import SPLITS, SplitSpec
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.errors import SpecError
from stacchip_core.index.cells import CELL_KM, EARTH_RADIUS_KM, cell_bounds, cells_under, parse_cells

SPLIT = "split"  # the column

# At 4 chips a block, 6 % of the chips reach over an edge of theirs; at 1, half of them would.
_CHIPS_A_BLOCK = 4


def with_split(rows: pa.Table, spec: ChipSpec) -> pa.Table:
    """Rows with their split after the chip id, without those that belong to none.

    A chip's split is that of the block of ground its `grid_cell` lies in, so that it never depends on other chips. With
    the buffer, a chip whose outline reaches into a block of another split is left out, whether or not a chip is there:
    so no chip is let go later because an index grew, and no two of different splits can overlap.
    """
    if spec.split is None:
        return rows
    split = spec.split
    if split.by == "chip":
        names = shared_out([f"chip/{chip_id}" for chip_id in rows["chip_id"].to_pylist()], split)
    else:
        cells = rows["grid_cell"].to_pylist()
        names = splits_of(cells, split)
        if split.buffer:
            names[_reaches_over(rows, names, split)] = None
    found = rows.add_column(1, SPLIT, pa.array(names, pa.string()))
    return found.filter(found[SPLIT].is_valid())


def splits_of(cells: Sequence[str | None], split: SplitSpec) -> NDArray[np.object_]:
    """Split of each 10 km cell: that of its block; None where a chip has no cell."""
    names = np.full(len(cells), None, dtype=object)
    known = np.array([cell is not None for cell in cells], dtype=bool)
    distinct, places = np.unique([cell for cell in cells if cell is not None], return_inverse=True)
    if known.any():
        blocks = blocks_of(*parse_cells(distinct.tolist()), split.split_km)
        names[known] = shared_out([f"block/{split.split_km}/{block}" for block in blocks], split)[places]
    return names


def blocks_of(rows: NDArray[np.int64], cols: NDArray[np.int64], split_km: int) -> list[str]:
    """Names of the blocks of about `split_km` that cells lie in, by the cells' rows and columns.

    A block is so many rows of cells, and of each row those whose middle lies in one of its equal parts of the circle.
    """
    steps = round(split_km / CELL_KM)
    block_rows = rows // steps
    west, south, east, north = cell_bounds(rows, cols)
    row_height = (north - south) * steps
    latitude = np.clip((block_rows + 0.5) * row_height, -90, 90)
    around = np.maximum(1, np.rint(2 * np.pi * EARTH_RADIUS_KM * np.cos(np.radians(latitude)) / split_km)).astype(int)
    middle = np.mod((west + east) / 2 + 180, 360)
    block_cols = np.floor(middle / 360 * around).astype(int)
    return [f"{row}/{col}" for row, col in zip(block_rows.tolist(), block_cols.tolist(), strict=True)]


def shared_out(names: Sequence[str], split: SplitSpec) -> NDArray[np.object_]:
    """Split of each name: a hash keyed by the seed, against the shares."""
    keyed = hashlib.blake2b(digest_size=8, key=split.seed.to_bytes(8, "big"))
    digests = []
    for name in names:  # no array form of a keyed hash that is the same everywhere
        one = keyed.copy()
        one.update(name.encode())
        digests.append(one.digest())
    hashes = np.frombuffer(b"".join(digests), ">u8").astype(np.float64) / 2.0**64
    shares = np.cumsum([getattr(split, name) for name in SPLITS])
    places = np.searchsorted(shares / shares[-1], hashes, side="right")
    last = max(place for place, name in enumerate(SPLITS) if getattr(split, name) > 0)
    return np.array(SPLITS, dtype=object)[np.minimum(places, last)]


def check_split(table: pa.Table, spec: ChipSpec) -> None:
    """Refuse blocks that are too small for the chips.

    Raises:
        SpecError: names the collection, and the least `split_km`.
    """
    if spec.split is None or spec.split.by == "chip" or table.num_rows == 0:
        return
    sides = table["size_px"].to_numpy() * table["gsd_m"].to_numpy().astype(np.float64) / 1000
    largest = int(np.argmax(sides))
    least = -(-round(_CHIPS_A_BLOCK * float(sides[largest]), 3) // CELL_KM) * CELL_KM
    if spec.split.split_km < least:
        raise SpecError(
            f"chip spec {spec.name!r}: split.split_km {spec.split.split_km} is less than {_CHIPS_A_BLOCK} times the "
            f"chips of {table['collection'][largest]}, which are {sides[largest]:.4g} km wide; take {least:g} or more"
        )


def empty_splits(table: pa.Table, spec: ChipSpec) -> list[str]:
    """Splits that have a share and got no chip."""
    if spec.split is None:
        return []
    held = set(table[SPLIT].unique().to_pylist())
    return [name for name in SPLITS if getattr(spec.split, name) > 0 and name not in held]


def _reaches_over(rows: pa.Table, names: NDArray[np.object_], split: SplitSpec) -> NDArray[np.bool_]:
    """Which chips' outlines meet a cell of another split."""
    outlines = shapely.from_wkb(rows["geometry"].to_numpy())
    parts, owner = shapely.get_parts(outlines, return_index=True)
    place, cell_rows, cell_cols = cells_under(shapely.bounds(parts))
    pairs, inverse = np.unique(np.stack([cell_rows, cell_cols], axis=1), axis=0, return_inverse=True)
    blocks = blocks_of(pairs[:, 0], pairs[:, 1], split.split_km)
    under = shared_out([f"block/{split.split_km}/{block}" for block in blocks], split)[inverse.ravel()]
    is_foreign = np.flatnonzero(under != names[owner[place]])
    west, south, east, north = cell_bounds(cell_rows[is_foreign], cell_cols[is_foreign])
    meets = np.zeros(len(is_foreign), dtype=bool)
    for turn in (-360, 0, 360):  # the last cell of a row reaches past 180
        meets |= shapely.intersects(parts[place[is_foreign]], shapely.box(west + turn, south, east + turn, north))
    result = np.zeros(len(names), dtype=bool)
    result[owner[place[is_foreign[meets]]]] = True
    return result
