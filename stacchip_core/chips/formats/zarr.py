"""Zarr v3 shards: a group with one array per band, one inner chunk per chip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

from stacchip_core.chips.shards import Files, Shard, ShardLabels, in_memory, in_short
from stacchip_core.chips.stored import StoredShard
from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse.store import Store


def write_zarr(shard: Shard, *, compress: bool = True) -> Files:
    """A Zarr v3 group with one array per band: one inner chunk per chip, all of them in one file.

    Chunks that hold nothing but the fill value (the band's nodata; 0 where it has none, or its items differ) are left
    out, as Zarr readers expect.
    """
    files: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(files), zarr_format=3, attributes=shard.labels.to_dict())
    for band, rows in shard.arrays.items():
        pixels = in_memory(rows)
        group.create_array(
            band,
            data=pixels,
            chunks=(1, *pixels.shape[1:]),
            shards=pixels.shape,
            filters=None,
            compressors=codec(pixels.dtype) if compress else None,
            fill_value=_fill_value(shard.labels.nodata[band], pixels.dtype),
            dimension_names=("chip", "layer", "y", "x"),
            config={"write_empty_chunks": False},
        )
    return {path: (files[path].to_bytes(),) for path in sorted(files)}


def read_zarr(store: Store, key: str, sizes: Mapping[str, int]) -> Shard:
    """Open a Zarr shard; pixels are read chip by chip, when asked for."""
    group = zarr.open_group(StoredShard(store, key, sizes), mode="r", zarr_format=3)
    labels = ShardLabels.from_dict(dict(group.attrs))
    return Shard(labels, {band: _zarr_array(group, band) for band in labels.layers})


def codec(dtype: np.dtype[Any]) -> BloscCodec:
    """How a chunk is compressed, on one thread: blosc's own would give other bytes every time."""
    return BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=dtype.itemsize)


def _zarr_array(group: zarr.Group, band: str) -> zarr.Array[Any]:
    array = group[band]
    if not isinstance(array, zarr.Array):
        raise CorruptWarehouseError(f"shard {group.store}: {band!r} is not an array")
    return array


def _fill_value(per_chip: Sequence[float | None], dtype: np.dtype[Any]) -> Any:
    """Nodata in the band's own type, or 0 where it has none, chips differ in it, or the type can't hold it."""
    nodata = per_chip[0]
    if dtype.kind == "b" or nodata is None or isinstance(in_short(per_chip), list):
        return dtype.type(0)
    if np.issubdtype(dtype, np.inexact):
        return dtype.type(nodata)
    limits = np.iinfo(dtype)
    is_held = math.isfinite(nodata) and nodata == int(nodata) and limits.min <= nodata <= limits.max
    return dtype.type(int(nodata) if is_held else 0)
