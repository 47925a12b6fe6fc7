"""Each defect that was shown in stacchip 0.1.38 has its case here, and passes.

Left to the tests of other parts, because they are no matter of items, tables and chips: coordinate encodings swapped in
npz cubes, cubes with a missing chip or a last partial one, and platforms mixed in cubes (shards); sampling with
replacement and by file order (selection); the searches of Sentinel-1 and Sentinel-2 and their empty results (catalog);
nodata in the statistics of Sentinel-1 (statistics of a dataset).
"""

from __future__ import annotations

import copy
import datetime as dt
import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from pyproj import CRS

from stacchip_core import ChipIndex, ChipNotFoundError, Chipper, CollectionProfile, Indexer, UnsupportedGridError
from stacchip_core.sources.profiles import load_profile
from stacchip_core.sources.raster import Grid
from tests import scenes
from tests.data import needs_shared_data
from tests.items import Header, Item, Raster, write_scene
from tests.oracles import Truth, assert_chips, assert_fractions, expected, full, rows_of
from tests.real_scenes import load_item

WHEN = {"datetime": "2024-06-15T10:30:31.024Z"}
TWO_BANDS = CollectionProfile.model_validate(
    {
        "name": "two",
        "reference": "one",
        "bands": [{"name": "one", "asset": "one"}, {"name": "other", "asset": "other"}],
        "qa": {"kind": "nodata"},
    }
)


def moved(grid: Grid, east: float) -> Grid:
    a, b, c, d, e, f = grid.transform
    return Grid(grid.crs, (a, b, c + east, d, e, f), *grid.shape)


def two_assets(folder: Path, one: Grid, other: Grid) -> Item:
    rasters = [Raster("one", scenes.ramp(one.shape), one), Raster("other", scenes.ramp(other.shape, seed=1), other)]
    return write_scene(folder, Header("two", "", one, WHEN), rasters)


def test_wrong_pixels_of_a_60_m_band_under_a_10_m_chip(tmp_path: Path) -> None:
    """1536 px grid, the 60 m asset holds column numbers: stacchip is off by one in up to half the pixels of a chip."""
    numbers = scenes.column_numbers((256, 256))
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(1536), nodata_share=0.0, pixels={"coastal": numbers})
    index = Indexer(item, local_roots=[tmp_path]).create_index()
    for row, chip in Chipper(index, ["coastal"]):
        wanted = 1 + (row["col_off"] + np.arange(256)) // 6
        np.testing.assert_array_equal(chip["coastal"], np.broadcast_to(wanted, (1, 256, 256)))


@pytest.mark.parametrize("other", ["origin", "crs"])
def test_wrong_pixels_where_only_the_size_of_an_asset_fits(tmp_path: Path, other: str) -> None:
    """Two 512 px assets 640 m apart, or in neighbouring UTM zones, gave "aligned" chips."""
    one = scenes.utm_grid(512)
    item = two_assets(tmp_path, one, moved(one, 640.0) if other == "origin" else scenes.utm_grid(512, epsg=32633))
    index = Indexer(item, profile=TWO_BANDS, local_roots=[tmp_path]).create_index()
    with pytest.raises(UnsupportedGridError, match=r"item two: band 'other' is 512 x 512 .* not aligned with the grid"):
        Chipper(index)[0]


@pytest.mark.parametrize("reference", ["one", "other"])
def test_wrong_grid_of_shape_and_transform_from_different_assets(tmp_path: Path, reference: str) -> None:
    """5 m / 512 px and 10 m / 1024 px: stacchip takes 1024 px of 5 m, a grid that is neither's."""
    grids = {"one": scenes.utm_grid(512, 5.0), "other": scenes.utm_grid(1024, 10.0)}
    item = two_assets(tmp_path, grids["one"], grids["other"])
    profile = TWO_BANDS.model_copy(update={"reference": (reference,)})
    index = Indexer(item, profile=profile, local_roots=[tmp_path]).create_index()
    (scene,) = index.scenes.values()
    assert scene.grid == grids[reference]
    assert_chips(index, {reference: (full(item, reference), (1, 1))})


