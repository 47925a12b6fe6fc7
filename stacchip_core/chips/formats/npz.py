"""npz cubes as Clay's loader takes them: pixels of all bands in one array, time and place as sines and cosines.

What the loader asks for, and where stacchip differs: https://github.com/Clay-foundation/model, claymodel/datamodule.py
(class EODataset); https://github.com/Clay-foundation/stacchip, stacchip/processors/prechip.py.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import numpy as np

from stacchip_core.chips.formats.rows import StoredRows
from stacchip_core.chips.formats.stacking import stacked
from stacchip_core.chips.shards import Files, Pixels, Shard, ShardLabels
from stacchip_core.chips.stored import StoredFile
from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse.store import Store

_METADATA = "metadata.json"
_AHEAD_BYTES = 2**16  # read at a time from the headers of an npz
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip entry can carry
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # PKZIP APPNOTE 4.3.7: signature, ..., name length, extra length
_WEEKS, _HOURS = 52, 24  # of a year and a day, as stacchip counts


def write_npz(shard: Shard, *, clay_v1_swap: bool = False) -> Files:
    """One uncompressed npz: `pixels` (chip, band, y, x), `week_norm`, `hour_norm`, `lat_norm`, `lon_norm`.

    The norms are float32 (chip, 2): sine and cosine of ISO week, hour (UTC), latitude and longitude. `metadata.json`
    holds the labels. `numpy.load(file)["pixels"]` works, without pickle; entries carry no time, so equal chips give
    equal bytes.

    Args:
        shard: chips with datetimes and centres.
        clay_v1_swap: latitude and longitude in each other's place, as in the cubes that Clay v1 was trained on.

    Raises:
        SpecError: bands are not all of one shape.
    """
    pixels = stacked(shard, "npz")
    lats, lons = (
        _angles([lat for _, lat in shard.labels.centres], 360),
        _angles([lon for lon, _ in shard.labels.centres], 360),
    )
    moments = [datetime.fromisoformat(text) for text in shard.labels.datetimes]
    arrays = {
        "pixels": pixels,
        "week_norm": _angles([moment.isocalendar().week for moment in moments], _WEEKS),
        "hour_norm": _angles([moment.hour for moment in moments], _HOURS),
        "lat_norm": lons if clay_v1_swap else lats,
        "lon_norm": lats if clay_v1_swap else lons,
    }
    labels = shard.labels.to_dict() | {
        "dtypes": {band: np.asarray(rows[:1]).dtype.str for band, rows in shard.arrays.items()},
        "clay_v1_swap": clay_v1_swap,
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, values in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, values, allow_pickle=False)
        archive.writestr(zipfile.ZipInfo(_METADATA, _ZIP_EPOCH), json.dumps(labels))
    return {"": (content.getbuffer(),)}


def read_npz(store: Store, key: str, sizes: Mapping[str, int]) -> Shard:
    """Open an npz cube; a chip is one range of its file for each band, read when asked for."""
    buffered = io.BufferedReader(StoredFile(store, key, sizes[""]), _AHEAD_BYTES)
    with buffered as file, zipfile.ZipFile(file) as archive:
        about = json.loads(archive.read(_METADATA))
        start, shape, dtype = _stored_array(key, file, archive.getinfo("pixels.npy"))
    labels = ShardLabels.from_dict(about)
    size = dtype.itemsize * shape[2] * shape[3]  # of a layer
    arrays, layer = {}, 0
    for band, names in labels.layers.items():
        own = (shape[0], len(names), *shape[2:])
        given = np.dtype(about["dtypes"][band])
        arrays[band] = StoredRows(store, key, start + layer * size, shape[1] * size, own, dtype, given)
        layer += len(names)
    return Shard(labels, arrays)


def _angles(values: Iterable[float], turn: float) -> Pixels:
    """Sine and cosine of shares of a turn, float32 (n, 2)."""
    angles = np.array(list(values), dtype=np.float64) * 2 * np.pi / turn
    return np.stack([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _stored_array(key: str, file: Any, entry: zipfile.ZipInfo) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    """Where the pixels of an uncompressed npz entry begin, their shape and type."""
    file.seek(entry.header_offset)
    _, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    file.seek(name_length + extra_length, io.SEEK_CUR)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    if is_fortran or dtype.hasobject or entry.compress_type != zipfile.ZIP_STORED:
        raise CorruptWarehouseError(f"shard {key}: {entry.filename} is not a plain, uncompressed array")
    return file.tell(), shape, dtype
