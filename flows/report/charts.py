"""Charts of the status page as inline SVG: they take their colours from the page around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import groupby

from stacchip_core.warehouse.summary import Month, Point

BARS_SHOWN = 72  # months; of a longer time, quarters or years
WIDTH, HEIGHT, BASE, LEFT = 1040.0, 250.0, 216.0, 58.0
_SPARK_WIDTH, _SPARK_HEIGHT = 150.0, 34.0


@dataclass(frozen=True, slots=True)
class Bar:
    """Chips of a stretch of time, by collection."""

    label: str
    chips: Mapping[str, int]
    items: int | None

    @property
    def total(self) -> int:
        """Of all collections."""
        return sum(self.chips.values())


def colour(place: int) -> str:
    """CSS colour of the n-th collection, from 0: the one that it has on the map."""
    return f"var(--map-{place % 12 + 1})"


def bars_of(months: Iterable[Month]) -> list[Bar]:
    """Months without a gap; where they are too many, quarters or years."""
    known = {(one.month, one.collection): one for one in months}
    if not known:
        return []
    first, last = (_number(end(month for month, _ in known)) for end in (min, max))
    step = next((step for step in (1, 3, 12) if (last - first) // step < BARS_SHOWN), 12)
    numbers = range(first - first % step, last + 1)
    return [_bar(list(group), known, step) for _, group in groupby(numbers, lambda number: number // step)]


def months_svg(bars: Sequence[Bar], names: Sequence[str]) -> str:
    """Stacked bars over time; `names` are all collections, in the order of their colours."""
    top = _round_up(max((bar.total for bar in bars), default=0))
    step = (WIDTH - LEFT) / max(len(bars), 12)
    scale = (BASE - 14) / max(top, 1)
    grid = "".join(_grid_line(top * part / 4, BASE - top * part / 4 * scale) for part in range(5))
    drawn = "".join(_stack(bar, LEFT + place * step, step, scale, names) for place, bar in enumerate(bars))
    every = -(-len(bars) * 62 // int(WIDTH - LEFT)) or 1  # labels are some 60 px wide
    labels = "".join(
        f'<text class="tick" x="{LEFT + (place + 0.5) * step:.1f}" y="{BASE + 20:.0f}" text-anchor="middle">'
        f"{bar.label}</text>"
        for place, bar in enumerate(bars)
        if place % every == 0
    )
    return (
        f'<svg class="chart wide" viewBox="0 0 {WIDTH:.0f} {HEIGHT - 8:.0f}" role="img" '
        f'aria-label="Chips over time">{grid}{drawn}{labels}</svg>'
    )


def spark_svg(points: Sequence[Point], *, label: str) -> str:
    """How the chips of an index grew, version by version, over time; it has one version at least."""
    times = [_seconds(point.at) for point in points]
    if max(times) - min(times) < 1:  # all at once: one after the other
        times = [float(place) for place in range(len(times))]
    start, span = min(times), max(times) - min(times)
    top = max(point.chips for point in points) or 1
    width, height = _SPARK_WIDTH - 8, _SPARK_HEIGHT - 8
    spots = [
        (4 + (time - start) / span * width if span else 4 + width, 4 + height * (1 - point.chips / top))
        for time, point in zip(times, points, strict=True)
    ]
    (x0, y0), (x, y) = spots[0], spots[-1]
    line = f"M{x0:.1f} {y0:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in spots[1:])
    told = f"{points[0].chips:,} to {points[-1].chips:,} chips in {len(points)} versions"
    return (
        f'<svg class="spark" viewBox="0 0 {_SPARK_WIDTH:.0f} {_SPARK_HEIGHT:.0f}" role="img" '
        f'aria-label="{escape(label)}: {told}"><title>{told}</title>'
        f'<path class="fill" d="{line}V{4 + height:.1f}H{x0:.1f}Z"/>'
        f'<path class="line" d="{line}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/></svg>'
    )


def count_text(count: float) -> str:
    """A count as an axis has it: 950, 12 k, 3.4 M."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.3g}"


def _number(month: str) -> int:
    """Months since the year 0."""
    return int(month[:4]) * 12 + int(month[5:7]) - 1


def _bar(numbers: Sequence[int], known: Mapping[tuple[str, str], Month], step: int) -> Bar:
    texts = {f"{number // 12:04d}-{number % 12 + 1:02d}" for number in numbers}
    own = [one for (month, _), one in sorted(known.items()) if month in texts]
    chips: dict[str, int] = {}
    for one in own:
        chips[one.collection] = chips.get(one.collection, 0) + one.chips
    counts = [one.items for one in own]
    items = None if None in counts else sum(count or 0 for count in counts)
    year, month = divmod(numbers[0], 12)
    label = {1: f"{year:04d}-{month + 1:02d}", 3: f"{year:04d} Q{month // 3 + 1}", 12: f"{year:04d}"}[step]
    return Bar(label, chips, items)


def _stack(bar: Bar, left: float, step: float, scale: float, names: Sequence[str]) -> str:
    base, parts = BASE, []
    gap = min(step * 0.18, 6.0)
    for place, name in enumerate(names):
        if count := bar.chips.get(name, 0):
            tall = max(count * scale, 1.0)
            base -= tall
            parts.append(
                f'<rect x="{left + gap / 2:.1f}" y="{base:.1f}" width="{step - gap:.1f}" height="{tall:.1f}" '
                f'fill="{colour(place)}"/>'
            )
    told = "; ".join(f"{name} {bar.chips[name]:,}" for name in names if name in bar.chips)
    items = "" if bar.items is None else f" of {bar.items:,} items"
    title = f"{bar.label}: {bar.total:,} chips{items} ({told})" if bar.total else f"{bar.label}: none"
    return f"<g><title>{escape(title)}</title>{''.join(parts)}</g>"


def _grid_line(count: float, y: float) -> str:
    return (
        f'<line class="axis" x1="{LEFT:.0f}" y1="{y:.1f}" x2="{WIDTH:.0f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 8:.0f}" y="{y + 4:.1f}" text-anchor="end">{count_text(count)}</text>'
    )


def _round_up(count: int) -> int:
    """The next of 4, 8, 12, 20, 40, 60, 80, 100, ... so that its quarters are round numbers."""
    scale = 1
    while True:
        for step in (4, 8, 12, 20):
            if count <= step * scale:
                return step * scale
        scale *= 10


def _seconds(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
