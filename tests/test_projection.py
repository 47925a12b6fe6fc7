"""The projection extension's forms, v1 and v2, at item and asset level, give one grid, or an error that names them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS

from stacchip_core.errors import StacchipError, UnsupportedGridError
from stacchip_core.sources.projection import declared_grid
from stacchip_core.sources.raster import MAX_PIXELS, Grid, parse_crs, same_crs
from tests.nasa_scenes import SINUSOIDAL

TRANSFORM = [10.0, 0.0, 399960.0, 0.0, -10.0, 5300040.0]
SHAPE = [100, 200]
UTM = CRS("EPSG:32632")
GRID = Grid("EPSG:32632", (10.0, 0.0, 399960.0, 0.0, -10.0, 5300040.0), 100, 200)
CODES: list[dict[str, Any]] = [
    {"proj:epsg": 32632},
    {"proj:epsg": 32632.0},
    {"proj:code": "EPSG:32632"},
    {"proj:epsg": None, "proj:code": "EPSG:32632"},
    {"proj:epsg": 32632, "proj:code": None},
    {"proj:epsg": 32632, "proj:code": "EPSG:32632"},
    {"proj:wkt2": UTM.to_wkt()},
    {"proj:projjson": UTM.to_json_dict()},
    {"proj:projjson": UTM.to_json()},
    {"proj:epsg": None, "proj:code": None, "proj:wkt2": UTM.to_wkt(), "proj:projjson": None},
]
PLACES: list[dict[str, Any]] = [
    {"proj:shape": SHAPE, "proj:transform": TRANSFORM},
    {"proj:shape": [100.0, 200.0], "proj:transform": [*TRANSFORM, 0, 0, 1]},
    {"proj:shape": SHAPE, "proj:transform": [*TRANSFORM, 0.0, 0.0, 1.0], "proj:bbox": None},
    {"proj:shape": SHAPE, "proj:transform": TRANSFORM, "proj:bbox": [399960, 5299040, 401960, 5300040]},
]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("place", PLACES)
def test_every_form_gives_the_same_grid_at_either_level(code: dict[str, Any], place: dict[str, Any]) -> None:
    nothing = {"proj:epsg": None, "proj:code": None, "proj:shape": None, "proj:transform": None}
    assert declared_grid({**code, **place}, {}) == GRID
    assert declared_grid({}, {**code, **place}) == GRID
    assert declared_grid(code, place) == GRID
    assert declared_grid({**code, **place}, nothing) == GRID
    assert declared_grid(nothing, {**code, **place}) == GRID


def test_a_crs_without_code_stays_itself() -> None:
    grid = declared_grid({"proj:epsg": None, "proj:wkt2": SINUSOIDAL}, PLACES[0])
    assert grid is not None
    assert same_crs(grid.crs, SINUSOIDAL)


def test_the_asset_goes_before_the_item() -> None:
    other = {"proj:code": "EPSG:32633", "proj:shape": [1, 1], "proj:transform": [1, 0, 0, 0, -1, 0]}
    assert declared_grid(other, {**CODES[0], **PLACES[0]}) == GRID


@pytest.mark.parametrize("key", ["proj:shape", "proj:transform"])
def test_shape_and_transform_never_come_from_two_levels(key: str) -> None:
    assert declared_grid({**CODES[0], **PLACES[0]}, {key: PLACES[0][key]}) is None


@pytest.mark.parametrize("missing", ["proj:epsg", "proj:shape", "proj:transform"])
def test_where_a_part_is_missing_there_is_no_grid(missing: str) -> None:
    fields = {**CODES[0], **PLACES[0]}
    assert declared_grid({k: v for k, v in fields.items() if k != missing}, {}) is None
    assert declared_grid({**fields, missing: None}, {}) is None


def test_two_codes_that_differ_contradict() -> None:
    with pytest.raises(UnsupportedGridError, match=r"proj:code EPSG:32632 and proj:epsg EPSG:32633 contradict"):
        declared_grid({"proj:epsg": 32633, "proj:code": "EPSG:32632", **PLACES[0]}, {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"proj:epsg": 32622.1}, r"proj:epsg 32622\.1 is not a whole number"),
        ({"proj:epsg": "32632"}, "proj:epsg '32632' is not a whole number"),
        ({"proj:epsg": True}, "proj:epsg True is not a whole number"),
        ({"proj:epsg": float("nan")}, "proj:epsg nan is not a whole number"),
        ({"proj:epsg": float("inf")}, "proj:epsg inf is not a whole number"),
        ({"proj:epsg": 99999999}, "proj:epsg 'EPSG:99999999' is no known CRS"),
        ({"proj:code": "EPSG:nope"}, "proj:code 'EPSG:nope' is no known CRS"),
        ({"proj:code": 32632}, "proj:code '32632' is no known CRS"),
        ({"proj:wkt2": "PROJCS[nonsense"}, "proj:wkt2 .* is no known CRS"),
        ({"proj:projjson": {"type": "nothing"}}, "proj:projjson .* is no known CRS"),
        ({"proj:shape": [100]}, r"proj:shape \[100\] is not \[rows, columns\]"),
        ({"proj:shape": [0, 200]}, "proj:shape"),
        ({"proj:shape": [100.5, 200]}, "proj:shape"),
        ({"proj:shape": ["100", "200"]}, "proj:shape"),
        ({"proj:shape": "100 200"}, "proj:shape"),
        ({"proj:shape": [MAX_PIXELS, 2]}, "proj:shape"),
        ({"proj:shape": [float("inf"), 2]}, "proj:shape"),
        ({"proj:transform": TRANSFORM[:5]}, "proj:transform"),
        ({"proj:transform": [*TRANSFORM, 0, 0, 2]}, "proj:transform"),
        ({"proj:transform": [*TRANSFORM[:5], float("nan")]}, "proj:transform"),
        ({"proj:transform": [*TRANSFORM[:5], "0"]}, "proj:transform"),
        ({"proj:transform": [0, 0, 1, 0, 0, 1]}, "pixels without area"),
        ({"proj:transform": [10, 0, 1, 0, 0, 1]}, "pixels without area"),
        ({"proj:transform": {"a": 1}}, "proj:transform"),
        (
            {"proj:shape": [200, 100], "proj:bbox": [399960, 5299040, 401960, 5300040]},
            r"is proj:shape \[rows, columns\]",
        ),
        ({"proj:bbox": [0, 0, 1, 1]}, "proj:bbox says"),
        ({"proj:bbox": ["a", None, 1, 1]}, "proj:bbox"),
    ],
)
def test_a_malformed_field_is_named(fields: dict[str, Any], message: str) -> None:
    code = {} if any(key in fields for key in ("proj:epsg", "proj:code", "proj:wkt2", "proj:projjson")) else CODES[0]
    with pytest.raises(UnsupportedGridError, match=message):
        declared_grid({**code, **PLACES[0], **fields}, {})


SITE = 'ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'


@pytest.mark.parametrize("text", ["EPSG:4978", "EPSG:5773", "IAU_2015:49910", SITE])
def test_a_crs_that_names_no_places_on_the_earth_is_refused(text: str) -> None:
    """Geocentric, heights, Mars, a building site: no longitude and latitude can be had of them."""
    assert parse_crs(text)
    field = "proj:wkt2" if text == SITE else "proj:code"
    with pytest.raises(UnsupportedGridError, match=f"{field} .* has no longitudes and latitudes on the Earth"):
        declared_grid({field: text, **PLACES[0]}, {})


@pytest.mark.parametrize("text", ["+init=/etc/passwd:x", "WGS 84", "+proj=utm +zone=32", "/etc/passwd", "EPSG:32632\n"])
def test_nothing_but_codes_wkt_and_projjson_reaches_proj(text: str) -> None:
    """PROJ would search its database by name, and open the files that a PROJ string names."""
    for field in ("proj:code", "proj:wkt2", "proj:projjson"):
        with pytest.raises(UnsupportedGridError, match=f"{field} .* is no known CRS"):
            declared_grid({field: text, **PLACES[0]}, {})


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("EPSG:32632"),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=9,
)
FIELDS = st.dictionaries(
    st.sampled_from(
        ["proj:epsg", "proj:code", "proj:wkt2", "proj:projjson", "proj:shape", "proj:transform", "proj:bbox"]
    ),
    JSON_VALUES,
)


@given(item=FIELDS, asset=FIELDS)
def test_any_json_gives_a_grid_nothing_or_an_error_of_ours(item: dict[str, Any], asset: dict[str, Any]) -> None:
    for fields in (item, {**CODES[0], **PLACES[0], **item}):
        try:
            grid = declared_grid(fields, asset)
        except StacchipError as err:
            assert "proj:" in str(err)
        else:
            assert grid is None or isinstance(grid, Grid)
