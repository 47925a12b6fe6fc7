"""Pixels between being cut, scene by scene, and being written, shard by shard: an uncompressed file for every group.

Chips of a scene lie one after the other in the order of the dataset, so that those of a shard are one range.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stacchip_core.chips.cutting import SceneLayout
from stacchip_core.chips.labels import Nodata
from stacchip_core.chips.lock import Region
from stacchip_core.chips.shards import Pixels, bytes_of, number, plain
from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse.store import Store

_READ_BYTES = 32 * 2**20  # of chips read at a time


@dataclass(slots=True)
class GroupFile:
    """Takes the chips of a group: a sink of `cut_into`.

    Attributes:
        handle: of an open file.
        rows: scene key -> its rows in the group, in the order of the dataset.
        regions: scene key -> where its chips lie, of the scenes begun.
    """

    handle: int
    rows: Mapping[str, Sequence[int]]
    regions: dict[str, Region] = field(default_factory=dict)
    _places: dict[int, tuple[str, int]] = field(default_factory=dict)
    _size: int = 0

    def begin(self, key: str, layout: SceneLayout) -> None:
        """Make room for the chips of a scene."""
        bands = tuple((band, dtype.str, shape) for band, (dtype, shape) in layout.bands.items())
        region = Region(start=self._size, bands=bands, nodata={name: plain(one) for name, one in layout.nodata.items()})
        self.regions[key] = region
        self._places |= {row: (key, slot) for slot, row in enumerate(self.rows[key])}
        self._size += chip_bytes(region) * len(self.rows[key])
        os.truncate(self.handle, self._size)

    def put(self, row: int, band: str, pixels: Pixels) -> None:
        """Write a band of a chip to its place; threads may do so side by side."""
        key, slot = self._places[row]
        region = self.regions[key]
        at, dtype, _ = _bands(region)[band]
        content = np.ascontiguousarray(pixels, dtype)
        os.pwrite(self.handle, bytes_of(content), region.start + slot * chip_bytes(region) + at)


def chip_bytes(region: Region) -> int:
    """Bytes of one chip."""
    return sum(math.prod(shape) * np.dtype(kind).itemsize for _, kind, shape in region.bands)


def nodata_of(region: Region) -> Nodata:
    """Per band the value that means "no measurement"."""
    return {band: number(value) for band, value in region.nodata.items()}


def read_slots(store: Store, key: str, region: Region, slots: range) -> Iterator[tuple[int, dict[str, Pixels]]]:
    """Chips of a scene that lie side by side: their slot, and band -> pixels (layer, y, x)."""
    size, bands = chip_bytes(region), _bands(region)
    step = max(1, _READ_BYTES // size)
    for first in range(slots.start, slots.stop, step):
        last = min(first + step, slots.stop)
        start, stop = region.start + first * size, region.start + last * size
        content = store.read_range(key, start, stop)
        if len(content) != stop - start:
            raise CorruptWarehouseError(f"{store.root}/{key} is cut short: {len(content)} bytes from {start}")
        for place in range(last - first):
            yield (
                first + place,
                {
                    band: np.frombuffer(content, dtype, math.prod(shape), place * size + at).reshape(shape)
                    for band, (at, dtype, shape) in bands.items()
                },
            )


def _bands(region: Region) -> dict[str, tuple[int, np.dtype[Any], tuple[int, int, int]]]:
    """Band -> where it begins in a chip, its type and shape."""
    found, at = {}, 0
    for band, kind, shape in region.bands:
        found[band] = (at, np.dtype(kind), shape)
        at += math.prod(shape) * np.dtype(kind).itemsize
    return found
