"""A map of where items or chips lie, as one SVG element."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

Bounds = tuple[float, float, float, float]

# After Okabe and Ito's palette for colour-blind readers ("Color Universal Design", 2008), in middle tones
# that show on white and on black.
_COLOURS = ("#2f83c5", "#e0702c", "#16a37f", "#c873ab", "#c99a12", "#6aa9dd")
_MANY_OUTLINES = 400  # beyond this, outlines are drawn as their union
_LABEL_PX = 68  # of a longitude, "121.65°W", with room beside it
_SMALL_PX = 7.0  # outlines smaller than this get a dot, so that a scene is seen on a map of the world


def coverage_map_svg(outlines: Mapping[str, Sequence[BaseGeometry]], *, width_px: int = 860) -> str:
    """A map of where each collection's items or chips lie: one SVG element that needs nothing from outside.

    Lines and text take the colour of the text around them, so that it reads on light and dark pages alike; a
    page may set `--map-1`, `--map-2`, ... to colours of its own. Outlines that straddle the antimeridian stay
    in one piece.

    Args:
        outlines: collection -> polygons in WGS 84 degrees.
        width_px: width of the picture; it scales with the page.
    """
    shapes = {name: [shape for shape in some if not shape.is_empty] for name, some in outlines.items()}
    if not any(shapes.values()):
        return _svg(width_px, 60, '<text x="50%" y="36" text-anchor="middle" opacity=".7">no outlines</text>')
    west_edge = _seam([part for some in shapes.values() for shape in some for part in shapely.get_parts(shape)])
    shifted = {name: [_unrolled(shape, west_edge) for shape in some] for name, some in shapes.items()}
    frame = _frame([shape.bounds for some in shifted.values() for shape in some], width_px)
    parts = [*_graticule(frame)]
    places = {name: place for place, name in enumerate(shifted)}
    for name in sorted(shifted, key=lambda name: -shapely.area(shifted[name]).sum()):  # small ones on top
        parts.extend(_drawn(shifted[name], frame, name, places[name]))
    parts.append(
        f'<rect x="{frame.left}" y="{frame.top}" width="{frame.width:.1f}" height="{frame.height:.1f}" '
        'fill="none" stroke="currentColor" stroke-opacity=".45"/>'
    )
    counts = {name: len(some) for name, some in shapes.items()}
    legend, legend_height = _legend(counts, frame)
    parts.extend(legend)
    return _svg(width_px, frame.top + frame.height + 30 + legend_height, "".join(parts))


@dataclass(frozen=True, slots=True)
class _Frame:
    """Equirectangular window of the map: degrees to pixels."""

    bounds: Bounds
    left: float
    top: float
    width: float
    height: float

    def x(self, longitude: float) -> float:
        return self.left + (longitude - self.bounds[0]) / (self.bounds[2] - self.bounds[0]) * self.width

    def y(self, latitude: float) -> float:
        return self.top + (self.bounds[3] - latitude) / (self.bounds[3] - self.bounds[1]) * self.height


def _seam(parts: Sequence[BaseGeometry]) -> float:
    """Longitude where the map is cut open: the antimeridian, unless another makes a far narrower map."""
    spans = sorted((part.bounds[0], part.bounds[2]) for part in parts)
    reach, gaps = spans[0][1], [(0.0, -180.0)]
    for west, east in spans[1:]:
        gaps.append((west - reach, (west + reach) / 2))
        reach = max(reach, east)
    gap, middle = max(gaps)
    is_far_narrower = 360 - gap < 0.6 * (reach - spans[0][0])
    return middle if is_far_narrower else -180.0


def _unrolled(shape: BaseGeometry, west_edge: float) -> BaseGeometry:
    """The shape with the parts west of the seam moved a turn to the east."""

    def moved(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.add(points, [360.0, 0.0])

    parts = [
        shapely.transform(part, moved) if part.bounds[2] <= west_edge else part for part in shapely.get_parts(shape)
    ]
    return parts[0] if len(parts) == 1 else shapely.union_all(parts)


def _frame(all_bounds: Sequence[Bounds], width_px: int) -> _Frame:
    """Window around all bounds with a margin, degrees of longitude narrowed by the middle latitude."""
    west, south = (min(bounds[side] for bounds in all_bounds) for side in (0, 1))
    east, north = (max(bounds[side] for bounds in all_bounds) for side in (2, 3))
    shrink = max(math.cos(math.radians((south + north) / 2)), 0.1)
    margin = max(0.08 * max((east - west) * shrink, north - south), 0.01)
    west, east = west - margin / shrink, east + margin / shrink
    south, north = max(south - margin, -90.0), min(north + margin, 90.0)
    wide, high = (east - west) * shrink, north - south
    aspect = min(max(high / wide, 0.42), 0.72)
    if high < aspect * wide:
        middle, half = (south + north) / 2, aspect * wide / 2
        south, north = middle - half, middle + half
    else:
        middle, half = (west + east) / 2, high / aspect / shrink / 2
        west, east = middle - half, middle + half
    left, top = 60.0, 12.0
    width = width_px - left - 24.0
    return _Frame((west, south, east, north), left, top, width, width * aspect)


def _graticule(frame: _Frame) -> Iterator[str]:
    west, south, east, north = frame.bounds
    for longitude in _ticks(west, east, min(7, int(frame.width // _LABEL_PX))):
        x = frame.x(longitude)
        yield _line(x, frame.top, x, frame.top + frame.height)
        label = _degrees((longitude + 180) % 360 - 180, "EW", east - west)
        yield _label(x, frame.top + frame.height + 16, "middle", label)
    for latitude in _ticks(max(south, -90), min(north, 90)):
        y = frame.y(latitude)
        yield _line(frame.left, y, frame.left + frame.width, y)
        label = _degrees(latitude, "NS", north - south)
        yield _label(frame.left - 6, y + 4, "end", label)


def _ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers between two degrees, so many steps at most."""
    steps = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 45, 60)
    step = next((step for step in steps if (high - low) / step <= most), 90)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def _degrees(value: float, letters: str, span: float) -> str:
    decimals = 0 if span > 6 else 1 if span > 0.6 else 2
    rounded = round(abs(value), decimals)
    letter = "" if rounded in (0, 180) else letters[value < 0]
    return f"{rounded:.{decimals}f}°{letter}"


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" stroke-opacity=".14"/>'


