"""Shards, the files of a chip dataset: per format one function that writes and one that reads, in tables."""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

from stacchip_core.chips.stored import StoredFile, StoredShard, stored_sizes
from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse.store import Store

Pixels = NDArray[np.generic]
Plain = float | str | None  # a number that JSON can hold
Files = dict[str, bytes]  # path inside the shard ("" where the shard is one file) -> content

_METADATA = "metadata.json"
_AHEAD_BYTES = 2**16  # read at a time from the headers of an npz
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip entry can carry
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # PKZIP APPNOTE 4.3.7: signature, ..., name length, extra length


class Rows(Protocol):
    """Chips of one band, (chip, layer, y, x), in memory or still in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class ShardLabels:
    """What a shard says of its chips besides their pixels.

    Attributes:
        collection: the one collection all its chips come from.
        chip_ids: in the order of the arrays.
        crs: per chip, authority code or WKT2.
        transforms: per chip, affine (a, b, c, d, e, f) from its upper left corner, `size_px` pixels a side;
            a band of another shape covers the same ground with its own number of pixels.
        size_px: chip size, pixels of the reference grid.
        layers: band -> names of its layers (the band's own name where it has one).
        nodata: band -> per chip, the value that means "no measurement", None where its item has none.
    """

    collection: str
    chip_ids: tuple[str, ...]
    crs: tuple[str, ...]
    transforms: tuple[tuple[float, float, float, float, float, float], ...]
    size_px: int
    layers: Mapping[str, tuple[str, ...]]
    nodata: Mapping[str, tuple[float | None, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values.

        Nodata is one value a band, or a list where the items of the chips differ; NaN and infinities are text, which
        JSON has no numbers for.
        """
        return {
            "collection": self.collection,
            "bands": list(self.layers),
            "layers": {band: list(names) for band, names in self.layers.items()},
            "nodata": {band: _in_short(values) for band, values in self.nodata.items()},
            "size_px": self.size_px,
            "chip_ids": list(self.chip_ids),
            "crs": list(self.crs),
            "transforms": [list(transform) for transform in self.transforms],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ShardLabels:
        """Inverse of `to_dict`."""
        return cls(
            collection=data["collection"],
            chip_ids=tuple(data["chip_ids"]),
            crs=tuple(data["crs"]),
            transforms=tuple((a, b, c, d, e, f) for a, b, c, d, e, f in data["transforms"]),
            size_px=data["size_px"],
            layers={band: tuple(data["layers"][band]) for band in data["bands"]},
            nodata={band: _in_full(data["nodata"][band], len(data["chip_ids"])) for band in data["bands"]},
        )


@dataclass(frozen=True, slots=True)
class Shard:
    """Chips of one collection: per band an array (chip, layer, y, x), all of the same length."""

    labels: ShardLabels
    arrays: Mapping[str, Rows]

    def __len__(self) -> int:
        return len(self.labels.chip_ids)

    def chip(self, offset: int) -> dict[str, Pixels]:
        """Band -> (layer, y, x) of the chip at `offset`."""
        return {band: np.asarray(rows[offset]) for band, rows in self.arrays.items()}


Writer = Callable[[Shard], Files]
Reader = Callable[[Store, str, Mapping[str, int]], Shard]  # the sizes of its files go with its key


def write_zarr(shard: Shard) -> Files:
    """A Zarr v3 group with one array per band: one inner chunk per chip, all of them in one file.

    Chunks that hold nothing but the fill value (the band's nodata; 0 where it has none, or its items differ) are left
    out, as Zarr readers expect.
    """
    files: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(files), zarr_format=3, attributes=shard.labels.to_dict())
    for band, rows in shard.arrays.items():
        pixels: Pixels = np.asarray(rows[:])
        group.create_array(
            band,
            data=pixels,
            chunks=(1, *pixels.shape[1:]),
            shards=pixels.shape,
            filters=None,
            compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=pixels.dtype.itemsize),
            fill_value=_fill_value(shard.labels.nodata[band], pixels.dtype),
            dimension_names=("chip", "layer", "y", "x"),
            config={"write_empty_chunks": False},
        )
    return {path: files[path].to_bytes() for path in sorted(files)}


def read_zarr(store: Store, key: str, sizes: Mapping[str, int]) -> Shard:
    """Open a Zarr shard; pixels are read chip by chip, when asked for."""
    group = zarr.open_group(StoredShard(store, key, sizes), mode="r", zarr_format=3)
    labels = ShardLabels.from_dict(dict(group.attrs))
    return Shard(labels, {band: _zarr_array(group, band) for band in labels.layers})


