"""Radiometry: what becomes of stored values is what the formula says, element by element."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stacchip_core import InvalidItemError, ReadError, SpecError
from stacchip_core.chips.radiometry import Radiometry, check_radiometry, holds, radiometry_rules
from stacchip_core.sources.scene import Scene, SceneAsset
from tests.chip_rows import START, spec

RED = SceneAsset("red", "red", "red.tif", scale=0.0001, offset=-0.1, rule="processing baseline 05.11")
VV = SceneAsset("vv", "vv", "vv.tif", rule="as stored: neither item nor profile gives scale or offset")
SCL = SceneAsset("scl", "scl", "scl.tif", kind="categorical", rule="as stored: classes")
SCENE = Scene("S2A", "sentinel-2-l2a", START, None, None, "sentinel-2-l2a", None, "red", (RED, VV, SCL), None, {})


def of(band: str, stored: str, nodata: float | None, **values: Any) -> Radiometry:
    return Radiometry.of(spec(**values), SCENE, band, nodata=nodata, dtype=np.dtype(stored))


def test_raw_pixels_are_left_alone() -> None:
    pixels = np.arange(8, dtype=np.uint16).reshape(1, 2, 4)
    found = of("red", "uint16", 0)
    assert found.is_plain
    assert found.apply(pixels) is pixels
    assert found.nodata == 0
    assert found.dtype == np.uint16
    assert of("vv", "float32", math.nan).is_plain


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=50))
def test_reflectance_is_the_documented_transform_and_nodata_is_nan(values: list[int]) -> None:
    found = of("red", "uint16", 0, radiometry="reflectance")
    result = found.apply(np.array(values, np.uint16))
    expected = [math.nan if value == 0 else np.float32(value * 0.0001 + -0.1) for value in values]
    np.testing.assert_array_equal(result, np.array(expected, np.float32))
    assert result.dtype == found.dtype == np.float32
    assert math.isnan(found.nodata or 0)
    assert found.rule == "processing baseline 05.11"


def test_radar_nodata_and_nan_are_no_measurement() -> None:
    pixels = np.array([[0.5, -32768, np.nan, 0]], np.float32)
    found = of("vv", "float32", -32768, fill=-1)
    assert found.is_valid(pixels).tolist() == [[True, False, False, True]]
    assert found.apply(pixels).tolist() == [[0.5, -1, -1, 0]]
    physical = of("vv", "float32", -32768, radiometry="reflectance")
    np.testing.assert_array_equal(physical.apply(pixels), np.array([[0.5, np.nan, np.nan, 0]], np.float32))


def test_classes_are_neither_scaled_nor_filled() -> None:
    pixels = np.array([[0, 4, 11]], np.uint8)
    found = of("scl", "uint8", 0, radiometry="reflectance", fill=-9999)
    assert found.apply(pixels) is pixels
    assert of("scl", "uint8", 0, dtype="int16", fill=-1).apply(pixels).tolist() == [[0, 4, 11]]


def test_what_the_caller_knows_to_be_no_measurement_is_filled() -> None:
    pixels = np.full((1, 2, 2), 7, np.uint16)
    valid = np.array([[True, False], [True, True]])
    assert of("red", "uint16", 0, fill=0).apply(pixels, valid).tolist() == [[[7, 0], [7, 7]]]
    assert of("red", "uint16", None, fill=9).apply(pixels, valid).tolist() == [[[7, 9], [7, 7]]]
    assert pixels.tolist() == [[[7, 7], [7, 7]]]


DTYPES = st.sampled_from(["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"])


@st.composite
def pixels_of_a_file(draw: st.DrawFn) -> NDArray[Any]:
    dtype = np.dtype(draw(DTYPES))
    if dtype.kind == "f":
        values = draw(st.lists(st.floats(width=32) | st.integers(-300, 70000).map(float), min_size=1, max_size=8))
        return np.array(values).astype(dtype)
    limits = np.iinfo(dtype.name)
    return np.array(draw(st.lists(st.integers(limits.min, limits.max), min_size=1, max_size=8)), dtype)


@settings(max_examples=300)
@given(pixels_of_a_file(), DTYPES)
def test_a_cast_keeps_every_value_or_is_refused(pixels: NDArray[Any], wanted: str) -> None:
    found = of("red", pixels.dtype.name, None, dtype=wanted, fill=0)
    is_integer = np.dtype(wanted).kind in "iu"
    measured = [value for value in pixels.tolist() if not math.isnan(value)]
    try:
        result = found.apply(pixels)
    except ReadError as err:
        assert "is no value of" in str(err)
        assert any(not holds(np.dtype(wanted), value) for value in measured)
        return
    assert result.dtype == wanted
    for before, after in zip(pixels.tolist(), result.tolist(), strict=True):
        if math.isnan(before):
            assert after == 0
        else:
            assert after == (before if is_integer else np.dtype(wanted).type(before))


def test_a_value_that_the_type_can_not_hold_is_named() -> None:
    with pytest.raises(ReadError, match=r"item S2A, band 'red': value 300 is no value of uint8; ask for a wider dtype"):
        of("red", "uint16", 0, dtype="uint8").apply(np.array([[1, 300]], np.uint16))
    with pytest.raises(ReadError, match=r"value 0.5 is no value of int16"):
        of("vv", "float32", None, dtype="int16").apply(np.array([[0.5]], np.float32))


def test_a_fill_or_nodata_that_the_type_can_not_hold_is_refused_before_any_pixel() -> None:
    with pytest.raises(SpecError, match=r"fill -1 is no value of item S2A, band 'red': it is uint16"):
        of("red", "uint16", 0, fill=-1)
    with pytest.raises(SpecError, match=r"nodata -32768 of item S2A, band 'vv' is no value of uint8; say another fill"):
        of("vv", "float32", -32768, dtype="uint8")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("", "band 'red': indexed by a release that did not look for scale and offset; index it again"),
        ("unknown: no baseline", "reflectance can't be told, its offset is unknown: no baseline; take radiometry raw"),
    ],
)
def test_an_offset_that_nobody_tells_is_an_error_not_a_guess(rule: str, message: str) -> None:
    scene = replace(SCENE, assets=(replace(RED, rule=rule),))
    with pytest.raises(InvalidItemError, match=f"item S2A.*{message}"):
        Radiometry.of(spec(radiometry="reflectance"), scene, "red", nodata=0, dtype=np.dtype("uint16"))
    Radiometry.of(spec(), scene, "red", nodata=0, dtype=np.dtype("uint16"))


def test_rules_are_listed_once_each() -> None:
    other = replace(SCENE, item_id="b", assets=(replace(RED, rule="earthsearch"), VV))
    bands = {"sentinel-2-l2a": ("red", "vv")}
    assert radiometry_rules([SCENE, other, SCENE], bands, spec(radiometry="reflectance")) == {
        "sentinel-2-l2a red": ("earthsearch", "processing baseline 05.11"),
        "sentinel-2-l2a vv": ("as stored: neither item nor profile gives scale or offset",),
    }
    assert radiometry_rules([SCENE], bands, spec()) == {}


def test_reflectance_of_bands_that_nobody_scales_is_refused() -> None:
    wanted = spec(radiometry="reflectance")
    with pytest.raises(SpecError, match=r"neither items nor profiles say how sentinel-2-l2a scl, sentinel-2-l2a vv is"):
        check_radiometry([SCENE], {"sentinel-2-l2a": ("vv", "scl")}, wanted)
    check_radiometry([SCENE], {"sentinel-2-l2a": ("vv", "red")}, wanted)
    check_radiometry([SCENE], {"sentinel-2-l2a": ("vv", "scl")}, spec())
