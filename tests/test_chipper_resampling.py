"""Bands of another pixel size or place: resampled as asked for, by band, and never where classes would be averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.warp import reproject

from stacchip_core import BandNotFoundError, ChipIndex, Chipper, Indexer, InputError, UnsupportedGridError
from stacchip_core.sources.raster import Grid
from tests import scenes
from tests.items import Header, Item, Raster, write_scene
from tests.oracles import expected, full

SIDE = 200  # pixels of the 30 m grid; pan has 2 * SIDE - 1


def warped(item: Item, band: str, grid: Grid, how: str) -> NDArray[Any]:
    """The whole band on `grid` by GDAL's warper, from an array in memory: no overviews, no windows."""
    with rasterio.open(item["assets"][band]["href"]) as raster:
        result = np.zeros((raster.count, *grid.shape), raster.dtypes[0])
        reproject(
            raster.read(), result, src_transform=raster.transform, src_crs=raster.crs, src_nodata=0,
            dst_transform=rasterio.Affine(*grid.transform), dst_crs=grid.crs, dst_nodata=0,
            resampling=Resampling[how], tolerance=0.001,
        )  # fmt: skip
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resampling")


@pytest.fixture(scope="module")
def landsat(folder: Path) -> Item:
    return scenes.landsat_l1_scene(folder, grid=scenes.utm_grid(SIDE, 30.0))


@pytest.fixture(scope="module")
def landsat_index(folder: Path, landsat: Item) -> ChipIndex:
    return Indexer(landsat, chip_size=64, edge="pad", local_roots=[folder]).create_index()


@pytest.fixture(scope="module")
def sentinel2(folder: Path) -> Item:
    return scenes.sentinel2_scene(folder, grid=scenes.utm_grid(300))


@pytest.fixture(scope="module")
def sentinel2_index(folder: Path, sentinel2: Item) -> ChipIndex:
    return Indexer(sentinel2, chip_size=100, local_roots=[folder]).create_index()


def test_the_reference_grid_of_landsat_l1_is_that_of_a_30_m_band(landsat_index: ChipIndex) -> None:
    (scene,) = landsat_index.scenes.values()
    assert (scene.reference, scene.grid) == ("red", scenes.utm_grid(SIDE, 30.0))
    assert len(landsat_index) == 16


@pytest.mark.parametrize("how", ["nearest", {"red": "bilinear"}])
@pytest.mark.parametrize("native", [False, True])
def test_landsat_pan_is_refused_by_name_unless_asked_for(landsat_index: ChipIndex, how: Any, native: bool) -> None:
    bands = ["red", "pan"]
    with pytest.raises(UnsupportedGridError, match=r"band 'pan' is 399 x 399 .*of 15.*ask for resampling=\{'pan': 'bi"):
        Chipper(landsat_index, bands, resampling=how, native=native)[0]
    assert set(Chipper(landsat_index, ["red", "qa_pixel"], native=native)[0]) == {"red", "qa_pixel"}


def test_native_pixels_of_landsat_pan_are_refused_even_with_a_resampling(landsat_index: ChipIndex) -> None:
    with pytest.raises(UnsupportedGridError, match=r"band 'pan' .*not aligned"):
        Chipper(landsat_index, ["pan"], resampling={"pan": "bilinear"}, native=True)[0]


@pytest.mark.parametrize("how", ["nearest", "bilinear", "cubic", "average", "mode"])
def test_landsat_pan_on_request_equals_a_warp_of_the_whole_band(
    landsat: Item, landsat_index: ChipIndex, how: str
) -> None:
    wanted = warped(landsat, "pan", scenes.utm_grid(SIDE, 30.0), how)
    for row, chip in Chipper(landsat_index, ["pan", "red"], resampling={"pan": how}):
        np.testing.assert_array_equal(chip["pan"], expected(wanted, (1, 1), row))
        np.testing.assert_array_equal(chip["red"], expected(full(landsat, "red"), (1, 1), row))


def test_resampling_reproduces_a_plane(tmp_path: Path) -> None:
    """By hand: the middle of 30 m pixel (r, c) is pan pixel (2r, 2c)'s middle, so a plane is taken over unchanged."""
    grid = scenes.utm_grid(SIDE, 30.0)
    rows, cols = np.indices((2 * SIDE - 1, 2 * SIDE - 1))
    plane = (1000 + 7 * rows + 3 * cols).astype(np.uint16)
    item = scenes.landsat_l1_scene(tmp_path, grid=grid, nodata_share=0.0, pixels={"pan": plane})
    index = Indexer(item, chip_size=SIDE, local_roots=[tmp_path]).create_index()
    wanted = plane[::2, ::2].astype(int)
    for how in ("bilinear", "cubic", "average"):
        found = Chipper(index, ["pan"], resampling={"pan": how})[0]["pan"][0].astype(int)
        inner = (slice(2, -2), slice(2, -2))  # at the rim, GDAL averages over the pixels that there are
        assert np.abs(found - wanted)[inner].max() <= 1, how
    found = Chipper(index, ["pan"], resampling={"pan": "nearest"})[0]["pan"][0].astype(int)
    assert np.abs(found - wanted).max() <= 10, "one pan pixel away at most"


