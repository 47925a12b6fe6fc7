"""Maps of where items or chips lie: one of all, and of places far apart one each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from stacchip_core.chips.coverage import coverage_map_svg

Outlines = Mapping[str, Sequence[BaseGeometry]]

PLACES_SHOWN = 5
WIDE_PX = 860
SCATTERED = 8.0  # the whole is so many times as wide as its widest place: then places get maps of their own


@dataclass(frozen=True, slots=True)
class PlaceMap:
    """A map as an SVG element, and what it shows."""

    title: str
    svg: str


def maps_of(outlines: Outlines, *, small_px: int = WIDE_PX, whole: str = "All items") -> list[PlaceMap]:
    """Maps of outlines by collection: of all first, then of places far apart.

    Args:
        outlines: in WGS 84 degrees.
        small_px: width of the maps where there are several.
        whole: title of the first.
    """
    places = scattered_places(outlines)
    if not places:
        return [PlaceMap(whole, coverage_map_svg(outlines, width_px=WIDE_PX))]
    details = [
        PlaceMap(_title(place), coverage_map_svg(_within(outlines, place), width_px=small_px)) for place in places
    ]
    return [PlaceMap(whole, coverage_map_svg(outlines, width_px=small_px)), *details]


def scattered_places(outlines: Outlines) -> list[BaseGeometry]:
    """Boxes around places that are small beside the whole, largest first; none where one map shows all well."""
    shapes = np.array([one for some in outlines.values() for one in some if not one.is_empty], dtype=object)
    if not len(shapes):
        return []
    west, south, east, north = shapely.bounds(shapes).T
    margin = np.maximum(east - west, north - south)
    near = shapely.union_all(shapely.box(west - margin, south - margin, east + margin, north + margin))
    places = sorted(shapely.get_parts(near), key=lambda place: -place.area)
    whole = np.ptp([west.min(), east.max()])
    widest = max(place.bounds[2] - place.bounds[0] for place in places)
    return places if 1 < len(places) <= PLACES_SHOWN and whole > SCATTERED * widest else []


def boxes_as_outlines(boxes: NDArray[np.float64]) -> list[BaseGeometry]:
    """Boxes around the chips of items as outlines; `boxes` is (4, items): west, south, east, north in degrees.

    A box that goes round the world, but is low, is that of an item across the antimeridian. How wide that one is
    the box doesn't say: it is drawn as wide as it is high.
    """
    west, south, east, north = boxes
    outlines = shapely.box(west, south, east, north)
    height = north - south
    for place in np.flatnonzero((east - west > 180) & (height < 30)):
        half, low, high = height[place] / 2, south[place], north[place]
        sides = [shapely.box(180 - half, low, 180, high), shapely.box(-180, low, -180 + half, high)]
        outlines[place] = shapely.MultiPolygon(sides)
    return list(outlines)


def _within(outlines: Outlines, place: BaseGeometry) -> dict[str, list[BaseGeometry]]:
    """Outlines in a place; collections without any keep their turn, and so the others their colours."""
    return {name: [one for one in some if place.intersects(one)] for name, some in outlines.items()}


def _title(place: BaseGeometry) -> str:
    longitude, latitude = place.centroid.x, place.centroid.y
    north, east = "N" if latitude >= 0 else "S", "E" if longitude >= 0 else "W"
    return f"Near {abs(latitude):.1f}° {north}, {abs(longitude):.1f}° {east}"
