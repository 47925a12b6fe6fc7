"""How the pixels of a raster come onto the chips of a scene: taken as they are, repeated, picked, or resampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stacchip_core.chips.blocks import Blocks
from stacchip_core.errors import BandNotFoundError, InvalidItemError, UnsupportedGridError
from stacchip_core.sources.cog import Raster
from stacchip_core.sources.raster import MAX_SIDE, Grid, Ratio, Window, same_crs
from stacchip_core.sources.scene import Scene, SceneAsset

# Side of the squares in which a resampled raster is read, pixels of the grid; those of GDAL's own warper are narrower.
_WARPED_BLOCK = 512
# Pixels that the widest kernel, cubic, reaches to each side, and one for rounding.
_KERNEL = 3
# A GSD counts as a simple fraction of the grid's when it is as near as this; providers round pixel sizes to 1e-6 or so.
_SAME_GSD = 1e-5
_LARGEST_RATIO = 100


@dataclass(frozen=True, slots=True)
class Way:
    """From windows of the grid to pixels of a raster, and from these to those of a chip.

    Attributes:
        grid: the scene's, or one of other pixels over the same ground.
        ratio: how the raster's pixels divide the grid's; None: they don't line up.
        method: how it is resampled; "nearest" of an aligned raster picks or repeats pixels exactly.
        native: leave the raster its own pixels.
        scale: pixels of `grid` along one of the scene's.
        ends: (width, height) of the raster; pixels of `grid` may reach past it, as those of 60 m do over 29 of 10 m.
    """

    grid: Grid
    ratio: Ratio | None
    method: str
    native: bool = False
    scale: Fraction = Fraction(1)
    ends: tuple[int, int] = (MAX_SIDE, MAX_SIDE)

    def on_grid(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Windows of the scene's grid, (n, 4): col, row, width, height, as windows of `grid`."""
        up, down = self.scale.numerator, self.scale.denominator
        starts, stops = places[:, :2] * up // down, -(-(places[:, :2] + places[:, 2:]) * up // down)
        return np.concatenate([starts, stops - starts], axis=1)

    @property
    def exact(self) -> Ratio | None:
        """The ratio, where pixels are taken as they are."""
        return self.ratio if self.method == "nearest" else None

    def source(self, inside: Window) -> Window:
        """What to read for a window of the grid: of the raster where pixels are taken as they are, else of itself."""
        if self.exact is None:
            return inside
        up, down = self.exact.up, self.exact.down
        col, row = inside.col * up // down, inside.row * up // down
        right = min(-(-(inside.col + inside.width) * up // down), self.ends[0])
        bottom = min(-(-(inside.row + inside.height) * up // down), self.ends[1])
        return Window(col, row, right - col, bottom - row)

    def sources(self, insides: NDArray[np.int64]) -> NDArray[np.int64]:
        """`source` of many windows, (n, 4): col, row, width, height."""
        if self.exact is None:
            return insides
        up, down = self.exact.up, self.exact.down
        starts = insides[:, :2] * up // down
        stops = np.minimum(-(-(insides[:, :2] + insides[:, 2:]) * up // down), self.ends)
        return np.concatenate([starts, stops - starts], axis=1)

    def take(self, pixels: NDArray[Any], inside: Window) -> NDArray[Any]:
        """Pixels (layer, y, x) of `source(inside)` as the chip has them: `full[rows // down]`, no more."""
        if self.exact is None or self.native or self.exact == Ratio(1, 1):
            return pixels
        up, down = self.exact.up, self.exact.down
        if up > 1:  # the pixel under the middle of each reference pixel, as GDAL's nearest; none where it ends before
            return pixels[:, up // 2 :: up, up // 2 :: up]
        rows = np.arange(inside.row, inside.row + inside.height) // down - inside.row // down
        cols = np.arange(inside.col, inside.col + inside.width) // down - inside.col // down
        return pixels[:, rows[:, None], cols]

    def side(self, size: int) -> int:
        """Pixels along a side of a chip of `size` pixels of the grid."""
        side = size * self.scale.numerator // self.scale.denominator
        return side * self.ratio.up // self.ratio.down if self.native and self.ratio else side

    def under(self, raster: Raster, windows: Sequence[Window]) -> list[Window]:
        """The raster's own pixels that windows as `source` gives them are made of; none where that is hard to tell."""
        grid = raster.header.grid
        if self.exact is not None:
            return list(windows)
        if grid is None or not same_crs(grid.crs, self.grid.crs):
            return []
        return [found for window in windows if (found := _under(window, self.grid, grid)) is not None]

    def read(self, raster: Raster, window: Window, layers: Sequence[int] | None) -> NDArray[Any]:
        """Pixels of a window as `source` gives it, (layer, y, x)."""
        if self.exact is not None:
            return raster.read(window, layers)
        return raster.read_on(self.grid, window, self.method, layers)

    def read_valid(self, raster: Raster, window: Window) -> NDArray[np.bool_]:
        """Where that window holds measurements, (y, x)."""
        if self.exact is not None:
            return raster.read_valid(window)
        return raster.read_valid_on(self.grid, window, self.method)

    def blocks(self, raster: Raster) -> Blocks:
        """What is read at a time."""
        if self.exact is not None:
            return Blocks(raster.header.height, raster.header.width, *raster.header.block_shape)
        return Blocks(self.grid.height, self.grid.width, _WARPED_BLOCK, _WARPED_BLOCK)


def way_of(
    scene: Scene,
    asset: SceneAsset,
    raster: Raster,
    wish: str | None,
    *,
    native: bool = False,
    gsd: float | None = None,
) -> Way:
    """How an asset comes onto the chips of its scene.

    Args:
        scene: whose grid counts.
        asset: one of the scene's.
        raster: the asset, open.
        wish: how it shall be resampled where its pixels are not the grid's; None: not at all.
        native: leave it its own pixels.
        gsd: metres along a pixel of the chips; None: as the scene's grid.

    Raises:
        UnsupportedGridError: it is not aligned with the grid, and nobody said how to resample it.
    """
    if scene.grid is None:
        raise InvalidItemError(f"item {scene.item_id}: its scene in the index has no grid; index it again")
    scale = scale_to(scene.grid, gsd) if gsd is not None else Fraction(1)
    grid, found = scaled(scene.grid, scale), raster.header.grid
    ratio = ratio_on(grid, scene, asset, found)
    ends = (raster.header.width, raster.header.height)
    if ratio == Ratio(1, 1) or (ratio is not None and native):
        return Way(grid, ratio, "nearest", native, scale, ends)
    if ratio is None and (wish is None or native):
        raise UnsupportedGridError(
            f"item {scene.item_id}: band {asset.band!r} is {found}, not aligned with the grid {grid} by a whole ratio; "
            f"ask for resampling={{{asset.band!r}: 'bilinear'}} (without native) to have it resampled"
        )
    return Way(grid, ratio, wish or "nearest", scale=scale, ends=ends)


def ratio_on(grid: Grid, scene: Scene, asset: SceneAsset, found: Grid | None) -> Ratio | None:
    """How the pixels of an asset divide those of the chips; None where they don't line up by a whole ratio.

    Args:
        grid: of the chips: the scene's, or the scene's with other pixels.
        scene: whose asset it is.
        asset: one of the scene's.
        found: its own grid, as far as known.
    """
    ratio = scene.ratio_of(asset, found)
    if ratio is None or found is None or grid == scene.grid:
        return ratio
    return _ratio_over(grid, found)


def _ratio_over(grid: Grid, found: Grid) -> Ratio | None:
    """How a raster's pixels divide those of a grid, the last of which may reach past it."""
    up = max(1, round(grid.pixel_size[0] / found.pixel_size[0]))
    whole = replace(found, height=grid.height * up, width=grid.width * up)
    reaches = [end - own for end, own in zip(whole.shape, found.shape, strict=True)]
    return grid.ratio_of(whole if all(0 <= reach < up for reach in reaches) else found)


def scale_to(grid: Grid, gsd: float) -> Fraction:
    """Pixels of `gsd` metres along one of a grid: a simple fraction where it is near one, 1/2 for 20 m on 10 m."""
    share = grid.gsd_m / gsd
    simple = Fraction(share).limit_denominator(_LARGEST_RATIO)
    return simple if abs(float(simple) / share - 1) < _SAME_GSD else Fraction(share)


def scaled(grid: Grid, scale: Fraction) -> Grid:
    """A grid of other pixels over the same ground."""
    if scale == 1:
        return grid
    a, b, c, d, e, f = grid.transform
    down = float(1 / scale)
    height, width = (math.ceil(side * scale) for side in grid.shape)
    return Grid(grid.crs, (a * down, b * down, c, d * down, e * down, f), height, width)


def _under(window: Window, grid: Grid, other: Grid) -> Window | None:
    """Pixels of another grid that a window is resampled from; None where it lies outside."""
    cols = np.array([window.col, window.col + window.width] * 2, dtype=np.float64)
    rows = np.repeat(np.array([window.row, window.row + window.height], dtype=np.float64), 2)
    x, y = other.cols_rows(*grid.xy(cols, rows))
    margin = _KERNEL * max(1.0, grid.pixel_size[0] / other.pixel_size[0])
    left, top = max(0, math.floor(x.min() - margin)), max(0, math.floor(y.min() - margin))
    right, bottom = min(other.width, math.ceil(x.max() + margin)), min(other.height, math.ceil(y.max() + margin))
    return Window(left, top, right - left, bottom - top) if right > left and bottom > top else None


def layers_of(scene: Scene, asset: SceneAsset, band: str, raster: Raster) -> list[int] | None:
    """Layer numbers of a band, from 1; None: all of the file's.

    Raises:
        BandNotFoundError: the file has fewer layers than its profile says.
    """
    if not asset.layers:
        return None
    if band == asset.band:
        return list(range(1, min(len(asset.layers), raster.header.layers) + 1))
    number = asset.layers.index(band) + 1
    if number > raster.header.layers:
        raise BandNotFoundError(
            f"item {scene.item_id}: asset {asset.key!r} has {raster.header.layers} layers; {band!r} would be number "
            f"{number}"
        )
    return [number]


def padded(pixels: NDArray[Any], is_valid: NDArray[np.bool_] | None, nodata: float | None, size: int) -> NDArray[Any]:
    """Pixels padded to the whole chip with nodata (0 where there is none), and masked where validity is given."""
    fill = pixels.dtype.type(0 if nodata is None else nodata)
    mask = None
    if is_valid is not None:
        is_fill = np.isnan(pixels) if np.isnan(fill) else pixels == fill
        mask = ~is_valid | (is_fill & (nodata is not None))
    if pixels.shape[1:] != (size, size):
        margins = ((0, 0), (0, size - pixels.shape[1]), (0, size - pixels.shape[2]))
        pixels = np.pad(pixels, margins, constant_values=fill)
        mask = None if mask is None else np.pad(mask, margins, constant_values=True)
    return pixels if mask is None else np.ma.MaskedArray(pixels, mask, fill_value=fill)
