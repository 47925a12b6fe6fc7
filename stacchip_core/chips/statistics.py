"""Statistics of pixels, streamed and merged: the same numbers in whatever order and by however many workers.

Sums are whole numbers, so that no rounding depends on an order. Values of 8 and 16 bit integers are counted one by one:
all their statistics are exact. Other values are taken as float32 (a relative 6e-8), summed exactly, and counted by the
upper 18 bits of their pattern, so that a percentile is within 0.1 % of the order statistics it lies between.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stacchip_core.chips.shards import Pixels

PERCENTILES = (1, 2, 5, 25, 50, 75, 95, 98, 99)
SKETCH_ERROR = 2.0**-10  # of an order statistic of floats: bins are 2^-9 wide, and stand for their middle

_LOWER_BITS = np.uint32(14)  # 32 bits of a float32, less sign, exponent (8) and the upper 9 bits of the mantissa
_LOWER_MASK = np.uint32(0x3FFF)
_BINS = 2**18
_MANTISSA_BITS = 23
_UNIT = 149  # float32's smallest step is 2^-149
_SIGN = np.uint32(0x80000000)
_AT_A_TIME = 2**20  # values summed in float64, where whole numbers are exact below 2^53: squares of 14 bits need 2^48
_SMALLEST_NORMAL = 2.0**-126


class BandSummary(BaseModel):
    """Statistics of a band (or of one layer of it) as the lock shows them.

    Attributes:
        count: measured values.
        nodata: values that are no measurement.
        std: of the whole population.
        percentiles: as `numpy.percentile` interpolates them; exact for 8 and 16 bit integers, else within 0.1 %.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int
    nodata: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    percentiles: dict[str, float]


