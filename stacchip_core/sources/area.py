"""Areas from files: any vector data that geopandas opens, in degrees, met exactly and not by its box alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import box, shape

from stacchip_core.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Area:
    """The features of a file.

    Attributes:
        features: their geometries, WGS 84.
        tree: to find those that meet another.
        sha256: of the geometries: tells one form of the file from another.
    """

    features: tuple[shapely.Geometry, ...]
    tree: shapely.STRtree
    sha256: str

    @property
    def box(self) -> tuple[float, float, float, float]:
        """West, south, east, north of all features."""
        west, south, east, north = (float(side) for side in shapely.total_bounds(np.array(self.features)))
        return max(west, -180.0), max(south, -90.0), min(east, 180.0), min(north, 90.0)

    def met_by(self, item: Mapping[str, Any]) -> tuple[int, ...]:
        """Numbers of the features that an item's geometry meets; its bbox counts where it has none; all, without."""
        outline = _outline(item)
        if outline is None:
            return tuple(range(len(self.features)))
        return tuple(sorted(int(one) for one in self.tree.query(outline, predicate="intersects")))


def read_area(path: str | Path) -> Area:
    """The area in a local file.

    Raises:
        InputError: no such file, not vector data, no CRS, or nothing in it.
    """
    where = Path(path)
    try:
        modified = where.stat().st_mtime_ns
    except OSError as err:
        raise InputError(f"area {where.name}: {err.strerror or err}") from err
    return _read(str(where.resolve()), modified)


@lru_cache(maxsize=16)
def _read(path: str, modified: int) -> Area:
    import geopandas as gpd

    name = Path(path).name
    try:
        table = gpd.read_parquet(path) if name.lower().endswith(("parquet", ".gpq")) else gpd.read_file(path)
    except Exception as err:  # each driver has its own
        raise InputError(f"area {name}: geopandas can't open it: {' '.join(str(err).split())[:200]}") from err
    if table.crs is None:
        raise InputError(f"area {name}: it has no CRS; write one into the file")
    features = tuple(one for one in table.to_crs(4326).geometry if one is not None and not one.is_empty)
    if not features:
        raise InputError(f"area {name}: there is no geometry in it")
    features = tuple(one if one.is_valid else shapely.make_valid(one) for one in features)
    digest = hashlib.sha256(b"".join(shapely.to_wkb(np.array(features)))).hexdigest()[:16]
    return Area(features, shapely.STRtree(features), digest)


def _outline(item: Mapping[str, Any]) -> shapely.Geometry | None:
    """An item's geometry, or its bbox where it has no usable one; None where it has neither."""
    geometry, bbox = item.get("geometry"), item.get("bbox")
    try:
        if isinstance(geometry, dict):
            found = shape(geometry)
            if not found.is_empty:
                return found if found.is_valid else shapely.make_valid(found)
        sides = [float(side) for side in bbox] if isinstance(bbox, list) and len(bbox) in (4, 6) else None
    except (ShapelyError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if sides is None:
        return None
    half = len(sides) // 2
    (west, south), (east, north) = sides[:2], sides[half : half + 2]
    if west <= east:
        return box(west, south, east, north)
    return shapely.union(box(west, south, 180.0, north), box(-180.0, south, east, north))
