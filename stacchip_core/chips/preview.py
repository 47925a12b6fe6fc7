"""Pictures of chips for artifacts and reports, as plain values: contact sheets and maps of where they lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[int, int, int]

# Percentiles of the valid pixels of a sheet that are shown as black, as the middle and as white.
_STRETCH_PERCENTILES = (2.0, 50.0, 98.0)
# Gamma brings the median of a sheet near this shade: backscatter and cloudy scenes are dark when linear.
_MEDIAN_SHADE = 0.42
_LEAST_GAMMA = 0.45
_BACKGROUND: Rgb = (24, 27, 33)
_NODATA: Rgb = (52, 57, 66)


@dataclass(frozen=True, slots=True)
class SheetStyle:
    """Look of a contact sheet, in pixels.

    Attributes:
        chip_px: side of each picture; larger chips are averaged down, smaller ones repeated.
        columns: pictures per row; None: about as many as rows, and a few more.
        gap_px: space between pictures and around them.
    """

    chip_px: int = 128
    columns: int | None = None
    gap_px: int = 6


def contact_sheet(
    chips: Sequence[NDArray[Any]],
    *,
    valid: Sequence[NDArray[np.bool_]] | None = None,
    style: SheetStyle | None = None,
) -> NDArray[np.uint8]:
    """Chips side by side, all stretched alike, so that dark chips look darker than bright ones.

    Args:
        chips: each (bands, height, width): one band, shown grey, or three, red green blue; NaN is nodata.
        valid: per chip (height, width), True = measured; None: everything finite is.
        style: sizes.

    Returns:
        Colours (3, height, width).

    Raises:
        ValueError: no chips, or chips that have not all one or all three bands.
    """
    style = style or SheetStyle()
    counts = {len(chip) for chip in chips}
    if counts not in ({1}, {3}):
        raise ValueError(f"a contact sheet takes chips of one band or of three, found {sorted(counts) or 'no chips'}")
    masks = [_valid_pixels(chip, None if valid is None else valid[n]) for n, chip in enumerate(chips)]
    small = [_fit(chip, mask, style.chip_px) for chip, mask in zip(chips, masks, strict=True)]
    stretch = _Stretch.of([values[:, mask] for values, mask in small])
    columns = style.columns or math.ceil(math.sqrt(len(chips) * 1.6))
    columns = min(columns, len(chips))
    rows = -(-len(chips) // columns)
    step = style.chip_px + style.gap_px
    sheet = _filled(_BACKGROUND, rows * step + style.gap_px, columns * step + style.gap_px)
    for place, (values, mask) in enumerate(small):
        top, left = (style.gap_px + step * along for along in divmod(place, columns))
        sheet[:, top : top + style.chip_px, left : left + style.chip_px] = _picture(values, mask, stretch)
    return sheet


def _valid_pixels(chip: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    is_finite: NDArray[np.bool_] = np.isfinite(chip).all(axis=0)
    return is_finite if valid is None else is_finite & valid


def _fit(chip: NDArray[Any], valid: NDArray[np.bool_], side: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Bring a chip to (bands, side, side): means of the valid pixels of whole blocks, then nearest."""
    factor = max(1, min(chip.shape[1:]) // side)
    height, width = (length // factor for length in chip.shape[1:])
    blocks = np.where(valid, chip, 0)[:, : height * factor, : width * factor].astype(np.float32)
    sums = blocks.reshape(len(chip), height, factor, width, factor).sum(axis=(2, 4))
    weights = valid[: height * factor, : width * factor].reshape(height, factor, width, factor).sum(axis=(1, 3))
    means = sums / np.maximum(weights, 1)
    rows, cols = ((np.arange(side) + 0.5) * length / side for length in (height, width))
    nearest = np.ix_(rows.astype(int), cols.astype(int))
    return means[:, nearest[0], nearest[1]], 2 * weights[nearest] >= factor * factor


@dataclass(frozen=True, slots=True)
class _Stretch:
    """From values to shades 0..1: the values shown as black and white, each (bands, 1, 1), and a gamma."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    gamma: float

    @classmethod
    def of(cls, valid_values: Sequence[NDArray[np.float32]]) -> _Stretch:
        """The stretch that suits all values of a sheet, each (bands, pixels)."""
        values = np.concatenate(valid_values, axis=1)
        if values.shape[1] == 0:
            values = np.zeros((len(values), 1), np.float32)
        low, middle, high = np.percentile(values, _STRETCH_PERCENTILES, axis=1).astype(np.float32)[:, :, None, None]
        high = np.where(high > low, high, low + 1)
        median = float(np.clip(((middle - low) / (high - low)).mean(), 0.01, 0.99))
        gamma = math.log(_MEDIAN_SHADE) / math.log(median)
        return cls(low, high, min(max(gamma, _LEAST_GAMMA), 1.0))

    def shades(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shades of values (bands, height, width)."""
        linear = np.clip((values - self.low) / (self.high - self.low), 0, 1)
        shades: NDArray[np.float32] = np.power(linear, self.gamma, dtype=np.float32)
        return shades


def _picture(values: NDArray[np.float32], valid: NDArray[np.bool_], stretch: _Stretch) -> NDArray[np.uint8]:
    bytes_ = np.rint(stretch.shades(values) * 255).astype(np.uint8)
    return np.where(valid, np.broadcast_to(bytes_, (3, *valid.shape)), _filled(_NODATA, *valid.shape))


def _filled(colour: Rgb, height: int, width: int) -> NDArray[np.uint8]:
    pixels = np.empty((3, height, width), np.uint8)
    pixels[:] = np.array(colour, np.uint8)[:, None, None]
    return pixels
