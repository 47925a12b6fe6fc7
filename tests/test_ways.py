"""Bands brought to a pixel size that is asked for: by GDAL's warper, or by arithmetic where that is exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.warp import reproject

from stacchip_core import ChipIndex, ChipSpec, Indexer, SpecError, materialize
from stacchip_core.chips.bands import resolve_bands
from stacchip_core.chips.cutting import Cut, cut
from stacchip_core.chips.files import Access
from stacchip_core.chips.shards import Shard
from tests.items import Item
from tests.oracles import Row, full, rows_of
from tests.scenes import sentinel1_scene, sentinel2_scene, utm_grid
from tests.warehouse_rows import Piece
from tests.warehouses import SIZE, made, spec

GSD_M = {"red": 10, "swir16": 20, "coastal": 60, "scl": 20}
SIDE = 290  # three chips of 96 px and 2 px over, a multiple neither of 20 m nor of 60 m


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pixels")


@pytest.fixture(scope="module")
def item(folder: Path) -> Item:
    return sentinel2_scene(folder, grid=utm_grid(SIDE))


@pytest.fixture(scope="module")
def index(folder: Path, item: Item) -> ChipIndex:
    return Indexer(item, chip_size=SIZE, edge="pad", local_roots=[folder]).create_index()


def cut_at(index: ChipIndex, bands: tuple[str, ...], **values: Any) -> Cut:
    return cut(index, spec(edge="pad", **values), bands, Access(local_roots=index.local_roots))


def pixels_at(index: ChipIndex, band: str, **values: Any) -> NDArray[Any]:
    return np.asarray(shard_at(index, (band,), **values).arrays[band])


def shard_at(index: ChipIndex, bands: tuple[str, ...], **values: Any) -> Shard:
    found = cut_at(index, bands, **values)
    assert found.failures == ()
    assert found.shard is not None
    return found.shard


def placed(index: ChipIndex, whole: NDArray[Any], gsd: float, nodata: float) -> Iterator[tuple[int, NDArray[Any]]]:
    """Each chip as a slice of a whole band in pixels of `gsd`, nodata beyond it."""
    side = round(SIZE * 10 / gsd)
    for offset, row in enumerate(rows_of(index)):
        top, left, bottom, right = _corners(row, gsd)
        chip = np.full((len(whole), side, side), nodata, whole.dtype)
        chip[:, : bottom - top, : right - left] = whole[:, top:bottom, left:right]
        yield offset, chip


def _corners(row: Row, gsd: float) -> tuple[int, int, int, int]:
    top, left = (round(row[name] * 10 / gsd) for name in ("row_off", "col_off"))
    bottom, right = (
        int(np.ceil((row[start] + row[length]) * 10 / gsd))
        for start, length in (("row_off", "valid_height"), ("col_off", "valid_width"))
    )
    return top, left, bottom, right


def is_whole(index: ChipIndex, offset: int) -> bool:
    row = rows_of(index)[offset]
    return bool(row["valid_width"] == row["valid_height"] == SIZE)


def assert_is(index: ChipIndex, found: NDArray[Any], whole: NDArray[Any], gsd: float, nodata: float = 0) -> None:
    count = 0
    for offset, chip in placed(index, whole, gsd, nodata):
        np.testing.assert_array_equal(found[offset], chip, err_msg=str(offset))
        count += 1
    assert count == len(found) == len(index) > 9


def warped(item: Item, band: str, gsd: float, how: str) -> NDArray[Any]:
    """The whole band on the grid of `gsd` by GDAL's warper, from an array in memory: no windows, no overviews."""
    side = int(np.ceil(SIDE * 10 / gsd))
    with rasterio.open(item["assets"]["red"]["href"]) as red, rasterio.open(item["assets"][band]["href"]) as raster:
        left, top = red.bounds.left, red.bounds.top
        result = np.zeros((raster.count, side, side), raster.dtypes[0])
        reproject(
            raster.read(), result, src_transform=raster.transform, src_crs=raster.crs, src_nodata=0,
            dst_transform=rasterio.Affine(gsd, 0, left, 0, -gsd, top), dst_crs=raster.crs, dst_nodata=0,
            resampling=Resampling[how], tolerance=0.001,
        )  # fmt: skip
    return result


