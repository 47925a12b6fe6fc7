"""From a QA mask to the share of nodata, cloud, shadow, snow and water in every chip, exactly and in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stacchip_core.index.grid import ChipGrid
from stacchip_core.sources.profiles import BitField, QaRule
from stacchip_core.sources.raster import Ratio

Flags = NDArray[np.uint8]
Counts = NDArray[np.int64]

CLASSES = ("nodata", "cloud", "shadow", "snow", "water")
NODATA = np.uint8(1)

# Pixel counts of all classes ride in one 64-bit number, 12 bits each, so that a column of pixels is summed once for all
# of them. A lane holds 4095, hence the most rows that may be summed before the lanes are unpacked.
_LANE_BITS = 12
MAX_ROWS = 2**_LANE_BITS - 1
_LANES = np.array(
    [sum(((flag >> k) & 1) << (_LANE_BITS * k) for k in range(len(CLASSES))) for flag in range(2 ** len(CLASSES))],
    dtype=np.uint64,
)


@dataclass(frozen=True, slots=True)
class Fractions:
    """Shares per chip, shape (rows, columns) of chips, float32; NaN where the rule can't tell or no pixel is valid."""

    nodata: NDArray[np.float32]
    cloud: NDArray[np.float32]
    shadow: NDArray[np.float32]
    snow: NDArray[np.float32]
    water: NDArray[np.float32]


def classify(values: NDArray[Any], rule: QaRule) -> Flags:
    """What each QA value means: bit k set where it belongs to `CLASSES[k]`; a nodata pixel belongs to nothing else.

    Args:
        values: QA values, any shape, any integer type.
        rule: of kind classes, bits or field.
    """
    flags = np.zeros(values.shape, dtype=np.uint8)
    for k, name in enumerate(CLASSES):
        for meaning in getattr(rule, name):
            flags |= _holds(values, meaning, rule.kind).astype(np.uint8) << np.uint8(k)
    if rule.fill:
        flags |= _is_one_of(values, rule.fill).astype(np.uint8)
    return np.where(flags & NODATA, NODATA, flags).astype(np.uint8)


def _holds(values: NDArray[Any], meaning: int | BitField, kind: str) -> NDArray[np.bool_]:
    if isinstance(meaning, BitField):
        field = _bits(values, meaning.shift) & np.uint64(2**meaning.width - 1)
        return np.asarray(np.isin(field, meaning.values))
    if kind == "bits":
        return np.asarray(_bits(values, meaning) & np.uint64(1), dtype=np.bool_)
    return _is_one_of(values, (meaning,))


def _bits(values: NDArray[Any], shift: int) -> NDArray[np.uint64]:
    """The stored bits from position `shift` on, whatever the type's width and sign."""
    return values.view(f"u{values.itemsize}").astype(np.uint64) >> np.uint64(shift)


def _is_one_of(values: NDArray[Any], wanted: tuple[int, ...]) -> NDArray[np.bool_]:
    """Equality as written or as stored: -1 and 65535 are the same bits of a 16-bit value."""
    return np.asarray(np.isin(values, wanted) | np.isin(values.view(f"u{values.itemsize}"), wanted))


@lru_cache(maxsize=32)
def _lane_table(rule: QaRule, dtype: str) -> NDArray[np.uint64]:
    """Packed lanes of every value that an 8 or 16 bit QA band can hold, indexed by its unsigned value."""
    width = np.dtype(dtype).itemsize
    values = np.arange(2 ** (8 * width), dtype=np.uint32).astype(f"u{width}").view(dtype)
    return _LANES[classify(values, rule)]


def lanes_of_qa(values: NDArray[Any], rule: QaRule) -> NDArray[np.uint64]:
    """Packed class counts of single pixels."""
    if values.itemsize <= 2:
        table = _lane_table(rule, values.dtype.str)
        return table.take(values.view(f"u{values.itemsize}"), mode="clip")
    return _LANES[classify(values, rule)]


