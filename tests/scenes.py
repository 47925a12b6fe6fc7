"""Small synthetic scenes of every built-in collection: rasters in a folder, and the STAC item for them.

Each builder writes its rasters (tens of kilobytes, the same bytes for the same arguments) and returns the
item as a plain dict with absolute hrefs: pass `local_roots=[folder]` to read them. `write_item` and
`write_catalog` put items on disk with relative hrefs, as a static catalog has them. Asset keys, dtypes,
nodata values and projection fields are those of the services that publish the collection.

Common arguments:
    folder: where the rasters go, one folder per item id.
    grid: the reference grid; its edges may be anything, also no multiple of 256 or 6.
    item_id, when: id and datetime of the item; `seed` changes its pixels.
    nodata_share: about this share of the pixels, a triangle at the top left, is nodata in bands and QA.
    pixels: asset key -> array (height, width) of that asset's own grid, in place of the pattern.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stacchip_core.sources.raster import Grid
from tests.items import (
    Header,
    Item,
    Pixels,
    Raster,
    band,
    coarser,
    on_asset,
    qa_patches,
    raster_bands,
    replaced,
    shape_and_transform,
    utm_grid,
    write_catalog,
    write_item,
    write_scene,
)
from tests.nasa_scenes import hls_scene, landsat_l1_scene, landsat_l2_scene, modis_scene, sinusoidal_grid
from tests.rasters import Layout, column_numbers, patches, ramp, wedge, write_cog

__all__ = [
    "Grid",
    "Item",
    "Layout",
    "coarser",
    "column_numbers",
    "hls_scene",
    "landsat_l1_scene",
    "landsat_l2_scene",
    "linz_scene",
    "modis_scene",
    "naip_scene",
    "patches",
    "ramp",
    "sentinel1_scene",
    "sentinel2_scene",
    "sinusoidal_grid",
    "utm_grid",
    "wedge",
    "write_catalog",
    "write_cog",
    "write_item",
]

# Sentinel-2 L2A: Earth Search's key, Planetary Computer's key, 10 m pixels along one pixel of the band.
SENTINEL2_BANDS = (
    ("coastal", "B01", 6),
    ("blue", "B02", 1),
    ("green", "B03", 1),
    ("red", "B04", 1),
    ("rededge1", "B05", 2),
    ("rededge2", "B06", 2),
    ("rededge3", "B07", 2),
    ("nir", "B08", 1),
    ("nir08", "B8A", 2),
    ("nir09", "B09", 6),
    ("swir16", "B11", 2),
    ("swir22", "B12", 2),
)
SCL_CLASSES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def sentinel2_scene(
    folder: Path,
    *,
    grid: Grid | None = None,
    item_id: str = "S2B_32TMT_20240615_0_L2A",
    when: str = "2024-06-15T10:30:31.024000Z",
    seed: int = 0,
    nodata_share: float = 0.15,
    provider: str = "earth-search",
    pixels: Pixels | None = None,
) -> Item:
    """Sentinel-2 L2A: 12 bands at 10, 20 and 60 m and SCL at 20 m, `grid` being that of the 10 m bands.

    Projection fields stand on the assets, the code on the item; `provider` is "earth-search" (keys red, scl)
    or "planetary-computer" (keys B04, SCL).
    """
    grid = grid or utm_grid(480)
    is_earth_search = provider == "earth-search"
    rasters = [
        band(
            common if is_earth_search else name,
            coarser(grid, ratio),
            seed + n,
            nodata_share,
            _reflectance(10 * ratio),
        )
        for n, (common, name, ratio) in enumerate(SENTINEL2_BANDS)
    ]
    qa_grid = coarser(grid, 2)
    scl = qa_patches(qa_grid, SCL_CLASSES, 0, seed, nodata_share).astype(np.uint8)
    fields = {"gsd": 20, "raster:bands": [{"nodata": 0, "data_type": "uint8", "spatial_resolution": 20}]}
    rasters.append(Raster("scl" if is_earth_search else "SCL", scl, qa_grid, Layout(nodata=0.0), fields))
    properties = {
        "datetime": when,
        "platform": "sentinel-2b",
        "eo:cloud_cover": 27.5,
        "s2:processing_baseline": "05.10",
        "earthsearch:boa_offset_applied": True,
        "proj:code": grid.crs,
        "updated": when,
    }
    header = Header(item_id, "sentinel-2-l2a", grid, properties)
    return write_scene(folder, header, [on_asset(r) for r in replaced(rasters, pixels)])


def sentinel1_scene(
    folder: Path,
    *,
    grid: Grid | None = None,
    item_id: str = "S1A_IW_GRDH_1SDV_20240615T053518_rtc",
    when: str = "2024-06-15T05:35:18.816656Z",
    seed: int = 0,
    nodata_share: float = 0.15,
    pixels: Pixels | None = None,
) -> Item:
    """Sentinel-1 RTC: VV and VH backscatter, float32 linear power, nodata -32768, projection on the item."""
    grid = grid or utm_grid(480)
    looks = 4.4  # equivalent number of looks of IW GRDH
    rng = np.random.default_rng(seed)
    empty = wedge(grid.shape, nodata_share)
    rasters = []
    for key, power in (("vv", 0.1), ("vh", 0.02)):
        speckle = rng.gamma(looks, power / looks, size=grid.shape)
        values = np.where(empty, -32768.0, speckle).astype(np.float32)
        rasters.append(Raster(key, values, grid, Layout(nodata=-32768.0), raster_bands("float32", -32768, 10)))
    properties = {
        "datetime": when,
        "platform": "SENTINEL-1A",
        "sar:polarizations": ["VV", "VH"],
        "sat:orbit_state": "descending",
        "sat:relative_orbit": 66,
        "proj:code": grid.crs,
        **shape_and_transform(grid),
    }
    header = Header(item_id, "sentinel-1-rtc", grid, properties)
    return write_scene(folder, header, replaced(rasters, pixels))


def naip_scene(
    folder: Path,
    *,
    grid: Grid | None = None,
    item_id: str = "ok_m_3409901_nw_14_1_20100425",
    when: str = "2010-04-25T00:00:00Z",
    seed: int = 0,
    nodata_share: float = 0.0,
    pixels: Pixels | None = None,
) -> Item:
    """NAIP: one asset `image` of four bytes a pixel (red, green, blue, nir), projection on the item.

    Without nodata the header has none, as most quads; with it, it is 0 in all bands and in the header.
    """
    grid = grid or utm_grid(600, 1.0, epsg=26914)
    image = np.stack([ramp(grid.shape, np.uint8, seed=seed + n) for n in range(4)])
    image[:, wedge(grid.shape, nodata_share)] = 0
    layout = Layout(nodata=0.0 if nodata_share else None, interleave="pixel")
    names = ("Red", "Green", "Blue", "NIR")
    bands = {"eo:bands": [{"name": name, "common_name": name.lower()} for name in names]}
    properties = {
        "datetime": when,
        "gsd": 1.0,
        "naip:state": "ok",
        "naip:year": "2010",
        "proj:code": grid.crs,
        **shape_and_transform(grid),
    }
    header = Header(item_id, "naip", grid, properties)
    return write_scene(folder, header, replaced([Raster("image", image, grid, layout, bands)], pixels))


def linz_scene(
    folder: Path,
    *,
    grid: Grid | None = None,
    item_id: str = "BC40_2000_2421",
    seed: int = 0,
    nodata_share: float = 0.15,
    pixels: Pixels | None = None,
) -> Item:
    """LINZ aerial imagery: one asset `visual` of RGB and alpha (0 = nothing there), no projection fields."""
    grid = grid or Grid("EPSG:2193", (0.3, 0.0, 1_843_200.0, 0.0, -0.3, 5_845_680.0), 480, 480)
    image = np.stack([ramp(grid.shape, np.uint8, seed=seed + n) for n in range(4)])
    image[3] = np.where(wedge(grid.shape, nodata_share), 0, 255)
    layout = Layout(interleave="pixel", has_alpha=True)
    properties = {
        "datetime": None,
        "start_datetime": "2021-12-01T11:00:00Z",
        "end_datetime": "2022-05-05T12:00:00Z",
    }
    header = Header(item_id, "linz", grid, properties)
    return write_scene(folder, header, replaced([Raster("visual", image, grid, layout)], pixels))


def _reflectance(gsd: int) -> dict[str, Any]:
    return {"gsd": gsd, **raster_bands("uint16", 0, gsd, scale=0.0001, offset=-0.1)}