@pytest.mark.parametrize("gsd", [5, 15, 20, 60])
@pytest.mark.parametrize("how", ["bilinear", "average"])
def test_bands_of_every_pixel_size_come_to_the_one_asked_for_as_gdal_warps_them(
    item: Item, index: ChipIndex, gsd: int, how: str
) -> None:
    bands = ("red", "swir16", "coastal")
    shard = shard_at(index, bands, gsd=gsd, resampling=how)
    for band in bands:
        assert shard.arrays[band].shape == (16, 1, SIZE * 10 // gsd, SIZE * 10 // gsd)
        whole = full(item, band) if GSD_M[band] == gsd else warped(item, band, gsd, how)
        for offset, chip in placed(index, whole, gsd, 0):
            off = np.abs(shard.arrays[band][offset].astype(int) - chip)
            assert off.max() <= 1, (band, offset)
            assert (off > 0).mean() < 0.01  # halves, rounded up or down by the last bit of a northing


def block_means(whole: NDArray[Any], down: int, nodata: float) -> NDArray[np.float64]:
    """Mean of the measured pixels of each whole block, nodata where there are none."""
    layers, height, width = (len(whole), *(side // down for side in whole.shape[1:]))
    inside = whole[:, : height * down, : width * down]
    blocks = np.where(inside == nodata, np.nan, inside).reshape(layers, height, down, width, down)
    count = (~np.isnan(blocks)).sum(axis=(2, 4))
    total = np.nansum(blocks, axis=(2, 4))
    means = np.where(count > 0, total / np.maximum(count, 1), nodata)
    return np.pad(
        means, ((0, 0), (0, whole.shape[1] % down > 0), (0, whole.shape[2] % down > 0)), constant_values=nodata
    )


@pytest.mark.parametrize(("gsd", "down"), [(20, 2), (60, 6)])
def test_averages_are_means_of_blocks_without_nodata(item: Item, index: ChipIndex, gsd: int, down: int) -> None:
    found = pixels_at(index, "red", gsd=gsd, resampling="average")
    whole = full(item, "red")
    assert (whole == 0).any(), "no nodata to leave out"
    for offset, chip in placed(index, block_means(whole, down, 0), gsd, 0):
        if not is_whole(index, offset):
            continue
        np.testing.assert_allclose(found[offset], chip, atol=0.5 + 1e-6)  # to the nearest whole number
        np.testing.assert_array_equal(found[offset] == 0, chip == 0)


def test_means_of_backscatter_are_of_what_was_measured(folder: Path) -> None:
    item = sentinel1_scene(folder, grid=utm_grid(SIDE))
    index = Indexer(item, chip_size=SIZE, edge="pad", local_roots=[folder]).create_index()
    found = pixels_at(index, "vv", gsd=20, resampling="average")
    whole = full(item, "vv").astype(np.float64)
    for offset, chip in placed(index, block_means(whole, 2, -32768), 20, -32768):
        np.testing.assert_allclose(found[offset], chip, rtol=1e-6)
    assert (found == -32768).any()
    assert (found[found != -32768] >= 0).all()


@pytest.mark.parametrize("gsd", [10, 20, 60])
def test_nearest_picks_or_repeats_pixels_exactly(item: Item, index: ChipIndex, gsd: int) -> None:
    bands = tuple(GSD_M)
    shard = shard_at(index, bands, gsd=gsd)
    side = int(np.ceil(SIDE * 10 / gsd))
    for band in bands:
        step, whole = GSD_M[band], full(item, band)
        middles = (np.arange(side) * gsd + (gsd // 2 if gsd > step else 0)) // step
        middles = middles[middles < whole.shape[1]]
        at_edge = side - len(middles)  # a pixel whose middle lies beyond the raster has no measurement
        taken = np.pad(whole[:, middles][:, :, middles], ((0, 0), (0, at_edge), (0, at_edge)))
        assert_is(index, np.asarray(shard.arrays[band]), taken, gsd)


def test_pixels_that_do_not_line_up_are_refused_by_both_grids_where_no_way_is_named(index: ChipIndex) -> None:
    found = cut_at(index, ("red",), gsd=15)
    assert found.shard is None
    reason = found.failures[0].reason
    assert "band 'red' is 290 x 290 pixels of 10 in EPSG:32632" in reason
    assert "not aligned with the grid 194 x 194 pixels of 15 in EPSG:32632" in reason
    assert "resampling" in reason


def test_datasets_and_their_labels_have_the_pixels_asked_for(folder: Path, item: Item, tmp_path: Path) -> None:
    warehouse = made(folder, tmp_path, [item])
    bands = [{"collection": "sentinel-2-l2a", "bands": list(GSD_M)}]
    dataset = materialize(warehouse, spec(bands=bands, gsd=60, format="geotiff", limit=3, resampling="average"))
    for row, chip in dataset:
        assert {band: pixels.shape for band, pixels in chip.items()} == dict.fromkeys(GSD_M, (1, 16, 16))
        whole = full(item, "coastal")
        top, left = row["row_off"] // 6, row["col_off"] // 6
        np.testing.assert_array_equal(chip["coastal"], whole[:, top : top + 16, left : left + 16])
    with rasterio.open(next((tmp_path / "datasets/fields/shards").rglob("00000.tif"))) as file:
        row = dataset.chips.slice(0, 1).to_pylist()[0]
        assert file.res == (60, 60)
        assert (file.bounds.left, file.bounds.top) == (500_040 + 10 * row["col_off"], 5_200_020 - 10 * row["row_off"])


def test_a_band_of_the_name_of_the_mask_is_not_lost_to_it() -> None:
    assets = (SimpleNamespace(band="red"), SimpleNamespace(band="mask"))
    scene = replace(Piece(1).scene(), assets=assets)  # type: ignore[arg-type]
    wanted = ChipSpec(name="fields", index="global", mask=True)
    with pytest.raises(SpecError, match="mask: s2 has a band of that name; name the bands you want, without it"):
        resolve_bands([scene], wanted)
    assert resolve_bands([scene], wanted.model_copy(update={"mask": False})) == {"s2": ("red", "mask")}
