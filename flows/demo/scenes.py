"""Scenes for the demo: Sentinel-2, Landsat, Sentinel-1 and NAIP over two places, in a static catalog on disk.

The land is made up (`land`), the form is real: asset keys, pixel sizes, dtypes, nodata, blocks and STAC
fields are those of Earth Search (Sentinel-2) and Planetary Computer (the others). The same pixels every time.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.demo.aerial import BANDS as AERIAL_BANDS
from flows.demo.aerial import photograph
from flows.demo.catalog import Asset, Draft, is_written, publish, shape_and_transform, write_scene
from flows.demo.land import Image, Land, cover_on, make_land
from flows.demo.places import (
    CALIFORNIA,
    IOWA,
    LANDSAT_PASSES,
    LATER_PASS,
    NAIP_PASSES,
    SENTINEL1_PASSES,
    SENTINEL2_PASSES,
    Pass,
    Place,
)
from flows.demo.sensors import (
    NODATA_POWER,
    Sky,
    View,
    backscatter,
    coarser,
    make_sky,
    qa_pixel,
    reflectance,
    scene_classes,
)
from stacchip_core.sources.raster import Grid

SENTINEL_PX = 1920  # a whole number of 60 m pixels, not of chips
LANDSAT_PX = 1800
NAIP_PX = 1800
NAIP_GSD_M = 0.6
# Earth Search's keys, and the 10 m pixels along one pixel of the band.
SENTINEL2_BANDS = {
    "coastal": 6,
    "blue": 1,
    "green": 1,
    "red": 1,
    "rededge1": 2,
    "rededge2": 2,
    "rededge3": 2,
    "nir": 1,
    "nir08": 2,
    "nir09": 6,
    "swir16": 2,
    "swir22": 2,
}
LANDSAT_BANDS = ("blue", "green", "red", "nir08", "swir16", "swir22")
# Surface reflectance = DN * scale + offset: USGS, Landsat 8-9 Collection 2 Level 2 Science Product Guide.
LANDSAT_SCALE, LANDSAT_OFFSET = 2.75e-05, -0.2

OnScene = Callable[[str], None]


def build_demo(folder: Path, on_scene: OnScene | None = None) -> Path:
    """Write all scenes below `folder` and return the path of its catalog.json.

    Scenes that are there already are kept. `on_scene` is called with the id of each scene when it is done,
    on a thread of its own.
    """
    report = on_scene or (lambda item_id: None)
    makers = (_make_sentinels, _make_landsat, _make_naip)
    with ThreadPoolExecutor(max_workers=2) as pool:
        jobs = [pool.submit(make, folder, place, report) for make in makers for place in (IOWA, CALIFORNIA)]
        for job in jobs:
            job.result()
    return publish(folder)


def add_scene(folder: Path, on_scene: OnScene | None = None) -> Path:
    """Add a Sentinel-2 scene of three weeks later to the catalog in `folder`; returns catalog.json's path."""
    item_id = write_scene(folder, _sentinel2(IOWA, LATER_PASS, _countryside(IOWA, SENTINEL_PX, 10)))
    if on_scene:
        on_scene(item_id)
    return publish(folder)


def _make_sentinels(folder: Path, place: Place, report: OnScene) -> None:
    """Sentinel-2 and Sentinel-1, which look at the same land."""
    wanted = [("sentinel-2-l2a", _sentinel2_id(place, seen)) for seen in SENTINEL2_PASSES]
    wanted += [("sentinel-1-rtc", _sentinel1_id(place, seen)) for seen in SENTINEL1_PASSES]
    if all(is_written(folder, *scene) for scene in wanted):
        return
    land = _countryside(place, SENTINEL_PX, 10)
    for seen in SENTINEL2_PASSES:
        report(write_scene(folder, _sentinel2(place, seen, land)))
    for seen in SENTINEL1_PASSES:
        report(write_scene(folder, _sentinel1(place, seen, land)))


