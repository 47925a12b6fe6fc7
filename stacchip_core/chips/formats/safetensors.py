"""safetensors shards: a JSON header, then the bands' arrays as they are in memory.

The form is written here by hand, byte for byte the same every time: the library's own writer orders its metadata at
random. Source: https://github.com/huggingface/safetensors, "Format"; its reader opens our files in the tests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from stacchip_core.chips.formats.rows import StoredRows
from stacchip_core.chips.shards import Files, Shard, ShardLabels, bytes_of, in_memory
from stacchip_core.errors import CorruptWarehouseError, SpecError
from stacchip_core.warehouse.store import Store

_LENGTH_BYTES = 8  # of the header's length, at the start of the file
_ALIGNMENT = 8  # of the first array, by spaces after the header
_MAX_HEADER = 100_000_000  # the format's own limit
_CODES = {
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "bool": "BOOL",
}
_DTYPES = {code: np.dtype(name) for name, code in _CODES.items()}


def write_safetensors(shard: Shard) -> Files:
    """One array per band under its name, and `__metadata__` with the labels as JSON under "stacchip".

    Raises:
        SpecError: a band's type has no name in the format (complex numbers).
    """
    arrays = {band: in_memory(rows) for band, rows in shard.arrays.items()}
    header: dict[str, Any] = {"__metadata__": {"stacchip": json.dumps(shard.labels.to_dict(), separators=(",", ":"))}}
    parts, stop = [], 0
    for band in sorted(arrays, key=lambda band: -arrays[band].itemsize):  # so that each begins at a whole number
        pixels = arrays[band]
        if pixels.dtype.name not in _CODES:
            raise SpecError(f"band {band!r} is {pixels.dtype.name}, which safetensors has no name for; take zarr")
        start, stop = stop, stop + pixels.nbytes
        code = _CODES[pixels.dtype.name]
        header[band] = {"dtype": code, "shape": list(pixels.shape), "data_offsets": [start, stop]}
        parts.append(bytes_of(pixels))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return {"": (len(text).to_bytes(_LENGTH_BYTES, "little") + text, *parts)}


def read_safetensors(store: Store, key: str, sizes: Mapping[str, int]) -> Shard:
    """Open a safetensors shard; a chip is one range of its file for each band, read when asked for."""
    length = int.from_bytes(store.read_range(key, 0, _LENGTH_BYTES), "little")
    if not 0 < length <= min(_MAX_HEADER, sizes[""] - _LENGTH_BYTES):
        raise CorruptWarehouseError(f"shard {key}: {length} bytes of header in a file of {sizes['']}")
    header = json.loads(store.read_range(key, _LENGTH_BYTES, _LENGTH_BYTES + length))
    labels = ShardLabels.from_dict(json.loads(header["__metadata__"]["stacchip"]))
    base = _LENGTH_BYTES + length
    return Shard(labels, {band: _rows(store, key, base, header[band]) for band in labels.layers})


def _rows(store: Store, key: str, base: int, entry: Mapping[str, Any]) -> StoredRows:
    shape, dtype = tuple(entry["shape"]), _DTYPES[entry["dtype"]]
    step = math.prod(shape[1:]) * dtype.itemsize
    return StoredRows(store, key, base + entry["data_offsets"][0], step, shape, dtype, dtype)
