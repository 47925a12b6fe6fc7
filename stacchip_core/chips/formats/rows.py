"""Chips that lie uncompressed in a stored file: any of them is one range of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from stacchip_core.chips.shards import Pixels
from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse.store import Store


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Chips of one band, (chip, layer, y, x), in a file of a store.

    Attributes:
        start: where the first chip's pixels begin, bytes.
        step: bytes from the start of a chip to that of the next.
        dtype: of the pixels in the file, given in `given`'s where that is another.
    """

    store: Store
    key: str
    start: int
    step: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    given: np.dtype[Any]

    def __getitem__(self, key: Any, /) -> Any:
        """One chip by its offset, or a slice of them: one request, for all from the first to the last."""
        first, last, step = key.indices(self.shape[0]) if isinstance(key, slice) else (int(key), int(key) + 1, 1)
        count = max(last - first, 0)
        chip_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        size = (count - 1) * self.step + chip_bytes if count else 0
        begin = self.start + first * self.step
        content = self.store.read_range(self.key, begin, begin + size) if size else b""
        if len(content) != size:
            raise CorruptWarehouseError(
                f"shard {self.key}: chips {first}..{last - 1} are {len(content)} bytes, expected {size}"
            )
        rows = self._laid_out(bytearray(content), count)[::step]
        return rows if isinstance(key, slice) else rows[0]

    def _laid_out(self, content: bytearray, count: int) -> Pixels:
        shape = (count, *self.shape[1:])
        if not content:
            return np.empty(shape, self.given)
        inner = np.empty(shape[1:], self.dtype).strides
        rows: Pixels = np.ndarray(shape, self.dtype, content, strides=(self.step, *inner))
        return rows.astype(self.given, copy=False)