@dataclass(frozen=True)
class Statistics:
    """What is kept of pixels to tell their statistics, and to merge them with others'.

    Attributes:
        is_exact: whether `codes` are the values themselves; else they are bins of floats, in rising order.
        count: measured values.
        nodata: values that are no measurement.
        total, squares: sums of values and of their squares; in units of 2^-149 and 2^-298 where not exact.
        low, high: smallest and largest value; of no meaning where the count is 0.
        codes, counts: distinct codes, rising, and how often each was seen.
    """

    is_exact: bool
    count: int
    nodata: int
    total: int
    squares: int
    low: float
    high: float
    codes: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, pixels: Pixels, valid: NDArray[np.bool_] | None = None) -> Statistics:
        """Of an array of any shape.

        Args:
            pixels: whole numbers or floats; NaN and infinities are never measurements.
            valid: in their shape, False marks values that are no measurements; None: all are.
        """
        values = pixels.ravel() if valid is None or valid.all() else pixels[valid]
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        nodata = pixels.size - values.size
        is_exact = values.dtype.kind in "iub" and values.dtype.itemsize <= 2
        return _counted(values, nodata) if is_exact else _sketched(values, nodata)

    def merge(self, other: Statistics) -> Statistics:
        """Of the values of both; where one counts whole numbers and the other floats, as floats."""
        if not self.count or not other.count:
            more, less = (self, other) if self.count else (other, self)
            return _with_nodata(more, more.nodata + less.nodata)
        if self.is_exact != other.is_exact:
            return self._binned().merge(other._binned())
        codes, places = np.unique(np.concatenate([self.codes, other.codes]), return_inverse=True)
        counts = np.zeros(len(codes), dtype=np.int64)
        np.add.at(counts, places, np.concatenate([self.counts, other.counts]))
        return Statistics(
            *(self.is_exact, self.count + other.count, self.nodata + other.nodata),
            *(self.total + other.total, self.squares + other.squares),
            *(min(self.low, other.low), max(self.high, other.high)),
            *(codes, counts),
        )

    @property
    def mean(self) -> float | None:
        """Rounded once from the exact sum; None where nothing was measured."""
        return float(Fraction(self.total, self.count * self._unit)) if self.count else None

    @property
    def std(self) -> float | None:
        """Of the whole population; None where nothing was measured."""
        if not self.count:
            return None
        spread = self.count * self.squares - self.total**2
        return math.sqrt(Fraction(spread, (self.count * self._unit) ** 2))

    def percentile(self, percent: float) -> float | None:
        """Between the two order statistics that `numpy.percentile` takes; None where nothing was measured."""
        if not self.count:
            return None
        place = percent / 100 * (self.count - 1)
        below, above = self._ranked(math.floor(place)), self._ranked(math.ceil(place))
        return below + (above - below) * (place - math.floor(place))

    def to_summary(self) -> BandSummary:
        """The numbers, for the lock."""
        has_any = self.count > 0
        found = {str(percent): self.percentile(percent) for percent in PERCENTILES}
        return BandSummary(
            count=self.count,
            nodata=self.nodata,
            mean=self.mean,
            std=self.std,
            min=self.low if has_any else None,
            max=self.high if has_any else None,
            percentiles={name: value for name, value in found.items() if value is not None},
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes equal statistics, for the record of a shard."""
        return {
            "is_exact": self.is_exact,
            "count": self.count,
            "nodata": self.nodata,
            "total": str(self.total),
            "squares": str(self.squares),
            "low": self.low,
            "high": self.high,
            "codes": _packed(np.diff(self.codes, prepend=0)),
            "counts": _packed(self.counts),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Statistics:
        """Inverse of `to_json`."""
        return cls(
            *(data["is_exact"], data["count"], data["nodata"], int(data["total"]), int(data["squares"])),
            *(data["low"], data["high"], np.cumsum(_unpacked(data["codes"])), _unpacked(data["counts"])),
        )

    def _binned(self) -> Statistics:
        """The same, counted as floats are: whole numbers of 16 bits are float32 without rounding."""
        if not self.is_exact:
            return self
        bins = _bins(self.codes.astype(np.float32).view(np.uint32))
        codes, places = np.unique(bins, return_inverse=True)
        counts = np.zeros(len(codes), dtype=np.int64)
        np.add.at(counts, places, self.counts)
        total, squares = self.total << _UNIT, self.squares << 2 * _UNIT
        return Statistics(False, self.count, self.nodata, total, squares, self.low, self.high, codes, counts)

    @property
    def _unit(self) -> int:
        return 1 if self.is_exact else 1 << _UNIT

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self.counts)

    def _ranked(self, rank: int) -> float:
        """The value at a rank from 0, in rising order, as near as the bins tell."""
        code = self.codes[int(np.searchsorted(self._ends, rank, side="right"))]
        return float(code) if self.is_exact else min(max(_middle(int(code)), self.low), self.high)


def merged(parts: Sequence[Statistics]) -> Statistics:
    """Of all values of all parts, in any order; at least one part."""
    result = parts[0]
    for part in parts[1:]:
        result = result.merge(part)
    return result


def clay_metadata(
    summaries: Mapping[str, BandSummary],
    *,
    gsd: float,
    rgb: Sequence[str] = (),
    wavelengths: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The entry of a collection in a `metadata.yaml` as Clay reads it.

    Source: configs/metadata.yaml of Clay-foundation/model: `band_order`, `rgb_indices`, `gsd`, and under `bands` the
    `mean`, `std` and `wavelength` (micrometres) by band.

    Args:
        summaries: by band, in the order of the arrays.
        gsd: metres a pixel.
        rgb: bands shown as red, green and blue, where all are there.
        wavelengths: centre of each band, micrometres; left out where not known.
    """
    order = list(summaries)
    bands: dict[str, dict[str, float | None]] = {
        "mean": {band: summary.mean for band, summary in summaries.items()},
        "std": {band: summary.std for band, summary in summaries.items()},
    }
    if wavelengths:
        bands["wavelength"] = {band: wavelengths[band] for band in order if band in wavelengths}
    indices = [order.index(band) for band in rgb if band in order]
    shown = {"rgb_indices": indices} if len(indices) == 3 else {}
    return {"band_order": order, **shown, "gsd": gsd, "bands": bands}


def _counted(values: Pixels, nodata: int) -> Statistics:
    """Of 8 and 16 bit integers: each value by itself."""
    values, size = values.astype(values.dtype.newbyteorder("="), copy=False), values.dtype.itemsize
    half = 2 ** (8 * size - 1) if values.dtype.kind == "i" else 0
    patterns, found = values.view(f"u{size}"), np.zeros(2 ** (8 * size), dtype=np.int64)
    for start in range(0, patterns.size, _AT_A_TIME):
        some = patterns[start : start + _AT_A_TIME]
        found += np.bincount(some ^ half if half else some, minlength=len(found))
    places = np.flatnonzero(found)
    codes, counts = places - half, found[places]
    numbers, times = codes.tolist(), counts.tolist()
    return Statistics(
        True,
        int(values.size),
        nodata,
        sum(map(mul, numbers, times)),
        sum(map(mul, map(mul, numbers, numbers), times)),
        float(codes[0]) if len(codes) else 0.0,
        float(codes[-1]) if len(codes) else 0.0,
        codes,
        counts,
    )


def _sketched(values: Pixels, nodata: int) -> Statistics:
    """Of other numbers, as float32.

    A bin has one sign, one exponent and the upper 9 bits of the mantissa; what its values have beyond is a whole number
    of 14 bits. Counts and sums of these numbers and of their squares, a bin, give the exact sums of the values.
    """
    limit = np.finfo(np.float32).max
    bits = np.clip(values, -limit, limit).astype(np.float32).view(np.uint32)
    sums = np.zeros((3, _BINS), dtype=np.int64)
    for start in range(0, bits.size, _AT_A_TIME):
        some = bits[start : start + _AT_A_TIME]
        bins = _bins(some)
        lower = (some & _LOWER_MASK).astype(np.float64)
        sums[0] += np.bincount(bins, minlength=_BINS)
        sums[1] += np.bincount(bins, lower, _BINS).astype(np.int64)
        sums[2] += np.bincount(bins, lower * lower, _BINS).astype(np.int64)
    codes = np.flatnonzero(sums[0])
    total, squares = _sums(codes, sums[:, codes])
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    return Statistics(False, int(bits.size), nodata, total, squares, low, high, codes, sums[0][codes])


def _bins(bits: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The bin of each float, given by its pattern."""
    order = np.where(bits & _SIGN, ~bits, bits | _SIGN)  # patterns of floats, as whole numbers in the same order
    return (order >> _LOWER_BITS).astype(np.int64)


def _sums(codes: NDArray[np.int64], sums: NDArray[np.int64]) -> tuple[int, int]:
    """Exact sums of the values of bins and of their squares, in units of 2^-149 and 2^-298.

    Args:
        codes: of the bins.
        sums: of each, shape (3, n): how many values, and the sums of their lower bits and of these squared.
    """
    total = squares = 0
    for bits, count, lower, lower_squares in zip(_first_bits(codes).tolist(), *sums.tolist(), strict=True):
        field = bits >> _MANTISSA_BITS & 0xFF
        first = bits & 0x7FFFFF | min(field, 1) << _MANTISSA_BITS
        shift = max(field - 1, 0)
        size = first * count + lower << shift
        total += -size if bits & int(_SIGN) else size
        squares += first * first * count + 2 * first * lower + lower_squares << 2 * shift
    return total, squares


def _first_bits(codes: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The pattern of floats in each bin, with all lower bits 0."""
    order = codes.astype(np.uint32) << _LOWER_BITS
    return np.where(order & _SIGN, order ^ _SIGN, ~order) & ~_LOWER_MASK


def _middle(code: int) -> float:
    """The float in the middle of a bin."""
    bits = _first_bits(np.array([code])) | np.uint32(1 << int(_LOWER_BITS) - 1)
    value = float(bits.view(np.float32)[0])
    return value if abs(value) >= _SMALLEST_NORMAL else 0.0


def _with_nodata(statistics: Statistics, nodata: int) -> Statistics:
    s = statistics
    return Statistics(s.is_exact, s.count, nodata, s.total, s.squares, s.low, s.high, s.codes, s.counts)


def _packed(numbers: NDArray[np.int64]) -> str:
    return base64.b64encode(zlib.compress(numbers.astype("<i8").tobytes(), 6)).decode()


def _unpacked(text: str) -> NDArray[np.int64]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i8").astype(np.int64)