def write_npz(shard: Shard) -> Files:
    """One uncompressed npz: `<band>.npy` per band, and `metadata.json` with chip ids, CRS and transforms.

    `numpy.load(file)["red"]` works, without pickle; entries carry no time, so equal chips give equal bytes.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for band, rows in shard.arrays.items():
            with archive.open(zipfile.ZipInfo(f"{band}.npy", _ZIP_EPOCH), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.ascontiguousarray(rows[:]), allow_pickle=False)
        archive.writestr(zipfile.ZipInfo(_METADATA, _ZIP_EPOCH), json.dumps(shard.labels.to_dict()))
    return {"": content.getvalue()}


def read_npz(store: Store, key: str, sizes: Mapping[str, int]) -> Shard:
    """Open an npz shard; a chip is one range of its file, read when asked for."""
    buffered = io.BufferedReader(StoredFile(store, key, sizes[""]), _AHEAD_BYTES)
    with buffered as file, zipfile.ZipFile(file) as archive:
        labels = ShardLabels.from_dict(json.loads(archive.read(_METADATA)))
        arrays = {band: _stored_array(store, key, file, archive.getinfo(f"{band}.npy")) for band in labels.layers}
    return Shard(labels, arrays)


WRITERS: dict[str, Writer] = {"zarr": write_zarr, "npz": write_npz}
READERS: dict[str, Reader] = {"zarr": read_zarr, "npz": read_npz}
SUFFIXES = {"zarr": ".zarr", "npz": ".npz"}


def open_shard(store: Store, key: str, form: str, *, size: int | None = None) -> Shard:
    """Open a shard; with `size`, only if its files have that many bytes together.

    Raises:
        CorruptWarehouseError: files of it are missing or cut short.
        StoreError: storage failed; TransientStoreError where trying again may help.
    """
    sizes = stored_sizes(store, key)
    found = sum(sizes.values())
    if not sizes or (size is not None and found != size):
        raise CorruptWarehouseError(
            f"{store.root}: shard {key} is {found} bytes, the lock says {size}: files of it are missing or cut short"
        )
    return READERS[form](store, key, sizes)


def files_sha256(files: Files) -> str:
    """Checksum of a shard: that of its file, or of the `sha256sum` listing of its files, sorted by path."""
    if list(files) == [""]:
        return hashlib.sha256(files[""]).hexdigest()
    lines = [f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def arrays_sha256(shard: Shard) -> str:
    """Checksum of chip ids, band names, types, shapes and pixels, whatever the format they are stored in."""
    digest = hashlib.sha256(json.dumps(list(shard.labels.chip_ids)).encode())
    for band, rows in shard.arrays.items():
        pixels = np.ascontiguousarray(rows[:])
        little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
        digest.update(json.dumps([band, little.dtype.str, list(little.shape)]).encode())
        digest.update(little.data.cast("B"))
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _StoredArray:
    """An array that lies uncompressed in a file, from `start` on."""

    store: Store
    key: str
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: Any, /) -> Any:
        """One chip by its offset, or a slice of them."""
        first, last, step = key.indices(self.shape[0]) if isinstance(key, slice) else (int(key), int(key) + 1, 1)
        chip_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        count = max(last - first, 0)
        start, stop = (self.start + place * chip_bytes for place in (first, last))
        content = self.store.read_range(self.key, start, stop) if count else b""
        if len(content) != count * chip_bytes:
            raise CorruptWarehouseError(
                f"shard {self.key}: chips {first}..{last - 1} are {len(content)} bytes, expected {count * chip_bytes}"
            )
        rows: Pixels = np.frombuffer(bytearray(content), self.dtype).reshape(count, *self.shape[1:])
        return rows[::step] if isinstance(key, slice) else rows[0]


def _stored_array(store: Store, key: str, file: Any, entry: zipfile.ZipInfo) -> _StoredArray:
    """Find where the pixels of an uncompressed npz entry begin."""
    file.seek(entry.header_offset)
    _, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    file.seek(name_length + extra_length, io.SEEK_CUR)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    if is_fortran or dtype.hasobject or entry.compress_type != zipfile.ZIP_STORED:
        raise CorruptWarehouseError(f"shard {key}: {entry.filename} is not a plain, uncompressed array")
    return _StoredArray(store, key, file.tell(), shape, dtype)


def _zarr_array(group: zarr.Group, band: str) -> zarr.Array[Any]:
    array = group[band]
    if not isinstance(array, zarr.Array):
        raise CorruptWarehouseError(f"shard {group.store}: {band!r} is not an array")
    return array


def _fill_value(per_chip: Sequence[float | None], dtype: np.dtype[Any]) -> Any:
    """Nodata in the band's own type, or 0 where it has none, chips differ in it, or the type can't hold it."""
    nodata = per_chip[0]
    if nodata is None or isinstance(_in_short(per_chip), list):
        return dtype.type(0)
    if np.issubdtype(dtype, np.floating):
        return dtype.type(nodata)
    limits = np.iinfo(dtype)
    is_held = math.isfinite(nodata) and nodata == int(nodata) and limits.min <= nodata <= limits.max
    return dtype.type(int(nodata) if is_held else 0)


def _in_short(values: Sequence[float | None]) -> Plain | list[Plain]:
    """One value where all chips have the same."""
    plain = [_plain(value) for value in values]
    return plain[0] if len(set(plain)) == 1 else plain


def _in_full(plain: Plain | list[Plain], count: int) -> tuple[float | None, ...]:
    """Inverse of `_in_short` for `count` chips."""
    return tuple(map(_number, plain if isinstance(plain, list) else [plain] * count))


def _plain(value: float | None) -> Plain:
    return value if value is None or math.isfinite(value) else str(value)


def _number(value: Plain) -> float | None:
    return None if value is None else float(value)