def test_wrong_pixels_beyond_the_raster(tmp_path: Path) -> None:
    """700 px raster: chip (2, 2) was 188 px blown up to 256; chipper[len] gave data, and [-1] the wrong chip."""
    item = scenes.naip_scene(tmp_path, grid=scenes.utm_grid(700, 1.0, epsg=26914))
    whole = full(item, "image")
    chipper = Chipper(Indexer(item, local_roots=[tmp_path]).create_index())
    assert len(chipper) == 4
    with pytest.raises(ChipNotFoundError, match=r"no chip \(2, 2\) .*chip_x runs from 0 to 1"):
        chipper.chip(2, 2)
    with pytest.raises(ChipNotFoundError, match="no row 4: the index has 4 rows"):
        chipper[4]
    np.testing.assert_array_equal(chipper[-1]["image"], whole[:, 256:512, 256:512])
    padded = Chipper(Indexer(item, edge="pad", local_roots=[tmp_path]).create_index()).chip(2, 2)["image"]
    np.testing.assert_array_equal(padded[:, :188, :188], whole[:, 512:, 512:])
    assert not padded[:, 188:].any() and not padded[:, :, 188:].any()


def test_rows_of_the_index_are_chips_of_the_chipper(tmp_path: Path) -> None:
    """One of 16 chips is empty: the index had 15 rows, the chipper 16, and row 0 was not chipper[0]."""
    grid = scenes.utm_grid(400)
    image = np.stack([scenes.ramp(grid.shape, np.uint8, seed=n) for n in range(4)])
    image[:, :100, :100] = 0
    item = scenes.naip_scene(tmp_path, grid=grid, nodata_share=0.01, pixels={"image": image})
    index = Indexer(item, chip_size=100, max_nodata=0.5, local_roots=[tmp_path]).create_index()
    chipper = Chipper(index)
    assert len(index) == len(chipper) == len(list(chipper)) == 15
    for i, row in enumerate(rows_of(index)):
        np.testing.assert_array_equal(chipper[i]["image"], expected(image, (1, 1), row))
    with pytest.raises(ChipNotFoundError, match="may have been left out by a filter"):
        chipper.chip(0, 0)


def test_lost_spec_of_an_index(tmp_path: Path) -> None:
    """An index made with 512 was cut with 256, under the same chip ids."""
    item = scenes.naip_scene(tmp_path, grid=scenes.utm_grid(1024, 1.0, epsg=26914))
    paths = {}
    for size in (256, 512):
        paths[size] = tmp_path / f"{size}.parquet"
        Indexer(item, chip_size=size, local_roots=[tmp_path]).create_index().write(paths[size])
    small, large = (ChipIndex.read(path, [str(tmp_path)]) for path in paths.values())
    assert [str(spec) for spec in large.specs] == ["512-512-drop"]
    assert not set(small.table["chip_id"].to_pylist()) & set(large.table["chip_id"].to_pylist())
    assert_chips(small, {"image": (full(item, "image"), (1, 1))})
    assert_chips(large, {"image": (full(item, "image"), (1, 1))})
    assert Chipper(large)[0]["image"].shape == (4, 512, 512)


def test_lost_chips_of_landsat_level_1(tmp_path: Path) -> None:
    """QA (30 m) read with windows of the pan grid (15 m): 48 of 64 chips vanished."""
    item = scenes.landsat_l1_scene(tmp_path, grid=scenes.utm_grid(512, 30.0))
    index = Indexer(item, chip_size=64, max_nodata=0.99, local_roots=[tmp_path]).create_index()
    every = Indexer(item, chip_size=64, local_roots=[tmp_path]).create_index()
    assert len(every) == 64 and len(index) > 48
    qa = full(item, "qa_pixel")[0]

    def bits(*numbers: int) -> Any:
        return np.isin(qa, [v for v in np.unique(qa) if any(int(v) & 2**n for n in numbers)])

    assert_fractions(every, Truth(bits(0), bits(1, 2, 3), bits(4), bits(5), bits(7)))


def test_wrong_clouds_of_modis(tmp_path: Path) -> None:
    """MODLAND bits were read backwards: 01 is "less than ideal", 10 "not produced, cloud", 11 "not produced"."""
    item = scenes.modis_scene(tmp_path)
    by_qc = Indexer(item, chip_size=60, profile="modis-09a1-qc", local_roots=[tmp_path]).create_index()
    qc, red = full(item, "sur_refl_qc_500m")[0] % 4, full(item, "sur_refl_b01")[0]
    assert set(np.unique(qc)) == {0, 1, 2, 3}
    assert_fractions(by_qc, Truth((qc == 3) | (red == -28672), (qc == 2) & (red != -28672)))
    by_state = Indexer(item, chip_size=60, local_roots=[tmp_path]).create_index()
    state = full(item, "sur_refl_state_500m")[0]
    nodata = (state == 65535) | (red == -28672)
    cloud, shadow, snow = np.isin(state % 4, [1, 2]), state // 4 % 2 == 1, state // 4096 % 2 == 1
    water = np.isin(state // 8 % 8, [0, 3, 5, 6, 7])
    assert_fractions(by_state, Truth(nodata, cloud, shadow, snow, water))


def test_lost_time(tmp_path: Path) -> None:
    """Any datetime was forced to 12:00, and the index kept the day alone."""
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(64), when="2024-06-15T23:59:59.999999+02:00")
    index = Indexer(item, chip_size=64, local_roots=[tmp_path]).create_index()
    index.write(tmp_path / "index.parquet")
    when = ChipIndex.read(tmp_path / "index.parquet").table["datetime"][0].as_py()
    assert when == dt.datetime(2024, 6, 15, 21, 59, 59, 999999, tzinfo=dt.UTC)


