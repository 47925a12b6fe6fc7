"""Which chips go into which shard, and which items are cut together: fixed before any pixel is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stacchip_core.chips.area import area_sha256
from stacchip_core.chips.bands import check_gsd, check_native, resolve_bands
from stacchip_core.chips.labels import grid_of, scene_key_of_rows
from stacchip_core.chips.lock import DatasetPlan, IndexPin, PlannedGroup, PlannedShard, canonical_json
from stacchip_core.chips.radiometry import check_radiometry, radiometry_rules
from stacchip_core.chips.selection import null_fractions, select_from
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.chips.ways import scale_to
from stacchip_core.chips.work import Work, in_threads
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.warehouse.items import at_spec
from stacchip_core.warehouse.version import IndexVersion
from stacchip_core.warehouse.warehouse import Warehouse

# Pixels of a group, uncompressed: a whole scene of a few bands, cut in some ten seconds.
_GROUP_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Chosen:
    """The chips that a spec means in one version of an index.

    Attributes:
        index: in the order of the draw.
        bands: per collection.
        fingerprints: scene key -> what changes where its item does.
    """

    version: IndexVersion
    spec: ChipSpec
    index: ChipIndex
    bands: Mapping[str, tuple[str, ...]]
    fingerprints: Mapping[str, str]

    def chip_bytes(self, collection: str) -> int:
        """Of the largest chip of a collection, all bands, as written; a pixel as it is stored counts for two bytes."""
        spec, bands = self.spec, len(self.bands[collection])
        stored = 4 if spec.radiometry == "reflectance" else 2
        pixel = np.dtype(spec.dtype).itemsize if spec.dtype else stored
        grids = {grid_of(scene) for scene in self.index.scenes.values() if scene.collection == collection}
        sides = (spec.size * (scale_to(grid, spec.gsd) if spec.gsd else 1) for grid in grids)
        return pixel * bands * int(max(sides)) ** 2


@dataclass(frozen=True, slots=True)
class Part:
    """Chips of one shard, in their order."""

    collection: str
    split: str | None
    index: ChipIndex


def choose(version: IndexVersion, spec: ChipSpec) -> Chosen:
    """Select, and refuse what could not be cut.

    Raises:
        SpecError: see `select`; no common bands; or native pixels that chips don't fit.
    """
    index = select_from(version, spec)
    bands = resolve_bands(index.scenes.values(), spec)
    check_native(index.scenes.values(), bands, spec)
    check_gsd(index.scenes.values(), bands, spec)
    check_radiometry(index.scenes.values(), bands, spec)
    rows = at_spec(version.items(["key", "size_px", "stride_px", "edge", "fingerprint"]), spec.grid)
    known = dict(zip(rows["key"].to_pylist(), rows["fingerprint"].to_pylist(), strict=True))
    return Chosen(version, spec, index, bands, {key: known[key] for key in index.scenes})


def first_plan(warehouse: Warehouse, spec: ChipSpec, work: Work) -> DatasetPlan:
    """Plan of the first revision: shards in the order of collections, splits, and the draw."""
    chosen = choose(warehouse.combined(spec.index, spec.version), spec)
    return planned(chosen, list(parts_of(chosen.index, spec.shard_size)), work)


def planned(chosen: Chosen, parts: list[Part], work: Work) -> DatasetPlan:
    """Keep the chips of each shard and of each group, and say which they are."""
    shards = in_threads(lambda number: planned_shard(chosen, parts[number], work), len(parts))
    return plan_of(chosen, shards, parts, work, is_latest=chosen.spec.version is None)


def plan_of(
    chosen: Chosen, shards: list[PlannedShard], parts: list[Part], work: Work, *, is_latest: bool
) -> DatasetPlan:
    """The plan with some shards; groups hold the chips of those that are not kept from an earlier revision."""
    version, spec = chosen.version, chosen.spec
    to_cut = [part for shard, part in zip(shards, parts, strict=True) if shard.record is None]
    together = list(groups_of(chosen, to_cut))
    return DatasetPlan(
        spec=spec.model_copy(update={"version": version.version}),
        is_latest=is_latest,
        index=IndexPin(name=version.name, version=version.version, sha256=version.sha256),
        profiles={scene.collection: scene.profile for scene in chosen.index.scenes.values()},
        bands=dict(chosen.bands),
        null_fractions=null_fractions(chosen.index.table, spec),
        rules=radiometry_rules(chosen.index.scenes.values(), chosen.bands, spec),
        shards=tuple(shards),
        groups=tuple(in_threads(lambda number: _planned_group(together[number], work), len(together))),
        revision=work.revision,
        area_sha256=area_sha256(spec.area),
        chip_bytes=max(map(chosen.chip_bytes, chosen.bands), default=0),
    )


def parts_of(index: ChipIndex, shard_size: int) -> Iterator[Part]:
    """Chips of each shard: collections by name, their splits by name, their chips in the order drawn."""
    for collection in sorted(pc.unique(index.table["collection"]).to_pylist()):
        own = index.table.filter(pc.equal(index.table["collection"], collection))
        for split, rows in _by_split(own):
            for start in range(0, rows.num_rows, shard_size):
                yield Part(collection, split, with_rows(index, rows.slice(start, shard_size)))


def groups_of(chosen: Chosen, parts: Iterable[Part]) -> Iterator[ChipIndex]:
    """Chips that are cut together: items of a collection, up to some size; each item's in the order of shards."""
    tables = [part.index.table for part in parts]
    if not tables:
        return
    whole = pa.concat_tables(tables)
    for collection in sorted(pc.unique(whole["collection"]).to_pylist()):
        own = whole.filter(pc.equal(whole["collection"], collection))
        own = own.append_column("__place", pa.array(range(own.num_rows), pa.int64()))
        own = own.sort_by([("item_id", "ascending"), ("__place", "ascending")]).drop_columns(["__place"])
        most = max(1, _GROUP_BYTES // chosen.chip_bytes(collection))
        for start, stop in _cuts(own["item_id"].to_pylist(), most):
            yield with_rows(chosen.index, own.slice(start, stop - start))


def _cuts(items: list[str], most: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of whole items, of `most` rows or a single item."""
    start = 0
    for row in range(1, len(items) + 1):
        is_end = row == len(items)
        if is_end or items[row] != items[row - 1]:
            following = row if is_end else _stop_of(items, row)
            if is_end or following - start > most:
                yield start, row
                start = row


def _stop_of(items: list[str], row: int) -> int:
    """First row after those of an item."""
    stop = row
    while stop < len(items) and items[stop] == items[row]:
        stop += 1
    return stop


def _by_split(table: pa.Table) -> Iterator[tuple[str | None, pa.Table]]:
    if "split" not in table.column_names:
        yield None, table
        return
    for split in sorted(pc.unique(table["split"]).to_pylist()):
        yield split, table.filter(pc.equal(table["split"], split))


def with_rows(index: ChipIndex, table: pa.Table) -> ChipIndex:
    """Some rows of an index, and just their scenes."""
    keys = dict.fromkeys(scene_key_of_rows(table))
    return replace(index, table=table, scenes={key: index.scenes[key] for key in keys})


def planned_shard(chosen: Chosen, part: Part, work: Work) -> PlannedShard:
    """Keep the chips of a shard, and say which they are."""
    return PlannedShard(
        collection=part.collection,
        split=part.split,
        chips=len(part.index),
        part=work.save_part(part.index),
        digest=digest_of(chosen, part),
    )


def _planned_group(group: ChipIndex, work: Work) -> PlannedGroup:
    scenes = tuple(group.scenes)
    collection = group.scenes[scenes[0]].collection
    return PlannedGroup(collection=collection, chips=len(group), part=work.save_part(group), scenes=scenes)


def digest_of(chosen: Chosen, part: Part) -> str:
    """What changes where the chips of a shard, the items that they are cut from, or the bands do."""
    sources = {key: [chosen.fingerprints[key], scene.to_json()] for key, scene in sorted(part.index.scenes.items())}
    about = {
        "chips": part.index.table["chip_id"].to_pylist(),
        "bands": list(chosen.bands[part.collection]),
        "split": part.split,
        "sources": sources,
    }
    return hashlib.sha256(canonical_json(about)).hexdigest()
