"""Real Landsat, HLS and MODIS pixels: fractions and chips against whole arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from numpy.typing import NDArray

from stacchip_core import ChipIndex, Chipper, Indexer, InvalidItemError, UnsupportedGridError
from stacchip_core.sources.raster import Grid
from tests import scenes
from tests.data import RASTERS, needs_shared_data
from tests.oracles import Truth, assert_chips, assert_fractions, assert_native, read_mask, read_whole
from tests.real_scenes import LANDSAT, item_of, landsat_scene, load_item, with_files

pytestmark = needs_shared_data

HLS_FMASK = RASTERS / "hls" / "HLS.L30.T06WVS.2024120T211159.v2.0.Fmask.tif"
MODIS = RASTERS / "modis"
CUTS: list[dict[str, Any]] = [
    {"chip_size": 64},
    {"chip_size": 100, "stride": 37},
    {"chip_size": 100, "edge": "pad"},
    {"chip_size": 512},
]


def bit(values: NDArray[Any], *numbers: int) -> NDArray[np.bool_]:
    """Whether any of the bits is set, by arithmetic rather than shifts."""
    return np.asarray(np.logical_or.reduce([values // 2**n % 2 == 1 for n in numbers]))


def field(values: NDArray[Any], first: int, width: int) -> NDArray[Any]:
    """The number in bits [first, first + width)."""
    number: NDArray[Any] = values // 2**first % 2**width
    return number


def write_profile(folder: Path, text: str) -> Path:
    path = folder / "profile.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("product", LANDSAT)
def test_landsat_fractions_and_chips(product: str, cut: dict[str, Any]) -> None:
    """Items of STAC 0.7.0 without projection fields; the third scene is in polar stereographic (EPSG:3031)."""
    item, files = landsat_scene(product)
    index = Indexer(item, local_roots=[RASTERS], **cut).create_index()
    qa = read_whole(files["QA_PIXEL.TIF"])[0]
    assert_fractions(index, Truth(bit(qa, 0), bit(qa, 1, 2, 3), bit(qa, 4), bit(qa, 5), bit(qa, 7)))
    assert_chips(
        index, {"red": (read_whole(files["SR_B4.TIF"]), (1, 1)), "nir08": (read_whole(files["SR_B5.TIF"]), (1, 1))}
    )
    assert_chips(index, {"qa_pixel": (qa[np.newaxis], (1, 1))}, nodata=1)


def test_landsat_on_the_antarctic_lies_where_its_grid_does() -> None:
    item, _ = landsat_scene("LC08_L2SR_099120_20191129_20201016_02_T2")
    index = Indexer(item, chip_size=128, local_roots=[RASTERS]).create_index()
    measured, chips = shapely.from_geojson(json.dumps(item["geometry"])), index.to_geopandas().union_all()
    assert measured.difference(chips).area < 0.001 * measured.area
    assert chips.area < 2.5 * measured.area, "no more than the collar around the measured part"
    (scene,) = index.scenes.values()
    assert scene.grid is not None and scene.grid.crs == "EPSG:3031"
    assert scene.datetime.isoformat() == "2019-11-29T00:00:00+00:00"


def test_native_landsat_chips_are_plain_slices() -> None:
    item, files = landsat_scene("LC08_L2SP_008059_20191201_20200825_02_T1")
    index = Indexer(item, chip_size=96, local_roots=[RASTERS]).create_index()
    assert_native(index, {"green": (read_whole(files["SR_B3.TIF"]), 1), "red": (read_whole(files["SR_B4.TIF"]), 1)})


@pytest.fixture(scope="module")
def hls_scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[scenes.Item, Path]:
    """A genuine Fmask at full size; the bands have no real pixels anywhere, so they are patterns on its grid."""
    folder = tmp_path_factory.mktemp("hls")
    with rasterio.open(HLS_FMASK) as raster:
        a, b, c, d, e, f = tuple(raster.transform)[:6]
        grid = Grid("EPSG:32606", (a, b, c, d, e, f), *raster.shape)
    path = scenes.write_cog(folder / "B04.tif", scenes.ramp(grid.shape, np.int16), grid, layout=scenes.Layout(-9999.0))
    return with_files(load_item("hls/cmr_HLSL30_noproj_0"), {"B04": path, "Fmask": HLS_FMASK}), path


@pytest.mark.slow
@pytest.mark.parametrize("cut", [{"chip_size": 256}, {"chip_size": 700, "stride": 611, "edge": "pad"}], ids=str)
def test_hls_fractions_and_chips(hls_scene: tuple[scenes.Item, Path], cut: dict[str, Any]) -> None:
    item, path = hls_scene
    index = Indexer(item, local_roots=[RASTERS, path.parent], **cut).create_index()
    fmask = read_whole(HLS_FMASK)
    is_fill = fmask[0] == 255
    assert_fractions(index, Truth(is_fill, *(bit(fmask[0], n) & ~is_fill for n in (1, 3, 4, 5))))
    some = ChipIndex(index.table.slice(20, 12), index.scenes, index.specs, index.local_roots)
    assert_chips(some, {"red": (read_whole(path), (1, 1))}, nodata=-9999)
    assert_chips(some, {"fmask": (fmask, (1, 1))}, nodata=255)


VIQ_PROFILE = """\
name: my-vegetation
reference: ndvi
bands:
  - {name: ndvi, asset: ndvi}
  - {name: viq, asset: viq, kind: categorical}