def _label(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" opacity=".7">{text}</text>'


def _drawn(shapes: Sequence[BaseGeometry], frame: _Frame, name: str, place: int) -> Iterator[str]:
    """Outlines of one collection; very many as their union."""
    colour = _colour(place)
    merged = list(shapes) if len(shapes) <= _MANY_OUTLINES else list(shapely.get_parts(shapely.union_all(shapes)))
    yield (
        f'<g fill="{colour}" stroke="{colour}" fill-opacity=".26" stroke-linejoin="round"><title>{escape(name)}</title>'
    )
    for shape in merged:
        west, south, east, north = shape.bounds
        size = max(frame.x(east) - frame.x(west), frame.y(south) - frame.y(north))
        yield f'<path d="{_path(shape, frame)}"/>'
        if size < _SMALL_PX:
            x, y = frame.x((west + east) / 2), frame.y((south + north) / 2)
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill-opacity=".55"/>'
    yield "</g>"


def _path(shape: BaseGeometry, frame: _Frame) -> str:
    rings = [
        ring
        for part in shapely.get_parts(shape)
        if part.geom_type == "Polygon"
        for ring in (part.exterior, *part.interiors)
    ]
    return "".join(
        "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in shapely.get_coordinates(ring)[:-1]) + "Z"
        for ring in rings
    )


def _legend(counts: Mapping[str, int], frame: _Frame) -> tuple[list[str], float]:
    """Entries in columns below the map, and the height they take."""
    columns = max(1, int(frame.width // 230))
    entries = []
    for place, (name, count) in enumerate(counts.items()):
        row, column = divmod(place, columns)
        x, y = frame.left + column * frame.width / columns, frame.top + frame.height + 40 + row * 22
        colour = _colour(place)
        entries.append(
            f'<rect x="{x:.1f}" y="{y - 10:.1f}" width="13" height="13" rx="2" fill="{colour}" '
            f'fill-opacity=".35" stroke="{colour}"/>'
            f'<text x="{x + 20:.1f}" y="{y + 1:.1f}">{escape(name)} '
            f'<tspan opacity=".6">{count:,}</tspan></text>'
        )
    return entries, 22.0 * -(-len(counts) // columns)


def _colour(place: int) -> str:
    return f"var(--map-{place + 1},{_COLOURS[place % len(_COLOURS)]})"


def _svg(width: float, height: float, content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        'aria-label="Coverage map" style="max-width:100%;height:auto;color:inherit" '
        f'font-family="system-ui,sans-serif" font-size="12" fill="currentColor">{content}</svg>'
    )
