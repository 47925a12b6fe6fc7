"""The area of a spec: shapes from a local file, in longitude and latitude."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from stacchip_core.errors import SpecError

_MOST_BYTES = 512 * 2**20  # a file of this size is a data set, not an area
_XML_STARTS = (b"<", b"\xef\xbb\xbf<")


@dataclass(frozen=True, slots=True)
class Area:
    """Shapes that chips must meet, as one, and the checksum of the file they came from."""

    shape: shapely.Geometry
    sha256: str


def load_area(path: str) -> Area:
    """Read the shapes of a local file that geopandas opens, whatever their CRS.

    XML is refused: GDAL's virtual formats are XML, and may name other files or servers.

    Raises:
        SpecError: no such file, no shapes in it, no CRS, or shapes that are not on Earth.
    """
    file = Path(path)
    if not file.is_file():
        raise SpecError(f"area: there is no file {path!r}; a relative path starts in the working directory")
    if file.stat().st_size > _MOST_BYTES:
        raise SpecError(f"area: {file.name} is {file.stat().st_size:,} bytes; take a file of at most {_MOST_BYTES:,}")
    content = file.read_bytes()
    if content.lstrip().startswith(_XML_STARTS):
        raise SpecError(f"area: {file.name} is XML; take GeoJSON, GeoPackage, Shapefile, FlatGeobuf or GeoParquet")
    return Area(_shapes_of(file), hashlib.sha256(content).hexdigest())


def area_sha256(path: str | None) -> str | None:
    """Checksum of an area file, which tells whether it is still the one of before; None where there is none."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else None


def _shapes_of(file: Path) -> shapely.Geometry:
    import geopandas as gpd  # costs a second, and few specs name a file

    try:
        is_parquet = file.suffix.lower() in (".parquet", ".geoparquet")
        frame = gpd.read_parquet(file) if is_parquet else gpd.read_file(file.resolve())
        series = gpd.GeoSeries(frame.geometry)
    except Exception as err:  # GDAL's, Arrow's and geopandas' own errors have no common base
        reason = " ".join(str(err).split())
        raise SpecError(f"area: {file.name} holds no shapes that geopandas opens: {reason}") from err
    if series.crs is None:
        raise SpecError(f"area: {file.name} does not say its CRS; write it with one")
    shapes = np.asarray(series.to_crs("OGC:CRS84").array, dtype=object)
    shapes = shapes[~(shapely.is_missing(shapes) | shapely.is_empty(shapes))]
    if not len(shapes):
        raise SpecError(f"area: {file.name} holds no shapes")
    if not np.isfinite(shapely.get_coordinates(shapes)).all():
        raise SpecError(f"area: {file.name} has coordinates that are no numbers")
    shape = shapely.union_all(shapely.make_valid(shapely.force_2d(shapes)))
    west, south, east, north = shapely.bounds(shape)
    if not (west >= -180 and east <= 180 and south >= -90 and north <= 90):
        raise SpecError(
            f"area: the shapes of {file.name} reach from {west:g}, {south:g} to {east:g}, {north:g}; expected degrees "
            "within -180..180 and -90..90 (split what crosses the antimeridian there)"
        )
    return shape
