"""The leakage report: what brute force finds, pair by pair."""

from __future__ import annotations

import datetime as dt
from itertools import combinations, product

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from stacchip_core.chips.leakage import LEAST_OVERLAP, MEAN_RADIUS_KM, leakage
from stacchip_core.chips.splits import with_split
from tests.chip_rows import START, spec, table_of
from tests.test_splits import squares

SPHERE = Geod(a=MEAN_RADIUS_KM * 1000, b=MEAN_RADIUS_KM * 1000)


def shares_ground(one: shapely.Geometry, other: shapely.Geometry) -> bool:
    common = shapely.area(shapely.intersection(one, other))
    least = LEAST_OVERLAP * min(shapely.area(one), shapely.area(other))
    return bool(shapely.intersects(one, other) and common >= least)


def edge_distance_km(one: shapely.Geometry, other: shapely.Geometry) -> float:
    """The oracle: points every few metres along both outlines, all against all."""
    points = [shapely.get_coordinates(shapely.segmentize(shape, 0.002)) for shape in (one, other)]
    pairs = np.array(list(product(range(len(points[0])), range(len(points[1])))))
    a, b = points[0][pairs[:, 0]], points[1][pairs[:, 1]]
    return float(np.min(SPHERE.inv(a[:, 0], a[:, 1], b[:, 0], b[:, 1])[2])) / 1000


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_overlaps_are_those_of_brute_force(seed: int, by_chip: bool) -> None:
    split = {"split_km": 20, "seed": seed, "buffer": False, "by": "chip" if by_chip else "block"}
    table = with_split(squares(120, seed=seed, span=0.2), spec(split=split))
    times = [START + dt.timedelta(days=n % 3) for n in range(table.num_rows)]
    place = table.schema.get_field_index("datetime")
    table = table.set_column(place, "datetime", pa.array(times, table.schema.field("datetime").type))
    shapes, names = shapely.from_wkb(table["geometry"].to_numpy()), table["split"].to_pylist()
    found = leakage(table)
    for pair in found.pairs:
        crossing = [
            (i, j)
            for i, j in combinations(range(len(names)), 2)
            if {names[i], names[j]} == {pair.first, pair.second} and shares_ground(shapes[i], shapes[j])
        ]
        assert pair.overlaps == len(crossing)
        assert pair.other_dates == sum(times[i] != times[j] for i, j in crossing)
        assert len(pair.examples) == min(5, len(crossing))
    assert found.is_clean == (not any(pair.overlaps for pair in found.pairs))
    assert found.chips == {name: names.count(name) for name in found.chips}


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(8, 47), (180, 10), (30, -70)]))
def test_the_nearest_distance_is_that_of_brute_force(seed: int, place: tuple[int, int]) -> None:
    lon, lat = place
    table = with_split(squares(40, seed=seed, span=0.5, lon=lon, lat=lat), spec(split={"split_km": 20, "seed": seed}))
    shapes, names = shapely.from_wkb(table["geometry"].to_numpy()), table["split"].to_pylist()
    for pair in leakage(table).pairs:
        crossing = [
            (shapes[i], shapes[j])
            for i, j in combinations(range(len(names)), 2)
            if {names[i], names[j]} == {pair.first, pair.second}
        ]
        near = sorted(crossing, key=lambda two: middle_distance(*two))[:12]
        expected = min(edge_distance_km(*two) for two in near)
        assert pair.nearest_km == pytest.approx(expected, rel=0.01, abs=0.3)
        assert pair.overlaps == 0


def middle_distance(one: shapely.Geometry, other: shapely.Geometry) -> float:
    (a,), (b,) = (shapely.get_coordinates(shapely.get_parts(shape)[0].centroid) for shape in (one, other))
    return float(SPHERE.inv(a[0], a[1], b[0], b[1])[2])


def test_chips_on_either_side_of_the_antimeridian_are_neighbours() -> None:
    rows = [
        {"chip_id": name, "datetime": START, "shape": shapely.box(west, 0, west + 0.02, 0.02)}
        for name, west in (("a", 179.97), ("b", -179.98))
    ]
    table = table_of(rows).add_column(1, "split", pa.array(["train", "test"]))
    (pair,) = leakage(table).pairs
    assert pair.nearest_km == pytest.approx(0.03 * np.pi / 180 * MEAN_RADIUS_KM, rel=1e-3)


def test_one_split_alone_has_nothing_to_leak_into() -> None:
    found = leakage(with_split(squares(20, seed=1), spec(split={"validation": 0, "test": 0})))
    assert found.is_clean
    assert found.pairs == ()
    assert found.chips == {"train": 20}
