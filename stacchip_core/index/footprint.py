"""Outlines of pixel windows on the Earth: WGS 84 polygons that are right at the antimeridian and over the poles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray
from pyproj import Transformer

from stacchip_core.sources.raster import Grid, parse_crs

# A straight edge in longitude and latitude may stray this far from the true edge before points are added to it.
MAX_STRAY_PX = 0.5
# Segments per edge at which adding points ends. Reached only next to a pole, where longitudes turn without bound.
MAX_SEGMENTS = 128
_AT_POLE = 90 - 1e-9  # degrees; a tenth of a millimetre
# Coordinates are kept to 2**-30 degree, a twentieth of a millimetre: the zeros behind make the column a third smaller.
_STEPS_PER_DEGREE = 2.0**30

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rings:
    """Outlines sampled along their edges, shape (windows, points) each; NaN for windows off the globe.

    `lon` runs on past 180 rather than jumping; `turn` is the sum of its steps once around: 0, or 360 around a pole.
    """

    lon: Floats
    lat: Floats
    turn: Floats
    stray_px: Floats


def footprints(grid: Grid, cols: NDArray[np.int64], rows: NDArray[np.int64], size: int) -> NDArray[np.object_]:
    """Polygons of square windows.

    Args:
        grid: the raster that the windows are counted in.
        cols: first column of each window, shape (n,).
        rows: first row of each window, shape (n,).
        size: side of a window, pixels.

    Returns:
        Shape (n,): Polygon, MultiPolygon where split at the antimeridian, or None where a window lies off the globe.
    """
    result = np.full(len(cols), None, dtype=object)
    pending, segments = np.arange(len(cols)), 1
    while len(pending):
        rings = _rings(grid, cols[pending], rows[pending], size, segments)
        is_done = (rings.stray_px <= MAX_STRAY_PX) | (segments >= MAX_SEGMENTS)
        result[pending[is_done]] = _polygons(rings, is_done)
        pending, segments = pending[~is_done], segments * 2
    return result


def centres(grid: Grid, cols: NDArray[np.int64], rows: NDArray[np.int64], size: int) -> tuple[Floats, Floats]:
    """Longitude and latitude of window centres, shape (n,) each; NaN off the globe."""
    x, y = grid.xy(cols + size / 2, rows + size / 2)
    lon, lat = _to_lonlat(grid, x, y)
    return (lon + 180) % 360 - 180, lat


def _rings(grid: Grid, cols: NDArray[np.int64], rows: NDArray[np.int64], size: int, segments: int) -> Rings:
    step = np.arange(2 * segments) / (2 * segments) * size  # every second point is the middle of a segment
    zero, full = np.zeros_like(step), np.full_like(step, size)
    col = cols[:, None] + np.concatenate([zero, step, full, size - step])
    row = rows[:, None] + np.concatenate([step, full, size - step, zero])
    lon, lat = _to_lonlat(grid, *grid.xy(col, row))
    is_cut = np.isnan(lon).any(axis=1)
    if is_cut.any():
        col[is_cut], row[is_cut] = _pulled_in(grid, col[is_cut], row[is_cut])
        lon[is_cut], lat[is_cut] = _to_lonlat(grid, *grid.xy(col[is_cut], row[is_cut]))
    ends_lon, ends_lat, turn = _unrolled(grid, lon[:, ::2], lat[:, ::2])
    stray = _stray(grid, (ends_lon, ends_lat, turn), (col[:, 1::2], row[:, 1::2]))
    return Rings(ends_lon, ends_lat, turn, stray)


def _pulled_in(grid: Grid, col: Floats, row: Floats) -> tuple[Floats, Floats]:
    """Move the points of outlines that lie off the globe to its rim, towards the middle of what is on it.

    Seen on the outer tiles of the sinusoidal (MODIS) grid. Outlines wholly off the globe come back unchanged.
    """
    west, north = col.min(axis=1, keepdims=True), row.min(axis=1, keepdims=True)
    side = col.max(axis=1, keepdims=True) - west
    within = (np.arange(16) + 0.5) / 16  # enough samples to find any sliver that is a sixteenth of the window
    inner_col, inner_row = (west + side * np.tile(within, 16)), (north + side * np.repeat(within, 16))
    is_on = ~np.isnan(_to_lonlat(grid, *grid.xy(inner_col, inner_row))[0])
    weight = is_on / np.maximum(is_on.sum(axis=1, keepdims=True), 1)
    mid_col, mid_row = ((v * weight).sum(axis=1, keepdims=True) for v in (inner_col, inner_row))
    near, far = np.zeros_like(col), np.ones_like(col)
    for _ in range(24):  # bisection to 2**-24 of a window
        middle = (near + far) / 2
        lon, _lat = _to_lonlat(grid, *grid.xy(mid_col + (col - mid_col) * middle, mid_row + (row - mid_row) * middle))
        near, far = np.where(np.isnan(lon), near, middle), np.where(np.isnan(lon), middle, far)
    is_off = np.isnan(_to_lonlat(grid, *grid.xy(col, row))[0]) & is_on.any(axis=1, keepdims=True)
    share = np.where(is_off, near, 1.0)
    return mid_col + (col - mid_col) * share, mid_row + (row - mid_row) * share


def _to_lonlat(grid: Grid, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Transform all points in one call; NaN where a point of the projection's plane is on no place of the Earth."""
    shape = x.shape
    to_lonlat, back = _transformers(grid.crs)
    lon, lat = (np.asarray(v, dtype=np.float64) for v in to_lonlat.transform(x.ravel(), y.ravel()))
    if parse_crs(grid.crs).is_geographic:
        lon = lon + 360 * np.round((x.ravel() - lon) / 360)
        is_off = np.abs(lat) > 90 + 1e-9
    else:
        again = back.transform(lon, lat)
        is_off = ~(np.hypot(again[0] - x.ravel(), again[1] - y.ravel()) < max(grid.pixel_size))
    lon, lat = np.where(is_off, np.nan, lon), np.where(is_off, np.nan, lat)
    return lon.reshape(shape), lat.reshape(shape)


