"""Zarr v3 shards: a group with one array per band, one inner chunk per chip."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, ShardingCodec
from zarr.storage import MemoryStore

from stacchip_core.chips.shards import Files, Pixels, Shard, ShardLabels, in_memory, in_short
from stacchip_core.chips.stored import StoredShard, joined
from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse.store import Store

# Of the index at the end of a file of chips.
_ABSENT = 2**64 - 1  # offset and length of a chip that was left out
_INDEX_ENTRY = 16  # bytes: offset and length, as uint64
_CHECKSUM = 4  # bytes after it: CRC32C
_ENCODINGS = ((BytesCodec,), (BytesCodec, BloscCodec))

blosc.use_threads = False  # a chip is small, and threads of the library's own would be missing after a fork


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
    return Shard(labels, {band: ZarrRows(store, key, sizes, _zarr_array(group, band)) for band in labels.layers})


@dataclass(frozen=True)
class ZarrRows:
    """Chips of one band, (chip, layer, y, x).

    A single chip of an array as `write_zarr` makes it is fetched and decoded here, as zarr takes several times as long
    to hand it between threads; all else is zarr's. Source: the Zarr v3 specification, codec "sharding_indexed".
    """

    store: Store
    key: str
    sizes: Mapping[str, int]
    array: zarr.Array[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    def __getitem__(self, key: Any, /) -> Any:
        """One chip by its offset, or whatever zarr takes."""
        chunks = None if isinstance(key, slice) else self._chunks
        if chunks is None:
            return self.array[key]
        start, size = map(int, chunks[operator.index(key)])
        if start == _ABSENT:
            return np.full(self.shape[1:], self.array.fill_value, self.array.dtype)
        return self._decoded(self.store.read_range(joined(self.key, self._path), start, start + size))

    def _decoded(self, content: bytes) -> Pixels:
        pixels: Pixels = np.empty(self.shape[1:], self.array.dtype.newbyteorder("<"))
        is_compressed = BloscCodec in self._codecs
        size = int.from_bytes(content[4:8], "little") if is_compressed else len(content)  # a field of blosc's header
        if size != pixels.nbytes:
            raise CorruptWarehouseError(f"shard {self.key}: {self._path}: a chip of {size} bytes, not {pixels.nbytes}")
        if is_compressed:
            blosc.decompress(content, pixels)
        else:
            pixels.data.cast("B")[:] = content
        return pixels

    @property
    def _path(self) -> str:
        """Of the file that holds all chips."""
        return f"{self.array.path}/c/0/0/0/0"

    @cached_property
    def _codecs(self) -> tuple[type, ...]:
        """How a chip is encoded; none where the array is not as `write_zarr` makes it."""
        outer: Sequence[object] = getattr(self.array.metadata, "codecs", ())
        if len(outer) != 1 or not isinstance(outer[0], ShardingCodec) or self.array.shards != self.shape:
            return ()
        codecs = tuple(map(type, outer[0].codecs))
        is_ours = outer[0].chunk_shape == (1, *self.shape[1:]) and outer[0].index_location.value == "end"
        return codecs if is_ours and codecs in _ENCODINGS else ()

    @cached_property
    def _chunks(self) -> NDArray[np.uint64] | None:
        """Offset and length of each chip in its file, shape (n, 2); None where zarr has to read, or say what is wrong.

        Our chips fill the file but for the index, which tells a damaged index as well as its checksum does.
        """
        count, size = self.shape[0], self.sizes.get(self._path)
        if not self._codecs:
            return None
        if size is None:
            return np.full((count, 2), _ABSENT, np.uint64)
        begin = size - (_INDEX_ENTRY * count + _CHECKSUM)
        if begin < 0:
            return None
        content = self.store.read_range(joined(self.key, self._path), begin, size - _CHECKSUM)
        index = np.frombuffer(content, "<u8").reshape(count, 2)
        there = index[index[:, 0] != _ABSENT]
        there = there[np.argsort(there[:, 0])]
        ends = np.cumsum(there[:, 1], dtype=np.uint64)
        is_whole = ends.size and int(ends[-1]) == begin and np.array_equal(there[:, 0], ends - there[:, 1])
        return index if is_whole else None


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
