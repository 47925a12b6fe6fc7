"""Cutting: labels that place every chip on the ground, an order that serves files, bands that scenes lack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rasterio
from rasterio.windows import Window

from stacchip_core import ChipIndex, ChipSpec, Indexer, SpecError
from stacchip_core.chips.bands import check_native, resolve_bands
from stacchip_core.chips.cutting import cut
from stacchip_core.chips.files import Access
from stacchip_core.sources.access import Storage
from stacchip_core.sources.scene import Scene
from tests.file_server import serve
from tests.scenes import Item, coarser, naip_scene, ramp, sentinel1_scene, sentinel2_scene, utm_grid

BANDS = ("red", "swir16", "scl")


def spec(**values: Any) -> ChipSpec:
    return ChipSpec.load({"name": "fields", "index": "global", "size": 96, **values})


def indexed(folder: Path, *items: Item) -> ChipIndex:
    """All chips of some items, in one index."""
    found = [Indexer(item, chip_size=96, local_roots=[folder]).create_index() for item in items]
    scenes = {key: scene for index in found for key, scene in index.scenes.items()}
    return replace(found[0], table=pa.concat_tables([index.table for index in found]), scenes=scenes)


def shuffled(index: ChipIndex, seed: int = 0) -> ChipIndex:
    return replace(index, table=index.table.take(np.random.default_rng(seed).permutation(len(index))))


def test_transforms_and_crs_place_each_chip_where_its_file_has_it(tmp_path: Path) -> None:
    index = shuffled(indexed(tmp_path, sentinel2_scene(tmp_path, grid=utm_grid(300))))
    shard = cut(index, spec(), BANDS, Access(local_roots=(str(tmp_path),))).shard
    assert shard is not None
    assert shard.labels.chip_ids == tuple(index.table["chip_id"].to_pylist())
    assert shard.labels.layers == {"red": ("red",), "swir16": ("swir16",), "scl": ("scl",)}
    assert shard.labels.nodata == dict.fromkeys(BANDS, (0.0,) * len(index))
    with rasterio.open(next(tmp_path.rglob("red.tif"))) as file:
        for offset, row in enumerate(index.table.to_pylist()):
            window = Window(row["col_off"], row["row_off"], 96, 96)
            left, top = file.bounds.left + 10 * row["col_off"], file.bounds.top - 10 * row["row_off"]
            assert shard.labels.transforms[offset] == pytest.approx((10.0, 0.0, left, 0.0, -10.0, top))
            assert rasterio.crs.CRS.from_user_input(shard.labels.crs[offset]) == file.crs
            assert np.array_equal(shard.arrays["red"][offset], file.read(window=window))


def test_a_band_of_several_layers_keeps_their_names(tmp_path: Path) -> None:
    index = indexed(tmp_path, naip_scene(tmp_path, grid=utm_grid(200, 1.0)))
    band = next(iter(index.scenes.values())).assets[0]
    shard = cut(index, spec(), (band.band, band.layers[1]), Access(local_roots=(str(tmp_path),))).shard
    assert shard is not None
    assert shard.labels.layers == {band.band: band.layers, band.layers[1]: (band.layers[1],)}
    assert shard.arrays[band.band].shape == (4, 4, 96, 96)
    assert np.array_equal(shard.arrays[band.band][:, 1:2], shard.arrays[band.layers[1]][:])


def test_items_of_different_types_come_to_one_that_holds_both(tmp_path: Path) -> None:
    grid = utm_grid(96)
    values = ramp(coarser(grid, 2).shape, np.uint8)
    one = sentinel2_scene(tmp_path, grid=grid)
    other = sentinel2_scene(tmp_path, grid=grid, item_id="other", pixels={"swir16": values})
    index = indexed(tmp_path, one, other)
    shard = cut(index, spec(), BANDS, Access(local_roots=(str(tmp_path),))).shard
    assert shard is not None
    swir = shard.arrays["swir16"][:]
    assert swir.dtype == np.uint16
    assert np.array_equal(swir[1, 0], np.kron(values, np.ones((2, 2), np.uint8)))


def test_an_item_of_another_number_of_layers_fails_alone(tmp_path: Path) -> None:
    grid = utm_grid(96)
    pair = np.stack([ramp(grid.shape)] * 2)
    items = [sentinel2_scene(tmp_path, grid=grid, item_id=f"item-{n}") for n in range(3)]
    items.append(sentinel2_scene(tmp_path, grid=grid, item_id="item-odd", pixels={"nir": pair}))
    done = cut(indexed(tmp_path, *items), spec(), ("red", "nir"), Access(local_roots=(str(tmp_path),)))
    assert done.shard is not None
    assert len(done.shard) == 3
    (failure,) = done.failures
    assert "item-odd" in failure.chip_id
    assert "bands and shapes are {'red': (1, 96, 96), 'nir': (2, 96, 96)}, those of most chips" in failure.reason


def padded(folder: Path, *nodata: tuple[type[Any], float]) -> ChipIndex:
    """One chip per item, the lower right part of it beyond the raster; the header of its VV says what nodata is."""
    grid = utm_grid(60)
    found = []
    for n, (dtype, value) in enumerate(nodata):
        item = sentinel1_scene(folder, grid=grid, item_id=f"item-{n}")
        path = Path(item["assets"]["vv"]["href"])
        with rasterio.open(path) as file:
            profile = {**file.profile, "dtype": np.dtype(dtype).name, "nodata": value, "predictor": 1}
        with rasterio.open(path, "w", **profile) as file:
            file.write(ramp(grid.shape, dtype), 1)
        found.append(Indexer(item, chip_size=96, edge="pad", local_roots=[folder]).create_index())
    scenes = {key: scene for index in found for key, scene in index.scenes.items()}
    return replace(found[0], table=pa.concat_tables([index.table for index in found]), scenes=scenes)


@pytest.mark.parametrize(
    "nodata",
    [
        [(np.float32, -32768.0)] * 2,
        [(np.float32, -32768.0), (np.float32, 0.0), (np.float32, -32768.0)],
        [(np.uint8, 255), (np.int16, -9999)],
        [(np.float32, float("nan")), (np.uint8, 7)],
        [(np.float32, 0.1), (np.float64, 0.1)],
    ],
    ids=["header", "differing", "types", "nan", "rounded"],
)
def test_nodata_of_a_shard_is_the_value_that_its_pixels_hold(
    tmp_path: Path, nodata: list[tuple[type[Any], float]]
) -> None:
    index = shuffled(padded(tmp_path, *nodata))
    shard = cut(index, spec(edge="pad"), ("vv",), Access(local_roots=(str(tmp_path),))).shard
    assert shard is not None
    values = [value for value in shard.labels.nodata["vv"] if value is not None]
    for chip, value in zip(shard.arrays["vv"][:], values, strict=True):
        assert np.array_equal(chip[:, 60:], np.full((1, 36, 96), value, chip.dtype), equal_nan=True)
    item_order = [int(item[-1]) for item in index.table["item_id"].to_pylist()]
    assert np.allclose(values, [nodata[n][1] for n in item_order], equal_nan=True)


def test_bands_without_nodata_say_so(tmp_path: Path) -> None:
    index = indexed(tmp_path, naip_scene(tmp_path, grid=utm_grid(200, 1.0)))
    shard = cut(index, spec(), ("red",), Access(local_roots=(str(tmp_path),))).shard
    assert shard is not None
    assert shard.labels.nodata == {"red": (None,) * 4}


def test_an_asset_that_is_gone_is_asked_for_once_a_shard(tmp_path: Path) -> None:
    grid = utm_grid(400)
    local = indexed(tmp_path, sentinel2_scene(tmp_path, grid=grid), sentinel2_scene(tmp_path, grid=grid, item_id="b"))
    with serve(tmp_path) as server:

        def away(scene: Scene) -> Scene:
            assets = (replace(asset, href=f"{server.url}/{asset.href}") for asset in scene.assets)
            return replace(scene, assets=tuple(assets))

        index = replace(local, scenes={key: away(scene) for key, scene in local.scenes.items()})
        gone = index.scenes["sentinel-2-l2a/b"].asset("nir").href.removeprefix(server.url)
        server.fault(gone, 404)
        server.requests()
        done = cut(index, spec(), ("red", "nir"), Access(Storage(hosts=("127.0.0.1",))))
        asked = [path for _, path in server.requests()]
        assert asked.count(gone) == 1
    assert done.shard is not None
    assert len(done.shard) == 16
    assert len(done.failures) == 16
    assert len({failure.reason for failure in done.failures}) == 1
    assert "item b: asset 'nir'" in done.failures[0].reason


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A scene on its grid, for the tests that look at scenes alone."""
    folder = tmp_path_factory.mktemp("whole")
    return next(iter(indexed(folder, sentinel2_scene(folder, grid=utm_grid(96))).scenes.values()))


