"""Outlines against the true ones: every pixel edge of a window transformed by itself, and areas on the ellipsoid."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Geod, Transformer

from stacchip_core.index.footprint import MAX_STRAY_PX, centres, footprints
from stacchip_core.index.grid import ChipGrid, GridSpec
from stacchip_core.sources.raster import Grid
from tests.data import ITEMS, needs_shared_data
from tests.nasa_scenes import SINUSOIDAL, sinusoidal_grid

Floats = NDArray[np.float64]
WGS84 = Geod(ellps="WGS84")
MODIS_SIDE = 2400 * 463.3127165274999


def north_up(crs: str, x: float, y: float, pixel: float, side: int) -> Grid:
    return Grid(crs, (pixel, 0.0, x, 0.0, -pixel, y), side, side)


def turned(crs: str, x: float, y: float, pixel: float, side: int, degrees: float) -> Grid:
    """A grid whose rows run `degrees` off the axis."""
    cos, sin = pixel * np.cos(np.radians(degrees)), pixel * np.sin(np.radians(degrees))
    return Grid(crs, (float(cos), float(sin), x, float(sin), float(-cos), y), side, side)


PLAIN = {
    "utm 32": north_up("EPSG:32632", 399960, 5300040, 10, 10_980),
    "utm edge of zone 80 N": north_up("EPSG:32633", 200_000, 8_900_000, 10, 10_980),
    "utm south": north_up("EPSG:32720", 499980, 6400000, 10, 10_980),
    "landsat antarctic": north_up("EPSG:3031", 1_517_085, -1_811_685, 30, 8_000),
    "polar stereographic": north_up("EPSG:3413", -2_000_000, -600_000, 30, 8_000),
    "modis h19v10": sinusoidal_grid(2400),
    "modis h30v05": sinusoidal_grid(2400, tile=(30, 5)),
    "degrees": north_up("EPSG:4326", 7.0, 47.0, 0.0002, 6_000),
    "new zealand": north_up("EPSG:2193", 1_843_200, 5_845_680, 0.3, 4_000),
    "turned": turned("EPSG:32632", 399960, 5300040, 10, 5_000, 20),
    "south up": Grid("EPSG:32632", (10.0, 0.0, 399960.0, 0.0, 10.0, 5_200_000.0), 5_000, 5_000),
    "feet": north_up("EPSG:2263", 900_000, 250_000, 3, 6_000),
    "web mercator, coarse": north_up("EPSG:3857", -2_000_000, 8_000_000, 1200, 2_000),
    "albers, coarse": north_up("EPSG:5070", -2_000_000, 3_000_000, 1000, 3_000),
}
WRAPPED = {
    "utm 1": north_up("EPSG:32601", 300_000, 7_400_040, 10, 10_980),
    "utm 60 south": north_up("EPSG:32760", 499_980, 1_200_000, 10, 10_980),
    "fiji": north_up("EPSG:3460", 2_000_000, 4_100_000, 30, 8_000),
    "north polar, both sides": north_up("EPSG:3413", -4_000_000, 4_000_000, 400, 8_000),
    "degrees past 180": north_up("EPSG:4326", 178.7, -10.0, 0.0005, 6_000),
    "degrees 0 to 360": north_up("EPSG:4326", 0.0, 90.0, 0.05, 3_600),
}
GRIDS = {**PLAIN, **WRAPPED}


def cut(grid: Grid, size: int, stride: int | None = None) -> tuple[ChipGrid, NDArray[Any]]:
    chips = ChipGrid(grid, GridSpec(size, stride or size))
    xs, ys = chips.positions()
    return chips, footprints(grid, xs * chips.spec.stride, ys * chips.spec.stride, size)


def outline(col: int, row: int, size: int, points: int = 400) -> tuple[Floats, Floats]:
    """Pixel coordinates along the edges of a window, clockwise, `points` an edge."""
    step = np.arange(points) / points * size
    zero, full = np.zeros_like(step), np.full_like(step, size)
    return col + np.concatenate([step, full, size - step, zero]), row + np.concatenate([zero, step, full, size - step])


def lonlat(grid: Grid, cols: Floats, rows: Floats) -> tuple[Floats, Floats]:
    to_lonlat = Transformer.from_crs(grid.crs, "OGC:CRS84", always_xy=True)
    return to_lonlat.transform(*grid.xy(cols, rows))


def edges_in_pixels(grid: Grid, polygon: Any) -> Floats:
    """Points along a polygon's boundary in pixel coordinates, without the edges along +-180 and the poles."""
    rings = [part.exterior for part in shapely.get_parts(polygon)]
    dense = np.concatenate([shapely.get_coordinates(shapely.segmentize(r, r.length / 2000)) for r in rings])
    is_seam = (np.abs(np.abs(dense[:, 0]) - 180) < 1e-9) | (np.abs(dense[:, 1]) > 90 - 1e-9)
    back = Transformer.from_crs("OGC:CRS84", grid.crs, always_xy=True)
    x, y = back.transform(dense[~is_seam, 0], dense[~is_seam, 1])
    if grid.crs == "EPSG:4326":
        x = x + 360 * np.round((grid.bounds[0] + grid.bounds[2] - 2 * x) / 720)
    return np.stack(grid.cols_rows(np.asarray(x), np.asarray(y)), axis=-1)


