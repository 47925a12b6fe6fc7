"""The streaming twin: the chips of the dataset, pixel for pixel, from the same spec."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stacchip_core import ChipNotFoundError, Dataset, ReadError, SpecError, Warehouse, materialize, stream
from stacchip_core.chips.stream import ChipStream
from tests.scenes import sentinel2_scene, utm_grid
from tests.warehouses import RGBN, made, scenes, spec

Chips = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    pixels = tmp_path_factory.mktemp("pixels")
    return made(pixels, tmp_path_factory.mktemp("warehouse"), scenes(pixels))


def by_id(source: Dataset | ChipStream) -> Chips:
    return {row["chip_id"]: chip for row, chip in source}


def assert_same(found: Chips, expected: Chips) -> None:
    assert set(found) == set(expected)
    for chip_id, chip in expected.items():
        assert list(found[chip_id]) == list(chip)
        for band, pixels in chip.items():
            assert found[chip_id][band].dtype == pixels.dtype
            assert np.array_equal(found[chip_id][band], pixels, equal_nan=pixels.dtype.kind == "f"), (chip_id, band)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"bands": RGBN, "max_nodata": 0.5},
        {"bands": RGBN, "native": True, "limit": 9},
        {"bands": RGBN, "resampling": "bilinear", "limit": 9},
        {"bands": RGBN, "radiometry": "reflectance", "mask": True, "limit": 20},
        {"bands": RGBN, "dtype": "float32", "fill": -1, "gsd": 20, "limit": 20},
        {"bands": RGBN, "split": {"validation": 0.3, "split_km": 10}, "limit": 20},
    ],
    ids=["all-collections", "bands", "native", "bilinear", "reflectance", "typed", "split"],
)
def test_a_stream_gives_the_chips_of_the_dataset(warehouse: Warehouse, values: dict[str, Any]) -> None:
    wanted = spec(name="-".join(["twin", *values]).replace("_", "-"), **values)
    dataset, streamed = materialize(warehouse, wanted), stream(warehouse, wanted)
    assert len(streamed) == len(dataset)
    assert_same(by_id(streamed), by_id(dataset))
    assert streamed.failures == {}
    for place in (0, len(dataset) // 2, -1):  # the same chip at the same place
        assert_same({"": streamed[place]}, {"": dataset[place]})
    assert streamed.chips["chip_id"].to_pylist() == dataset.chips["chip_id"].to_pylist()


def test_rows_are_those_of_the_index(warehouse: Warehouse) -> None:
    streamed = stream(warehouse, spec(limit=5))
    rows = {row["chip_id"]: row for row, _ in streamed}
    expected = streamed.chips.drop_columns(["geometry", "bbox"]).to_pylist()
    assert rows == {row["chip_id"]: row for row in expected}


def test_chips_of_a_place_come_one_after_another(warehouse: Warehouse) -> None:
    streamed = stream(warehouse, spec())
    items = [row["item_id"] for row, _ in streamed]
    assert sum(one != other for one, other in pairwise(items)) == len(set(items)) - 1


def test_chips_are_grouped_by_item_and_block(tmp_path: Path) -> None:
    item = sentinel2_scene(tmp_path / "scenes", grid=utm_grid(1200))
    streamed = stream(made(tmp_path / "scenes", tmp_path / "w", [item]), spec())
    of_group: dict[int, set[tuple[int, int]]] = {}
    for row, group in zip(streamed.chips.to_pylist(), streamed.groups.tolist(), strict=True):
        of_group.setdefault(group, set()).add((row["row_off"] // 1024, row["col_off"] // 1024))
    assert sorted(map(len, of_group.values())) == [1, 1, 1, 1]


def test_a_stream_travels_to_other_processes(warehouse: Warehouse) -> None:
    streamed = stream(warehouse, spec(limit=6))
    expected = by_id(streamed)
    assert_same(by_id(pickle.loads(pickle.dumps(streamed))), expected)
    assert repr(streamed) == "ChipStream('fields', global@1, 6 chips)"


def test_what_can_not_be_read_is_left_out_as_it_is_of_the_dataset(tmp_path: Path) -> None:
    pixels = tmp_path / "scenes"
    warehouse = made(pixels, tmp_path / "w")
    (pixels / "S2A_32TMT_20240620_0_L2A" / "nir.tif").unlink()
    wanted = spec(bands=RGBN)
    dataset, streamed = materialize(warehouse, wanted), stream(warehouse, wanted)
    assert 0 < len(dataset) < len(streamed)
    assert_same(by_id(streamed), by_id(dataset))
    assert set(streamed.failures) == set(dataset.failures["chip_id"].to_pylist())
    place = streamed.chips["chip_id"].to_pylist().index(next(iter(streamed.failures)))
    with pytest.raises(ReadError, match="item S2A_32TMT_20240620_0_L2A: asset 'nir'"):
        streamed[place]
    with pytest.raises(
        ReadError, match=r"stream 'fields': \d+ of its \d+ chips could not be read, and no more than 1 may fail"
    ):
        list(stream(warehouse, spec(bands=RGBN, max_failed=1)))
    assert len(list(stream(warehouse, spec(bands=RGBN, max_failed=25)))) == len(dataset)


def test_mistakes_are_told_before_any_pixel(warehouse: Warehouse) -> None:
    with pytest.raises(SpecError, match="no band 'rde', did you mean 'red'"):
        stream(warehouse, spec(bands=[{"collection": "sentinel-2-l2a", "bands": ["rde"]}]))
    with pytest.raises(ChipNotFoundError, match="stream 'fields': there is no chip 7; they run from 0 to 6"):
        stream(warehouse, spec(limit=7))[7]


def test_a_stream_goes_on_once_its_source_is_mended(tmp_path: Path) -> None:
    pixels = tmp_path / "pixels"
    warehouse = made(pixels, tmp_path / "warehouse", scenes(pixels)[:1])
    chips = stream(warehouse, spec(bands=RGBN, max_failed=0))
    file = pixels / str(chips.chips["item_id"][0]) / "nir.tif"
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(ReadError, match="could not be read, and no more than 0 may fail"):
        list(chips)
    file.write_bytes(content)
    assert len(list(chips)) == len(chips)
    assert not chips.failures
