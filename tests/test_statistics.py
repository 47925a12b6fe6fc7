"""Statistics: numpy's on the concatenated pixels, whatever the parts and their order."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from stacchip_core.chips.statistics import PERCENTILES, SKETCH_ERROR, Statistics, clay_metadata, merged

Parts = list[NDArray[Any]]


def parts_of(dtype: str, elements: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[Parts]:
    shapes = hnp.array_shapes(min_dims=1, max_dims=3, max_side=6)
    return st.lists(hnp.arrays(dtype, shapes, elements=elements), min_size=1, max_size=5)


FLOATS = st.one_of(
    parts_of("float32", st.floats(-1e6, 1e6, width=32)),
    parts_of("float64", st.floats(-1e3, 1e3, width=32)),
    parts_of("int32", st.integers(-(10**6), 10**6)),
)
WHOLE = st.sampled_from(["uint8", "int8", "uint16", "int16"]).flatmap(parts_of)


@settings(max_examples=150, deadline=None)
@given(WHOLE)
def test_whole_numbers_have_numpys_statistics_exactly(parts: Parts) -> None:
    everything = np.concatenate([part.ravel() for part in parts])
    found = merged([Statistics.of(part) for part in parts])
    summary = found.to_summary()
    assert (summary.count, summary.min, summary.max) == (everything.size, everything.min(), everything.max())
    assert summary.mean == pytest.approx(everything.mean(), rel=1e-12, abs=1e-12)
    assert summary.std == pytest.approx(everything.std(), rel=1e-9, abs=1e-9)
    expected = np.percentile(everything.astype(float), PERCENTILES)
    assert list(summary.percentiles.values()) == pytest.approx(list(expected), rel=1e-12, abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(FLOATS)
def test_floats_have_numpys_statistics_within_the_stated_error(parts: Parts) -> None:
    everything = np.concatenate([part.ravel() for part in parts]).astype(np.float64)
    summary = merged([Statistics.of(part) for part in parts]).to_summary()
    assert (summary.count, summary.min, summary.max) == (everything.size, everything.min(), everything.max())
    size = np.abs(everything).max()
    assert summary.mean == pytest.approx(everything.mean(), rel=1e-6, abs=1e-12 * size)
    assert summary.std == pytest.approx(everything.std(), rel=1e-6, abs=1e-7 * size)
    ordered = np.sort(everything)
    for percent, value in zip(PERCENTILES, summary.percentiles.values(), strict=True):
        place = percent / 100 * (len(ordered) - 1)
        sides = [ordered[math.floor(place)], ordered[math.ceil(place)]]
        allowed = SKETCH_ERROR * max(map(abs, sides)) + 1e-37
        assert abs(value - np.percentile(everything, percent)) <= allowed * 1.001


@settings(max_examples=100, deadline=None)
@given(st.one_of(WHOLE, FLOATS), st.randoms(use_true_random=False))
def test_order_and_grouping_of_merges_change_no_bit(parts: Parts, random: Any) -> None:
    one = merged([Statistics.of(part) for part in parts]).to_json()
    made = [Statistics.of(part) for part in parts]
    random.shuffle(made)
    while len(made) > 1:
        place = random.randrange(len(made) - 1)
        made[place : place + 2] = [made[place].merge(made[place + 1])]
    assert made[0].to_json() == one == Statistics.from_json(json.loads(json.dumps(one))).to_json()
    whole = Statistics.of(np.concatenate([part.ravel() for part in parts]))
    assert whole.to_json() == one
    assert whole.to_summary() == made[0].to_summary()


def test_radar_with_nodata_is_told_without_it() -> None:
    rng = np.random.default_rng(3)
    chips = [rng.gamma(1.0, 0.05, (1, 64, 64)).astype(np.float32) for _ in range(6)]
    for chip in chips[:3]:
        chip[:, :20] = -32768
    chips[3][0, 0, :9] = np.nan
    found = merged([Statistics.of(chip, (chip != -32768) & ~np.isnan(chip)) for chip in chips]).to_summary()
    measured = np.concatenate([chip[(chip != -32768) & ~np.isnan(chip)] for chip in chips]).astype(np.float64)
    assert (found.count, found.nodata) == (measured.size, 6 * 64 * 64 - measured.size)
    assert found.mean == pytest.approx(measured.mean(), rel=1e-9)
    assert found.std == pytest.approx(measured.std(), rel=1e-9)
    assert found.percentiles["50"] == pytest.approx(np.percentile(measured, 50), rel=SKETCH_ERROR)


def test_sums_stay_exact_where_naive_ones_drown() -> None:
    values = np.array([1e8, 1.0, -1e8, 3.0] * 1000, np.float32)
    found = Statistics.of(values)
    assert found.mean == 1.0
    assert found.std == pytest.approx(
        math.sqrt(math.fsum((float(v) - 1) ** 2 for v in values) / values.size), rel=1e-12
    )
    tiny = Statistics.of(np.full(10, 1e-42, np.float32))
    assert (tiny.mean, tiny.std) == (float(np.float32(1e-42)), 0.0)


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "<i2", ">i2", "<u2", ">u2"])
def test_whole_numbers_of_every_kind_are_counted_as_they_are(kind: str) -> None:
    values = np.random.default_rng(3).integers(-40_000, 40_000, 3000).astype(kind).reshape(3, 10, 100)
    found, whole = Statistics.of(values), values.astype(object).ravel()
    assert (found.total, found.squares) == (sum(whole), sum(whole * whole))
    assert (found.low, found.high) == (values.min(), values.max())


def test_nothing_measured_has_no_numbers() -> None:
    nothing = Statistics.of(np.full((2, 2), np.nan, np.float32))
    summary = nothing.to_summary()
    assert (summary.count, summary.nodata, summary.mean, summary.min, summary.percentiles) == (0, 4, None, None, {})
    some = Statistics.of(np.array([3, 4], np.uint16))
    for found in (nothing.merge(some), some.merge(nothing)):
        assert (found.count, found.nodata, found.mean) == (2, 4, 3.5)


@given(
    hnp.arrays(np.uint16, st.integers(1, 40)),
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1000, 70000, width=32)),
)
def test_whole_numbers_among_floats_are_counted_as_floats(whole: NDArray[Any], floats: NDArray[Any]) -> None:
    """Items of one collection may differ in number type, so that its shards do."""
    mixed = Statistics.of(whole).merge(Statistics.of(floats))
    alike = Statistics.of(whole.astype(np.float32)).merge(Statistics.of(floats))
    assert mixed.to_json() == alike.to_json()


def test_infinities_are_no_measurements() -> None:
    found = Statistics.of(np.array([1, np.inf, -np.inf, 3], np.float32))
    assert (found.count, found.nodata, found.mean) == (2, 2, 2.0)


def test_the_form_is_clays() -> None:
    bands = {"red": Statistics.of(np.array([1, 3], np.uint16)), "nir": Statistics.of(np.array([2, 2], np.uint16))}
    summaries = {name: statistics.to_summary() for name, statistics in bands.items()}
    found = clay_metadata(summaries, gsd=10, rgb=["red", "green", "blue"], wavelengths={"red": 0.665, "swir16": 1.61})
    assert yaml.safe_load(yaml.safe_dump(found)) == {
        "band_order": ["red", "nir"],
        "gsd": 10,
        "bands": {"mean": {"red": 2.0, "nir": 2.0}, "std": {"red": 1.0, "nir": 0.0}, "wavelength": {"red": 0.665}},
    }
    assert clay_metadata(summaries, gsd=10, rgb=["nir", "red", "red"])["rgb_indices"] == [1, 0, 0]
