"""Maps of where items lie: one of all of them, and one of each place where they lie far apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from stacchip_core import IndexVersion
from stacchip_core.chips.coverage import coverage_map_svg

Outlines = Mapping[str, Sequence[BaseGeometry]]

OUTLINES_SHOWN = 5000
PLACES_SHOWN = 5
WIDE_PX = 860
SCATTERED = 8.0  # the whole is so many times as wide as its widest place: then places get maps of their own


@dataclass(frozen=True, slots=True)
class PlaceMap:
    """A map as an SVG element, and what it shows."""

    title: str
    svg: str


def coverage_maps(versions: Sequence[IndexVersion], *, small_px: int = WIDE_PX) -> list[PlaceMap]:
    """Maps of the items of some collections, or of a combined index: of all first, then of places far apart.

    Args:
        versions: whose live items.
        small_px: width of the maps where there are several.
    """
    outlines = outlines_of(versions)
    places = scattered_places(outlines)
    if not places:
        return [PlaceMap("All items", coverage_map_svg(outlines, width_px=WIDE_PX))]
    details = [
        PlaceMap(_title(place), coverage_map_svg(_within(outlines, place), width_px=small_px)) for place in places
    ]
    return [PlaceMap("All items", coverage_map_svg(outlines, width_px=small_px)), *details]


def outlines_of(versions: Sequence[IndexVersion]) -> dict[str, list[BaseGeometry]]:
    """Outlines of live items by collection id, sorted; of very many items only some."""
    outlines: dict[str, list[BaseGeometry]] = {}
    for version in versions:
        for row in _sample(version.items(["key", "item_id", "item"])).to_pylist():
            collection = row["key"].removesuffix(f"/{row['item_id']}")
            found = outlines.setdefault(collection, [])
            if geometry := json.loads(row["item"]).get("geometry"):
                found.append(shape(geometry))
    return dict(sorted(outlines.items()))


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


def _within(outlines: Outlines, place: BaseGeometry) -> dict[str, list[BaseGeometry]]:
    """Outlines in a place; collections without any keep their turn, and so the others their colours."""
    return {name: [one for one in some if place.intersects(one)] for name, some in outlines.items()}


def _title(place: BaseGeometry) -> str:
    longitude, latitude = place.centroid.x, place.centroid.y
    north, east = "N" if latitude >= 0 else "S", "E" if longitude >= 0 else "W"
    return f"Near {abs(latitude):.1f}° {north}, {abs(longitude):.1f}° {east}"


def _sample(items: pa.Table) -> pa.Table:
    """All items, or evenly chosen ones where there are very many."""
    if items.num_rows <= OUTLINES_SHOWN:
        return items
    return items.take(np.linspace(0, items.num_rows - 1, OUTLINES_SHOWN).astype(np.int64))