def area_on_ellipsoid(polygon: Any) -> float:
    """Area in m2, by an equal-area projection of the densified polygon."""
    to_equal_area = Transformer.from_crs("OGC:CRS84", "EPSG:6933", always_xy=True)
    dense = shapely.segmentize(polygon, 0.05)
    return float(shapely.area(shapely.transform(dense, lambda p: np.stack(to_equal_area.transform(*p.T), axis=-1))))


def assert_valid(polygons: NDArray[Any]) -> None:
    for polygon in polygons:
        assert polygon.is_valid, shapely.is_valid_reason(polygon)
        west, south, east, north = polygon.bounds
        assert -180 <= west <= east <= 180
        assert -90 <= south <= north <= 90
        for part in shapely.get_parts(polygon):
            width = part.bounds[2] - part.bounds[0]
            assert width < 180 + 1e-6 or max(abs(part.bounds[1]), abs(part.bounds[3])) > 90 - 1e-9, "too wide"


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("size", [256, 1000])
def test_outlines_stray_less_than_half_a_pixel(name: str, size: int) -> None:
    grid = GRIDS[name]
    chips, polygons = cut(grid, size)
    assert_valid(polygons)
    xs, ys = chips.positions()
    for k in np.linspace(0, len(chips) - 1, 9).astype(int):
        polygon = polygons[k]
        col, row = int(xs[k]) * size, int(ys[k]) * size
        ring = shapely.LinearRing(np.stack(outline(col, row, size, 1), axis=-1))
        found = shapely.points(edges_in_pixels(grid, polygon))
        assert shapely.distance(found, ring).max() < MAX_STRAY_PX * 1.1
        if name != "degrees 0 to 360":  # there the left and upper edges are the first meridian's and the pole's
            true_points = shapely.points(*outline(col, row, size, 50))
            drawn = shapely.union_all(found)
            assert shapely.distance(true_points, drawn).max() < MAX_STRAY_PX + size / 20, "an edge is missing"


@pytest.mark.parametrize("name", GRIDS)
def test_areas_are_those_of_the_ellipsoid(name: str) -> None:
    grid = GRIDS[name]
    size = 700
    chips, polygons = cut(grid, size)
    xs, ys = chips.positions()
    for k in np.linspace(0, len(chips) - 1, 6).astype(int):
        lon, lat = lonlat(grid, *outline(int(xs[k]) * size, int(ys[k]) * size, size))
        if np.abs(lat).max() > 89.99:
            continue  # a true outline through the pole has no longitude there
        expected = abs(WGS84.polygon_area_perimeter(lon, lat)[0])
        if name.startswith("north polar") and (np.abs(np.diff(np.unwrap(lon, period=360))).sum() > 300):
            continue  # the one around the pole has a test of its own
        assert area_on_ellipsoid(polygons[k]) == pytest.approx(expected, rel=4 * MAX_STRAY_PX / size)


