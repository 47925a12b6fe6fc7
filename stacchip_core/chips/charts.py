"""Small charts as inline SVG: they take their colours from the page around them."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

BINS = 20
_FINE_BINS = 40
_SHOWN_PERCENTILES = (0.5, 99.5)  # values beyond are few and far, and would press all others into one bar


@dataclass(frozen=True, slots=True)
class Histogram:
    """How values spread.

    Attributes:
        counts: in each of so many equal parts of `low` to `high`.
        unknown: how many are null, or have no measurement.
        mean: of those that are known; None where there are none.
        low, high: what is shown; 0 to 1 for fractions.
        std: standard deviation of those that are known, where it was asked for.
        what: they are.
    """

    counts: tuple[int, ...]
    unknown: int
    mean: float | None
    low: float = 0.0
    high: float = 1.0
    std: float | None = None
    what: str = "chips"

    @property
    def known(self) -> int:
        """How many are known, of those shown."""
        return sum(self.counts)

    @classmethod
    def of(cls, fractions: pa.ChunkedArray) -> Histogram:
        """Count the fractions of a column of the chip table."""
        values = fractions.drop_null().to_numpy()
        counts, _ = np.histogram(values, bins=BINS, range=(0.0, 1.0))
        return cls(tuple(map(int, counts)), fractions.null_count, float(values.mean()) if len(values) else None)

    @classmethod
    def of_pixels(cls, values: NDArray[np.float32], unknown: int) -> Histogram:
        """Count the pixels of a band that have a measurement; the few furthest out are not shown."""
        if not len(values):
            return cls((0,) * _FINE_BINS, unknown, None, what="pixels")
        low, high = (float(value) for value in np.percentile(values, _SHOWN_PERCENTILES))
        high = high if high > low else low + 1
        counts, _ = np.histogram(values, bins=_FINE_BINS, range=(low, high))
        mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        return cls(tuple(map(int, counts)), unknown, mean, low, high, std, "pixels")

    def text(self, value: float) -> str:
        """A value as the axis has it."""
        return f"{value:.0%}" if self.what == "chips" else number_text(value)


def histogram_svg(histogram: Histogram, *, label: str, tone: str) -> str:
    """Bars on a square-root scale, so that few are seen beside many.

    Args:
        histogram: what to draw.
        label: what the values are of, for those who can't see it.
        tone: CSS colour of the bars.
    """
    width, height, base = 300.0, 92.0, 72.0
    head = f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}: '
    axis = f'<line class="axis" x1="0" y1="{base}" x2="{width:.0f}" y2="{base}"/>'
    if histogram.mean is None:
        told = "this sensor can’t tell" if histogram.what == "chips" else "no measurement"
        return f'{head}unknown">{axis}<text class="empty" x="150" y="44" text-anchor="middle">{told}</text></svg>'
    span = histogram.high - histogram.low
    ticks = "".join(
        f'<text class="tick" x="{at * width:.0f}" y="88" text-anchor="{anchor}">'
        f"{histogram.text(histogram.low + at * span)}</text>"
        for at, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    )
    mean = min(max((histogram.mean - histogram.low) / span, 0.0), 1.0) * width
    told = f"{histogram.mean:.1%}" if histogram.what == "chips" else number_text(histogram.mean)
    return (
        f'{head}mean {told} of {histogram.known} {histogram.what}">{axis}{_bars(histogram, width, base, tone)}'
        f'<line class="mean" x1="{mean:.1f}" y1="4" x2="{mean:.1f}" y2="{base}"/>{ticks}</svg>'
    )


def number_text(value: float) -> str:
    """A value of pixels in four digits, or whole: 0.0312, 94.09, 11,430."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def size_text(size: int) -> str:
    """Bytes in the unit that people read."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} B"


def _bars(histogram: Histogram, width: float, base: float, tone: str) -> str:
    count = len(histogram.counts)
    step, part = width / count, (histogram.high - histogram.low) / count
    peak = max(*histogram.counts, 1) ** 0.5
    edges = [histogram.text(histogram.low + place * part) for place in range(count + 1)]
    return "".join(
        f'<rect x="{place * step + 1:.1f}" y="{base - tall:.1f}" width="{step - min(2, step / 4):.1f}" '
        f'height="{tall:.1f}" rx="1.5" fill="{tone}"><title>{edges[place]} to {edges[place + 1]}: {number:,} '
        f"{histogram.what}</title></rect>"
        for place, number in enumerate(histogram.counts)
        if number
        for tall in [max(number**0.5 / peak * (base - 8), 2.0)]
    )