def test_radiometry_is_kept_and_resampling_chosen(tmp_path: Path) -> None:
    """No mask, no scale and offset, always nearest; the offset of Sentinel-2's baseline 04.00 unseen."""
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(120))
    index = Indexer(item, chip_size=120, local_roots=[tmp_path]).create_index()
    (row,), (scene,) = rows_of(index), index.scenes.values()
    assert (row["s2:processing_baseline"], row["earthsearch:boa_offset_applied"]) == ("05.10", True)
    assert (scene.asset("red").scale, scene.asset("red").nodata) == (0.0001, 0)
    nearest = Chipper(index, ["swir16"], masked=True)[0]["swir16"]
    smooth = Chipper(index, ["swir16"], resampling={"swir16": "cubic"})[0]["swir16"]
    np.testing.assert_array_equal(np.ma.getmaskarray(nearest), np.ma.getdata(nearest) == 0)
    assert np.ma.getmaskarray(nearest).any() and not np.array_equal(np.ma.getdata(nearest), smooth)


def test_the_table_is_geoparquet_with_crs_covering_and_platform(tmp_path: Path) -> None:
    """`crs: null` (geopandas reads None), no bbox covering, no platform column."""
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(512))
    path = tmp_path / "index.parquet"
    Indexer(item, local_roots=[tmp_path]).create_index().write(path)
    frame = gpd.read_parquet(path)
    assert frame.crs == CRS("OGC:CRS84") and set(frame["platform"]) == {"sentinel-2b"}
    geo = json.loads(pq.read_metadata(path).metadata[b"geo"])
    assert geo["version"] == "1.1.0" and set(geo["columns"]["geometry"]["covering"]["bbox"]) == {
        "xmin", "ymin", "xmax", "ymax"}  # fmt: skip
    west, south, east, north = frame.geometry.iloc[0].bounds
    assert len(gpd.read_parquet(path, bbox=(west, south, (west + east) / 2, (south + north) / 2))) >= 1


@needs_shared_data
def test_antimeridian() -> None:
    """Polygons 359.9 degrees wide, centred on longitude 0, of a tile at 180 degrees (01WCP)."""
    item = load_item("sentinel-2-l2a/antimeridian_S2A_T01WCP_20230625_v100")
    profile = load_profile("sentinel-2-l2a").model_dump() | {"qa": {"kind": "none"}}
    index = Indexer(item, chip_size=1024, profile=CollectionProfile.model_validate(profile)).create_index()
    frame = index.to_geopandas()
    assert len(frame) == 100 and {"Polygon", "MultiPolygon"} == set(frame.geom_type)
    for part in frame.geometry.explode():
        assert part.bounds[2] - part.bounds[0] < 1 and min(abs(part.bounds[0]), abs(part.bounds[2])) > 176
    assert frame.geometry.union_all().intersects(gpd.GeoSeries.from_wkt(["POINT (-179.6 65.9)"])[0])


CRS_FORMS: list[tuple[str, Any]] = [
    ("proj:epsg", 32632),
    ("proj:epsg", 32632.0),
    ("proj:code", "EPSG:32632"),
    ("proj:wkt2", CRS("EPSG:32632").to_wkt()),
    ("proj:projjson", CRS("EPSG:32632").to_json_dict()),
]


@pytest.mark.parametrize("level", ["item", "asset"])
@pytest.mark.parametrize(("field", "value"), CRS_FORMS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(CRS_FORMS)])
def test_crs_in_every_form_and_level(tmp_path: Path, field: str, value: Any, level: str) -> None:
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(128))
    del item["properties"]["proj:code"]
    for where in [item["properties"]] if level == "item" else item["assets"].values():
        where[field] = value
    (scene,) = Indexer(item, chip_size=64, local_roots=[tmp_path]).create_index().scenes.values()
    assert scene.grid == scenes.utm_grid(128)


