"""Which blocks of a raster serve which chips, and reading each of them once, from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stacchip_core.chips.shards import Pixels
from stacchip_core.errors import ReadError, TransientReadError
from stacchip_core.sources.raster import Window

Windows = NDArray[np.int64]  # (n, 4): col, row, width, height, all inside the raster

# Rows read at a time, at least: files of strips of eight rows or fewer are no rarity.
_STEP_ROWS = 256


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of a raster, all of one shape but for those at its right and lower edge; pixels."""

    height: int
    width: int
    block_height: int
    block_width: int

    def count(self, window: Window) -> int:
        """Blocks in a window that consists of whole ones."""
        return math.ceil(window.height / self.block_height) * math.ceil(window.width / self.block_width)

    def under(self, window: Window) -> list[Window]:
        """The blocks that a window touches, each by itself."""
        top = window.row // self.block_height * self.block_height
        left = window.col // self.block_width * self.block_width
        bottom = min(self.height, -(-(window.row + window.height) // self.block_height) * self.block_height)
        right = min(self.width, -(-(window.col + window.width) // self.block_width) * self.block_width)
        return self.split(Window(left, top, right - left, bottom - top))

    def split(self, window: Window) -> list[Window]:
        """The blocks of a window that consists of whole ones, each by itself."""
        bottom, right = window.row + window.height, window.col + window.width
        return [
            Window(col, row, min(self.block_width, right - col), min(self.block_height, bottom - row))
            for row in range(window.row, bottom, self.block_height)
            for col in range(window.col, right, self.block_width)
        ]


@dataclass(frozen=True, slots=True)
class Strip:
    """Blocks that are read together.

    Attributes:
        runs: windows of whole neighbouring blocks.
        done: chips that are whole once these are read, by their row in the windows.
        keep_from: number of the first strip that a later chip needs.
    """

    runs: tuple[Window, ...]
    done: tuple[int, ...]
    keep_from: int


class BlockSource(Protocol):
    """A raster, or what is made of one."""

    def fetch(self, runs: Sequence[Window]) -> None:
        """Get ready to read some windows."""
        ...

    def read(self, run: Window) -> Pixels:
        """Pixels (layer, y, x) of a window of whole blocks."""
        ...


def strips(windows: Windows, blocks: Blocks) -> list[Strip]:
    """Strips in which the blocks under some windows are read, each block once.

    A block is read only where some window needs it, or lies between two in a strip of several rows of blocks.
    """
    step = math.ceil(_STEP_ROWS / blocks.block_height) * blocks.block_height
    first, last = windows[:, 1] // step, (windows[:, 1] + windows[:, 3] - 1) // step
    found = []
    numbers = range(int(first.min()), int(last.max()) + 1) if len(windows) else range(0)
    for number in numbers:  # some dozens, each of whole arrays
        inside = np.flatnonzero((first <= number) & (number <= last))
        done = np.flatnonzero(last == number)
        later = first[last > number]
        keep_from = int(later.min()) if len(later) else number + 1
        runs = tuple(_runs(windows[inside], blocks, (number * step, (number + 1) * step)))
        found.append(Strip(runs, tuple(map(int, done)), keep_from - int(first.min())))
    return found


def read_in_strips(
    windows: Windows, blocks: Blocks, source: BlockSource, *, is_last_try: bool
) -> Iterator[tuple[int, Pixels | ReadError]]:
    """Row of each window and its pixels (layer, y, x), in the order in which they become whole.

    Where blocks can't be read, the windows that need one come with the error in place of pixels.

    Args:
        windows: what to read.
        blocks: of the raster.
        source: gives their pixels.
        is_last_try: False raises transient errors.

    Raises:
        TransientReadError: see `is_last_try`.
    """
    kept: dict[int, list[_Piece]] = {}
    for number, strip in enumerate(strips(windows, blocks)):
        _fetch(source, strip.runs)
        kept[number] = [piece for run in strip.runs for piece in _read_run(run, blocks, source, is_last_try)]
        pieces = [piece for own in kept.values() for piece in own]
        for row in strip.done:
            yield row, _assembled(Window(*map(int, windows[row])), pieces)
        del pieces
        for old in [old for old in kept if old < strip.keep_from]:
            del kept[old]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A window that was read, or why it was not."""

    window: Window
    content: Pixels | ReadError


def _runs(windows: Windows, blocks: Blocks, rows: tuple[int, int]) -> Iterator[Window]:
    """Neighbouring columns of blocks that windows touch between two rows, as windows of whole blocks."""
    if not len(windows):
        return
    firsts = windows[:, 0] // blocks.block_width
    lasts = (windows[:, 0] + windows[:, 2] - 1) // blocks.block_width
    edges = np.zeros(int(lasts.max()) + 2, dtype=np.int64)
    np.add.at(edges, firsts, 1)
    np.add.at(edges, lasts + 1, -1)
    is_needed = np.concatenate([[0], np.cumsum(edges) > 0, [0]]).astype(np.int8)
    changes = np.diff(is_needed)
    for start, stop in zip(np.flatnonzero(changes == 1), np.flatnonzero(changes == -1), strict=True):
        own = windows[(firsts >= start) & (firsts < stop)]
        top = max(rows[0], int(own[:, 1].min()) // blocks.block_height * blocks.block_height)
        lowest = -(-int((own[:, 1] + own[:, 3]).max()) // blocks.block_height) * blocks.block_height
        bottom = min(rows[1], lowest, blocks.height)
        col, right = int(start) * blocks.block_width, min(int(stop) * blocks.block_width, blocks.width)
        yield Window(col, top, right - col, bottom - top)


def _fetch(source: BlockSource, runs: Sequence[Window]) -> None:
    """Fetch runs ahead; what fails is told where it is read."""
    with suppress(ReadError):
        source.fetch(runs)


def _read_run(run: Window, blocks: Blocks, source: BlockSource, is_last_try: bool) -> Iterator[_Piece]:
    """A run as one piece; block by block where it can't be read, so that only broken blocks are lost."""
    try:
        yield _Piece(run, source.read(run))
        return
    except TransientReadError as err:
        if not is_last_try:
            raise
        reason: ReadError = err
    except ReadError as err:
        reason = err
    parts = blocks.split(run)
    if len(parts) == 1:
        yield _Piece(run, reason)
        return
    for part in parts:
        yield from _read_run(part, blocks, source, is_last_try)


def _assembled(window: Window, pieces: Sequence[_Piece]) -> Pixels | ReadError:
    """Pixels of a window from the pieces that it lies on; a view where one holds all of it."""
    whole: Pixels | None = None
    for piece in pieces:
        part = _overlap(window, piece.window)
        if part is None:
            continue
        if isinstance(piece.content, ReadError):
            return piece.content
        pixels = piece.content[:, _rows(part, piece.window), _cols(part, piece.window)]
        if part == window:
            return pixels
        if whole is None:
            whole = np.empty((pixels.shape[0], window.height, window.width), pixels.dtype)
        whole[:, _rows(part, window), _cols(part, window)] = pixels
    return ReadError("no part of it was read") if whole is None else whole


def _overlap(one: Window, other: Window) -> Window | None:
    col, row = max(one.col, other.col), max(one.row, other.row)
    width = min(one.col + one.width, other.col + other.width) - col
    height = min(one.row + one.height, other.row + other.height) - row
    return Window(col, row, width, height) if width > 0 and height > 0 else None


def _rows(part: Window, whole: Window) -> slice:
    """Rows of a window that lies in another, counted from the other's first."""
    return slice(part.row - whole.row, part.row - whole.row + part.height)


def _cols(part: Window, whole: Window) -> slice:
    return slice(part.col - whole.col, part.col - whole.col + part.width)
