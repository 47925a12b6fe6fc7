"""The chip grid: where chips lie in a scene, as arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from stacchip_core.errors import ChipNotFoundError, InputError
from stacchip_core.sources.raster import Grid, Window

Edge = Literal["drop", "pad"]

# A scene of 10 980 px cut every 4 px; a grid beyond it is a mistyped stride, and would not fit in memory.
MAX_CHIPS = 10_000_000


@dataclass(frozen=True, slots=True)
class GridSpec:
    """How a scene is cut.

    Attributes:
        size: side of a chip, pixels of the reference grid.
        stride: pixels between the starts of neighbouring chips.
        edge: "drop": only whole chips; "pad": the last column and row are kept, and reach past the raster.
    """

    size: int = 256
    stride: int = 256
    edge: Edge = "drop"

    def __post_init__(self) -> None:
        """Refuse what makes no grid."""
        for name, value in (("chip size", self.size), ("stride", self.stride)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} {value!r} is not a whole number of pixels of at least 1")
        if self.edge not in ("drop", "pad"):
            raise InputError(f"edge {self.edge!r} is neither 'drop' nor 'pad'")

    def __str__(self) -> str:
        """`<size>-<stride>-<edge>`, as in chip ids."""
        return f"{self.size}-{self.stride}-{self.edge}"

    @classmethod
    def parse(cls, text: str) -> GridSpec:
        """Inverse of `str`."""
        size, stride, edge = text.split("-")
        return cls(int(size), int(stride), cast(Edge, edge))


@dataclass(frozen=True, slots=True)
class ChipGrid:
    """All chips of a scene: chip (x, y) starts at pixel (x * stride, y * stride) of the reference grid."""

    grid: Grid
    spec: GridSpec

    def __post_init__(self) -> None:
        """Refuse a grid of more chips than a table can hold."""
        if len(self) > MAX_CHIPS:
            raise InputError(
                f"chip size {self.spec.size} and stride {self.spec.stride} make {len(self):,} chips of a scene of "
                f"{self.grid.height} x {self.grid.width} pixels; the limit is {MAX_CHIPS:,}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of chips."""
        return self._count(self.grid.height), self._count(self.grid.width)

    def __len__(self) -> int:
        """Number of chips."""
        ny, nx = self.shape
        return ny * nx

    def _count(self, length: int) -> int:
        beyond = length - self.spec.size
        if self.spec.edge == "drop":
            return beyond // self.spec.stride + 1 if beyond >= 0 else 0
        to_reach_the_end = max(0, -(-beyond // self.spec.stride)) + 1
        return min(to_reach_the_end, -(-length // self.spec.stride))  # a chip starts inside, also where strides leap

    def starts(self, axis: int) -> NDArray[np.int64]:
        """First pixel of each chip row (axis 0) or column (axis 1)."""
        return np.arange(self.shape[axis], dtype=np.int64) * self.spec.stride

    def stops(self, axis: int) -> NDArray[np.int64]:
        """One past the last pixel inside the raster, of each chip row (axis 0) or column (axis 1)."""
        return np.minimum(self.starts(axis) + self.spec.size, self.grid.shape[axis])

    def window(self, x: int, y: int) -> Window:
        """The whole window of a chip; with edge "pad" it may reach past the raster.

        Raises:
            ChipNotFoundError: says which chips there are.
        """
        ny, nx = self.shape
        if not (0 <= x < nx and 0 <= y < ny):
            have = f"chip_x runs from 0 to {nx - 1}, chip_y from 0 to {ny - 1}" if nx * ny else "the grid has no chips"
            raise ChipNotFoundError(f"no chip ({x}, {y}): {have} (size {self.spec.size}, stride {self.spec.stride})")
        return Window(x * self.spec.stride, y * self.spec.stride, self.spec.size, self.spec.size)

    def positions(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`chip_x` and `chip_y` of all chips, row by row."""
        ny, nx = self.shape
        return np.tile(np.arange(nx), ny), np.repeat(np.arange(ny), nx)
