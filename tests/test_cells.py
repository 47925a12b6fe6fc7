"""Ground cells have Major TOM's names, by its own definition worked out slowly."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stacchip_core.index.cells import EARTH_RADIUS_KM, grid_cells

LAT = st.floats(-85, 85)
LON = st.floats(-180, 180, exclude_max=True)


@lru_cache(maxsize=8)
def row_lines(cell_km: float) -> NDArray[np.float64]:
    """Southern edges of the rows, ascending: a whole number of rows from pole to pole, one of them at the equator."""
    count = math.ceil(math.pi * EARTH_RADIUS_KM / cell_km)
    lines = np.linspace(-90, 90, count + 1)[:-1]
    return np.sort(np.mod(lines, 180) - 90)


@lru_cache(maxsize=4096)
def col_lines(lat: float, cell_km: float) -> NDArray[np.float64]:
    """Western edges of the cells of the row whose southern edge is at `lat`, ascending."""
    count = math.ceil(2 * math.pi * EARTH_RADIUS_KM * math.cos(math.radians(lat)) / cell_km)
    lines = np.linspace(-180, 180, count + 1)[:-1]
    return np.sort(np.mod(lines, 360) - 180)


def published_cell(lon: float, lat: float, cell_km: float) -> str:
    """Name by the definition: last line below the point, wrapping around where there is none."""
    rows = row_lines(cell_km)
    row = int(np.searchsorted(rows, lat, side="left")) - 1
    origin = int(np.searchsorted(rows, 0 - 1e-9))
    cols = col_lines(float(rows[row]), cell_km)
    col = int(np.searchsorted(cols, lon, side="left")) - 1
    col %= len(cols)
    middle = int(np.searchsorted(cols, 0 - 1e-9))
    north, east = row % len(rows) - origin, col - middle
    return f"{abs(north)}{'U' if north >= 0 else 'D'}_{abs(east)}{'R' if east >= 0 else 'L'}"


def is_on_a_line(lon: float, lat: float, cell_km: float) -> bool:
    """Whether rounding alone decides the cell."""
    rows = row_lines(cell_km)
    if np.abs(rows - lat).min() < 1e-9:
        return True
    cols = col_lines(float(rows[int(np.searchsorted(rows, lat)) - 1]), cell_km)
    return bool(np.abs(cols - lon).min() < 1e-9)


@settings(max_examples=400)
@given(lon=LON, lat=LAT, cell_km=st.sampled_from([10.0, 10.0, 100.0, 5.12]))
@example(lon=0.0001, lat=0.0001, cell_km=10.0)
@example(lon=-0.0001, lat=-0.0001, cell_km=10.0)
@example(lon=179.9999, lat=84.9, cell_km=10.0)
@example(lon=-179.9999, lat=-84.9, cell_km=10.0)
def test_cells_are_those_of_the_published_definition(lon: float, lat: float, cell_km: float) -> None:
    if is_on_a_line(lon, lat, cell_km):
        return
    assert grid_cells(np.array([lon]), np.array([lat]), cell_km)[0] == published_cell(lon, lat, cell_km)


def test_cells_of_many_points_are_those_of_each_alone() -> None:
    rng = np.random.default_rng(7)
    lon, lat = rng.uniform(-180, 180, 3000), rng.uniform(-85, 85, 3000)
    expected = [published_cell(x, y, 10.0) for x, y in zip(lon.tolist(), lat.tolist(), strict=True)]
    assert grid_cells(lon, lat).tolist() == expected


def test_points_on_a_line_belong_to_the_cell_below_and_left() -> None:
    names = grid_cells(np.array([0.0, 1e-6]), np.array([0.0, 1e-6]))
    assert names.tolist() == ["1D_1L", "0U_0R"]


def test_names_are_made_up_to_the_poles_and_the_antimeridian() -> None:
    lon = np.array([-180.0, 180.0, 0.0, 0.0, 179.999999, -179.999999])
    lat = np.array([0.5, 0.5, 90.0, -90.0, 89.999, -89.999])
    names = grid_cells(lon, lat)
    assert all(names)
    assert names[0] == names[1], "the same meridian"
    rows = math.ceil(math.pi * EARTH_RADIUS_KM / 10)
    assert all(int(name.split("_")[0][:-1]) <= rows // 2 for name in names)


def test_a_cell_has_one_name_and_a_side_of_at_most_its_size() -> None:
    lat = np.full(200_000, 50.0)
    lon = np.linspace(-179.9999, 179.9999, 200_000)
    names = grid_cells(lon, lat)
    changes = np.flatnonzero(names[1:] != names[:-1])
    assert len(set(names)) == len(changes) + 1, "a name that comes back would join two far places"
    widths = np.diff(lon[changes]) * math.pi / 180 * EARTH_RADIUS_KM * math.cos(math.radians(50))
    assert widths.max() <= 10 + 0.13, "ten kilometres, and the distance between two of the points"


def test_unknown_points_have_no_cell() -> None:
    names = grid_cells(np.array([np.nan, 1.0, 1.0]), np.array([1.0, np.nan, 1.0]))
    assert names[:2].tolist() == [None, None]
    assert isinstance(names[2], str)


def test_no_points_no_cells() -> None:
    assert grid_cells(np.array([]), np.array([])).shape == (0,)


def test_lines_belong_to_the_cells_below_whatever_the_rounding() -> None:
    step = 180 / math.ceil(math.pi * EARTH_RADIUS_KM / 10)
    lines = np.arange(-900.0, 900.0) * step
    lon = np.full_like(lines, 0.01)
    assert grid_cells(lon, lines).tolist() == grid_cells(lon, lines - 1e-9).tolist()
    assert (grid_cells(lon, lines) != grid_cells(lon, lines + 1e-9)).all()
