"""Major TOM's grid: names of ground cells that are the same whatever the sensor.

Source: Francis and Czerkawski, "Major TOM: Expandable Datasets for Earth Observation" (2024), and the grid published
with it: rows every `dist` km from pole to pole, each row divided into whole cells of at most `dist` km, both counted
from (0, 0), cells named by their lower left corner. There the rows end at 85 degrees; here they go on to the poles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_KM = 6378.137  # as in Major TOM; semi-major axis of WGS 84
CELL_KM = 10.0


def grid_cells(lon: NDArray[np.float64], lat: NDArray[np.float64], cell_km: float = CELL_KM) -> NDArray[np.object_]:
    """Names such as "495U_51R" of the cells that hold points, shape (n,); None where a point is NaN.

    Args:
        lon: degrees, -180 to 180, shape (n,).
        lat: degrees, -90 to 90, shape (n,).
        cell_km: side of a cell; "10 km" is Major TOM's.
    """
    is_known = ~(np.isnan(lon) | np.isnan(lat))
    rows = _row_of(np.where(is_known, lat, 0.0), cell_km)
    cols = _col_of(np.where(is_known, lon, 0.0), rows, cell_km)
    names = [
        f"{abs(row)}{'U' if row >= 0 else 'D'}_{abs(col)}{'R' if col >= 0 else 'L'}"
        for row, col in zip(rows.tolist(), cols.tolist(), strict=True)  # text is made one by one
    ]
    result = np.array(names, dtype=object)
    result[~is_known] = None
    return result


def parse_cells(names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of cells by their names, shape (n,) each: inverse of the naming in `grid_cells`."""
    pairs = [name.split("_") for name in names]
    rows = [int(row[:-1]) * (1 if row[-1] == "U" else -1) for row, _ in pairs]
    cols = [int(col[:-1]) * (1 if col[-1] == "R" else -1) for _, col in pairs]
    return np.array(rows, dtype=np.int64), np.array(cols, dtype=np.int64)


def cell_bounds(
    rows: NDArray[np.int64], cols: NDArray[np.int64], cell_km: float = CELL_KM
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """West, south, east and north of cells, degrees; the last column of a row reaches past 180 or -180."""
    height, width = _row_step(cell_km), 360.0 / _col_count(rows, cell_km)
    sides = (cols * width, rows * height, (cols + 1) * width, (rows + 1) * height)
    west, south, east, north = (side.astype(np.float64) for side in sides)
    return west, south, east, north


def cells_under(
    bounds: NDArray[np.float64], cell_km: float = CELL_KM
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All cells that boxes touch: number of the box, row and column of the cell, one entry a pair.

    Args:
        bounds: west, south, east, north in degrees, -180 to 180, shape (n, 4).
        cell_km: side of a cell.
    """
    west, south, east, north = bounds.T
    first, last = _row_of(south, cell_km), _row_of(north, cell_km)
    box, rows = _ranges(first, last)
    left, right = (_col_of(side[box], rows, cell_km) for side in (west, east))
    # A box that starts at -180 starts in the cell across it, whose number may be the lowest or the highest.
    line, cols = _ranges(np.minimum(left, right), np.maximum(left, right))
    return box[line], rows[line], cols


def _row_step(cell_km: float) -> float:
    return 180.0 / math.ceil(math.pi * EARTH_RADIUS_KM / cell_km)


def _row_of(lat: NDArray[np.float64], cell_km: float) -> NDArray[np.int64]:
    rows = _last_below(lat, np.full_like(lat, _row_step(cell_km)))
    return np.maximum(rows, -(math.ceil(math.pi * EARTH_RADIUS_KM / cell_km) // 2))


def _col_of(lon: NDArray[np.float64], rows: NDArray[np.int64], cell_km: float) -> NDArray[np.int64]:
    count = _col_count(rows, cell_km)
    cols = _last_below(lon, 360.0 / count)
    # West of the first column lies the last one, which reaches past 180.
    return np.where(cols < -(count // 2), -(-count // 2) - 1, cols)


def _col_count(rows: NDArray[np.int64], cell_km: float) -> NDArray[np.int64]:
    radius = EARTH_RADIUS_KM * np.cos(np.radians(rows * _row_step(cell_km)))
    count: NDArray[np.int64] = np.ceil(2 * np.pi * radius / cell_km).astype(np.int64).clip(1)
    return count


def _last_below(value: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.int64]:
    """Largest k with k * step < value: a point on a line belongs to the cell below it, as in Major TOM."""
    k = np.ceil(value / step).astype(np.int64) - 1
    k -= k * step >= value
    k += (k + 1) * step < value
    return k


def _ranges(first: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Whole numbers first..last of each pair, one after the other, and which pair each is of."""
    counts = last - first + 1
    owner = np.repeat(np.arange(len(first)), counts)
    starts = np.cumsum(counts) - counts
    return owner, np.arange(int(counts.sum())) - starts[owner] + first[owner]
