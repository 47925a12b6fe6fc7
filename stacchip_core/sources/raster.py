"""Where the pixels of a raster lie: grids, windows, and how two grids line up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

# More than any scene has (a 100 000 km2 mosaic at 1 m is 10**11 pixels; 2**24 pixels of 10 m go four times around the
# Earth): a shape beyond it is a mistake or an attack.
MAX_PIXELS = 10**11
MAX_SIDE = 2**24

# Two grids count as aligned when their corners differ by less than this share of a pixel (of the finer grid).
# Providers round transforms to 1e-6 of a pixel or so; half a pixel is a real offset (Landsat's panchromatic band).
ALIGNMENT_TOLERANCE_PX = 0.05


@dataclass(frozen=True, slots=True)
class Window:
    """Pixels [col, col + width) x [row, row + height) of a grid."""

    col: int
    row: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """How the pixels of an aligned raster divide those of the reference grid; one of the two is 1.

    `down` reference pixels along each axis lie in one pixel of the raster (a coarser band: 10 m to 60 m is 6), or
    `up` pixels of the raster lie in one reference pixel (a finer band).
    """

    up: int
    down: int


@dataclass(frozen=True, slots=True)
class Grid:
    """CRS + transform + shape of a raster.

    Attributes:
        crs: authority code ("EPSG:32632") or WKT2.
        transform: affine (a, b, c, d, e, f): x = a*col + b*row + c, y = d*col + e*row + f; CRS units.
        height: rows.
        width: columns.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int

    def __str__(self) -> str:
        """Shape, pixel size, CRS and origin, for messages."""
        crs = self.crs if len(self.crs) < 20 else "a custom CRS"
        origin = f"({self.transform[2]:.10g}, {self.transform[5]:.10g})"
        return f"{self.height} x {self.width} pixels of {self.pixel_size[0]:.6g} in {crs} from {origin}"

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return (self.height, self.width)

    @property
    def pixel_size(self) -> tuple[float, float]:
        """Length of a pixel's edges along columns and rows, CRS units."""
        a, b, _, d, e, _ = self.transform
        return (math.hypot(a, d), math.hypot(b, e))

    @property
    def gsd_m(self) -> float:
        """Ground sample distance in metres, along columns; degrees are taken at the grid's middle latitude."""
        a, _, _, d, e, f = self.transform
        crs = parse_crs(self.crs)
        unit = crs.axis_info[0].unit_conversion_factor  # to metres or radians
        if not crs.is_geographic:
            return math.hypot(a, d) * unit
        latitude = (d * self.width / 2 + e * self.height / 2 + f) * unit
        return math.hypot(a * math.cos(latitude), d) * unit * 6378137.0  # semi-major axis of WGS 84

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) of the corners, CRS units."""
        x, y = self.xy(np.array([0.0, self.width, 0.0, self.width]), np.array([0.0, 0.0, self.height, self.height]))
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    def xy(self, cols: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """CRS coordinates of pixel corners (`cols`, `rows`)."""
        a, b, c, d, e, f = self.transform
        return a * cols + b * rows + c, d * cols + e * rows + f

    def cols_rows(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates of CRS coordinates: the inverse of `xy`."""
        a, b, c, d, e, f = self.transform
        det = a * e - b * d
        dx, dy = x - c, y - f
        return (e * dx - b * dy) / det, (a * dy - d * dx) / det

    def ratio_of(self, other: Grid) -> Ratio | None:
        """How `other` divides this grid, or None where the two don't line up by a whole ratio.

        `other` may reach past the right and lower edge of this grid by less than one of its own pixels, as a 60 m band
        of a 10 m grid does when the side is not a multiple of six.
        """
        (own, _), (others, _) = self.pixel_size, other.pixel_size
        up, down = (max(1, round(own / others)), 1) if others < own else (1, max(1, round(others / own)))
        step = down / up
        cols = np.array([0.0, other.width, 0.0]) * step
        rows = np.array([0.0, 0.0, other.height]) * step
        expected, found = self.xy(cols, rows), other.xy(cols / step, rows / step)
        tolerance = ALIGNMENT_TOLERANCE_PX * min(own, others)
        is_near = np.hypot(expected[0] - found[0], expected[1] - found[1]).max() < tolerance
        fits = all(math.ceil(mine * up / down) == theirs for mine, theirs in zip(self.shape, other.shape, strict=True))
        return Ratio(up, down) if is_near and fits and same_crs(self.crs, other.crs) else None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "crs": self.crs,
            "transform": list(self.transform),
            "height": self.height,
            "width": self.width,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Grid:
        """Inverse of `to_dict`."""
        a, b, c, d, e, f = data["transform"]
        return cls(data["crs"], (a, b, c, d, e, f), data["height"], data["width"])


@lru_cache(maxsize=256)
def parse_crs(text: str) -> CRS:
    """CRS from an authority code or WKT2; raises pyproj's CRSError."""
    return CRS.from_user_input(text)


@lru_cache(maxsize=256)
def canonical_crs(text: str) -> str:
    """Authority code of a CRS where it has one, else its WKT2; raises pyproj's CRSError."""
    crs = parse_crs(text)
    authority = crs.to_authority(min_confidence=70)  # below 100: under another name, as Landsat's EPSG:3031
    if authority is None or not parse_crs(":".join(authority)).equals(crs, ignore_axis_order=True):
        return crs.to_wkt()
    return ":".join(authority)


@lru_cache(maxsize=256)
def is_on_earth(text: str) -> bool:
    """Whether a CRS lays a plane or sphere of the Earth out in two axes; not so heights, Mars or a building site."""
    crs = parse_crs(text)
    try:
        Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    except ProjError:
        return False
    return bool(crs.is_geographic or crs.is_projected)


@lru_cache(maxsize=256)
def same_crs(one: str, other: str) -> bool:
    """Whether two texts name the same CRS, whatever their spelling and axis order."""
    return one == other or parse_crs(one).equals(parse_crs(other), ignore_axis_order=True)