qa:
  kind: field
  asset: viq
  fill: [65535]
  nodata: [{shift: 0, width: 2, values: [3]}]
  cloud: [{shift: 0, width: 2, values: [2]}, {shift: 10, width: 1, values: [1]}]
  shadow: [{shift: 15, width: 1, values: [1]}]
  snow: [{shift: 14, width: 1, values: [1]}]
  water: [{shift: 11, width: 3, values: [0, 3, 5, 6, 7]}]
  source: MOD13 User's Guide, Collection 6, table 5
"""


@pytest.mark.parametrize("cut", [{"chip_size": 64}, {"chip_size": 90, "stride": 41, "edge": "pad"}], ids=str)
def test_modis_bit_fields_read_by_a_users_profile(tmp_path: Path, cut: dict[str, Any]) -> None:
    files = {"ndvi": MODIS / "MYD13A1.A2020153.h30v10" / "NDVI_B01.TIF"}
    files["viq"] = files["ndvi"].with_name("VIQ_B03.TIF")
    profile = write_profile(tmp_path, VIQ_PROFILE)
    index = Indexer(item_of(files), profile=profile, local_roots=[RASTERS], **cut).create_index()
    viq = read_whole(files["viq"])
    nodata = (viq[0] == 65535) | (field(viq[0], 0, 2) == 3)
    cloud = (field(viq[0], 0, 2) == 2) | bit(viq[0], 10)
    water = np.isin(field(viq[0], 11, 3), [0, 3, 5, 6, 7])
    assert 0 < cloud[~nodata].mean() < 1 and 0 < water[~nodata].mean() < 1
    assert_fractions(index, Truth(nodata, cloud, bit(viq[0], 15), bit(viq[0], 14), water))
    assert_chips(index, {"ndvi": (read_whole(files["ndvi"]), (1, 1))}, nodata=-3000)
    assert_chips(index, {"viq": (viq, (1, 1))}, nodata=65535)


def test_modis_classes_read_by_a_users_profile(tmp_path: Path) -> None:
    """MCD43A4: the quality band says 0 full inversion, 1 magnitude inversion, 255 fill."""
    files = {"b01": MODIS / "MCD43A4.A2017006.h21v11" / "B01.TIF"}
    files["qa"] = files["b01"].with_name("B01qa.TIF")
    profile = write_profile(
        tmp_path,
        "name: my-nadir\nreference: b01\nbands: [{name: b01, asset: b01}]\n"
        "qa: {kind: classes, asset: qa, nodata: [255], cloud: [1]}\n",
    )
    index = Indexer(item_of(files), profile=profile, chip_size=50, edge="pad", local_roots=[RASTERS]).create_index()
    qa = read_whole(files["qa"])[0]
    assert_fractions(index, Truth(qa == 255, qa == 1))
    assert_chips(index, {"b01": (read_whole(files["b01"]), (1, 1))}, nodata=32767)


def test_modis_snow_bits_of_a_whole_native_tile(tmp_path: Path) -> None:
    """MOD10A2: a bit for each of eight days; without a nodata meaning every pixel is valid and nodata is unknown."""
    files = {"snow": MODIS / "MOD10A2.A2022033.h09v05_Eight_Day_Snow_Cover.tif"}
    profile = write_profile(
        tmp_path,
        "name: my-snow\nreference: snow\nbands: [{name: snow, asset: snow, kind: categorical}]\n"
        "qa: {kind: bits, asset: snow, snow: [0, 1, 2, 3, 4, 5, 6, 7]}\n",
    )
    index = Indexer(item_of(files), profile=profile, chip_size=480, local_roots=[RASTERS]).create_index()
    snow = read_whole(files["snow"])
    assert len(index) == 25
    assert_fractions(index, Truth(snow=snow[0] > 0))
    assert_chips(index, {"snow": (snow, (1, 1))})
    by_mask = Indexer(item_of(files), chip_size=480, local_roots=[RASTERS]).create_index()
    assert_fractions(by_mask, Truth(nodata=~read_mask(files["snow"])))


def test_a_modis_items_own_wkt_is_the_crs_of_its_file() -> None:
    """The item's proj:wkt2 and the header's WKT 1 spell the same sinusoidal CRS differently."""
    item = load_item("modis/43A4_cropped_MCD43A4.A2022073.h28v08")
    path = MODIS / "MCD43A4.A2022073.h28v08_B01_cropped_2x2.TIF"
    item = with_files(item, {"Nadir_Reflectance_Band1": path})
    index = Indexer(item, chip_size=2, grid="item", local_roots=[RASTERS]).create_index()
    assert index.table["nodata_fraction"].to_pylist() == [1.0]
    assert_chips(index, {"Nadir_Reflectance_Band1": (read_whole(path), (1, 1))})


def test_real_landsat_level_1_without_pan_and_its_old_quality_band_are_told_apart(tmp_path: Path) -> None:
    """A Collection 1 BQA has another bit layout: it is no QA_PIXEL, and is never taken for one."""
    folder = RASTERS / "landsat-c2-l1" / "Elkton_VA_native30m"
    files = {"red": folder / "B4.tiff", "green": folder / "B3.tiff", "BQA": folder / "BQA.tiff"}
    item = {**item_of(files), "collection": "landsat-c2-l1"}
    with pytest.raises(InvalidItemError, match=r"no QA asset 'qa_pixel' \(nor QA_PIXEL\); assets are red, green, BQA"):
        Indexer(item, local_roots=[RASTERS])
    profile = write_profile(tmp_path, "name: my-l1\nextends: landsat-c2-l1\nqa: {kind: nodata}\n")
    index = Indexer(item, profile=profile, chip_size=64, edge="pad", local_roots=[RASTERS]).create_index()
    assert_fractions(index, Truth(nodata=np.zeros((169, 186), dtype=bool)))
    assert_chips(index, {band: (read_whole(files[band]), (1, 1)) for band in ("red", "green")})


def test_bands_of_different_real_scenes_are_never_one_scene() -> None:
    """Two Landsat crops, each a fine raster: together they are no scene, and the error names the stray band."""
    files = {"here": RASTERS / "landsat-c2-l1" / "LC08_B7_Memphis_native30m_COG.tiff"}
    files["there"] = RASTERS / "landsat-c2-l1" / "LC08_L1TP_198029_20220331_B2_native30m.TIF"
    index = Indexer(item_of(files), local_roots=[RASTERS]).create_index()
    with pytest.raises(UnsupportedGridError, match=r"band 'there' is 1000 x 1500 pixels of 30 in EPSG:32631"):
        Chipper(index)[0]