def lanes_of_valid(is_valid: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Packed class counts where only nodata is known."""
    return (~is_valid).astype(np.uint64)


def fractions(chips: ChipGrid, ratio: Ratio, strips: Iterable[NDArray[np.uint64]], known: tuple[str, ...]) -> Fractions:
    """Shares of every class in every chip, exact whatever the ratio, stride and edges.

    Args:
        chips: the chip grid, in reference pixels.
        ratio: how the mask's pixels divide the reference grid's.
        strips: the mask's packed lanes, top to bottom, each (rows, width) of at most MAX_ROWS rows.
        known: the classes that the rule can tell; of the others the share is NaN, not 0.
    """
    counts = _count(chips, ratio, strips).astype(np.float64)
    inside = _inside(chips, ratio)
    nodata = counts[..., 0] + (chips.spec.size * ratio.up) ** 2 - inside
    valid = inside - counts[..., 0]
    shares = [nodata / (chips.spec.size * ratio.up) ** 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares += [counts[..., k] / valid for k in range(1, len(CLASSES))]
    return Fractions(
        *(
            (share if name in known else np.full_like(share, np.nan)).astype(np.float32)
            for name, share in zip(CLASSES, shares, strict=True)
        )
    )


def known_classes(rule: QaRule) -> tuple[str, ...]:
    """The classes that a rule can tell."""
    if rule.kind == "none":
        return ()
    has_nodata = rule.kind == "nodata" or rule.fill or rule.nodata or rule.reference_nodata
    return (("nodata",) if has_nodata else ()) + tuple(name for name in CLASSES[1:] if getattr(rule, name))


def unknown_fractions(chips: ChipGrid) -> Fractions:
    """Fractions of a rule that reads nothing: all NaN."""
    return Fractions(*(np.full(chips.shape, np.nan, dtype=np.float32) for _ in CLASSES))


def _inside(chips: ChipGrid, ratio: Ratio) -> NDArray[np.float64]:
    rows, cols = ((chips.stops(axis) - chips.starts(axis)) * ratio.up for axis in (0, 1))
    return np.asarray(np.multiply.outer(rows, cols), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Cuts:
    """Where chips start and stop along one axis, in mask pixels.

    A stop may fall inside a mask pixel (a 255 px chip on a 20 m mask): the pixel's share is interpolated, which is
    exact, because every reference pixel in it has its value.
    """

    at: Counts  # mask pixels at which sums are kept, sorted
    lower: Counts  # for each start, then each stop: index into `at` of the mask pixel it falls in
    upper: Counts  # and of the next mask pixel, the same where it falls on a line
    rest: Counts  # reference pixels past `lower`

    @classmethod
    def of(cls, chips: ChipGrid, axis: int, ratio: Ratio) -> _Cuts:
        edges = np.concatenate([chips.starts(axis), chips.stops(axis)]) * ratio.up
        low, high = edges // ratio.down, -(-edges // ratio.down)
        at = np.unique(np.concatenate([low, high]))
        return cls(at, np.searchsorted(at, low), np.searchsorted(at, high), edges - low * ratio.down)

    def between(self, cumulative: Counts, down: int) -> Counts:
        """Sums from each start to its stop, first axis; `cumulative` holds the sums up to each of `at`."""
        rest = self.rest.reshape(-1, *[1] * (cumulative.ndim - 1))
        low, high = cumulative[self.lower], cumulative[self.upper]
        total = low * down + rest * (high - low)
        half = len(total) // 2
        return np.asarray(total[half:] - total[:half])


def _count(chips: ChipGrid, ratio: Ratio, strips: Iterable[NDArray[np.uint64]]) -> Counts:
    """Pixels of each class per chip, shape (rows, columns, classes), in units of 1 / ratio.up**2 reference pixels."""
    rows, cols = _Cuts.of(chips, 0, ratio), _Cuts.of(chips, 1, ratio)
    segments = np.zeros((len(rows.at), chips.shape[1], len(CLASSES)), dtype=np.int64)
    top = 0
    for strip in strips:
        bottom = top + len(strip)
        inner = rows.at[(rows.at > top) & (rows.at < bottom)]
        for first, last in zip([top, *inner], [*inner, bottom], strict=True):  # a loop over rows of chips, not chips
            k = int(np.searchsorted(rows.at, first, side="right"))
            if 0 < k < len(rows.at):
                segments[k] += _across(strip[first - top : last - top], cols, ratio.down)
        top = bottom
    return rows.between(np.cumsum(segments, axis=0), ratio.down)


def _across(lanes: NDArray[np.uint64], cols: _Cuts, down: int) -> Counts:
    """Class counts of a few mask rows, per chip column, shape (columns, classes)."""
    column_sums = lanes.sum(axis=0, dtype=np.uint64)
    unpacked = np.stack(
        [
            ((column_sums >> np.uint64(_LANE_BITS * k)) & np.uint64(MAX_ROWS)).astype(np.int64)
            for k in range(len(CLASSES))
        ],
        axis=-1,
    )
    cumulative = np.concatenate([np.zeros((1, len(CLASSES)), dtype=np.int64), np.cumsum(unpacked, axis=0)])
    return cols.between(cumulative[cols.at], down)
