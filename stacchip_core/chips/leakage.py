"""How well splits keep apart: how near chips of two splits come, and which of them show the same ground."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stacchip_core.chips.choices import SPLITS

MEAN_RADIUS_KM = 6371.0088  # of the Earth; IUGG

# Share of the smaller chip that two must have in common to count as overlapping: outlines stray up to half a pixel,
# which is 0.4 % of a chip of 256 pixels along two edges.
LEAST_OVERLAP = 0.005

_ROWS_AT_A_TIME = 512
_PAIRS_AT_A_TIME = 2_000_000  # some 50 MB
_EXAMPLES = 5


class SplitPair(BaseModel):
    """Two splits beside each other.

    Attributes:
        nearest_km: least distance between outlines of their chips; 0 where they overlap.
        overlaps: pairs of chips that show the same ground, in part or whole.
        other_dates: those of them that were taken at different times.
        examples: chip ids of some overlapping pairs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: str
    second: str
    nearest_km: float
    overlaps: int
    other_dates: int
    examples: tuple[tuple[str, str], ...]


class LeakageReport(BaseModel):
    """What could leak between splits.

    Attributes:
        chips: split -> how many.
        pairs: every two splits that have chips.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    chips: dict[str, int]
    pairs: tuple[SplitPair, ...]

    @property
    def is_clean(self) -> bool:
        """Whether no two chips of different splits overlap."""
        return not any(pair.overlaps for pair in self.pairs)


def leakage(table: pa.Table) -> LeakageReport:
    """How well the splits of a table of chips keep apart.

    Distances between middles are compared all against all, some at a time: a second for 30,000 chips, and four times as
    much for twice as many.

    Args:
        table: with `chip_id`, `datetime`, `split` and `geometry`.
    """
    names = np.asarray(table["split"].to_pylist(), dtype=object)
    chips = _Chips(table)
    held = [name for name in SPLITS if (names == name).any()]
    pairs = (_compare(chips, names, first, second) for first, second in combinations(held, 2))
    return LeakageReport(chips={name: int((names == name).sum()) for name in held}, pairs=tuple(pairs))


class _Chips:
    """Chips as arrays: ids, times, outlines, and the middle and half width of each on the sphere."""

    def __init__(self, table: pa.Table) -> None:
        self.ids = table["chip_id"].to_pylist()
        self.times = table["datetime"].to_numpy()
        self.outlines = shapely.from_wkb(table["geometry"].to_numpy())
        points, owner = shapely.get_coordinates(self.outlines, return_index=True)
        vectors = _on_sphere(points)
        sums = np.stack([np.bincount(owner, vectors[:, axis], len(self.ids)) for axis in range(3)], axis=1)
        self.middles = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        angles = np.arccos(np.clip((vectors * self.middles[owner]).sum(axis=1), -1, 1))
        self.radii = np.zeros(len(self.ids))
        np.maximum.at(self.radii, owner, angles)


def _compare(chips: _Chips, names: NDArray[np.object_], first: str, second: str) -> SplitPair:
    ones, others = (np.flatnonzero(names == name) for name in (first, second))
    overlaps = other_dates = 0
    examples: list[tuple[str, str]] = []
    for one, other in _overlapping(chips, ones, others):
        overlaps += 1
        other_dates += bool(chips.times[one] != chips.times[other])
        if len(examples) < _EXAMPLES:
            examples.append((chips.ids[one], chips.ids[other]))
    return SplitPair(
        first=first,
        second=second,
        nearest_km=0.0 if overlaps else _nearest(chips, ones, others),
        overlaps=overlaps,
        other_dates=other_dates,
        examples=tuple(examples),
    )


def _overlapping(chips: _Chips, ones: NDArray[np.int64], others: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Pairs whose outlines share ground."""
    tree = shapely.STRtree(chips.outlines[others])
    for start in range(0, len(ones), _ROWS_AT_A_TIME):
        some = ones[start : start + _ROWS_AT_A_TIME]
        left, right = tree.query(chips.outlines[some], predicate="intersects")
        a, b = chips.outlines[some[left]], chips.outlines[others[right]]
        smaller = np.minimum(shapely.area(a), shapely.area(b))
        shares = shapely.area(shapely.intersection(a, b)) >= LEAST_OVERLAP * smaller
        yield from zip(some[left[shares]].tolist(), others[right[shares]].tolist(), strict=True)


def _nearest(chips: _Chips, ones: NDArray[np.int64], others: NDArray[np.int64]) -> float:
    """Least distance between outlines, kilometres.

    No pair is nearer than its middles less both half widths: pairs are measured in the order of that bound, until it is
    above the least distance found.
    """
    best = math.inf
    step = max(1, _PAIRS_AT_A_TIME // len(others))
    for start in range(0, len(ones), step):
        some = ones[start : start + step]
        angles = np.arccos(np.clip(chips.middles[some] @ chips.middles[others].T, -1, 1))
        bounds = (angles - chips.radii[some][:, None] - chips.radii[others][None, :]) * MEAN_RADIUS_KM
        left, right = np.nonzero(bounds <= min(best, float(angles.min()) * MEAN_RADIUS_KM))
        for pair in np.argsort(bounds[left, right]):
            if bounds[left[pair], right[pair]] > best:
                break
            outlines = chips.outlines[some[left[pair]]], chips.outlines[others[right[pair]]]
            best = min(best, distance_km(*outlines))
    return best


def distance_km(one: shapely.Geometry, other: shapely.Geometry) -> float:
    """Least distance between two outlines in longitude and latitude, kilometres on a sphere.

    The nearest points are found in a plane about their latitudes, which is good for chips that are neighbours; across
    the antimeridian the other is moved there first.
    """
    lon, lat = shapely.get_coordinates(shapely.centroid(one))[0]
    shrink = max(math.cos(math.radians(lat)), 1e-9)

    def plane(points: NDArray[np.float64]) -> NDArray[np.float64]:
        east = (points[:, 0] - lon + 180) % 360 - 180
        return np.stack([east * shrink, points[:, 1]], axis=1)

    line = shapely.shortest_line(shapely.transform(one, plane), shapely.transform(other, plane))
    (x0, y0), (x1, y1) = shapely.get_coordinates(line)
    ends = _on_sphere(np.array([[x0 / shrink, y0], [x1 / shrink, y1]]))
    return float(2 * math.asin(min(1.0, float(np.linalg.norm(ends[0] - ends[1])) / 2)) * MEAN_RADIUS_KM)


def _on_sphere(points: NDArray[np.float64]) -> NDArray[np.float64]:
    lon, lat = np.radians(points).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
