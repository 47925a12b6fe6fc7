"""Grids as arithmetic: affine maps there and back, bounds, pixel sizes in metres, and how two grids line up."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj.exceptions import CRSError
from rasterio import Affine

from stacchip_core.sources.raster import ALIGNMENT_TOLERANCE_PX, Grid, Ratio, canonical_crs, parse_crs, same_crs
from tests.items import coarser, utm_grid
from tests.nasa_scenes import SINUSOIDAL

SIDES = st.integers(1, 500)
RATIOS = st.integers(1, 12)
COORDINATES = st.floats(-1e7, 1e7)


def moved(grid: Grid, cols: float, rows: float) -> Grid:
    """The grid, `cols` and `rows` of its own pixels further."""
    a, b, c, d, e, f = grid.transform
    return Grid(grid.crs, (a, b, c + a * cols + b * rows, d, e, f + d * cols + e * rows), grid.height, grid.width)


def finer(grid: Grid, ratio: int) -> Grid:
    a, b, c, d, e, f = grid.transform
    transform = (a / ratio, b / ratio, c, d / ratio, e / ratio, f)
    return Grid(grid.crs, transform, grid.height * ratio, grid.width * ratio)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """North up or turned, any pixel size."""
    size, angle = draw(st.floats(0.1, 1000)), draw(st.sampled_from([0.0, 0.0, 10.0, 45.0, 200.0]))
    turn = Affine.rotation(angle) @ Affine.scale(size, -size)
    transform = (turn.a, turn.b, draw(COORDINATES), turn.d, turn.e, draw(COORDINATES))
    return Grid("EPSG:32632", transform, draw(SIDES), draw(SIDES))


@given(grid=grids(), col=st.floats(-100, 1000), row=st.floats(-100, 1000))
def test_pixels_come_back_from_their_coordinates(grid: Grid, col: float, row: float) -> None:
    x, y = grid.xy(np.array([col]), np.array([row]))
    expected = Affine(*grid.transform) @ (col, row)
    assert (x[0], y[0]) == pytest.approx(expected)
    back = grid.cols_rows(x, y)
    assert (back[0][0], back[1][0]) == pytest.approx((col, row), abs=1e-3)


@given(grid=grids())
def test_bounds_hold_every_corner(grid: Grid) -> None:
    corners = [Affine(*grid.transform) @ (c, r) for c in (0, grid.width) for r in (0, grid.height)]
    xs, ys = zip(*corners, strict=True)
    assert grid.bounds == pytest.approx((min(xs), min(ys), max(xs), max(ys)))


@given(height=SIDES, width=SIDES, ratio=RATIOS)
def test_whole_ratios_are_found_whatever_the_side(height: int, width: int, ratio: int) -> None:
    grid = utm_grid(height, width=width)
    assert grid.ratio_of(coarser(grid, ratio)) == Ratio(1, ratio)
    assert grid.ratio_of(finer(grid, ratio)) == Ratio(ratio, 1)
    assert grid.ratio_of(grid) == Ratio(1, 1)


@given(
    grid=grids(),
    ratio=RATIOS,
    cols=st.floats(-0.9, 0.9),
    rows=st.floats(-0.9, 0.9),
)
def test_grids_off_by_more_than_the_tolerance_do_not_line_up(grid: Grid, ratio: int, cols: float, rows: float) -> None:
    far = math.hypot(cols, rows)
    other = coarser(moved(grid, cols, rows), ratio)
    if far < ALIGNMENT_TOLERANCE_PX * 0.9:
        assert grid.ratio_of(other) == Ratio(1, ratio)
    elif far > ALIGNMENT_TOLERANCE_PX * 1.1:
        assert grid.ratio_of(other) is None


def test_the_origin_counts_not_only_the_size() -> None:
    grid = utm_grid(512)
    assert grid.ratio_of(moved(grid, 64, 0)) is None
    assert grid.ratio_of(moved(grid, 0, -64)) is None


@pytest.mark.parametrize("factor", [1.5, 2.5, 2 / 3, 1.01, 0.99, 5.9])
def test_broken_ratios_do_not_line_up(factor: float) -> None:
    grid = utm_grid(600)
    side = round(600 / factor)
    assert grid.ratio_of(Grid(grid.crs, (10 * factor, 0, 500_040, 0, -10 * factor, 5_200_020), side, side)) is None


@pytest.mark.parametrize("sides", [(601, 600), (600, 599), (599, 600), (1, 1)])
def test_the_shape_must_be_the_one_that_covers_the_grid(sides: tuple[int, int]) -> None:
    grid = utm_grid(600)
    assert grid.ratio_of(Grid(grid.crs, grid.transform, *sides)) is None


def test_a_pan_band_half_a_pixel_off_does_not_line_up() -> None:
    grid = utm_grid(360, 30.0)
    pan = Grid(grid.crs, (15.0, 0, 500_047.5, 0, -15.0, 5_200_012.5), 719, 719)
    assert grid.ratio_of(pan) is None


def test_mirrored_and_turned_grids_do_not_line_up() -> None:
    grid = utm_grid(100)
    a, b, c, d, e, f = grid.transform
    assert grid.ratio_of(Grid(grid.crs, (a, b, c, d, -e, f - 1000), 100, 100)) is None
    assert grid.ratio_of(Grid(grid.crs, (b, a, c, e, d, f), 100, 100)) is None


def test_grids_of_two_crs_never_line_up() -> None:
    grid = utm_grid(100)
    assert grid.ratio_of(Grid("EPSG:32633", grid.transform, 100, 100)) is None


def test_spellings_of_one_crs_are_the_same() -> None:
    for text in ("EPSG:32632", "EPSG:4326", "EPSG:3031"):
        crs = parse_crs(text)
        for spelling in (crs.to_wkt(), crs.to_wkt("WKT1_GDAL"), crs.to_json()):
            assert canonical_crs(spelling) == text
            assert same_crs(spelling, text)
    assert same_crs("EPSG:4326", "OGC:CRS84"), "the axis order does not matter"
    assert not same_crs("EPSG:32632", "EPSG:32633")
    assert same_crs(canonical_crs(SINUSOIDAL), SINUSOIDAL)


def test_an_unknown_crs_is_pyprojs_error() -> None:
    with pytest.raises(CRSError):
        canonical_crs("EPSG:999999")


@pytest.mark.parametrize(
    ("crs", "pixel", "top", "metres"),
    [
        ("EPSG:32632", 10.0, 5_200_000.0, 10.0),
        ("EPSG:2263", 3.0, 200_000.0, 3.0 * 1200 / 3937),
        ("EPSG:4326", 1.0, 0.5, 111_319.49),
        ("EPSG:4326", 1.0, 60.5, 111_319.49 / 2),
        ("OGC:CRS84", 1.0, 60.5, 111_319.49 / 2),
        ("EPSG:4807", 1.0, 0.5, 0.9 * 111_319.49),  # grads
        (SINUSOIDAL, 463.3127, 0.0, 463.3127),
        ("EPSG:32632+5773", 10.0, 5_200_000.0, 10.0),
        ("+proj=utm +zone=32 +ellps=bessel +towgs84=598.1,73.7,418.2,0.202,0.045,-2.455,6.7", 10.0, 5e6, 10.0),
    ],
)
def test_gsd_is_in_metres(crs: str, pixel: float, top: float, metres: float) -> None:
    grid = Grid(canonical_crs(crs), (pixel, 0, 0, 0, -pixel, top), 1, 1)
    assert grid.gsd_m == pytest.approx(metres, rel=1e-5)


@given(grid=grids())
def test_a_grid_is_read_back_from_its_json(grid: Grid) -> None:
    assert Grid.from_dict(json.loads(json.dumps(grid.to_dict()))) == grid


def test_a_grid_says_what_it_is() -> None:
    assert str(utm_grid(5, width=7)) == "5 x 7 pixels of 10 in EPSG:32632 from (500040, 5200020)"
    assert "a custom CRS" in str(Grid(SINUSOIDAL, (1, 0, 0, 0, -1, 0), 1, 1))
