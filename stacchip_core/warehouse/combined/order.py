"""How items lie in a file: near each other where they are near on the ground, in row groups of even length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

BITS = 16  # 65 536 cells along each axis: 600 m of longitude at the equator


def hilbert_order(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.int64]:
    """Distance along a Hilbert curve over the globe, shape (n,), of points in degrees, shape (n,).

    The curve is walked from the coarsest bit down: at each level the quadrant gives two bits of the distance, and the
    rest is mirrored into that quadrant's orientation (Hilbert 1891).
    """
    side = np.int64(1) << BITS
    x = _cells((lon + 180.0) / 360.0, side)
    y = _cells((lat + 90.0) / 180.0, side)
    distance = np.zeros(len(x), np.int64)
    for bit in range(BITS - 1, -1, -1):
        step = np.int64(1) << bit
        right, upper = (x & step) > 0, (y & step) > 0
        distance += step * step * ((3 * right) ^ upper)
        is_flipped = right & ~upper
        x, y = np.where(is_flipped, side - 1 - x, x), np.where(is_flipped, side - 1 - y, y)
        x, y = np.where(upper, x, y), np.where(upper, y, x)
    return distance


def in_hilbert_order(items: pa.Table, ties: Sequence[str]) -> pa.Table:
    """Item rows by the centre of their `bbox` along the curve, then by the columns `ties`."""
    boxes = items["bbox"].combine_chunks()
    sides = {side: boxes.field(side).to_numpy(zero_copy_only=False) for side in ("xmin", "ymin", "xmax", "ymax")}
    lon, lat = (sides["xmin"] + sides["xmax"]) / 2, (sides["ymin"] + sides["ymax"]) / 2
    with_place = items.append_column("place", pa.array(hilbert_order(lon, lat)))
    return with_place.sort_by([(name, "ascending") for name in ("place", *ties)]).drop_columns(["place"])


def _cells(share: NDArray[np.float64], side: np.int64) -> NDArray[np.int64]:
    return np.clip(np.floor(np.nan_to_num(share) * side), 0, side - 1).astype(np.int64)


def row_groups(rows: NDArray[np.int64], least: int) -> NDArray[np.int64]:
    """Row group of each of some items that have `rows` rows: none split, the groups as equal as whole items allow.

    Groups hold about `least` rows to twice as many; all rows are one group where they are fewer. They are numbered as
    they are written: a group that no item begins in, as after a very large one, does not count.

    Args:
        rows: shape (n,), in the order of the file.
        least: rows of a group, more or less half an item.
    """
    total = int(rows.sum())
    middle = np.cumsum(rows) - (rows + 1) // 2  # an item goes where its middle row is
    share = middle * max(1, total // least) // max(1, total)
    return np.searchsorted(np.unique(share[rows > 0]), share)
