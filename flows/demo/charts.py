"""Small charts as inline SVG: they take their colours from the page around them."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BINS = 20


@dataclass(frozen=True, slots=True)
class Histogram:
    """How the chips of a collection spread over a fraction.

    Attributes:
        counts: chips in each of `BINS` equal parts of 0 to 1.
        unknown: chips whose fraction is null.
        mean: of the fractions that are known; None where there are none.
    """

    counts: tuple[int, ...]
    unknown: int
    mean: float | None

    @property
    def known(self) -> int:
        """Chips whose fraction is known."""
        return sum(self.counts)

    @classmethod
    def of(cls, fractions: pa.ChunkedArray) -> Histogram:
        """Count the fractions of a column of the chip table."""
        values = fractions.drop_null().to_numpy()
        counts, _ = np.histogram(values, bins=BINS, range=(0.0, 1.0))
        mean = pc.mean(fractions).as_py()
        return cls(tuple(int(count) for count in counts), fractions.null_count, mean)


def histogram_svg(histogram: Histogram, *, label: str, tone: str) -> str:
    """Bars over 0 to 100 %, on a square-root scale so that few chips are seen beside many.

    Args:
        histogram: what to draw.
        label: what the fractions are of, for those who can't see it.
        tone: CSS colour of the bars.
    """
    width, height, base = 300.0, 92.0, 72.0
    head = f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}: '
    if not histogram.known:
        return (
            f'{head}unknown">'
            f'<line class="axis" x1="0" y1="{base}" x2="{width:.0f}" y2="{base}"/>'
            f'<text class="empty" x="{width / 2:.0f}" y="44" text-anchor="middle">this sensor can’t tell</text></svg>'
        )
    step = width / BINS
    peak = max(histogram.counts) ** 0.5
    bars = "".join(
        f'<rect x="{place * step + 1:.1f}" y="{base - tall:.1f}" width="{step - 2:.1f}" height="{tall:.1f}" rx="1.5" '
        f'fill="{tone}"><title>{place * 100 // BINS} to {(place + 1) * 100 // BINS} %: {count:,} chips</title></rect>'
        for place, count in enumerate(histogram.counts)
        if count
        for tall in [max(count**0.5 / peak * (base - 8), 2.0)]
    )
    ticks = "".join(
        f'<text class="tick" x="{at * width:.0f}" y="88" text-anchor="{anchor}">{at:.0%}</text>'
        for at, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    )
    mean = (histogram.mean or 0.0) * width
    return (
        f'{head}mean {histogram.mean:.1%} of {histogram.known} chips">'
        f'<line class="axis" x1="0" y1="{base}" x2="{width:.0f}" y2="{base}"/>{bars}'
        f'<line class="mean" x1="{mean:.1f}" y1="4" x2="{mean:.1f}" y2="{base}"/>{ticks}</svg>'
    )