@pytest.mark.parametrize("name", GRIDS)
def test_neighbours_leave_no_gap_and_do_not_overlap(name: str) -> None:
    grid = GRIDS[name]
    chips, polygons = cut(grid, 500)
    xs, ys = chips.positions()
    block = polygons[(xs < 4) & (ys < 4)]
    whole = shapely.union_all(block)
    parts = float(shapely.area(block).sum())
    assert whole.area == pytest.approx(parts, rel=2 * MAX_STRAY_PX / 500)
    pixel = np.sqrt(parts / len(block)) / 500
    closed = shapely.buffer(shapely.buffer(whole, pixel), -pixel)
    assert closed.area == pytest.approx(whole.area, rel=2 * MAX_STRAY_PX / 500)


@pytest.mark.parametrize("name", ["utm 1", "fiji", "degrees past 180", "north polar, both sides"])
def test_windows_across_the_antimeridian_are_split_there(name: str) -> None:
    grid = WRAPPED[name]
    _, polygons = cut(grid, 512)
    split = [polygon for polygon in polygons if polygon.geom_type == "MultiPolygon"]
    assert split, "none of them crosses?"
    for polygon in split:
        sides = sorted(part.bounds[0] for part in polygon.geoms)
        assert sides[0] == -180
        assert max(part.bounds[2] for part in polygon.geoms) == 180


@needs_shared_data
@pytest.mark.parametrize("name", ["S2A_T01WCP_20230625_v100", "polar80S_S2A_T60CWS_20240109"])
def test_real_scenes_at_the_antimeridian_are_not_as_wide_as_the_world(name: str) -> None:
    from stacchip_core.sources.item import read_item
    from stacchip_core.sources.scene import Scene

    path = ITEMS / "sentinel-2-l2a" / f"antimeridian_{name}.json"
    grid = Scene.from_item(read_item(path)).grid
    assert grid is not None
    chips, polygons = cut(grid, 256)
    assert_valid(polygons)
    total = sum(area_on_ellipsoid(polygon) for polygon in polygons[::42])
    assert total == pytest.approx(len(polygons[::42]) * 2560**2, rel=5e-3), "UTM's scale is within 0.4 %"
    xs, ys = chips.positions()
    lon, lat = centres(grid, xs * 256, ys * 256, 256)
    assert np.abs(lon).min() > 170
    assert (lat > 60).all() or (lat < -60).all()
    assert json.loads(path.read_text())["id"]


def pole_grids() -> dict[str, tuple[Grid, tuple[int, int]]]:
    """Grids of 400 m with a pole inside the first window, on its edge, or on its corner."""
    return {
        f"{crs} {where}": (north_up(crs, -x * 400.0, y * 400.0, 400, 600), (x, y))
        for crs in ("EPSG:3413", "EPSG:3031")
        for where, (x, y) in {
            "inside": (120, 77),
            "on the right edge": (256, 100),
            "on the lower edge": (100, 256),
            "on the left edge": (0, 100),
            "on the upper edge": (100, 0),
            "on the corner": (256, 256),
            "on the first corner": (0, 0),
        }.items()
    }


