"""Shards, the units in which chips are stored: their pixels, what is said of these, and checksums."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from stacchip_core.errors import ChipNotFoundError
from stacchip_core.warehouse.store import Store

Pixels = NDArray[np.generic]
Plain = float | str | None  # a number that JSON can hold
Buffer = bytes | memoryview
Files = dict[str, tuple[Buffer, ...]]  # path inside the shard ("" where the shard is one file) -> content, in parts


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
        datetimes: per chip, ISO 8601 in UTC.
        centres: per chip, (longitude, latitude) of the middle of its bounds, degrees.
        split: the one split all its chips belong to; None where the dataset has none.
    """

    collection: str
    chip_ids: tuple[str, ...]
    crs: tuple[str, ...]
    transforms: tuple[tuple[float, float, float, float, float, float], ...]
    size_px: int
    layers: Mapping[str, tuple[str, ...]]
    nodata: Mapping[str, tuple[float | None, ...]]
    datetimes: tuple[str, ...] = ()
    centres: tuple[tuple[float, float], ...] = ()
    split: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values.

        Nodata is one value a band, or a list where the items of the chips differ; NaN and infinities are text, which
        JSON has no numbers for.
        """
        return {
            "collection": self.collection,
            "split": self.split,
            "bands": list(self.layers),
            "layers": {band: list(names) for band, names in self.layers.items()},
            "nodata": {band: in_short(values) for band, values in self.nodata.items()},
            "size_px": self.size_px,
            "chip_ids": list(self.chip_ids),
            "datetimes": list(self.datetimes),
            "centres": [list(centre) for centre in self.centres],
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
            datetimes=tuple(data["datetimes"]),
            centres=tuple((lon, lat) for lon, lat in data["centres"]),
            split=data["split"],
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


def row_of(place: SupportsIndex, count: int, whose: str) -> int:
    """The row that a place means, of so many; negative ones count from the end.

    Raises:
        TypeError: no whole number.
        ChipNotFoundError: there is no such row.
    """
    try:
        number = operator.index(place)
    except TypeError as err:
        raise TypeError(f"{whose} gives a chip at a time: expected a whole number, found {place!r}") from err
    if not -count <= number < count:
        raise ChipNotFoundError(f"{whose}: there is no chip {number}; they run from 0 to {count - 1}")
    return number % count


def in_memory(rows: Rows) -> Pixels:
    """All chips of a band, one after the other in memory, lowest byte first."""
    pixels: Pixels = np.ascontiguousarray(rows[:])
    return pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)


def bytes_of(pixels: Pixels) -> Buffer:
    """An array's memory, not copied."""
    return pixels.data.cast("B") if pixels.size else b""


def put(store: Store, key: str, files: Files) -> None:
    """Store the files of a shard: each appears whole or not at all."""
    for path, parts in files.items():
        whole = f"{key}/{path}" if path else key
        if len(parts) == 1:
            store.write(whole, bytes(parts[0]))
            continue
        with store.writing(whole) as local, local.open("wb") as file:
            for part in parts:  # large arrays, which are never joined in memory
                file.write(part)


def size_of(files: Files) -> int:
    """Bytes of all files of a shard."""
    return sum(len(part) for parts in files.values() for part in parts)


def files_sha256(files: Files) -> str:
    """Checksum of a shard: that of its file, or of the `sha256sum` listing of its files, sorted by path."""
    if list(files) == [""]:
        return _sha256(files[""])
    lines = [f"{_sha256(files[path])}  {path}\n" for path in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def arrays_sha256(shard: Shard) -> str:
    """Checksum of chip ids, band names, types, shapes and pixels, whatever the format they are stored in."""
    digest = hashlib.sha256(json.dumps(list(shard.labels.chip_ids)).encode())
    for band, rows in shard.arrays.items():
        pixels = in_memory(rows)
        digest.update(json.dumps([band, pixels.dtype.str, list(pixels.shape)]).encode())
        digest.update(bytes_of(pixels))
    return digest.hexdigest()


def in_short(values: Sequence[float | None]) -> Plain | list[Plain]:
    """One value where all chips have the same."""
    each = [plain(value) for value in values]
    return each[0] if len(set(each)) == 1 else each


def _sha256(parts: tuple[Buffer, ...]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _in_full(short: Plain | list[Plain], count: int) -> tuple[float | None, ...]:
    """Inverse of `in_short` for `count` chips."""
    return tuple(map(number, short if isinstance(short, list) else [short] * count))


def plain(value: float | None) -> Plain:
    """A number as JSON holds it: NaN and infinities are text."""
    return value if value is None or math.isfinite(value) else str(value)


def number(value: Plain) -> float | None:
    """Inverse of `plain`."""
    return None if value is None else float(value)
