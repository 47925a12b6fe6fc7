"""How items lie in a file: near each other where they are near on the ground, in row groups of even length."""

from __future__ import annotations

import numpy as np
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


def _cells(share: NDArray[np.float64], side: np.int64) -> NDArray[np.int64]:
    return np.clip(np.floor(np.nan_to_num(share) * side), 0, side - 1).astype(np.int64)


def row_groups(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Row group of each of some items that have `rows` rows: none split, the groups as equal as whole items allow.

    Groups are numbered as they are written: a group that no item begins in, as after a very large one, does not count.

    Args:
        rows: shape (n,), in the order of the file.
        most: rows of a group, up to those of the item that it ends with.
    """
    count = max(1, -(-int(rows.sum()) // most))
    share = (np.cumsum(rows) - rows) * count // max(1, int(rows.sum()))
    return np.searchsorted(np.unique(share[rows > 0]), share)