def _make_landsat(folder: Path, place: Place, report: OnScene) -> None:
    if all(is_written(folder, "landsat-c2-l2", _landsat_id(place, seen)) for seen in LANDSAT_PASSES):
        return
    land = _countryside(place, LANDSAT_PX, 30)
    for seen in LANDSAT_PASSES:
        report(write_scene(folder, _landsat(place, seen, land)))


def _make_naip(folder: Path, place: Place, report: OnScene) -> None:
    if all(is_written(folder, "naip", _naip_id(place, seen)) for seen in NAIP_PASSES):
        return
    land = make_land((NAIP_PX, NAIP_PX), NAIP_GSD_M, place.village, seed=place.seed + 1)
    for seen in NAIP_PASSES:
        report(write_scene(folder, _naip(place, seen, land)))


def _countryside(place: Place, size: int, gsd_m: float) -> Land:
    return make_land((size, size), gsd_m, place.countryside, seed=place.seed)


def _sentinel2_id(place: Place, seen: Pass) -> str:
    return f"S2B_{place.tile}_{seen.day}_0_L2A"


def _sentinel2(place: Place, seen: Pass, land: Land) -> Draft:
    """12 bands at 10, 20 and 60 m and SCL; DN = reflectance * 10,000, the baseline's offset removed."""
    grid = _grid(place.tile_corner, 10.0, SENTINEL_PX, 32600 + place.zone)
    full = _view(place, seen, land, 10.0)
    views = {ratio: coarser(full, ratio) for ratio in (1, 2, 6)}
    assets = []
    for band, ratio in SENTINEL2_BANDS.items():
        view = views[ratio]
        pixels = _numbers(reflectance(view, band) * 10_000, view.sky, step=8)
        fields = {"gsd": 10 * ratio, "raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": 0}]}
        assets.append(_located(band, pixels, grid, ratio, fields))
    classes = scene_classes(views[2])
    assets.append(_located("scl", classes, grid, 2, {"gsd": 20, "raster:bands": [{"nodata": 0}]}))
    properties = {
        "datetime": seen.datetime,
        "updated": seen.datetime,
        "platform": "sentinel-2b",
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "eo:cloud_cover": _percent(np.isin(classes, (8, 9, 10)), classes != 0),
        "grid:code": f"MGRS-{place.tile}",
        "s2:processing_baseline": "05.10",
        "earthsearch:boa_offset_applied": True,
        "proj:code": grid.crs,
    }
    return Draft(_sentinel2_id(place, seen), "sentinel-2-l2a", grid, properties, assets)


def _landsat_id(place: Place, seen: Pass) -> str:
    return f"LC08_L2SP_{place.path_row}_{seen.day}_02_T1"


def _landsat(place: Place, seen: Pass, land: Land) -> Draft:
    """Six bands of surface reflectance and QA_PIXEL at 30 m."""
    grid = _grid(place.landsat_corner, 30.0, LANDSAT_PX, 32600 + place.zone)
    view = _view(place, seen, land, 30.0)
    fields = {"raster:bands": [{"nodata": 0, "scale": LANDSAT_SCALE, "offset": LANDSAT_OFFSET}]}
    assets = []
    for band in LANDSAT_BANDS:
        numbers = (reflectance(view, band) - LANDSAT_OFFSET) / LANDSAT_SCALE
        assets.append(Asset(band, _numbers(numbers, view.sky, step=32), grid, 0.0, fields=fields))
    flags = qa_pixel(view)
    assets.append(Asset("qa_pixel", flags, grid, 1.0, fields={"roles": ["cloud", "cloud-shadow"]}))
    properties = {
        "datetime": seen.datetime,
        "platform": "landsat-8",
        "instruments": ["oli", "tirs"],
        "eo:cloud_cover": _percent((flags & 0b1000) > 0, flags != 1),
        "landsat:wrs_path": place.path_row[:3],
        "landsat:wrs_row": place.path_row[3:],
        "landsat:collection_category": "T1",
        "landsat:correction": "L2SP",
        "proj:code": grid.crs,
        **shape_and_transform(grid),
    }
    return Draft(_landsat_id(place, seen), "landsat-c2-l2", grid, properties, assets)


