"""Statistics of what shards hold, and of a dataset: of its train split, where it has splits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stacchip_core.chips.lock import DatasetLock, Measured, ShardRecord
from stacchip_core.chips.radiometry import MASK
from stacchip_core.chips.shards import Pixels, Shard
from stacchip_core.chips.statistics import BandSummary, Statistics, clay_metadata, merged

MEASURED_SPLIT = "train"  # what a model may know of its data before it is tested
_RGB = ("red", "green", "blue")
_VALUES_AT_A_TIME = 2**23  # of one band: 64 MB while they are counted


def measure(shard: Shard, table: pa.Table) -> Measured:
    """Statistics of each layer of a shard, by its name, in the form of its record; none of another split than train.

    Values that are nodata are no measurements, nor are pixels beyond the edge of a raster, nor what the band "mask"
    (where there is one) leaves out.

    Args:
        shard: pixels as they are written.
        table: rows of its chips, and perhaps more, with `chip_id`, `size_px`, `valid_width` and `valid_height`.
    """
    if shard.labels.split not in (None, MEASURED_SPLIT):
        return {}
    insides = _insides(shard, table)
    found: Measured = {}
    for band, names in shard.labels.layers.items():
        rows = shard.arrays[band]
        if band == MASK or np.asarray(rows[0]).dtype.kind not in "iufb":
            continue
        parts = [_layers_of(shard, band, some, insides[some]) for some in _slabs(rows.shape)]
        found |= {name: merged(own).to_json() for name, own in zip(names, zip(*parts, strict=True), strict=True)}
    return found


def summaries(records: Iterable[ShardRecord]) -> dict[str, dict[str, BandSummary]]:
    """Collection -> name of a band (or of a layer of one) -> its statistics, over all shards that were measured."""
    found: dict[str, dict[str, list[Statistics]]] = {}
    for record in records:
        own = found.setdefault(record.info.collection, {})
        for name, values in record.statistics.items():
            own.setdefault(name, []).append(Statistics.from_json(values))
    return {
        collection: {name: merged(parts).to_summary() for name, parts in own.items()}
        for collection, own in found.items()
        if own
    }


def sides_px(lock: DatasetLock, chips: pa.Table) -> str:
    """Pixels of a side of the chips, as they are written: "256", or "128, 256" where collections differ."""
    sizes = zip(chips["size_px"].to_pylist(), chips["gsd_m"].to_pylist(), strict=True)
    sides = {round(size * pixel_m / lock.spec.gsd) if lock.spec.gsd else size for size, pixel_m in set(sizes)}
    return ", ".join(map(str, sorted(sides)))


def clay_form(lock: DatasetLock, chips: pa.Table) -> dict[str, Any]:
    """Statistics of a dataset as Clay's `metadata.yaml` has them: an entry for each collection.

    Args:
        lock: of the dataset.
        chips: its rows, with `collection` and `gsd_m`.
    """
    pixel_m = dict(zip(chips["collection"].to_pylist(), chips["gsd_m"].to_pylist(), strict=True))
    return {
        collection: clay_metadata(bands, gsd=lock.spec.gsd or pixel_m[collection], rgb=_RGB)
        for collection, bands in lock.statistics.items()
    }


def _layers_of(shard: Shard, band: str, some: slice, insides: NDArray[np.int64]) -> list[Statistics]:
    """Statistics of each layer of some chips of a band."""
    pixels = np.asarray(shard.arrays[band][some])
    valid = _is_inside(pixels.shape, insides, shard.labels.size_px)
    if MASK in shard.labels.layers:
        mask = np.asarray(shard.arrays[MASK][some]) != 0
        if mask.shape[2:] == pixels.shape[2:]:
            valid = valid & mask
    is_measured = _differs(pixels, shard.labels.nodata[band][some]) & valid
    return [Statistics.of(pixels[:, layer], is_measured[:, layer]) for layer in range(pixels.shape[1])]


def _differs(pixels: Pixels, nodata: Sequence[float | None]) -> NDArray[np.bool_]:
    """Which values are not their chip's nodata, in the shape of the pixels; NaN is told by itself."""
    found = np.ones(pixels.shape, dtype=np.bool_)
    for place, value in enumerate(nodata):  # a value a chip
        if value is not None and not np.isnan(value):
            np.not_equal(pixels[place], value, out=found[place])
    return found


def _is_inside(shape: Sequence[int], insides: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Which pixels lie on the raster, shape (chip, 1, y, x), given how much of each chip does in reference pixels."""
    columns, rows = (-(-insides[:, axis] * side // size) for axis, side in ((0, shape[3]), (1, shape[2])))
    in_columns = np.arange(shape[3])[None, :] < columns[:, None]
    in_rows = np.arange(shape[2])[None, :] < rows[:, None]
    return np.asarray(in_rows[:, None, :, None] & in_columns[:, None, None, :], np.bool_)


def _insides(shard: Shard, table: pa.Table) -> NDArray[np.int64]:
    """Width and height of what of each chip lies on the raster, reference pixels, shape (chip, 2)."""
    columns = (table[name].to_pylist() for name in ("chip_id", "valid_width", "valid_height"))
    known: Mapping[str, tuple[int, int]] = {chip_id: (w, h) for chip_id, w, h in zip(*columns, strict=True)}
    return np.array([known[chip_id] for chip_id in shard.labels.chip_ids], np.int64)


def _slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Runs of chips of at most so many values."""
    step = max(1, _VALUES_AT_A_TIME // int(np.prod(shape[1:])))
    return (slice(start, start + step) for start in range(0, shape[0], step))