def test_a_coarse_band_is_interpolated_as_by_hand(tmp_path: Path) -> None:
    """A plane in a 20 m band: 10 m pixel r lies at (r + 0.5) / 2 - 0.5 pixels of the band."""
    grid = scenes.utm_grid(120)
    rows, cols = np.indices((60, 60))
    plane = (5000 + 40 * rows + 24 * cols).astype(np.uint16)
    item = scenes.sentinel2_scene(tmp_path, grid=grid, nodata_share=0.0, pixels={"rededge1": plane})
    index = Indexer(item, chip_size=40, local_roots=[tmp_path]).create_index()
    fine = (np.arange(120) + 0.5) / 2 - 0.5
    wanted = 5000 + 40 * fine[:, None] + 24 * fine[None, :]
    found = Chipper(index, ["rededge1"], resampling="bilinear").chip(1, 1)["rededge1"][0]
    assert np.abs(found - wanted[40:80, 40:80]).max() <= 0.5


def test_one_name_is_for_continuous_bands_alone(sentinel2: Item, sentinel2_index: ChipIndex) -> None:
    grid = scenes.utm_grid(300)
    smooth = warped(sentinel2, "rededge1", grid, "bilinear")
    for row, chip in Chipper(sentinel2_index, ["red", "rededge1", "scl"], resampling="bilinear"):
        np.testing.assert_array_equal(chip["red"], expected(full(sentinel2, "red"), (1, 1), row))
        np.testing.assert_array_equal(chip["rededge1"], expected(smooth, (1, 1), row))
        np.testing.assert_array_equal(chip["scl"], expected(full(sentinel2, "scl"), (1, 2), row))


def test_bands_are_resampled_each_as_named(sentinel2: Item, sentinel2_index: ChipIndex) -> None:
    grid = scenes.utm_grid(300)
    wishes = {"rededge1": "cubic", "coastal": "bilinear", "scl": "mode"}
    wanted = {band: warped(sentinel2, band, grid, how) for band, how in wishes.items()}
    for row, chip in Chipper(sentinel2_index, ["rededge1", "coastal", "scl", "swir16"], resampling=wishes):
        for band, whole in wanted.items():
            np.testing.assert_array_equal(chip[band], expected(whole, (1, 1), row))
        np.testing.assert_array_equal(chip["swir16"], expected(full(sentinel2, "swir16"), (1, 2), row))


@pytest.mark.parametrize("how", ["bilinear", "cubic", "average", "lanczos", "rms", "sum", "cubic_spline"])
def test_classes_are_never_averaged(sentinel2_index: ChipIndex, how: str) -> None:
    with pytest.raises(
        InputError, match=rf"resampling '{how}' would average the classes of band 'scl'; .*nearest, mode"
    ):
        Chipper(sentinel2_index, resampling={"scl": how})


def test_unknown_ways_and_bands_are_refused_before_any_pixel(sentinel2_index: ChipIndex) -> None:
    for wish in ("bilnear", {"red": "bilnear"}):
        with pytest.raises(InputError, match="unknown resampling 'bilnear'; there are nearest, bilinear, cubic"):
            Chipper(sentinel2_index, resampling=wish)
    with pytest.raises(BandNotFoundError, match="resampling names band 'rededge9'; bands of the chips are red, nir"):
        Chipper(sentinel2_index, ["red", "nir"], resampling={"rededge9": "cubic"})


@pytest.mark.parametrize("in_header", [True, False])
def test_nodata_is_never_mixed_into_its_neighbours(tmp_path: Path, in_header: bool) -> None:
    """Also where only the profile knows that 0 is nodata."""
    grid = scenes.utm_grid(120)
    pixels = np.full((60, 60), 5000, np.uint16)
    pixels[:, :30] = 0
    item = scenes.sentinel2_scene(tmp_path, grid=grid, pixels={"rededge1": pixels})
    if not in_header:
        with rasterio.open(item["assets"]["rededge1"]["href"], "r+") as raster:
            raster.nodata = None
    index = Indexer(item, chip_size=120, local_roots=[tmp_path]).create_index()
    chip = Chipper(index, ["rededge1"], resampling="bilinear", masked=True)[0]["rededge1"]
    assert set(np.unique(np.ma.getdata(chip))) == {0, 5000}
    np.testing.assert_array_equal(np.ma.getmaskarray(chip), np.ma.getdata(chip) == 0)


def test_a_band_without_any_nodata_is_masked_only_off_its_raster(tmp_path: Path) -> None:
    """A generic profile, no nodata anywhere, an asset that covers a part of the reference grid."""
    grid = scenes.utm_grid(100)
    west, north = grid.transform[2], grid.transform[5]
    own = Grid(grid.crs, (7.0, 0.0, west + 200, 0.0, -7.0, north - 200), 90, 80)
    rasters = [Raster("fine", scenes.ramp(grid.shape), grid), Raster("part", scenes.ramp(own.shape), own)]
    item = write_scene(tmp_path, Header("part", "", grid, {"datetime": "2024-06-15T10:30:31Z"}), rasters)
    item["assets"]["fine"]["proj:shape"], item["assets"]["fine"]["proj:transform"] = [100, 100], list(grid.transform)
    item["assets"]["fine"]["proj:code"] = grid.crs
    index = Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index()
    chip = Chipper(index, resampling={"part": "bilinear"}, masked=True)[0]
    assert chip["part"].shape == chip["fine"].shape == (1, 100, 100)
    assert not np.ma.getmaskarray(chip["fine"]).any()
    is_masked = np.ma.getmaskarray(chip["part"])[0]
    assert not is_masked[21:82, 21:75].any()
    assert is_masked[:20].all() and is_masked[:, :20].all() and is_masked[84:].all() and is_masked[:, 77:].all()
