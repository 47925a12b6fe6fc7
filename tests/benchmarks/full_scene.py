"""A Sentinel-2 scene of full size: 10,980 pixels a side, in the layout of the files on AWS.

Four 10 m bands in 1,024 px blocks, six 20 m bands and SCL in 512 px blocks, deflated with predictor 2, four overviews.
The land is the demo's, mirrored into a mosaic with noise of its own in every pixel, so that blocks compress as real
ones do (to about two thirds).
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.enums import Resampling

from flows.demo.land import cover_on, make_land
from flows.demo.places import CALIFORNIA
from flows.demo.sensors import View, coarser, make_sky, reflectance, scene_classes
from stacchip_core.sources.raster import Grid
from tests.data import REPO
from tests.items import COG, footprint, shape_and_transform
from tests.items import coarser as coarser_grid

SIZE_PX = 10_980
TILE_PX = 2_196  # five by five of them make the scene
BANDS = ("red", "green", "blue", "nir")
COARSE_BANDS = ("rededge1", "rededge2", "rededge3", "nir08", "swir16", "swir22")  # of 20 m
ITEM_ID = "S2B_10SFH_20240612_0_L2A"


def full_scene(folder: Path = REPO / ".cache" / "full-scene") -> Path:
    """Path of the item, written on first use (about a minute, 1 GB)."""
    path = folder / f"{ITEM_ID}.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        view = _tile()
        grid = Grid("EPSG:32610", (10.0, 0.0, 600_000.0, 0.0, -10.0, 4_300_020.0), SIZE_PX, SIZE_PX)
        with ThreadPoolExecutor(max_workers=2) as pool:
            jobs = [pool.submit(_write_band, folder, view, band, grid) for band in BANDS]
            coarse = coarser_grid(grid, 2)
            jobs += [pool.submit(_write_coarse_band, folder, view, band, coarse) for band in COARSE_BANDS]
            jobs.append(pool.submit(_write_scl, folder, view, coarse))
            for job in jobs:
                job.result()
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(_item(grid)), encoding="utf-8")
        draft.replace(path)
    return path


def _tile() -> View:
    land = make_land((TILE_PX, TILE_PX), 10.0, CALIFORNIA.countryside, seed=11)
    cover = cover_on(land, CALIFORNIA.countryside, 165, seed=12)
    return View(cover, make_sky(land.shade.shape, 10.0, cloudy=0.18, corner=None, seed=13))


def _mosaic(tile: NDArray[Any]) -> NDArray[Any]:
    """Five by five mirror images of a tile, their edges meeting; shape five times as large."""
    rows = [np.concatenate([_mirrored(tile, y, x) for x in range(5)], axis=1) for y in range(5)]
    return np.concatenate(rows)


def _mirrored(tile: NDArray[Any], y: int, x: int) -> NDArray[Any]:
    return tile[:: -1 if y % 2 else 1, :: -1 if x % 2 else 1]


def _outside(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The edge of the swath: a wedge of about 7 % at the left; shape (height, width)."""
    rows = np.arange(shape[0], dtype=np.float32)[:, np.newaxis] / shape[0]
    cols = np.arange(shape[1], dtype=np.float32)[np.newaxis] / shape[1]
    return np.asarray(cols < 0.15 - 0.16 * rows)


def _write_band(folder: Path, view: View, band: str, grid: Grid) -> None:
    rng = np.random.default_rng(BANDS.index(band))
    pixels = _mosaic(np.rint(reflectance(view, band) * 10_000).clip(1, 20_000).astype(np.uint16))
    pixels += rng.integers(0, 48, size=pixels.shape, dtype=np.uint16)
    pixels[_outside(pixels.shape)] = 0
    _write(folder / f"{band}.tif", pixels, grid, 1024)


def _write_coarse_band(folder: Path, view: View, band: str, grid: Grid) -> None:
    """A 20 m band; its land is that of the 10 m band most like it."""
    like = "nir" if band in ("rededge3", "nir08") else "red"
    rng = np.random.default_rng(10 + COARSE_BANDS.index(band))
    pixels = _mosaic(np.rint(reflectance(view, like)[::2, ::2] * 10_000).clip(1, 20_000).astype(np.uint16))
    pixels += rng.integers(0, 48, size=pixels.shape, dtype=np.uint16)
    pixels[_outside(pixels.shape)] = 0
    _write(folder / f"{band}.tif", pixels, grid, 512)


def _write_scl(folder: Path, view: View, grid: Grid) -> None:
    classes = _mosaic(scene_classes(coarser(view, 2)))
    classes[_outside(classes.shape)] = 0
    _write(folder / "scl.tif", classes, grid, 512)


def _write(path: Path, pixels: NDArray[Any], grid: Grid, block: int) -> None:
    profile = {
        "driver": "GTiff",
        "count": 1,
        "height": grid.height,
        "width": grid.width,
        "dtype": pixels.dtype,
        "crs": grid.crs,
        "transform": rasterio.Affine(*grid.transform),
        "nodata": 0,
        "tiled": True,
        "blockxsize": block,
        "blockysize": block,
        "compress": "deflate",
        "predictor": 2,
    }
    with rasterio.Env(GDAL_TIFF_OVR_BLOCKSIZE="512"), rasterio.open(path, "w", **profile) as raster:
        raster.write(pixels, 1)
        raster.build_overviews([2, 4, 8, 16], Resampling.nearest)


def _item(grid: Grid) -> dict[str, Any]:
    """The item, with the CRS both as a code and as WKT: stacchip reads proj:epsg or proj:wkt2, not proj:code."""
    geometry, bbox = footprint(grid)
    code = int(grid.crs.removeprefix("EPSG:"))
    located = shape_and_transform(grid)
    assets = {band: {"href": f"./{band}.tif", "type": COG, "roles": ["data"], "gsd": 10, **located} for band in BANDS}
    located = shape_and_transform(coarser_grid(grid, 2))
    assets |= {
        band: {"href": f"./{band}.tif", "type": COG, "roles": ["data"], "gsd": 20, **located} for band in COARSE_BANDS
    }
    assets["scl"] = {"href": "./scl.tif", "type": COG, "roles": ["data"], "gsd": 20, **located}
    when = "2024-06-12T17:04:21.024000Z"
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v1.1.0/schema.json"],
        "id": ITEM_ID,
        "collection": "sentinel-2-l2a",
        "geometry": geometry,
        "bbox": bbox,
        "properties": {
            "datetime": when,
            "platform": "sentinel-2b",
            "proj:epsg": code,
            "proj:wkt2": CRS.from_epsg(code).to_wkt("WKT2_2019"),
        },
        "assets": assets,
        "links": [],
    }
