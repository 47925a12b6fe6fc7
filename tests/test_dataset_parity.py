"""Datasets of every sensor, in every form: chips are slices of whole arrays that rasterio read by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from stacchip_core import ChipSpec, Dataset, Warehouse, materialize
from stacchip_core.chips.formats.table import WRITERS
from stacchip_core.sources.scene import Scene
from tests.data import RASTERS, needs_shared_data
from tests.items import Item
from tests.oracles import expected, read_whole
from tests.real_scenes import item_of, landsat_scene, sentinel2_scene
from tests.scenes import (
    hls_scene,
    landsat_l1_scene,
    landsat_l2_scene,
    linz_scene,
    modis_scene,
    naip_scene,
    sentinel1_scene,
)
from tests.scenes import sentinel2_scene as made_up_sentinel2

FORMATS = sorted(WRITERS)
SYNTHETIC = {
    "sentinel-2": made_up_sentinel2,
    "sentinel-1": sentinel1_scene,
    "naip": naip_scene,
    "linz": linz_scene,
    "landsat-l2": landsat_l2_scene,
    "landsat-l1": landsat_l1_scene,
    "modis": modis_scene,
    "hls": hls_scene,
}
PLAIN = {".tif", ".tiff", ".TIF"}


def indexed(items: list[Item], root: Path, pixels: Path, size: int) -> Warehouse:
    warehouse = Warehouse(root, create=True, local_roots=[str(pixels)])
    warehouse.index_items(items, chip_size=size, edge="pad")
    warehouse.merge("global", collections=warehouse.collections())
    return warehouse


def scenes_of(warehouse: Warehouse, dataset: Dataset) -> dict[str, Scene]:
    rows = zip(*(dataset.chips[name].to_pylist() for name in ("collection", "item_id")), strict=True)
    keys = sorted({f"{collection}/{item}" for collection, item in rows})
    return warehouse.combined("global").scenes(keys, dataset.lock.spec.grid)


def ratio_of(whole: Any, scene: Scene) -> tuple[int, int] | None:
    """How a raster's pixels divide the grid's, by shapes alone; None where they do not."""
    assert scene.grid is not None
    height, width = whole.shape[1:]
    for n in range(1, 9):
        if (height, width) == (-(-scene.grid.height // n), -(-scene.grid.width // n)):
            return (1, n)
        if (height, width) == (scene.grid.height * n, scene.grid.width * n):
            return (n, 1)
    return None


def assert_parity(warehouse: Warehouse, dataset: Dataset, pixels: Path) -> int:
    """Every band of every chip equals the slice of its file; how many were compared."""
    scenes, whole, compared = scenes_of(warehouse, dataset), dict[Path, Any](), 0
    for row, chip in dataset:
        scene = scenes[f"{row['collection']}/{row['item_id']}"]
        for band, found in chip.items():
            asset = scene.asset(band)
            path = pixels / asset.href
            if path not in whole:
                with rasterio.open(path) as raster:
                    whole[path] = (read_whole(path), raster.nodata if asset.nodata is None else asset.nodata)
            full, nodata = whole[path]
            layers = full[: len(asset.layers)] if asset.layers and band == asset.band else full
            if asset.layers and band != asset.band:
                layers = full[asset.layers.index(band)][None]
            ratio = ratio_of(full, scene)
            assert ratio is not None, (scene.key, band)
            fill = 0 if nodata is None or not _holds(full.dtype, nodata) else nodata
            np.testing.assert_array_equal(found, expected(layers, ratio, row, fill), err_msg=f"{row['chip_id']} {band}")
            assert found.dtype == full.dtype
            compared += 1
    return compared


def _holds(dtype: Any, nodata: float) -> bool:
    if dtype.kind not in "iu":
        return True
    return bool(np.isfinite(nodata) and np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max and nodata == int(nodata))


def bands_aligned(sensor: str) -> list[dict[str, Any]]:
    """Landsat's panchromatic grid is half a pixel off the others': there only its own band is cut exactly."""
    return [{"collection": "landsat-c2-l1", "bands": ["pan"]}] if sensor == "landsat-l1" else []


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Warehouse, Path]:
    """One small scene of every sensor, of all ratios that there are."""
    pixels = tmp_path_factory.mktemp("pixels")
    items = [make(pixels) for make in SYNTHETIC.values()]
    return indexed(items, tmp_path_factory.mktemp("warehouse"), pixels, 90), pixels


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_chips_of_every_sensor_are_slices_of_its_files(synthetic: tuple[Warehouse, Path], form: str) -> None:
    warehouse, pixels = synthetic
    spec = ChipSpec(name=f"all-{form}", index="global", size=90, edge="pad", format=form, shard_size=11, limit=90)
    dataset = materialize(warehouse, spec)
    sensors = {row["collection"] for row in dataset.chips.select(["collection"]).to_pylist()}
    assert len(sensors) >= 7
    misaligned = [row for row in dataset.failures.to_pylist() if "not aligned with the grid" not in row["reason"]]
    assert not misaligned
    assert assert_parity(warehouse, dataset, pixels) > 300


def real_items() -> Iterator[Item]:
    """Every real scene with its local files, and every raster by itself, each a collection of its own."""
    for item, files in (sentinel2_scene(), landsat_scene("LC08_L2SP_005009_20150710_20200908_02_T2")):
        yield {
            **item,
            "assets": {key: asset for key, asset in item["assets"].items() if key in files},
        }
    refused = {"rasterio_rotated.tif", "iw-vv.tiff", "slc_complex_int16.tif"}
    for number, path in enumerate(sorted(RASTERS.rglob("*"))):
        if path.suffix not in PLAIN or path.name in refused or path.stat().st_size > 4_000_000:
            continue
        with rasterio.open(path) as raster:
            if max(raster.shape) > 2000 or raster.crs is None:
                continue
        yield {**item_of({"data": path}), "collection": f"raster-{number}", "id": f"{number}-{path.stem}"}


@needs_shared_data
@pytest.mark.slow
def test_chips_of_real_scenes_are_slices_of_their_files(tmp_path: Path) -> None:
    warehouse = indexed(list(real_items()), tmp_path / "warehouse", RASTERS, 128)
    for form, limit in (("zarr", 500), *((form, 60) for form in FORMATS if form != "zarr")):
        spec = ChipSpec(name=f"real-{form}", index="global", size=128, edge="pad", format=form, limit=limit, seed=3)
        dataset = materialize(warehouse, spec)
        assert not dataset.failures.num_rows, dataset.failures["reason"].to_pylist()[:3]
        assert assert_parity(warehouse, dataset, RASTERS) >= len(dataset)
    assert len({*dataset.chips["collection"].to_pylist()}) > 15
