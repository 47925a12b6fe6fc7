"""Blocks: windows read in strips equal slices of the whole, and no block is read twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core.chips.blocks import Blocks, Windows, read_in_strips, strips
from stacchip_core.chips.shards import Pixels
from stacchip_core.errors import ReadError, TransientReadError
from stacchip_core.sources.raster import Window


@st.composite
def rasters(draw: st.DrawFn) -> tuple[Blocks, Windows]:
    height, width = draw(st.integers(1, 900)), draw(st.integers(1, 700))
    shape = draw(st.sampled_from([(1, width), (8, width), (16, 16), (64, 128), (256, 256), (512, 512), (300, 100)]))
    blocks = Blocks(height, width, *shape)
    count = draw(st.integers(0, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    cols, rows = rng.integers(0, width, count), rng.integers(0, height, count)
    widths = np.minimum(rng.integers(1, 300, count), width - cols)
    heights = np.minimum(rng.integers(1, 300, count), height - rows)
    return blocks, np.stack([cols, rows, widths, heights], axis=1).astype(np.int64)


def pixels_of(blocks: Blocks) -> Pixels:
    return np.arange(2 * blocks.height * blocks.width).reshape(2, blocks.height, blocks.width)


@dataclass(frozen=True)
class Source:
    """Calls a function for every run read."""

    call: Callable[[Window], Pixels]

    def fetch(self, runs: Sequence[Window]) -> None:
        """Nothing is far away."""

    def read(self, run: Window) -> Pixels:
        return self.call(run)


def cut(pixels: Pixels, window: Window) -> Pixels:
    return pixels[:, window.row : window.row + window.height, window.col : window.col + window.width]


@given(rasters())
def test_windows_equal_slices_and_no_block_is_read_twice(raster: tuple[Blocks, Windows]) -> None:
    blocks, windows = raster
    whole, seen = pixels_of(blocks), Counter[tuple[int, int]]()

    def read(run: Window) -> Pixels:
        assert run.col % blocks.block_width == run.row % blocks.block_height == 0
        assert run.col + run.width <= blocks.width
        assert run.row + run.height <= blocks.height
        parts = blocks.split(run)
        assert len(parts) == blocks.count(run)
        seen.update((part.row, part.col) for part in parts)
        return cut(whole, run).copy()

    found = dict(read_in_strips(windows, blocks, Source(read), is_last_try=True))
    assert sorted(found) == list(range(len(windows)))
    for row, pixels in found.items():
        assert not isinstance(pixels, ReadError)
        assert np.array_equal(pixels, cut(whole, Window(*windows[row])))
    assert set(seen.values()) <= {1}


@given(rasters())
def test_blocks_as_high_as_a_strip_are_read_only_where_a_window_needs_them(raster: tuple[Blocks, Windows]) -> None:
    blocks, windows = raster
    if blocks.block_height < 256:
        return
    needed = {
        (row // blocks.block_height, col // blocks.block_width)
        for left, top, width, height in windows
        for row in range(top, top + height)
        for col in range(left, left + width)
    }
    read = [part for strip in strips(windows, blocks) for run in strip.runs for part in blocks.split(run)]
    assert {(part.row // blocks.block_height, part.col // blocks.block_width) for part in read} == needed


def test_no_more_is_kept_than_later_windows_need() -> None:
    blocks = Blocks(2560, 256, 256, 256)
    windows = np.array([[0, row, 256, 256] for row in (0, 128, 700, 2304)], dtype=np.int64)
    kept = [(len(strip.done), strip.keep_from) for strip in strips(windows, blocks)]
    assert kept == [(1, 0), (1, 2), (0, 2), (1, 9), *[(0, 9)] * 5, (1, 10)]


def test_only_windows_on_a_broken_block_are_lost() -> None:
    blocks = Blocks(512, 512, 256, 256)
    windows = np.array([[0, 0, 100, 100], [200, 0, 100, 100], [300, 0, 9, 9], [200, 200, 99, 99]], dtype=np.int64)
    whole = pixels_of(blocks)

    def read(run: Window) -> Pixels:
        if run.row == 0 and run.col <= 256 < run.col + run.width:
            raise ReadError("block 1 is broken")
        return cut(whole, run)

    found = dict(read_in_strips(windows, blocks, Source(read), is_last_try=True))
    assert [row for row, pixels in sorted(found.items()) if isinstance(pixels, ReadError)] == [1, 2, 3]
    assert np.array_equal(found[0], whole[:, :100, :100])  # type: ignore[arg-type]


def test_a_transient_error_is_raised_unless_this_is_the_last_try() -> None:
    blocks, windows = Blocks(256, 256, 256, 256), np.array([[0, 0, 9, 9]], dtype=np.int64)

    def read(run: Window) -> Pixels:
        raise TransientReadError("503")

    with pytest.raises(TransientReadError, match="503"):
        list(read_in_strips(windows, blocks, Source(read), is_last_try=False))
    [(_, found)] = read_in_strips(windows, blocks, Source(read), is_last_try=True)
    assert isinstance(found, TransientReadError)
