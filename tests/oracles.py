"""What chips and fractions must be, worked out chip by chip from whole arrays: slow, plain, and independent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from stacchip_core import ChipIndex, Chipper
from tests.items import Item

Mask = NDArray[np.bool_]
Row = dict[str, Any]


@dataclass(frozen=True)
class Truth:
    """What every pixel of the reference grid is, shape (height, width); None where the sensor can't tell."""

    nodata: Mask | None = None
    cloud: Mask | None = None
    shadow: Mask | None = None
    snow: Mask | None = None
    water: Mask | None = None


def read_whole(path: str | Path) -> NDArray[Any]:
    """A whole raster, shape (layers, height, width), by rasterio."""
    with rasterio.open(path) as raster:
        pixels: NDArray[Any] = raster.read()
    return pixels


def read_mask(path: str | Path) -> Mask:
    """Where GDAL's dataset mask says measured, shape (height, width)."""
    with rasterio.open(path) as raster:
        mask: Mask = raster.dataset_mask() != 0
    return mask


def full(item: Item, key: str) -> NDArray[Any]:
    """The whole raster of an item's asset, shape (layers, height, width)."""
    return read_whole(item["assets"][key]["href"])


def on_grid(mask: Mask, ratio: int, shape: tuple[int, int]) -> Mask:
    """A mask of coarser pixels on a reference grid of `shape`: each pixel repeated, what reaches over cut off."""
    return np.repeat(np.repeat(mask, ratio, axis=0), ratio, axis=1)[: shape[0], : shape[1]]


def expected(pixels: NDArray[Any], ratio: tuple[int, int], row: Row, nodata: float = 0) -> NDArray[Any]:
    """The chip of a row by fancy indexing, nodata beyond the raster.

    Args:
        pixels: the whole band, shape (layers, height, width).
        ratio: (up, down): pixels of the band along one reference pixel, and the reverse; one of the two is 1.
        row: of the chip table.
        nodata: value beyond the raster.
    """
    (up, down), size = ratio, row["size_px"]
    chip = np.full((len(pixels), size, size), nodata, pixels.dtype)
    rows = (row["row_off"] + np.arange(row["valid_height"])) * up // down + up // 2
    cols = (row["col_off"] + np.arange(row["valid_width"])) * up // down + up // 2
    chip[:, : len(rows), : len(cols)] = pixels[:, rows][:, :, cols]
    return chip


def rows_of(index: ChipIndex) -> list[Row]:
    """Rows of the chip table without geometry."""
    rows: list[Row] = index.table.drop_columns(["geometry", "bbox"]).to_pylist()
    return rows


def assert_fractions(index: ChipIndex, truth: Truth) -> None:
    """Every share of every row is the mean over the chip's pixels, of its valid ones for all but nodata."""
    assert len(index), "nothing to compare"
    for row in rows_of(index):
        wanted = _shares(row, truth)
        for name, share in wanted.items():
            found = row[f"{name}_fraction"]
            is_same = found is share if share is None or found is None else abs(found - share) < 1e-7
            assert is_same, f"{row['chip_id']}: {name} is {found}, by brute force {share}"


def _shares(row: Row, truth: Truth) -> dict[str, float | None]:
    top, left, size = row["row_off"], row["col_off"], row["size_px"]
    parts = {
        field.name: None if mask is None else mask[top : top + size, left : left + size]
        for field in fields(Truth)
        for mask in [getattr(truth, field.name)]
    }
    inside = next(part for part in parts.values() if part is not None)
    nodata = parts.pop("nodata")
    is_valid = np.ones_like(inside) if nodata is None else ~nodata
    shares: dict[str, float | None] = {"nodata": None if nodata is None else float(1 - is_valid.sum() / size**2)}
    for name, part in parts.items():
        shares[name] = None if part is None or not is_valid.any() else float(part[is_valid].mean())
    return shares


def assert_chips(
    index: ChipIndex, bands: Mapping[str, tuple[NDArray[Any], tuple[int, int]]], *, nodata: float = 0
) -> None:
    """Every chip of every band is `full[rows // ratio][:, cols // ratio]`."""
    assert len(index), "nothing to compare"
    for row, chip in Chipper(index, list(bands)):
        assert list(chip) == list(bands)
        for band, (pixels, ratio) in bands.items():
            wanted = expected(pixels, ratio, row, nodata)
            np.testing.assert_array_equal(chip[band], wanted, err_msg=f"{row['chip_id']} {band}")


def assert_native(index: ChipIndex, bands: Mapping[str, tuple[NDArray[Any], int]]) -> None:
    """Every chip of every band, `down` reference pixels to one of its own, is a plain slice of the whole."""
    assert len(index), "nothing to compare"
    for row, chip in Chipper(index, list(bands), native=True):
        for band, (pixels, down) in bands.items():
            top, left, side = (row[key] // down for key in ("row_off", "col_off", "size_px"))
            np.testing.assert_array_equal(chip[band], pixels[:, top : top + side, left : left + side])
