"""Finished chips: the documented transform of the raw ones, and the mask that whole arrays give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from stacchip_core import ChipIndex, Indexer
from stacchip_core.chips.cutting import cut
from stacchip_core.chips.files import Access
from tests.chip_rows import spec
from tests.scenes import Item, linz_scene, sentinel1_scene, sentinel2_scene, utm_grid

SIZE = 96


def cut_all(index: ChipIndex, bands: tuple[str, ...], folder: Path, **values: Any) -> dict[str, NDArray[Any]]:
    done = cut(index, spec(size=SIZE, edge="pad", **values), bands, Access(local_roots=(str(folder),), threads=3))
    assert done.shard is not None
    assert not done.failures
    return {band: np.asarray(rows[:]) for band, rows in done.shard.arrays.items()}


def indexed(item: Item, folder: Path) -> ChipIndex:
    return Indexer(item, chip_size=SIZE, edge="pad", local_roots=[folder]).create_index()


def whole(path: Path, layer: int = 1) -> NDArray[Any]:
    with rasterio.open(path) as file:
        return np.asarray(file.read(layer))


def windows(index: ChipIndex, full: NDArray[Any], beyond: Any) -> NDArray[Any]:
    """The oracle: slices of the whole array, padded."""
    padded = np.pad(full, ((0, SIZE), (0, SIZE)), constant_values=beyond)
    rows = index.table.select(["row_off", "col_off"]).to_pylist()
    return np.stack([padded[r["row_off"] :, r["col_off"] :][:SIZE, :SIZE] for r in rows])


def test_sentinel_2_reflectance_and_mask_are_those_of_whole_arrays(tmp_path: Path) -> None:
    item = sentinel2_scene(tmp_path, grid=utm_grid(210))
    item["properties"]["earthsearch:boa_offset_applied"] = False  # so raster:bands' offset of -0.1 counts
    index = indexed(item, tmp_path)
    found = cut_all(index, ("red", "swir16", "scl"), tmp_path, radiometry="reflectance", mask=True)
    red, swir = (whole(next(tmp_path.rglob(name))) for name in ("red.tif", "swir16.tif"))
    swir = swir[np.arange(210) // 2][:, np.arange(210) // 2]
    for band, full in (("red", red), ("swir16", swir)):
        raw = windows(index, full, 0)
        told = (raw.astype(np.float64) * 0.0001 - 0.1).astype(np.float32)
        np.testing.assert_array_equal(found[band][:, 0], np.where(raw == 0, np.float32(np.nan), told))
    expected = windows(index, (red != 0) & (swir != 0), False)
    np.testing.assert_array_equal(found["mask"][:, 0], expected.astype(np.uint8))
    assert found["mask"].dtype == np.uint8
    assert 0 < found["mask"].mean() < 1
    raw_scl = cut_all(index, ("scl",), tmp_path)["scl"]
    np.testing.assert_array_equal(found["scl"], raw_scl)  # classes stay


def test_radar_nodata_is_filled_also_beyond_the_edge(tmp_path: Path) -> None:
    index = indexed(sentinel1_scene(tmp_path, grid=utm_grid(130)), tmp_path)
    found = cut_all(index, ("vv", "vh"), tmp_path, fill=-1, dtype="float64", mask=True)
    vv = whole(next(tmp_path.rglob("vv.tif"))).astype(np.float64)
    expected = windows(index, np.where(vv == -32768, -1, vv), -1)
    np.testing.assert_array_equal(found["vv"][:, 0], expected)
    np.testing.assert_array_equal(found["mask"][:, 0], (expected != -1).astype(np.uint8))


def test_an_alpha_layer_says_what_was_measured(tmp_path: Path) -> None:
    index = indexed(linz_scene(tmp_path), tmp_path)
    found = cut_all(index, ("visual",), tmp_path, fill=7, mask=True)
    path = next(tmp_path.rglob("visual.tif"))
    is_there = whole(path, 4) != 0
    for layer in range(3):
        expected = windows(index, np.where(is_there, whole(path, layer + 1), 7), 7)
        np.testing.assert_array_equal(found["visual"][:, layer], expected)
    np.testing.assert_array_equal(found["mask"][:, 0], windows(index, is_there, False).astype(np.uint8))
    assert 0 < is_there.mean() < 1


def test_raw_pixels_are_what_they_were(tmp_path: Path) -> None:
    index = indexed(sentinel2_scene(tmp_path, grid=utm_grid(130)), tmp_path)
    found = cut_all(index, ("red",), tmp_path)
    np.testing.assert_array_equal(found["red"][:, 0], windows(index, whole(next(tmp_path.rglob("red.tif"))), 0))


def test_a_type_that_can_not_hold_a_chip_fails_that_chip_by_name(tmp_path: Path) -> None:
    grid = utm_grid(192)
    red = np.full((192, 192), 100, np.uint16)
    red[100, 100] = 300  # in the last chip
    index = indexed(sentinel2_scene(tmp_path, grid=grid, pixels={"red": red}), tmp_path)
    done = cut(index, spec(size=SIZE, edge="pad", dtype="uint8"), ("red",), Access(local_roots=(str(tmp_path),)))
    assert done.shard is not None
    assert len(done.shard) == 3
    (failure,) = done.failures
    assert failure.chip_id.endswith("/1-1")
    assert "band 'red': value 300 is no value of uint8; ask for a wider dtype" in failure.reason


def test_an_item_whose_offset_nobody_tells_fails_whole(tmp_path: Path) -> None:
    index = indexed(sentinel2_scene(tmp_path, grid=utm_grid(96)), tmp_path)
    key, scene = next(iter(index.scenes.items()))
    assets = tuple(replace(asset, rule="unknown: nothing tells") for asset in scene.assets)
    index = replace(index, scenes={key: replace(scene, assets=assets)})
    wanted = spec(size=SIZE, edge="pad", radiometry="reflectance")
    done = cut(index, wanted, ("red",), Access(local_roots=(str(tmp_path),)))
    assert done.shard is None
    assert "reflectance can't be told, its offset is unknown" in done.failures[0].reason


@pytest.mark.parametrize("gsd", [5, 20])
def test_the_mask_has_the_pixels_asked_for(tmp_path: Path, gsd: int) -> None:
    index = indexed(sentinel2_scene(tmp_path, grid=utm_grid(192)), tmp_path)
    found = cut_all(index, ("red", "nir"), tmp_path, gsd=gsd, mask=True)
    assert found["mask"].shape == (4, 1, SIZE * 10 // gsd, SIZE * 10 // gsd)
    np.testing.assert_array_equal(found["mask"] != 0, (found["red"] != 0) & (found["nir"] != 0))