def test_crs_in_degrees(tmp_path: Path) -> None:
    grid = Grid("EPSG:4326", (0.0001, 0.0, 9.0, 0.0, -0.0001, 47.0), 128, 128)
    item = scenes.naip_scene(tmp_path, grid=grid)
    index = Indexer(item, chip_size=64, local_roots=[tmp_path]).create_index()
    assert index.table["gsd_m"][0].as_py() == pytest.approx(7.6, abs=0.1)
    assert index.to_geopandas().total_bounds == pytest.approx([9.0, 46.9872, 9.0128, 47.0], abs=1e-9)


def test_time_of_an_item_with_start_and_end_alone(tmp_path: Path) -> None:
    """A null datetime is legal STAC and was an AttributeError."""
    for item in (scenes.modis_scene(tmp_path), scenes.linz_scene(tmp_path)):
        index = Indexer(item, chip_size=120, local_roots=[tmp_path]).create_index()
        row = rows_of(index)[0]
        assert row["start_datetime"] < row["datetime"] < row["end_datetime"]
        assert row["datetime"] - row["start_datetime"] == row["end_datetime"] - row["datetime"]


def test_assets_without_an_alternate_and_an_item_that_is_never_changed(tmp_path: Path) -> None:
    """Landsat needed `alternate.s3` (a KeyError on Planetary Computer) and rewrote the caller's item."""
    item = scenes.landsat_l2_scene(tmp_path)
    before = copy.deepcopy(item)
    index = Indexer(item, chip_size=120, local_roots=[tmp_path]).create_index()
    assert list(Chipper(index)[0])[:2] == ["coastal", "blue"] and item == before


def test_assets_that_are_no_bands_are_never_opened(tmp_path: Path) -> None:
    """All assets were read, JSON and XML too; here their files do not even exist, nor do bands matter to the index."""
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(256))
    for key in ("coastal", "nir", "swir22", "red"):
        Path(item["assets"][key]["href"]).unlink()
    index = Indexer(item, local_roots=[tmp_path]).create_index()
    assert set(Chipper(index, ["green", "scl"])[0]) == {"green", "scl"}


def test_fractions_are_shares_of_valid_pixels(tmp_path: Path) -> None:
    """A chip half empty, the rest clouded, had a cloud share of 0.5 under a name that said per cent."""
    scl = np.full((64, 64), 9, np.uint8)
    scl[:32] = 0
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(128), pixels={"scl": scl})
    (row,) = rows_of(Indexer(item, chip_size=128, local_roots=[tmp_path]).create_index())
    assert (row["nodata_fraction"], row["cloud_fraction"], row["shadow_fraction"]) == (0.5, 1.0, 0.0)


def test_filters_take_zero_for_a_limit_and_never_drop_what_is_unknown(tmp_path: Path) -> None:
    """MAX_NODATA=0 switched the filter off; NaN statistics dropped rows silently."""
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(480), nodata_share=0.3)
    every = Indexer(item, chip_size=60, local_roots=[tmp_path]).create_index().table["nodata_fraction"].to_numpy()
    kept = Indexer(item, chip_size=60, max_nodata=0, local_roots=[tmp_path]).create_index()
    assert 0 < len(kept) == (every == 0).sum() < len(every)
    profile = load_profile("sentinel-2-l2a").model_dump() | {"qa": {"kind": "none"}}
    blind = CollectionProfile.model_validate(profile)
    unknown = Indexer(item, chip_size=60, max_nodata=0, profile=blind, local_roots=[tmp_path]).create_index()
    assert len(unknown) == 64 and unknown.table["nodata_fraction"].null_count == 64
    assert pa.types.is_float32(unknown.table["nodata_fraction"].type)


def test_landsat_level_1_has_its_thermal_and_pan_bands(tmp_path: Path) -> None:
    """Operator precedence deleted them."""
    item = scenes.landsat_l1_scene(tmp_path, grid=scenes.utm_grid(128, 30.0))
    index = Indexer(item, chip_size=64, local_roots=[tmp_path]).create_index()
    chip = Chipper(index, ["lwir11", "lwir12", "pan"], resampling={"pan": "average"})[0]
    assert {band: pixels.shape for band, pixels in chip.items()} == dict.fromkeys(chip, (1, 64, 64))


def test_the_readmes_chipper_of_an_index_works(tmp_path: Path) -> None:
    """`Chipper(index)` as documented was an AttributeError."""
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(512))
    path = scenes.write_item(tmp_path, item)
    index = Indexer(path).create_index()
    chips = Chipper(index, bands=["red", "green", "blue", "nir"])
    with rasterio.open(item["assets"]["nir"]["href"]) as raster:
        wanted = raster.read(window=((256, 512), (0, 256)))
    np.testing.assert_array_equal(chips.chip(x=0, y=1)["nir"], wanted)