@pytest.mark.parametrize("name", pole_grids())
def test_poles_belong_to_the_windows_that_hold_them(name: str) -> None:
    grid, (col, row) = pole_grids()[name]
    _, polygons = cut(grid, 256)
    assert_valid(polygons)
    sign = 1 if "3413" in name else -1
    for k, polygon in enumerate(polygons):
        left, top = (k % 2) * 256, (k // 2) * 256
        touches = left <= col <= left + 256 and top <= row <= top + 256
        reach = max(sign * polygon.bounds[1], sign * polygon.bounds[3])
        assert (reach > 90 - 1e-6) == touches, (k, polygon.wkt[:200])
    if col > 0 and row > 0:  # the grid lies on all sides of the pole
        near = [shapely.Point(lon, sign * 89.95) for lon in np.linspace(-179.5, 179.5, 60)]
        assert all(any(polygon.covers(point) for polygon in polygons) for point in near)
    total = sum(area_on_ellipsoid(polygon) for polygon in polygons)
    scale = {"EPSG:3413": 0.97, "EPSG:3031": 0.973}[grid.crs]  # of the projection at the pole
    assert total == pytest.approx(4 * (256 * 400 / scale) ** 2, rel=0.02)


@pytest.mark.parametrize("crs", ["EPSG:3413", "EPSG:3031"])
@pytest.mark.parametrize("size", [512, 2048, 8000])
@pytest.mark.parametrize("place", [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0), (1.0, 0.33), (0.77, 0.4)])
def test_windows_around_a_pole_leave_no_hole_there(crs: str, size: int, place: tuple[float, float]) -> None:
    """The pole on a corner, in the middle of an edge, somewhere on an edge, inside: from a segment's length on."""
    grid = north_up(crs, -size * 100.0 * place[0], size * 100.0 * place[1], 100, 2 * size)
    _, polygons = cut(grid, size)
    assert_valid(polygons)
    sign = 1 if crs == "EPSG:3413" else -1
    for pixels in (0.6, size / 128, size / 20) if place == (1.0, 1.0) else (size / 128, size / 20):
        lat = sign * (90 - pixels * 100 / 111_700)
        around = [shapely.Point(lon, lat) for lon in np.linspace(-179.9, 179.9, 80)]
        assert all(any(polygon.distance(point) < 1e-9 for polygon in polygons) for point in around), pixels


def test_windows_off_the_globe_have_no_outline_and_cut_ones_keep_what_is_on_it() -> None:
    grid = sinusoidal_grid(2400, tile=(17, 0))  # by the north pole: most of the tile lies on it, its corner off
    chips, polygons = cut(grid, 240)
    inside = [polygon for polygon in polygons if polygon is not None]
    assert_valid(np.array(inside, dtype=object))
    xs, ys = chips.positions()
    for polygon, x, y in zip(polygons, xs * 240, ys * 240, strict=True):
        cols, rows = np.meshgrid(x + np.arange(10, 240, 20.0), y + np.arange(10, 240, 20.0))
        px, py = grid.xy(cols.ravel(), rows.ravel())
        is_on = np.abs(px) <= np.pi * 6371007.181 * np.cos(py / 6371007.181)
        assert (polygon is not None) or not is_on.any()
        if polygon is not None and is_on.all():
            assert area_on_ellipsoid(polygon) == pytest.approx((240 * 463.3127) ** 2, rel=0.01)
        elif polygon is not None:
            assert area_on_ellipsoid(polygon) < 1.1 * max(0.1, is_on.mean()) * (240 * 463.3127) ** 2
    west = Grid(SINUSOIDAL, (463.3127, 0.0, -20015109.354, 0.0, -463.3127, 10007554.677), 2400, 2400)
    assert all(polygon is None for polygon in cut(west, 240)[1]), "tile h00v00 lies wholly off the globe"


@settings(max_examples=60)
@given(
    zone=st.integers(1, 60),
    is_north=st.booleans(),
    east=st.floats(100_000, 800_000),
    north=st.floats(100_000, 9_200_000),
    size=st.sampled_from([64, 256, 1024]),
    pixel=st.sampled_from([0.3, 10.0, 60.0]),
)
def test_any_utm_window_is_valid_and_of_the_right_size(
    zone: int, is_north: bool, east: float, north: float, size: int, pixel: float
) -> None:
    grid = north_up(f"EPSG:{32600 if is_north else 32700}".replace("00", f"{zone:02}"), east, north, pixel, 2 * size)
    _, polygons = cut(grid, size)
    assert_valid(polygons)
    for polygon in polygons:
        assert area_on_ellipsoid(polygon) == pytest.approx((size * pixel) ** 2, rel=0.02)


def test_centres_lie_in_their_outlines() -> None:
    for grid in GRIDS.values():
        chips, polygons = cut(grid, 512)
        xs, ys = chips.positions()
        lon, lat = centres(grid, xs * 512, ys * 512, 512)
        assert ((lon >= -180) & (lon <= 180)).all()
        assert shapely.covers(polygons, shapely.points(lon, lat)).all()


def test_no_windows_no_outlines() -> None:
    none = np.array([], dtype=np.int64)
    assert footprints(PLAIN["utm 32"], none, none, 256).shape == (0,)
