"""Small rasters for tests: patterns whose pixels give away where they came from, and a writer for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import DTypeLike, NDArray
from rasterio.enums import ColorInterp, Resampling

from stacchip_core.sources.raster import Grid


@dataclass(frozen=True, slots=True)
class Layout:
    """How pixels lie in a GeoTIFF.

    Attributes:
        nodata: value written to the header, None for none.
        block: side of a square internal tile, a multiple of 16.
        has_overviews: whether halved copies follow, down to one block.
        interleave: "band" or "pixel".
        has_alpha: whether the last band is the alpha band, which GDAL then takes as the dataset mask.
    """

    nodata: float | None = None
    block: int = 256
    has_overviews: bool = True
    interleave: str = "band"
    has_alpha: bool = False


def write_cog(
    path: Path,
    pixels: NDArray[Any],
    grid: Grid,
    *,
    layout: Layout | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> Path:
    """Write a tiled, deflated GeoTIFF with overviews.

    Args:
        path: file to write; its folder is made.
        pixels: shape (bands, height, width) or (height, width).
        grid: where the pixels lie; its shape must be that of `pixels`.
        layout: how they are stored.
        mask: shape (height, width), True = measured; stored as the file's internal mask.
    """
    layout = layout or Layout()
    bands = pixels if pixels.ndim == 3 else pixels[np.newaxis]
    assert bands.shape[1:] == grid.shape, f"{path.name}: pixels are {bands.shape[1:]}, the grid {grid.shape}"
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "count": len(bands),
        "height": grid.height,
        "width": grid.width,
        "dtype": bands.dtype,
        "crs": rasterio.crs.CRS.from_user_input(grid.crs),
        "transform": rasterio.Affine(*grid.transform),
        "nodata": layout.nodata,
        "tiled": True,
        "blockxsize": layout.block,
        "blockysize": layout.block,
        "compress": "deflate",
        "predictor": 3 if bands.dtype.kind == "f" else 2,
        "interleave": layout.interleave,
        **({"photometric": "RGB"} if layout.has_alpha else {"alpha": "NO"}),  # four bytes a pixel would mean RGBA
    }
    factors = [2**n for n in range(1, 8) if layout.has_overviews and max(grid.shape) > layout.block << (n - 1)]
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GDAL_TIFF_OVR_BLOCKSIZE=str(layout.block)),
        rasterio.open(path, "w", **profile) as raster,
    ):
        if layout.has_alpha:  # before the pixels: afterwards it is too late for the file's tags
            raster.colorinterp = [*raster.colorinterp[:-1], ColorInterp.alpha]
        raster.write(bands)
        if mask is not None:
            raster.write_mask(mask)
        if factors:
            raster.build_overviews(factors, Resampling.nearest)
    return path


def ramp(shape: tuple[int, int], dtype: DTypeLike = np.uint16, *, seed: int = 0) -> NDArray[Any]:
    """Values 1 to 9000 (1 to 250 in a byte) that differ between neighbours, so that a shift by a pixel shows.

    Shape (height, width); never 0, the nodata value of most collections.
    """
    rows, cols = np.indices(shape, dtype=np.int64)
    values = 250 if np.dtype(dtype) == np.uint8 else 9000
    return (1 + (31 * rows + 17 * cols + 101 * seed) % values).astype(dtype)


def column_numbers(shape: tuple[int, int], dtype: DTypeLike = np.uint16) -> NDArray[Any]:
    """Each pixel holds the number of its column, from 1; shape (height, width)."""
    return np.broadcast_to(np.arange(1, shape[1] + 1), shape).astype(dtype)


def patches(shape: tuple[int, int], values: list[int], *, seed: int, side: int = 10) -> NDArray[np.int64]:
    """Squares of `side` pixels, each of one value drawn at random from `values`; shape (height, width)."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice(values, size=(-(-shape[0] // side), -(-shape[1] // side)))
    return np.repeat(np.repeat(coarse, side, axis=0), side, axis=1)[: shape[0], : shape[1]]


def wedge(shape: tuple[int, int], share: float = 0.15) -> NDArray[np.bool_]:
    """True in a triangle at the top left, about `share` (up to 0.5) of the pixels; shape (height, width)."""
    rows = (np.arange(shape[0]) + 0.5)[:, np.newaxis] / shape[0]
    cols = (np.arange(shape[1]) + 0.5)[np.newaxis] / shape[1]
    return np.asarray(rows + cols < np.sqrt(2 * share))
