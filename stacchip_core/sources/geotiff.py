"""GeoTIFF files in memory: the other door to rasterio, for files that we write ourselves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from stacchip_core.errors import ReadError
from stacchip_core.sources.raster import Grid


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a GeoTIFF says of its pixels: where they lie, which value is none, names of its layers, tags."""

    grid: Grid
    nodata: float | None
    names: tuple[str, ...]
    tags: Mapping[str, str]


def encode_geotiff(pixels: NDArray[Any], sheet: Sheet, *, compress: bool = True) -> bytes:
    """GeoTIFF of pixels (layer, y, x), deflated or plain; the same pixels give the same bytes."""
    kind = pixels.dtype
    profile = {
        "driver": "GTiff",
        "count": pixels.shape[0],
        "height": sheet.grid.height,
        "width": sheet.grid.width,
        "dtype": kind.name,
        "crs": sheet.grid.crs,
        "transform": rasterio.Affine(*sheet.grid.transform),
        "interleave": "band",
        "photometric": "minisblack",
    }
    if compress:
        profile |= {"compress": "deflate", "predictor": 2 if kind.kind in "iu" and kind.itemsize <= 4 else 1}
    with rasterio.Env(GDAL_NUM_THREADS="1"), MemoryFile() as file:
        with file.open(**profile, nodata=_held(sheet.nodata, kind)) as dataset:
            dataset.write(pixels)
            dataset.update_tags(**sheet.tags)
            for number, name in enumerate(sheet.names, start=1):
                dataset.set_band_description(number, name)
        return cast(bytes, file.read())


def decode_geotiff(content: bytes, name: str) -> NDArray[Any]:
    """Pixels (layer, y, x) of a GeoTIFF.

    Raises:
        ReadError: it is none, or cut short; `name` says which.
    """
    try:
        with warnings.catch_warnings(), MemoryFile(content) as file:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with file.open(driver="GTiff") as dataset:
                return cast(NDArray[Any], dataset.read())
    except RasterioError as err:
        raise ReadError(f"{name} is no whole GeoTIFF: {err}") from err


def _held(nodata: float | None, kind: np.dtype[Any]) -> float | None:
    """Nodata, where pixels of that type can be it; a GeoTIFF refuses another."""
    if nodata is None or kind.kind not in "iu":
        return nodata
    limits = np.iinfo(kind)
    is_held = np.isfinite(nodata) and nodata == int(nodata) and limits.min <= nodata <= limits.max
    return nodata if is_held else None
