"""GeoTIFF shards: a folder with one georeferenced file for every chip, as any GIS opens them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stacchip_core.chips.formats.stacking import stacked
from stacchip_core.chips.shards import Files, Pixels, Shard, ShardLabels
from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.sources.geotiff import Sheet, decode_geotiff, encode_geotiff
from stacchip_core.sources.raster import Grid
from stacchip_core.warehouse.store import Store

_LABELS = "labels.json"


def write_geotiff(shard: Shard, *, compress: bool = True) -> Files:
    """`<place>.tif` for every chip, a layer for each layer of its bands, and `labels.json`.

    A file says its chip's id, and nodata where all its bands have the same.

    Raises:
        SpecError: bands are not all of one shape.
    """
    pixels, labels = stacked(shard, "geotiff"), shard.labels
    names = tuple(name for band in labels.layers.values() for name in band)
    files: Files = {
        f"{place:05d}.tif": (
            encode_geotiff(pixels[place], _sheet(labels, place, pixels.shape[2:], names), compress=compress),
        )
        for place in range(len(shard))
    }
    dtypes = {band: np.asarray(rows[:1]).dtype.str for band, rows in shard.arrays.items()}
    about = labels.to_dict() | {"dtypes": dtypes, "shape": list(pixels.shape)}
    files[_LABELS] = (json.dumps(about).encode(),)
    return files


def read_geotiff(store: Store, key: str, sizes: Mapping[str, int]) -> Shard:
    """Open a GeoTIFF shard; a chip is one file, read when asked for."""
    about = json.loads(store.read(f"{key}/{_LABELS}"))
    labels = ShardLabels.from_dict(about)
    folder = _Folder(store, key, tuple(about["shape"]))
    arrays, layer = {}, 0
    for band, names in labels.layers.items():
        arrays[band] = _Rows(folder, layer, len(names), np.dtype(about["dtypes"][band]))
        layer += len(names)
    return Shard(labels, arrays)


@dataclass(slots=True)
class _Folder:
    """The files of a shard; the last one read is kept, for the other bands of its chip."""

    store: Store
    key: str
    shape: tuple[int, ...]
    last: tuple[int, Pixels] | None = field(default=None)

    def read(self, place: int) -> Pixels:
        last = self.last  # another thread may put another there meanwhile
        if last is None or last[0] != place:
            name = f"{self.key}/{place:05d}.tif"
            last = self.last = (place, decode_geotiff(self.store.read(name), name))
            if last[1].shape != self.shape[1:]:
                raise CorruptWarehouseError(f"{name} has shape {last[1].shape}, its labels say {self.shape[1:]}")
        return last[1]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Chips of one band, (chip, layer, y, x), each in a file of its own."""

    folder: _Folder
    first: int
    layers: int
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.folder.shape[0], self.layers, *self.folder.shape[2:])

    def __getitem__(self, key: Any, /) -> Any:
        """One chip by its offset, or a slice of them, file by file."""
        if not isinstance(key, slice):
            own = self.folder.read(int(key))[self.first : self.first + self.layers]
            return own.astype(self.dtype)
        places = range(*key.indices(self.shape[0]))
        return np.stack([self[place] for place in places]) if places else np.empty((0, *self.shape[1:]), self.dtype)


def _sheet(labels: ShardLabels, place: int, shape: tuple[int, ...], names: tuple[str, ...]) -> Sheet:
    a, b, c, d, e, f = labels.transforms[place]
    down, right = labels.size_px / shape[0], labels.size_px / shape[1]  # pixels of the grid in one of the chip
    grid = Grid(labels.crs[place], (a * right, b * down, c, d * right, e * down, f), shape[0], shape[1])
    nodata = {values[place] for values in labels.nodata.values()}
    return Sheet(grid, nodata.pop() if len(nodata) == 1 else None, names, {"chip_id": labels.chip_ids[place]})