def _sentinel1_id(place: Place, seen: Pass) -> str:
    return f"S1A_IW_GRDH_1SDV_{seen.day}T{seen.time[:8].replace(':', '')}_{place.tile}_rtc"


def _sentinel1(place: Place, seen: Pass, land: Land) -> Draft:
    """VV and VH, gamma nought, linear power, nodata -32768."""
    grid = _grid(place.tile_corner, 10.0, SENTINEL_PX, 32600 + place.zone)
    view = _view(place, seen, land, 10.0)
    fields = {"raster:bands": [{"nodata": float(NODATA_POWER), "data_type": "float32"}]}
    assets = [
        Asset(key, backscatter(view, key, seed=place.seed + n), grid, float(NODATA_POWER), fields=fields)
        for n, key in enumerate(("vv", "vh"))
    ]
    properties = {
        "datetime": seen.datetime,
        "platform": "SENTINEL-1A",
        "constellation": "Sentinel-1",
        "sar:instrument_mode": "IW",
        "sar:polarizations": ["VV", "VH"],
        "sat:orbit_state": "ascending",
        "sat:relative_orbit": 63,
        "proj:code": grid.crs,
        **shape_and_transform(grid),
    }
    return Draft(_sentinel1_id(place, seen), "sentinel-1-rtc", grid, properties, assets)


def _naip_id(place: Place, seen: Pass) -> str:
    return f"{place.state}_{place.quad}_{seen.day}"


def _naip(place: Place, seen: Pass, land: Land) -> Draft:
    """One asset of four bytes a pixel, no nodata."""
    grid = _grid(place.quad_corner, NAIP_GSD_M, NAIP_PX, 26900 + place.zone)
    cover = cover_on(land, place.village, seen.day_of_year, seed=int(seen.day[:4]))
    image = photograph(land, cover, NAIP_GSD_M, seed=place.seed)
    bands = [{"name": "NIR" if name == "nir" else name.title(), "common_name": name} for name in AERIAL_BANDS]
    properties = {
        "datetime": seen.datetime,
        "gsd": NAIP_GSD_M,
        "naip:state": place.state,
        "naip:year": seen.day[:4],
        "proj:code": grid.crs,
        **shape_and_transform(grid),
    }
    asset = Asset("image", image, grid, fields={"title": "RGBIR COG tile", "eo:bands": bands})
    return Draft(_naip_id(place, seen), "naip", grid, properties, [asset])


def _grid(corner: tuple[float, float], gsd_m: float, size: int, epsg: int) -> Grid:
    return Grid(f"EPSG:{epsg}", (gsd_m, 0.0, corner[0], 0.0, -gsd_m, corner[1]), size, size)


def _view(place: Place, seen: Pass, land: Land, gsd_m: float) -> View:
    """What there is to see of `land` on that day."""
    cover = cover_on(land, place.countryside, seen.day_of_year, seed=place.seed)
    seed = seen.seed + place.seed
    return View(cover, make_sky(land.shade.shape, gsd_m, cloudy=seen.cloudy, corner=seen.corner, seed=seed))


def _numbers(values: Image, sky: Sky, *, step: int) -> NDArray[np.uint16]:
    """Digital numbers in steps of a sensor's resolution, which keeps files small; 0 outside the swath."""
    steps = np.clip(np.rint(values / step), 1, 65535 // step)
    return np.where(sky.outside, 0, steps * step).astype(np.uint16)


def _located(key: str, pixels: NDArray[Any], grid: Grid, ratio: int, fields: dict[str, Any]) -> Asset:
    """A Sentinel-2 asset, with its own shape and transform said on it; 10 m bands have 1,024 px blocks."""
    a, _, x, _, e, y = grid.transform
    own = Grid(grid.crs, (a * ratio, 0.0, x, 0.0, e * ratio, y), *pixels.shape)
    block = 1024 if ratio == 1 else 512
    return Asset(key, pixels, own, 0.0, block, {**fields, **shape_and_transform(own)})


def _percent(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    return round(100 * float((part & whole).sum()) / float(whole.sum()), 3)
