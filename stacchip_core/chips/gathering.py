"""The chips of a shard, brought together from the files of the groups that they were cut in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stacchip_core.chips.cutting import Shapes, misfits
from stacchip_core.chips.labels import labels_of, scene_key_of_rows
from stacchip_core.chips.lock import DatasetPlan, Failure, GroupRecord, Region
from stacchip_core.chips.scratch import nodata_of, read_slots
from stacchip_core.chips.shards import Pixels, Shard
from stacchip_core.chips.work import Work
from stacchip_core.errors import InputError
from stacchip_core.index.chip_index import ChipIndex


def gather(
    work: Work, plan: DatasetPlan, index: ChipIndex, split: str | None
) -> tuple[Shard | None, tuple[Failure, ...]]:
    """Chips of one shard in their order, and those that could not be read; None where none could.

    Pixels of items that differ in type come to the smallest type that holds them all.

    Raises:
        InputError: a group with chips of it is not cut yet.
    """
    places = _Places.of(work, plan, index)
    failures = tuple(
        Failure(chip_id=index.table["chip_id"][row].as_py(), reason=reason)
        for row, reason in sorted(places.reasons.items())
    )
    rows = [row for row in range(len(index)) if row not in places.reasons]
    if not rows:
        return None, failures
    arrays = places.read(work, rows)
    part = replace(index, table=index.table.take(rows))
    nodata = [nodata_of(places.regions[places.keys[row]]) for row in rows]
    return Shard(labels_of(part, arrays, nodata, split=split), arrays), failures


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the chips of a shard lie.

    Attributes:
        keys: per row, its scene.
        slots: per row, its number among the chips of its scene.
        files: scene key -> key of the file of its group.
        regions: scene key -> where its chips lie there.
        reasons: row -> why it could not be read.
    """

    keys: Sequence[str]
    slots: Sequence[int]
    files: Mapping[str, str]
    regions: Mapping[str, Region]
    reasons: Mapping[int, str]

    @classmethod
    def of(cls, work: Work, plan: DatasetPlan, index: ChipIndex) -> _Places:
        keys, ids = scene_key_of_rows(index.table), index.table["chip_id"].to_pylist()
        records = _records(work, plan, set(keys))
        slots = _slots(work, plan, records)
        failed = {one.chip_id: one.reason for record in records.values() for one in record.failures}
        reasons = {row: failed[chip_id] for row, chip_id in enumerate(ids) if chip_id in failed}
        regions = {key: region for record in records.values() for key, region in record.regions.items()}
        shapes: dict[int, Shapes] = {
            row: tuple((band, shape) for band, _, shape in regions[key].bands)
            for row, key in enumerate(keys)
            if row not in reasons
        }
        return cls(
            keys,
            [slots[chip_id] for chip_id in ids],
            {key: record.key for record in records.values() for key in record.regions},
            regions,
            reasons | misfits(shapes),
        )

    def read(self, work: Work, rows: Sequence[int]) -> dict[str, Pixels]:
        """Band -> (chip, layer, y, x) of some rows, read range by range."""
        bands = self.regions[self.keys[rows[0]]].bands
        kinds = {
            band: np.result_type(*{dict(_kinds(self.regions[self.keys[row]]))[band] for row in rows})
            for band, _, _ in bands
        }
        arrays: dict[str, Pixels] = {band: np.empty((len(rows), *shape), kinds[band]) for band, _, shape in bands}
        offsets = {(self.keys[row], self.slots[row]): offset for offset, row in enumerate(rows)}
        for key, slots in _ranges(offsets):
            for slot, chip in read_slots(work.store, work.key(self.files[key]), self.regions[key], slots):
                for band, pixels in chip.items():
                    arrays[band][offsets[key, slot]] = pixels
        return arrays


def _records(work: Work, plan: DatasetPlan, keys: set[str]) -> dict[int, GroupRecord]:
    """Records of the groups that have some scenes."""
    found = {}
    for number, group in enumerate(plan.groups):
        if keys.isdisjoint(group.scenes):
            continue
        record = work.group_record(number)
        if record is None:
            raise InputError(f"dataset {plan.name!r}: group {number} is not cut yet; cut all groups, then write shards")
        found[number] = record
    return found


def _slots(work: Work, plan: DatasetPlan, numbers: Iterable[int]) -> dict[str, int]:
    """Chip id -> its number among the chips of its scene, of the chips of some groups."""
    found: dict[str, int] = {}
    for number in numbers:
        table = work.part(plan.groups[number].part).table
        counts: dict[str, int] = {}
        for chip_id, key in zip(table["chip_id"].to_pylist(), scene_key_of_rows(table), strict=True):
            found[chip_id] = counts.get(key, 0)
            counts[key] = found[chip_id] + 1
    return found


def _kinds(region: Region) -> Iterator[tuple[str, str]]:
    return ((band, kind) for band, kind, _ in region.bands)


def _ranges(offsets: Mapping[tuple[str, int], int]) -> Iterator[tuple[str, range]]:
    """Scene keys with runs of neighbouring slots."""
    for key in dict.fromkeys(key for key, _ in offsets):
        slots = np.array(sorted(slot for own, slot in offsets if own == key))
        for run in np.split(slots, np.flatnonzero(np.diff(slots) > 1) + 1):
            yield key, range(int(run[0]), int(run[-1]) + 1)
