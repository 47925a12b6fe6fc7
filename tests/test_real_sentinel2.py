"""A real Sentinel-2 scene, ten bands and SCL: fractions and chips against whole arrays."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from stacchip_core import ChipIndex, Chipper, Indexer, UnsupportedGridError
from stacchip_core.sources.raster import Grid
from tests.data import RASTERS, needs_shared_data
from tests.oracles import Truth, assert_chips, assert_fractions, assert_native, on_grid, read_whole
from tests.rasters import Layout, patches, wedge, write_cog
from tests.real_scenes import SENTINEL2_FOLDER, item_of, sentinel2_scene

pytestmark = needs_shared_data

# Reference pixels along one pixel of the band; the files are at a tenth of the size, so 100, 200 and 600 m.
RATIOS = {"red": 1, "green": 1, "blue": 1, "nir": 1, "rededge1": 2, "nir08": 2, "swir16": 2, "swir22": 2, "scl": 2,
          "coastal": 6, "nir09": 6}  # fmt: skip
SHAPE = (1098, 1098)


@cache
def bands() -> dict[str, NDArray[Any]]:
    return {key: read_whole(path) for key, path in sentinel2_scene()[1].items()}


def truth_of(scl: NDArray[Any]) -> Truth:
    """By the class numbers of Sen2Cor's scene classification, spelled out here once more."""
    fine = on_grid(scl, 2, SHAPE)
    return Truth(fine == 0, np.isin(fine, [8, 9, 10]), fine == 3, fine == 11, fine == 6)


@cache
def truth() -> Truth:
    return truth_of(bands()["scl"][0])


def index_of(size: int, stride: int | None, edge: Literal["drop", "pad"], scl: Path | None = None) -> ChipIndex:
    item, _ = sentinel2_scene()
    roots = [RASTERS]
    if scl is not None:
        item["assets"]["scl"]["href"] = str(scl)
        roots.append(scl.parent)
    return Indexer(item, chip_size=size, stride=stride, edge=edge, grid="asset", local_roots=roots).create_index()


def test_the_scene_has_ten_bands_and_a_mask_with_clouds() -> None:
    assert set(bands()) == set(RATIOS)
    assert set(np.unique(bands()["scl"])) == {2, 5, 7, 8, 9, 10}


@pytest.mark.parametrize(("size", "stride", "edge"), [(256, None, "pad"), (99, 33, "drop")])
def test_fractions_of_shadow_snow_water_and_nodata_too(
    tmp_path: Path, size: int, stride: int | None, edge: Literal["drop", "pad"]
) -> None:
    """The same clouds, with the classes painted in that this scene lacks."""
    scl = bands()["scl"][0].copy()
    painted = patches(scl.shape, [0, 1, 3, 4, 6, 11, 255], seed=3, side=13)
    scl = np.where(wedge(scl.shape, 0.2), 0, np.where(painted == 255, scl, painted)).astype(np.uint8)
    with rasterio.open(SENTINEL2_FOLDER / "SCL.tif") as raster:
        a, b, c, d, e, f = tuple(raster.transform)[:6]
    write_cog(tmp_path / "SCL.tif", scl, Grid("EPSG:32629", (a, b, c, d, e, f), 549, 549), layout=Layout(nodata=0.0))
    index = index_of(size, stride, edge, tmp_path / "SCL.tif")
    assert_fractions(index, truth_of(scl))
    assert index.table["cloud_fraction"].null_count == (index.table["nodata_fraction"].to_numpy() == 1).sum() > 0


@pytest.mark.parametrize("edge", ["drop", "pad"])
@pytest.mark.parametrize(("size", "stride"), [(256, None), (96, None), (128, 64), (100, 37), (255, 100), (61, 61)])
def test_every_fraction_equals_brute_force_on_scl(size: int, stride: int | None, edge: Literal["drop", "pad"]) -> None:
    """Also chip sizes and strides that cut 200 m mask pixels in half."""
    index = index_of(size, stride, edge)
    step = stride or size
    per_side = (1098 - size) // step + 1 + (edge == "pad" and (1098 - size) % step > 0)
    assert len(index) == per_side**2
    assert_fractions(index, truth())


@pytest.mark.parametrize(("size", "stride", "edge"), [(256, None, "pad"), (96, None, "drop"), (255, 281, "drop")])
def test_every_chip_of_every_band_equals_the_whole_array(
    size: int, stride: int | None, edge: Literal["drop", "pad"]
) -> None:
    assert_chips(index_of(size, stride, edge), {band: (bands()[band], (1, ratio)) for band, ratio in RATIOS.items()})


def test_native_chips_of_96_px_are_plain_slices() -> None:
    index = index_of(96, None, "drop")
    assert len(index) == 121
    assert_native(index, {band: (bands()[band], ratio) for band, ratio in RATIOS.items()})


def test_the_table_says_where_and_when() -> None:
    index = index_of(256, None, "drop")
    row = index.table.slice(0, 1).to_pylist()[0]
    assert row["chip_id"] == "sentinel-2-l2a/S2A_29RKH_20200219_0_L2A/256-256-drop/0-0"
    assert row["datetime"].isoformat() == "2020-02-19T11:34:25.405000+00:00"
    assert (row["gsd_m"], row["platform"], row["earthsearch:boa_offset_applied"]) == (100.0, "sentinel-2a", False)
    west, south, east, north = index.to_geopandas().total_bounds
    item_west, item_south, item_east, item_north = sentinel2_scene()[0]["bbox"]
    assert item_west - 0.01 < west < east < item_east + 0.01 and item_south < south < north < item_north + 0.01


def test_a_header_that_contradicts_the_item_is_an_error_that_says_both() -> None:
    """The files are a tenth of what the item says, unless the grid is asked of the files."""
    item, _ = sentinel2_scene()
    indexer = Indexer(item, local_roots=[RASTERS])
    with pytest.raises(
        UnsupportedGridError, match=r"S2A_29RKH.*'scl'.*item says 5490 x 5490.*header 549 x 549.*grid='a"
    ):
        indexer.create_index()


def test_chips_of_an_item_whose_other_band_contradicts_its_file_are_refused() -> None:
    """The grid of reference and mask agree; one other band's file is not what the item says."""
    item, files = sentinel2_scene()
    changed = copy.deepcopy(item)
    for key, ratio in (("red", 1), ("scl", 2), ("nir", 1)):
        side, pixel = 1098 // ratio, 100 * ratio
        changed["assets"][key]["proj:shape"] = [side, side]
        changed["assets"][key]["proj:transform"] = [pixel, 0, 199980, 0, -pixel, 2800020]
    changed["assets"]["nir"]["href"] = str(files["rededge1"])
    index = Indexer(changed, local_roots=[RASTERS]).create_index()
    assert Chipper(index, ["red", "scl"])[0]["red"].shape == (1, 256, 256)
    with pytest.raises(UnsupportedGridError, match=r"'nir': the item says 1098 x 1098 .*header 549 x 549"):
        Chipper(index, ["nir"])[0]


def test_a_jpeg_2000_mask_is_read_by_its_media_type() -> None:
    """A real SCL as ESA writes it, at 60 m, mostly nodata (0, which its header does not say)."""
    path = RASTERS / "sentinel-2-l2a" / "SCL_20m_partial_1830.jp2"
    index = Indexer(item_of({"scl": path}), chip_size=305, local_roots=[RASTERS]).create_index()
    whole = read_whole(path)
    assert len(np.unique(whole)) == 3
    assert_chips(index, {"scl": (whole, (1, 1))})
