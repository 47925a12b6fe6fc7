"""Where a raster's blocks lie in its file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from stacchip_core.sources.ranges import Range
from stacchip_core.sources.raster import Window


def block_ranges(dataset: Any, windows: Iterable[Window], layers: Iterable[int]) -> list[Range]:
    """Bytes of the blocks that hold `windows` of `layers` (from 1), each once.

    Blocks that were never written (sparse files) have none, nor has a format without such blocks (JPEG 2000).
    """
    places = sorted({place for window in windows for place in _blocks_of(dataset, window)})
    bands = [1] if str(dataset.interleaving).lower().endswith("pixel") else sorted(set(layers))
    found = (_range(dataset, band, *place) for band in bands for place in places)
    return [one for one in found if one is not None]


def _blocks_of(dataset: Any, window: Window) -> Iterator[tuple[int, int]]:
    """Column and row of each block that a window touches."""
    height, width = dataset.block_shapes[0]
    right, bottom = min(window.col + window.width, dataset.width), min(window.row + window.height, dataset.height)
    for row in range(max(window.row, 0) // height, -(-bottom // height)):
        for col in range(max(window.col, 0) // width, -(-right // width)):
            yield col, row


def _range(dataset: Any, band: int, col: int, row: int) -> Range | None:
    offset = dataset.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=band)
    size = dataset.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=band)
    return Range(int(offset), int(size)) if offset and size else None
