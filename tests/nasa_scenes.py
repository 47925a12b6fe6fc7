"""Synthetic Landsat, MODIS and HLS scenes; the common arguments are explained in `tests/scenes.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stacchip_core.sources.raster import Grid
from tests.items import (
    Header,
    Item,
    Pixels,
    Raster,
    band,
    on_asset,
    qa_patches,
    raster_bands,
    replaced,
    shape_and_transform,
    utm_grid,
    write_scene,
)
from tests.rasters import Layout, ramp, wedge

# Landsat 8 and 9 QA_PIXEL: clear land, water, dilated cloud, cloud, cirrus, cloud and cirrus, shadow, snow.
# Each has bit 6 (clear) or 3 (cloud) and the confidence bits 8-15 that go with it.
QA_PIXEL_VALUES = [21824, 21952, 21826, 22280, 54596, 55052, 23888, 30048]
QA_PIXEL_FILL = 1
# MOD09A1 state word: clear land, cloudy, mixed, assumed clear, shadow, deep ocean, snow (bit 12).
MODIS_STATE_VALUES = [0b001000, 0b001001, 0b001010, 0b001011, 0b001100, 0b111000, 0b1_0000_0000_1000]
MODIS_STATE_FILL = 65535
# HLS v2 Fmask: clear, cloud (bit 1), adjacent (2), shadow (3), snow (4), water (5), high aerosol (6 and 7).
FMASK_VALUES = [0, 2, 4, 8, 16, 32, 192]
FMASK_FILL = 255
# MODIS' grid on its own sphere, as its items carry it in proj:wkt2 while proj:epsg is null.
SINUSOIDAL = (
    'PROJCRS["unnamed",BASEGEOGCRS["Unknown datum based upon the custom spheroid",'
    'DATUM["Not specified (based on custom spheroid)",ELLIPSOID["Custom spheroid",6371007.181,0,'
    'LENGTHUNIT["metre",1]]],PRIMEM["Greenwich",0,ANGLEUNIT["degree",0.0174532925199433]]],'
    'CONVERSION["unnamed",METHOD["Sinusoidal"],'
    'PARAMETER["Longitude of natural origin",0,ANGLEUNIT["degree",0.0174532925199433],ID["EPSG",8802]],'
    'PARAMETER["False easting",0,LENGTHUNIT["metre",1],ID["EPSG",8806]],'
    'PARAMETER["False northing",0,LENGTHUNIT["metre",1],ID["EPSG",8807]]],CS[Cartesian,2],'
    'AXIS["easting",east,ORDER[1],LENGTHUNIT["metre",1]],'
    'AXIS["northing",north,ORDER[2],LENGTHUNIT["metre",1]]]'
)


def landsat_l2_scene(
    folder: Path,
    *,
    grid: Grid | None = None,
    item_id: str = "LC08_L2SP_195027_20240615_02_T1",
    when: str = "2024-06-15T10:16:02.194486Z",
    seed: int = 0,
    nodata_share: float = 0.15,
    pixels: Pixels | None = None,
) -> Item:
    """Landsat C2 Level-2: surface reflectance and QA_PIXEL on one 30 m grid, projection on the item."""
    grid = grid or utm_grid(360, 30.0)
    keys = ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22")
    reflectance = raster_bands("uint16", 0, 30, scale=2.75e-05, offset=-0.2)
    rasters = [band(key, grid, seed + n, nodata_share, reflectance) for n, key in enumerate(keys)]
    rasters.append(_qa_pixel(grid, seed, nodata_share))
    properties = {
        "datetime": when,
        "platform": "landsat-8",
        "instruments": ["oli", "tirs"],
        "eo:cloud_cover": 41.2,
        "landsat:wrs_path": "195",
        "landsat:wrs_row": "027",
        "landsat:correction": "L2SP",
        "proj:code": grid.crs,
        **shape_and_transform(grid),
    }
    header = Header(item_id, "landsat-c2-l2", grid, properties)
    return write_scene(folder, header, replaced(rasters, pixels))


def landsat_l1_scene(
    folder: Path,
    *,
    grid: Grid | None = None,
    item_id: str = "LC08_L1TP_195027_20240615_02_T1",
    when: str = "2024-06-15T10:16:02.194486Z",
    seed: int = 0,
    nodata_share: float = 0.15,
    pixels: Pixels | None = None,
) -> Item:
    """Landsat Collection 2 Level-1: 30 m bands and QA_PIXEL on `grid`, and the 15 m pan band.

    The centre of pan's first pixel is that of the first 30 m pixel, so pan has 2n - 1 pixels a side and its
    edges lie half a pan pixel (7.5 m) inside those of the other bands.
    """
    grid = grid or utm_grid(360, 30.0)
    a, b, c, d, e, f = grid.transform
    pan = Grid(
        grid.crs,
        (a / 2, b / 2, c + a / 4, d / 2, e / 2, f + e / 4),
        2 * grid.height - 1,
        2 * grid.width - 1,
    )
    keys = ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22", "cirrus", "lwir11", "lwir12")
    rasters = [band(key, grid, seed + n, nodata_share, {}) for n, key in enumerate(keys)]
    rasters += [
        on_asset(band("pan", pan, seed + 99, nodata_share, {})),
        _qa_pixel(grid, seed, nodata_share),
    ]
    properties = {
        "datetime": when,
        "platform": "LANDSAT_8",
        "instruments": ["OLI", "TIRS"],
        "eo:cloud_cover": 41.2,
        "landsat:correction": "L1TP",
        "proj:epsg": int(grid.crs.removeprefix("EPSG:")),
        **shape_and_transform(grid),
    }
    header = Header(item_id, "landsat-c2-l1", grid, properties)
    return write_scene(folder, header, replaced(rasters, pixels))


def sinusoidal_grid(size: int, *, tile: tuple[int, int] = (19, 10)) -> Grid:
    """The top left `size` pixels of 500 m MODIS tile (horizontal, vertical); 2,400 are a whole one."""
    pixel = 463.3127165274999
    west = -20015109.354 + tile[0] * 2400 * pixel
    north = 10007554.677 - tile[1] * 2400 * pixel
    return Grid(SINUSOIDAL, (pixel, 0.0, west, 0.0, -pixel, north), size, size)


def modis_scene(
    folder: Path,
    *,
    grid: Grid | None = None,
    item_id: str = "MOD09A1.A2022033.h19v10.061.2022042043514",
    when: tuple[str, str] = ("2022-02-02T00:00:00Z", "2022-02-09T23:59:59Z"),
    seed: int = 0,
    nodata_share: float = 0.15,
    pixels: Pixels | None = None,
) -> Item:
    """MODIS 09A1: seven int16 bands, state and QC words; null datetime, `when` is start and end."""
    grid = grid or sinusoidal_grid(360)
    empty = wedge(grid.shape, nodata_share)
    rasters = []
    for number in range(1, 8):
        values = np.where(empty, -28672, ramp(grid.shape, np.int16, seed=seed + number)).astype(np.int16)
        fields = raster_bands("int16", None, 500, scale=0.0001)
        rasters.append(Raster(f"sur_refl_b{number:02}", values, grid, Layout(nodata=-28672.0), fields))
    state = qa_patches(grid, MODIS_STATE_VALUES, MODIS_STATE_FILL, seed, nodata_share).astype(np.uint16)
    # MODLAND, bits 0-1: ideal, less than ideal, not produced: cloud, not produced: other reasons.
    quality = qa_patches(grid, [0b00, 0b01, 0b10], 0b11, seed, nodata_share).astype(np.uint32)
    rasters += [Raster("sur_refl_state_500m", state, grid), Raster("sur_refl_qc_500m", quality, grid)]
    properties = {
        "datetime": None,
        "start_datetime": when[0],
        "end_datetime": when[1],
        "platform": "terra",
        "instruments": ["modis"],
        "proj:epsg": None,
        "proj:wkt2": grid.crs,
        **shape_and_transform(grid),
    }
    header = Header(item_id, "modis-09A1-061", grid, properties)
    return write_scene(folder, header, replaced(rasters, pixels))


def hls_scene(
    folder: Path,
    *,
    grid: Grid | None = None,
    item_id: str = "HLS.L30.T32TMT.2024167T101602.v2.0",
    when: str = "2024-06-15T10:16:02.194Z",
    seed: int = 0,
    nodata_share: float = 0.15,
    pixels: Pixels | None = None,
) -> Item:
    """HLS L30: int16 bands (nodata -9999) and Fmask at 30 m; like CMR's items it has no projection fields."""
    grid = grid or utm_grid(366, 30.0)
    empty = wedge(grid.shape, nodata_share)
    rasters = []
    for n, key in enumerate(("B01", "B02", "B03", "B04", "B05", "B06", "B07")):
        values = np.where(empty, -9999, ramp(grid.shape, np.int16, seed=seed + n)).astype(np.int16)
        rasters.append(Raster(key, values, grid, Layout(nodata=-9999.0)))
    fmask = qa_patches(grid, FMASK_VALUES, FMASK_FILL, seed, nodata_share).astype(np.uint8)
    rasters.append(Raster("Fmask", fmask, grid, Layout(nodata=255.0)))
    properties = {"datetime": when, "start_datetime": when, "end_datetime": when, "eo:cloud_cover": 17}
    header = Header(item_id, "HLSL30_2.0", grid, properties)
    return write_scene(folder, header, replaced(rasters, pixels))


def _qa_pixel(grid: Grid, seed: int, nodata_share: float) -> Raster:
    """Landsat's QA_PIXEL; its header names 1 (fill) as nodata."""
    values = qa_patches(grid, QA_PIXEL_VALUES, QA_PIXEL_FILL, seed, nodata_share).astype(np.uint16)
    return Raster("qa_pixel", values, grid, Layout(nodata=1.0), {"roles": ["cloud", "cloud-shadow"]})
