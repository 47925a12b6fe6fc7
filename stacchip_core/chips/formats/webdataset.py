"""webdataset shards: a tar with a few files for every chip, read in a row by `webdataset` or one by one by us.

Source of the form: https://github.com/webdataset/webdataset, "The WebDataset Format"; that library opens ours in the
tests.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from stacchip_core.chips.formats.rows import StoredRows
from stacchip_core.chips.shards import Buffer, Files, Pixels, Shard, ShardLabels, bytes_of, in_memory
from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse.store import Store

_BLOCK = tarfile.BLOCKSIZE
_KEYWORD = "STACCHIP.labels"  # in the archive's global header; POSIX.1-2001 pax: keywords of one's own are VENDOR.name
_AHEAD_BYTES = 2**16  # read at first: the labels of some hundred chips


def write_webdataset(shard: Shard) -> Files:
    """A tar with `<place>.<band>.npy` per band and `<place>.json` for each chip; no times, no owners.

    What the shard says of itself is a global header of the archive, which tar programs pass over. All chips take as
    many bytes, so that a chip's place tells where it lies.
    """
    arrays = {band: in_memory(rows) for band, rows in shard.arrays.items()}
    about = [_about(shard.labels, place) for place in range(len(shard))]
    width = max(map(len, about))
    parts: list[Buffer] = [_global_header(shard.labels.to_dict() | {"layout": _layout(arrays, width)})]
    for place, text in enumerate(about):
        for band, pixels in arrays.items():
            content = bytes_of(pixels[place])
            parts += _member(f"{place:08d}.{band}.npy", _npy_header(pixels), content)
        parts += _member(f"{place:08d}.json", text.ljust(width), b"")
    parts.append(bytes(2 * _BLOCK))
    return {"": tuple(part for part in parts if len(part))}


def read_webdataset(store: Store, key: str, sizes: Mapping[str, int]) -> Shard:
    """Open a webdataset shard; a chip is one range of its file for each band, read when asked for."""
    head = store.read_range(key, 0, min(_AHEAD_BYTES, sizes[""]))
    try:
        size = tarfile.TarInfo.frombuf(head[:_BLOCK], "utf-8", "strict").size
    except tarfile.HeaderError as err:
        raise CorruptWarehouseError(f"shard {key}: no tar archive: {err}") from err
    start = _BLOCK + _whole_blocks(size)
    if start > len(head):
        head = store.read_range(key, 0, min(start, sizes[""]))
    labels = _labels_in(head[_BLOCK : _BLOCK + size], key)
    return Shard(
        ShardLabels.from_dict(labels),
        {
            band: StoredRows(
                *(store, key, start + at, labels["layout"]["step"], tuple(shape)), np.dtype(kind), np.dtype(kind)
            )
            for band, (at, kind, shape) in labels["layout"]["arrays"].items()
        },
    )


def _layout(arrays: Mapping[str, Pixels], width: int) -> dict[str, Any]:
    """Per band where the pixels of a chip lie, from the start of the chip, their type and shape; bytes of a chip."""
    place, found = 0, {}
    for band, pixels in arrays.items():
        inside = len(_npy_header(pixels))
        head = len(_tar_header(f"{0:08d}.{band}.npy", inside + pixels[0].nbytes))
        found[band] = [place + head + inside, pixels.dtype.str, list(pixels.shape)]
        place += head + _whole_blocks(inside + pixels[0].nbytes)
    return {"arrays": found, "step": place + _BLOCK + _whole_blocks(width)}


def _about(labels: ShardLabels, place: int) -> str:
    """What a chip's own JSON says; ASCII, so that its characters are its bytes."""
    per_chip = {
        name: values[place]
        for name in ("datetimes", "centres", "crs", "transforms")
        if (values := getattr(labels, name))
    }
    names = {"datetimes": "datetime", "centres": "centre", "transforms": "transform"}
    about = {"chip_id": labels.chip_ids[place], "collection": labels.collection, "bands": list(labels.layers)}
    return json.dumps(about | {names.get(name, name): value for name, value in per_chip.items()})


def _member(name: str, head: bytes | str, content: Buffer) -> tuple[Buffer, ...]:
    """Header, content and padding of one file of the archive."""
    head = head.encode() if isinstance(head, str) else head
    size = len(head) + len(content)
    return (_tar_header(name, size) + head, content, bytes(_whole_blocks(size) - size))


def _tar_header(name: str, size: int) -> bytes:
    """One block, or several where the name is long or not ASCII."""
    info = tarfile.TarInfo(name)  # time, owner and group are 0, the mode is 0644
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)


def _npy_header(pixels: Pixels) -> bytes:
    """What stands before the pixels of one chip in a npy file."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(pixels[0]))
    return header.getvalue()


def _global_header(labels: Mapping[str, Any]) -> bytes:
    text = json.dumps(labels, separators=(",", ":"))
    return tarfile.TarInfo.create_pax_global_header({_KEYWORD: text})


def _labels_in(record: bytes, key: str) -> dict[str, Any]:
    """Labels in a pax record: its length, a space, keyword=value, a line end."""
    name, _, value = record.partition(b" ")[2].partition(b"=")
    if name.decode() != _KEYWORD:
        raise CorruptWarehouseError(f"shard {key}: its tar archive does not begin with {_KEYWORD}")
    labels: dict[str, Any] = json.loads(value)
    return labels


def _whole_blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
