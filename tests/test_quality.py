"""Fractions against brute force: the mask blown up to the finest pixels and counted chip by chip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stacchip_core.index.grid import ChipGrid, GridSpec
from stacchip_core.index.quality import (
    CLASSES,
    MAX_ROWS,
    Fractions,
    classify,
    fractions,
    known_classes,
    lanes_of_qa,
    lanes_of_valid,
    unknown_fractions,
)
from stacchip_core.sources.profiles import BitField, QaRule, load_profile
from stacchip_core.sources.raster import Ratio
from tests.items import utm_grid

RATIOS = [Ratio(1, 1), Ratio(1, 2), Ratio(1, 3), Ratio(1, 6), Ratio(2, 1), Ratio(3, 1)]
SCL = load_profile("sentinel-2-l2a").qa
QA_PIXEL = load_profile("landsat-c2-l2").qa
FMASK = load_profile("hls").qa
STATE = load_profile("modis-09a1").qa
QC = load_profile("modis-09a1-qc").qa
DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32"]


def meaning_of(value: int, bits: int, rule: QaRule) -> set[str]:
    """What one QA value says, a bit at a time; `bits` is its width, so that a negative one has its pattern."""
    pattern = value % 2**bits

    def says(meaning: int | BitField) -> bool:
        if isinstance(meaning, BitField):
            return (pattern >> meaning.shift) % 2**meaning.width in meaning.values
        return bool(pattern >> meaning & 1) if rule.kind == "bits" else meaning in (value, pattern)

    found = {name for name in CLASSES if any(says(meaning) for meaning in getattr(rule, name))}
    if value in rule.fill or pattern in rule.fill:
        found.add("nodata")
    return {"nodata"} if "nodata" in found else found


def brute_force(flags: dict[str, NDArray[np.bool_]], chips: ChipGrid, ratio: Ratio) -> dict[str, NDArray[np.float32]]:
    """Fractions of each chip, counted in the finest pixels; `flags` are masks on the QA grid."""
    fine, spec = ratio.up, chips.spec
    shape = (chips.grid.height * fine, chips.grid.width * fine)
    masks = {
        name: np.repeat(np.repeat(mask, ratio.down, axis=0), ratio.down, axis=1)[: shape[0], : shape[1]]
        for name, mask in flags.items()
    }
    result = {name: np.full(chips.shape, np.nan) for name in CLASSES}
    for y, top in enumerate(range(0, chips.shape[0] * spec.stride, spec.stride)):
        for x, left in enumerate(range(0, chips.shape[1] * spec.stride, spec.stride)):
            window = np.s_[top * fine : (top + spec.size) * fine, left * fine : (left + spec.size) * fine]
            inside = masks["nodata"][window]
            whole = (spec.size * fine) ** 2
            valid = int((~inside).sum())
            result["nodata"][y, x] = (whole - valid) / whole
            for name in CLASSES[1:]:
                if valid:
                    result[name][y, x] = (masks[name][window] & ~inside).sum() / valid
    return {name: share.astype(np.float32) for name, share in result.items()}


def in_strips(lanes: NDArray[np.uint64], heights: list[int]) -> Iterator[NDArray[np.uint64]]:
    """The mask cut into strips of the given heights, the last height again and again."""
    top, n = 0, 0
    while top < len(lanes):
        height = heights[min(n, len(heights) - 1)]
        yield lanes[top : top + height]
        top, n = top + height, n + 1


def assert_equal(found: Fractions, expected: dict[str, NDArray[np.float32]], known: tuple[str, ...]) -> None:
    for name in CLASSES:
        share = getattr(found, name)
        assert share.dtype == np.float32
        wanted = expected[name] if name in known else np.full_like(share, np.nan)
        np.testing.assert_array_equal(share, wanted, err_msg=name)


@settings(max_examples=150)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    size=st.integers(1, 40),
    stride=st.integers(1, 40),
    edge=st.sampled_from(["drop", "pad"]),
    ratio=st.sampled_from(RATIOS),
    heights=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_fractions_equal_brute_force(
    height: int, width: int, size: int, stride: int, edge: Any, ratio: Ratio, heights: list[int], seed: int
) -> None:
    chips = ChipGrid(utm_grid(height, width=width), GridSpec(size, stride, edge))
    shape = tuple(-(-side * ratio.up // ratio.down) for side in (height, width))
    values = np.random.default_rng(seed).integers(0, 12, size=shape).astype(np.uint8)
    known = known_classes(SCL)
    found = fractions(chips, ratio, in_strips(lanes_of_qa(values, SCL), heights), known)
    flags = {name: np.isin(values, getattr(SCL, name)) for name in CLASSES}
    assert_equal(found, brute_force(flags, chips, ratio), known)


@pytest.mark.parametrize("rule", [SCL, QA_PIXEL, FMASK, STATE, QC], ids=["scl", "qa_pixel", "fmask", "state", "qc"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_qa_value_means_what_its_bits_say(rule: QaRule, dtype: str) -> None:
    info = np.iinfo(dtype)
    step = max(1, (int(info.max) - int(info.min)) // 4000)
    values = sorted({*range(int(info.min), int(info.max) + 1, step), *range(256 if info.bits > 8 else 100)})
    flags = classify(np.array(values, dtype=dtype), rule)
    for value, flag in zip(values, flags.tolist(), strict=True):
        assert {name for k, name in enumerate(CLASSES) if flag >> k & 1} == meaning_of(value, info.bits, rule), value


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_lanes_hold_the_flags_whatever_the_type(dtype: str) -> None:
    values = np.random.default_rng(1).integers(0, 100, size=(30, 40)).astype(dtype)
    lanes, flags = lanes_of_qa(values, QA_PIXEL), classify(values, QA_PIXEL)
    for k in range(len(CLASSES)):
        np.testing.assert_array_equal((lanes >> np.uint64(12 * k)) & np.uint64(4095), (flags >> k) & 1)


@pytest.mark.parametrize("dtype", ["int16", "int32"])
def test_negative_class_and_fill_values_are_found(dtype: str) -> None:
    rule = QaRule(kind="classes", asset="qa", nodata=(-1,), cloud=(5,), fill=(-28672,))
    flags = classify(np.array([-1, 5, -28672, 0], dtype=dtype), rule)
    assert flags.tolist() == [1, 2, 1, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_field_wider_than_the_value_reads_the_bits_there_are(dtype: str) -> None:
    rule = QaRule(kind="field", asset="qa", cloud=(BitField(shift=4, width=16, values=(3,)),))
    assert classify(np.array([0x30, 0x20], dtype=dtype), rule).tolist() == [2, 0]
    high = QaRule(kind="field", asset="qa", cloud=(BitField(shift=31, width=1, values=(1,)),))
    assert classify(np.array([0x30], dtype=dtype), high).tolist() == [0]


def test_nodata_comes_before_every_other_class() -> None:
    rule = QaRule(kind="bits", asset="qa", nodata=(0,), cloud=(1,), shadow=(2,), snow=(3,), water=(4,))
    assert classify(np.array([0b11111, 0b11110, 0b1], dtype=np.uint16), rule).tolist() == [1, 0b11110, 1]


def test_half_empty_and_fully_clouded_is_all_cloud() -> None:
    chips = ChipGrid(utm_grid(10), GridSpec(10, 10))
    values = np.full((10, 10), 9, dtype=np.uint8)
    values[:5] = 0
    found = fractions(chips, Ratio(1, 1), [lanes_of_qa(values, SCL)], known_classes(SCL))
    assert (found.nodata[0, 0], found.cloud[0, 0]) == (0.5, 1.0)


def test_where_nothing_is_valid_there_is_no_cloud_fraction() -> None:
    chips = ChipGrid(utm_grid(10), GridSpec(10, 10))
    found = fractions(chips, Ratio(1, 1), [lanes_of_qa(np.zeros((10, 10), "u1"), SCL)], known_classes(SCL))
    assert found.nodata[0, 0] == 1
    assert all(np.isnan(getattr(found, name)[0, 0]) for name in CLASSES[1:])


def test_what_a_rule_cannot_tell_is_unknown_rather_than_zero() -> None:
    clouds = QaRule(kind="bits", asset="qa", cloud=(1,))
    assert known_classes(clouds) == ("cloud",)
    assert known_classes(QaRule(kind="nodata")) == ("nodata",)
    assert known_classes(QaRule(kind="none")) == ()
    assert known_classes(QaRule(kind="bits", asset="qa", cloud=(1,), reference_nodata=True)) == ("nodata", "cloud")
    assert known_classes(QC) == ("nodata", "cloud")
    chips = ChipGrid(utm_grid(20), GridSpec(10, 10))
    found = fractions(chips, Ratio(1, 1), [lanes_of_qa(np.full((20, 20), 2, "u1"), clouds)], ("cloud",))
    assert (found.cloud == 1).all()
    assert all(np.isnan(getattr(found, name)).all() for name in ("nodata", "shadow", "snow", "water"))
    nothing = unknown_fractions(chips)
    assert all(np.isnan(getattr(nothing, name)).all() for name in CLASSES)


@settings(max_examples=30)
@given(side=st.integers(1, 60), size=st.integers(1, 30), ratio=st.sampled_from(RATIOS), seed=st.integers(0, 2**32 - 1))
def test_the_dataset_mask_gives_nodata_alone(side: int, size: int, ratio: Ratio, seed: int) -> None:
    chips = ChipGrid(utm_grid(side), GridSpec(size, size, "pad"))
    mask_side = -(-side * ratio.up // ratio.down)
    is_valid = np.random.default_rng(seed).random((mask_side, mask_side)) < 0.7
    found = fractions(chips, ratio, [lanes_of_valid(is_valid)], ("nodata",))
    flags = {name: ~is_valid if name == "nodata" else np.zeros_like(is_valid) for name in CLASSES}
    assert_equal(found, brute_force(flags, chips, ratio), ("nodata",))


def test_lanes_hold_as_many_rows_as_they_promise() -> None:
    chips = ChipGrid(utm_grid(MAX_ROWS, width=3), GridSpec(MAX_ROWS, MAX_ROWS, "pad"))
    values = np.full((MAX_ROWS, 3), 0b11110, dtype=np.uint16)
    rule = QaRule(kind="bits", asset="qa", nodata=(0,), cloud=(1,), shadow=(2,), snow=(3,), water=(4,))
    found = fractions(chips, Ratio(1, 1), [lanes_of_qa(values, rule)], known_classes(rule))
    assert all(getattr(found, name)[0, 0] == 1 for name in CLASSES[1:])
    assert found.nodata[0, 0] == np.float32(1 - 3 / MAX_ROWS)


def test_a_grid_without_chips_has_no_fractions() -> None:
    chips = ChipGrid(utm_grid(5), GridSpec(10, 10))
    found = fractions(chips, Ratio(1, 1), [lanes_of_qa(np.zeros((5, 5), "u1"), SCL)], known_classes(SCL))
    assert found.nodata.shape == (0, 0)