@lru_cache(maxsize=64)
def _transformers(crs: str) -> tuple[Transformer, Transformer]:
    return (
        Transformer.from_crs(parse_crs(crs), "OGC:CRS84", always_xy=True),
        Transformer.from_crs("OGC:CRS84", parse_crs(crs), always_xy=True),
    )


def _unrolled(grid: Grid, lon: Floats, lat: Floats) -> tuple[Floats, Floats, Floats]:
    """Longitudes without jumps, and how far each ring turns around."""
    if parse_crs(grid.crs).is_geographic:
        return lon, lat, np.zeros(len(lon))
    steps = np.diff(lon, axis=1, append=lon[:, :1])
    steps = (steps + 180) % 360 - 180
    is_pole = np.abs(lat) > _AT_POLE
    for k in np.flatnonzero(is_pole.any(axis=1)):  # a loop over the few windows with a corner right on a pole
        _turn_at_pole(steps[k], is_pole[k])
    unrolled = np.concatenate([np.zeros((len(lon), 1)), np.cumsum(steps[:, :-1], axis=1)], axis=1)
    anchor = np.argmax(~is_pole, axis=1)[:, None]  # a point whose longitude means something
    unrolled += np.take_along_axis(lon, anchor, axis=1) - np.take_along_axis(unrolled, anchor, axis=1)
    return unrolled, lat, np.round(steps.sum(axis=1) / 360) * 360


def _turn_at_pole(steps: Floats, is_pole: NDArray[np.bool_]) -> None:
    """A pole has every longitude: come in on the one before, leave on the one after, and let the ring close."""
    touching = is_pole | np.roll(is_pole, -1)
    into, out_of = touching & ~is_pole, touching & is_pole
    steps[into] = 0
    steps[out_of] = -np.nansum(steps[~touching]) / max(1, out_of.sum())


def _stray(grid: Grid, rings: tuple[Floats, Floats, Floats], middles: tuple[Floats, Floats]) -> Floats:
    """Largest distance of a segment's middle from the true edge, pixels, per ring."""
    lon, lat, turn = rings
    next_lon = np.concatenate([lon[:, 1:], lon[:, :1] + turn[:, None]], axis=1)
    next_lat = np.roll(lat, -1, axis=1)
    x, y = _transformers(grid.crs)[1].transform(
        np.nan_to_num((lon + next_lon) / 2).ravel(), np.nan_to_num((lat + next_lat) / 2).ravel()
    )
    col, row = grid.cols_rows(np.asarray(x).reshape(lon.shape), np.asarray(y).reshape(lon.shape))
    distance = np.hypot(col - middles[0], row - middles[1])
    distance[np.isnan(lon) | np.isnan(next_lon)] = 0
    return np.asarray(distance.max(axis=1))


def _polygons(rings: Rings, chosen: NDArray[np.bool_]) -> NDArray[np.object_]:
    lon, lat = (np.round(v[chosen] * _STEPS_PER_DEGREE) / _STEPS_PER_DEGREE for v in (rings.lon, rings.lat))
    turn = rings.turn[chosen]
    is_off_poles = np.abs(lat).max(axis=1, initial=0) < _AT_POLE
    is_plain = (np.abs(lon).max(axis=1, initial=0) <= 180) & (turn == 0) & is_off_poles  # False where NaN
    result = np.full(len(lon), None, dtype=object)
    result[is_plain] = shapely.polygons(np.stack([lon[is_plain], lat[is_plain]], axis=-1))
    for k in np.flatnonzero(~is_plain):  # a loop over the few windows at the antimeridian, at a pole or off the globe
        result[k] = _wrapped(lon[k], lat[k], turn[k])
    return result


def _wrapped(lon: Floats, lat: Floats, turn: float) -> Any:
    """Polygon of one ring: over the pole it turns around, cut along the antimeridian; None where nothing is left."""
    if np.isnan(lon).any():
        return None
    points = _with_pole_edges(np.stack([lon, lat], axis=-1))
    if turn:
        pole = 90.0 if points[:, 1].mean() > 0 else -90.0
        close = [[points[0, 0] + turn, points[0, 1]], [points[0, 0] + turn, pole], [points[0, 0], pole]]
        points = np.concatenate([points, close])
    whole = shapely.make_valid(shapely.Polygon(points))
    joined = shapely.union_all(list(_bands(whole)))  # pieces around a pole meet again along the first meridian
    parts = [part for part in shapely.get_parts(joined) if part.geom_type == "Polygon" and part.area > 0]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else shapely.multipolygons(parts)


def _with_pole_edges(points: Floats) -> Floats:
    """Leave a pole along the meridian of the next point: without it the edge would cut across."""
    at_pole = np.flatnonzero(np.abs(points[:, 1]) > _AT_POLE)
    after = np.roll(points[:, 0], -1)[at_pole]
    return np.insert(points, at_pole + 1, np.stack([after, points[at_pole, 1]], axis=-1), axis=0)


def _bands(polygon: Any) -> Iterator[Any]:
    """Pieces of a polygon within -180 to 180, each moved there."""
    west, _, east, _ = polygon.bounds
    for turn in range(int(np.floor((west + 180) / 360)), int(np.ceil((east - 180) / 360)) + 1):
        band = shapely.box(-180 + 360 * turn, -90, 180 + 360 * turn, 90)
        piece = shapely.intersection(polygon, band)
        if not piece.is_empty:
            yield shapely.affinity.translate(piece, -360.0 * turn)
