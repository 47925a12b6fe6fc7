"""Real radar, aerial and odd rasters: each is right against the whole array, or refused with a reason."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.warp import transform as to_crs

from stacchip_core import ChipIndex, Chipper, Indexer, UnsupportedGridError
from tests.data import RASTERS, needs_shared_data
from tests.oracles import Truth, assert_chips, assert_fractions, assert_native, expected, read_mask, read_whole
from tests.real_scenes import item_of, load_item, with_files

pytestmark = needs_shared_data

SPARSE = RASTERS / "linz" / "sparse_20480_webp_2193.tiff"
REFUSED = {
    "rasterio_rotated.tif": "item rasterio_rotated: asset 'data' has no CRS and transform of its own",
    "iw-vv.tiff": r"item iw-vv: asset 'data' has no CRS and transform of its own \(ground control points only",
    "slc_complex_int16.tif": r"item slc_complex_int16: .*geocoded first",
}
EVERY = sorted(path for path in RASTERS.rglob("*") if path.is_file() and path != SPARSE) if RASTERS.is_dir() else []
_big = {"HLS.L30.T06WVS.2024120T211159.v2.0.Fmask.tif", "BQ25_10000_0305_DEM_lerc.tiff"}


def index_of(path: Path, **cut: Any) -> ChipIndex:
    return Indexer(item_of({"data": path}), local_roots=[RASTERS], **cut).create_index()


def nodata_of(path: Path) -> float:
    with rasterio.open(path) as raster:
        return 0 if raster.nodata is None else raster.nodata


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if path.name in _big else ()) for path in EVERY],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_every_real_raster_is_cut_exactly_or_refused(path: Path) -> None:
    """Without profile or projection fields: grid from the header, nodata from GDAL's mask, edges padded."""
    if path.name in REFUSED:
        with pytest.raises(UnsupportedGridError, match=REFUSED[path.name]):
            index_of(path)
        return
    with rasterio.open(path) as raster:
        shape, crs, transform = raster.shape, raster.crs, raster.transform
    size = 1500 if max(shape) > 3000 else max(1, max(shape) // 6)
    index = index_of(path, chip_size=size, edge="pad")
    assert_fractions(index, Truth(nodata=~read_mask(path)))
    assert_chips(index, {"data": (read_whole(path), (1, 1))}, nodata=nodata_of(path))
    row = index.table.slice(len(index) // 2, 1).to_pylist()[0]
    middle = transform @ (row["col_off"] + size / 2, row["row_off"] + size / 2)
    (lon,), (lat,) = to_crs(crs, "OGC:CRS84", [middle[0]], [middle[1]])
    assert shapely.from_wkb(row["geometry"]).covers(shapely.Point(lon, lat))


@pytest.mark.parametrize("key", ["gamma0_vv", "gamma0_vh"])
def test_sentinel_1_backscatter_in_decibel(key: str) -> None:
    """An AWS RTC item with other pixels under its hrefs; nodata is what their header says (-99), not the item."""
    item = load_item("sentinel-1-rtc/aws_S1A_20200103_17RMJ_ASC")
    files = dict.fromkeys(("gamma0_vv", key), RASTERS / "sentinel-1-rtc" / "S1A_A_20150309_VV_gamma0_dB_20m.tif")
    item = with_files(item, files)
    with pytest.raises(UnsupportedGridError, match=r"S1A_20200103.*says 5490 x 5490.*EPSG:32617.*header 217 x 268"):
        Indexer(item, local_roots=[RASTERS]).create_index()
    index = Indexer(item, chip_size=64, edge="pad", grid="asset", local_roots=[RASTERS]).create_index()
    path = files[key]
    assert_fractions(index, Truth(nodata=~read_mask(path)))
    assert_chips(index, {key.removeprefix("gamma0_"): (read_whole(path), (1, 1))}, nodata=-99.0)
    row, chip = next(iter(Chipper(index, ["vv"], masked=True)))
    assert np.ma.getmaskarray(chip["vv"]).mean() == pytest.approx(row["nodata_fraction"])


def test_ground_range_radar_is_refused_also_where_its_item_claims_a_grid() -> None:
    """Ground control points only: the item's degrees are those of the footprint, not of the pixels."""
    item = load_item("sentinel-1-grd/stactools_IW_S1A_20210809")
    path = RASTERS / "sentinel-1-grd" / "S1A_IW_GRDH_20180716" / "iw-vv.tiff"
    item = with_files(item, {"vv": path, "vh": path})
    for grid in ("item", "asset"):
        with pytest.raises(UnsupportedGridError, match=r"item S1A_IW_GRDH.*no CRS and transform"):
            Indexer(item, grid=grid, local_roots=[RASTERS]).create_index()


@pytest.mark.parametrize("name", ["m_4709963_se_14_1_20180716_5m_COG", "m_3607717_sw_18_1_20160620_native1m"])
def test_naip_layers_are_bands(name: str) -> None:
    path = RASTERS / "naip" / f"{name}.tif"
    item = with_files(load_item("naip/pc_ok_m_3409901_nw_14_1_20100425"), {"image": path})
    index = Indexer(item, chip_size=100, edge="pad", grid="asset", local_roots=[RASTERS]).create_index()
    whole = read_whole(path)
    assert_fractions(index, Truth(nodata=~read_mask(path)))
    layers = {band: (whole[k : k + 1], (1, 1)) for k, band in enumerate(("red", "green", "blue", "nir"))}
    assert_chips(index, {"image": (whole, (1, 1)), **layers})
    plain = Indexer(item, chip_size=96, grid="asset", local_roots=[RASTERS]).create_index()
    assert_native(plain, {"image": (whole, 1), "nir": (whole[3:], 1)})


def test_linz_imagery_has_no_alpha_in_its_chips() -> None:
    item = load_item("linz/aerial_BC40_2000_2421")
    path = RASTERS / "linz" / "BG35_1000_4829_standardised_webp.tiff"
    item = with_files(item, {"visual": path})
    index = Indexer(item, chip_size=20, edge="pad", profile="linz", local_roots=[RASTERS]).create_index()
    whole = read_whole(path)
    assert whole.shape == (4, 72, 48)
    assert_fractions(index, Truth(nodata=whole[3] == 0))
    assert_chips(index, {"visual": (whole[:3], (1, 1)), "blue": (whole[2:3], (1, 1))})


def test_alpha_and_mask_bands_are_nodata() -> None:
    """98 % transparent by its alpha layer; an internal mask; both seen in the table and in masked chips."""
    for name, share in (("rasterio_alpha.tif", 0.98), ("riotiler_cog_rgb_mask.tif", None)):
        path = RASTERS / "misc" / name
        index = index_of(path, chip_size=100, edge="pad")
        is_nodata = ~read_mask(path)
        assert is_nodata.any() and (share is None or is_nodata.mean() > share - 0.02)
        for row, chip in Chipper(index, masked=True):
            wanted = ~expected((~is_nodata)[np.newaxis], (1, 1), row)
            is_masked = np.ma.getmaskarray(chip["data"])
            np.testing.assert_array_equal(is_masked, np.repeat(wanted, len(is_masked), axis=0))


def test_a_raster_across_the_antimeridian_is_split_there() -> None:
    index = index_of(RASTERS / "misc" / "riotiler_cog_dateline.tif", chip_size=256)
    frame = index.to_geopandas()
    assert set(frame.geom_type) == {"Polygon", "MultiPolygon"}
    for shape in frame.geometry.explode():
        assert shape.bounds[2] - shape.bounds[0] < 3 and shape.bounds[0] >= -180 and shape.bounds[2] <= 180
    assert frame.geometry.is_valid.all()


def test_a_rotated_raster_lies_as_its_transform_says() -> None:
    path = RASTERS / "misc" / "odcgeo_au-3577-rotated.tif"
    index = index_of(path, chip_size=128)
    with rasterio.open(path) as raster:
        corners = [raster.transform @ corner for corner in ((0, 0), (0, 128), (128, 128), (128, 0))]
        lon, lat = to_crs(raster.crs, "OGC:CRS84", *map(list, zip(*corners, strict=True)))
    (shape,) = index.to_geopandas().geometry
    assert len(shape.exterior.coords) > 5, "3 800 km edges are no straight lines in degrees"
    for point in zip(lon, lat, strict=True):
        assert shape.exterior.distance(shapely.Point(point)) < 1e-6


@pytest.mark.slow
def test_a_sparse_raster_of_420_megapixels_takes_seconds_and_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 480 px square, four layers, not one tile present: 1.6 GB if it were read whole.

    Fresh processes read it: in one that other tests have used, memory that they let go of would blur what is seen.
    GDAL keeps decoded blocks in up to 5 % of the memory, more or fewer as its threads happen to run; here it may keep
    64 MiB, so that our own show. It reads that limit once, when it first opens a file.
    """
    monkeypatch.setenv("GDAL_CACHEMAX", "64")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        costs = [pool.apply(_cost_of_the_sparse_raster) for _ in range(3)]  # what the machine adds comes and goes
    seconds, grown = (min(values) for values in zip(*costs, strict=True))
    assert seconds < 20
    assert grown < 200 * 2**20


def _cost_of_the_sparse_raster() -> tuple[float, int]:
    """Seconds, and bytes by which the process grew at most, after a small raster for which libraries are loaded."""
    Chipper(index_of(RASTERS / "misc" / "odcgeo_au-3577-rotated.tif", chip_size=128), masked=True).chip(0, 0)
    before, start = _peak_bytes(), time.perf_counter()
    index = index_of(SPARSE, chip_size=512)
    chip = Chipper(index, masked=True).chip(39, 39)["data"]
    seconds, grown = time.perf_counter() - start, _peak_bytes() - before
    assert len(index) == 1600 and set(index.table["nodata_fraction"].to_pylist()) == {1.0}
    assert chip.shape == (4, 512, 512) and np.ma.getmaskarray(chip).all()
    return seconds, grown


def _peak_bytes() -> int:
    """Most memory that this program has held; getrusage would count what its parent held as well (proc(5), VmHWM)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