def with_bands(scene: Scene, *bands: tuple[str, ...]) -> list[Scene]:
    """The scene several times, cut down to some bands each."""
    return [
        replace(scene, item_id=str(n), assets=tuple(asset for asset in scene.assets if asset.band in names))
        for n, names in enumerate(bands)
    ]


def test_bands_are_those_asked_for_or_those_that_all_scenes_have(whole: Scene) -> None:
    scenes = with_bands(whole, ("red", "nir", "scl"), ("red", "scl", "coastal"))
    assert resolve_bands(scenes, spec()) == {"sentinel-2-l2a": ("red", "scl")}
    asked = spec(bands=[{"collection": "sentinel-2-l2a", "bands": ["nir", "red"]}])
    assert resolve_bands(scenes, asked) == {"sentinel-2-l2a": ("nir", "red")}


def test_scenes_without_a_common_band_ask_for_names(whole: Scene) -> None:
    with pytest.raises(SpecError, match="chosen scenes of sentinel-2-l2a have no band in common; name the bands"):
        resolve_bands(with_bands(whole, ("red",), ("nir",)), spec())


@pytest.mark.parametrize(
    ("values", "bands", "message"),
    [
        ({"size": 256}, ("red", "coastal"), r"'coastal' with 6 pixels .* size 256, stride 256 .*: take 252 or 258"),
        ({"size": 255}, ("red", "swir16"), r"'swir16' with 2 pixels .*: take 254 or 256"),
        ({"size": 252, "stride": 100}, ("coastal",), r"size 252, stride 100 .*"),
        ({"size": 5}, ("coastal",), r"take 6, or leave native out"),
    ],
)
def test_native_pixels_need_sizes_of_whole_pixels(
    whole: Scene, values: dict[str, Any], bands: tuple[str, ...], message: str
) -> None:
    chosen = {"sentinel-2-l2a": bands}
    with pytest.raises(SpecError, match=message):
        check_native([whole], chosen, spec(native=True, **values))
    check_native([whole], chosen, spec(**values))  # resampled, any size will do
    check_native([whole], chosen, spec(native=True, size=252))
