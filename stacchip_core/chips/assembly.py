"""The steps in which a dataset is made; each may be repeated, by any process, and ends in the same bytes.

datasets/<name>/
  plan.json                     created once: takes the name, and fixes which chips go into which shard
  plan/<id>/<shard>.parquet     chips of each shard in their order, and their scenes
  shards/<shard>-<sha>.<form>   pixels, named for their content
  records/<shard>.json          written once a shard is whole: a killed run carries on from these
  chips-<sha>.parquet           every chip: its shard and offset, or why it could not be read; named for its content
  dataset.json                  the lock, created last: what it does not name is not part of the dataset
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stacchip_core.chips.bands import check_native, resolve_bands
from stacchip_core.chips.cutting import Access, Cut, cut
from stacchip_core.chips.formats.table import WRITERS, shard_key
from stacchip_core.chips.lock import (
    LOCK_FORMAT,
    DatasetLock,
    DatasetPlan,
    IndexPin,
    PlannedShard,
    ShardInfo,
    ShardRecord,
    canonical_json,
    library_versions,
    readable_json,
    spec_sha256,
)
from stacchip_core.chips.selection import null_fractions, scene_keys, select_from
from stacchip_core.chips.shards import arrays_sha256, files_sha256, put, size_of
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.chips.unavailable import PIXELS_LATER, WRITING_LATER, refuse_unavailable
from stacchip_core.errors import InputError, ObjectExistsError, ObjectNotFoundError, ReadError, SpecError
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.index.schema import write_chips
from stacchip_core.sources.access import Storage
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.warehouse import Warehouse

logger = logging.getLogger(__name__)

T = TypeVar("T")

_REQUESTS = 8  # at a time


def prepare(warehouse: Warehouse, spec: ChipSpec) -> DatasetPlan:
    """Choose the chips and their shards, and take the dataset's name; the same spec again finds its plan.

    Raises:
        SpecError: see `select`; or the name is taken by another spec or index version.
    """
    refuse_unavailable(spec, *PIXELS_LATER, *WRITING_LATER)
    if warehouse.store.exists(_key(spec.name, "plan.json")):
        return _matching_plan(warehouse, spec)
    version = warehouse.combined(spec.index, spec.version)
    index = select_from(version, spec)
    pin = IndexPin(name=version.name, version=version.version, sha256=version.sha256)
    pinned = spec.model_copy(update={"version": version.version})
    bands = resolve_bands(index.scenes.values(), spec)
    check_native(index.scenes.values(), bands, spec)
    parts = list(_shards_of(index, spec.shard_size))
    plan = DatasetPlan(
        spec=pinned,
        is_latest=spec.version is None,
        index=pin,
        profiles={scene.collection: scene.profile for scene in index.scenes.values()},
        bands=bands,
        null_fractions=null_fractions(index.table, spec),
        shards=tuple(PlannedShard(collection=name, chips=len(part)) for name, part in parts),
    )
    _in_threads(lambda number: _write_part(warehouse.store, plan, number, parts[number][1]), len(parts))
    try:
        warehouse.store.create(_key(spec.name, "plan.json"), readable_json(plan))
    except ObjectExistsError:  # another run was first
        return _matching_plan(warehouse, spec)
    return plan


def write_shard(
    warehouse: Warehouse, name: str, number: int, *, storage: Storage | None = None, is_last_try: bool = True
) -> ShardInfo:
    """Read the chips of one planned shard and write them; one that is there without failures is left alone.

    Args:
        warehouse: holds the dataset.
        name: of the dataset, prepared before.
        number: of the shard in its plan.
        storage: how to reach the items' assets; None: as the warehouse is reached.
        is_last_try: False raises transient errors, so that the call can be repeated.

    Raises:
        TransientReadError: see `is_last_try`.
    """
    store = warehouse.store
    plan = _load_plan(store, name)
    record = _load_record(store, name, number)
    if record is not None and (not record.failures or is_finished(warehouse, name)):
        return record.info
    access = Access(storage or warehouse.storage, tuple(warehouse.local_roots), is_last_try)
    bands = plan.bands[plan.shards[number].collection]
    done = cut(_load_part(store, plan, number), plan.spec, bands, access)
    info = _write_cut(store, plan, number, done)
    record = ShardRecord(info=info, failures=done.failures, libraries=library_versions())
    store.write(_record_key(name, number), readable_json(record))
    return info


def finish(warehouse: Warehouse, name: str) -> DatasetLock:
    """Write the table of chips and the lock once all shards are there; a finished dataset's lock is just returned.

    Of runs that finish at once, the first to create the lock wins, and the others' tables are never looked at.

    Raises:
        InputError: shards are missing.
        ReadError: not one chip could be read.
    """
    store = warehouse.store
    if is_finished(warehouse, name):
        return DatasetLock.model_validate_json(store.read(_key(name, "dataset.json")))
    plan = _load_plan(store, name)
    records = _records(store, plan)
    chips = _chips_table(store, plan, records)
    sha256 = hashlib.sha256(chips).hexdigest()
    chips_key = f"chips-{sha256[:16]}.parquet"
    store.write(_key(name, chips_key), chips)
    libraries = library_versions()
    lock = DatasetLock(
        format=LOCK_FORMAT,
        spec=plan.spec,
        spec_sha256=spec_sha256(plan.spec),
        index=plan.index,
        profiles=plan.profiles,
        bands=plan.bands,
        libraries=libraries,
        radiometry="raw",
        chips=sum(record.info.chips for record in records),
        failures=sum(record.info.failures for record in records),
        null_fractions=plan.null_fractions,
        chips_key=chips_key,
        chips_sha256=sha256,
        shards=tuple(_locked(record, libraries) for record in records),
    )
    try:
        store.create(_key(name, "dataset.json"), readable_json(lock))
    except ObjectExistsError:  # another run finished first, perhaps before or after chips that failed were retried
        return DatasetLock.model_validate_json(store.read(_key(name, "dataset.json")))
    return lock


def is_finished(warehouse: Warehouse, name: str) -> bool:
    """Whether a dataset has its lock."""
    return warehouse.store.exists(_key(name, "dataset.json"))


def _matching_plan(warehouse: Warehouse, spec: ChipSpec) -> DatasetPlan:
    """The plan that holds the dataset's name, if it is this spec's.

    Raises:
        SpecError: it is another's, or of an older index version than the latest, which the spec asks for.
    """
    plan = _load_plan(warehouse.store, spec.name)
    wanted = {**spec.model_dump(), "version": plan.spec.version}
    differing = [key for key, value in plan.spec.model_dump().items() if wanted[key] != value]
    if differing:
        raise SpecError(
            f"chip spec {spec.name!r}: a dataset of that name was made from another spec (it differs in "
            f"{', '.join(differing)}); choose another name"
        )
    version = warehouse.combined(spec.index, spec.version)
    if version.sha256 == plan.index.sha256:
        return plan
    if spec.version is None and plan.is_latest and not is_finished(warehouse, spec.name):
        logger.info("dataset %r: carrying on with %s, the latest when it was begun", spec.name, plan.index)
        return plan
    raise SpecError(
        f"chip spec {spec.name!r}: a dataset of that name was made from {plan.index}, and the spec asks for "
        f"{version.name}@{version.version}; choose another name, or version={plan.index.version}"
    )


def _in_threads(task: Callable[[int], T], count: int) -> list[T]:
    """Small requests of a store side by side: each takes tens of milliseconds, whatever its size."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(task, range(count)))


def _key(name: str, part: str) -> str:
    """Key in the warehouse of a part of a dataset."""
    return f"datasets/{name}/{part}"


def _part_key(plan: DatasetPlan, number: int) -> str:
    """Key of a shard's chips; plans that differ never share one."""
    digest = hashlib.sha256(canonical_json(plan.model_dump(mode="json"))).hexdigest()
    return _key(plan.name, f"plan/{digest[:16]}/{number:05d}.parquet")


def _record_key(name: str, number: int) -> str:
    return _key(name, f"records/{number:05d}.json")


def _shards_of(index: ChipIndex, shard_size: int) -> Iterator[tuple[str, ChipIndex]]:
    """Collection and chips of each shard: collections by name, their chips in the order drawn."""
    for collection in sorted(pc.unique(index.table["collection"]).to_pylist()):
        rows = index.table.filter(pc.equal(index.table["collection"], collection))
        for start in range(0, rows.num_rows, shard_size):
            table = rows.slice(start, shard_size)
            scenes = {key: index.scenes[key] for key in scene_keys(table)}
            yield collection, replace(index, table=table, scenes=scenes)


def _load_plan(store: Store, name: str) -> DatasetPlan:
    try:
        return DatasetPlan.model_validate_json(store.read(_key(name, "plan.json")))
    except ObjectNotFoundError as err:
        raise InputError(f"dataset {name!r}: not begun in {store.root}; prepare it first") from err


def _write_part(store: Store, plan: DatasetPlan, number: int, part: ChipIndex) -> None:
    with store.writing(_part_key(plan, number)) as local:
        part.write(local)


def _load_part(store: Store, plan: DatasetPlan, number: int) -> ChipIndex:
    return ChipIndex.read(io.BytesIO(store.read(_part_key(plan, number))))


def _load_record(store: Store, name: str, number: int) -> ShardRecord | None:
    try:
        return ShardRecord.model_validate_json(store.read(_record_key(name, number)))
    except ObjectNotFoundError:
        return None


def _write_cut(store: Store, plan: DatasetPlan, number: int, done: Cut) -> ShardInfo:
    """Write a shard under a name made of its content, so that nothing that is there is ever changed."""
    collection = plan.shards[number].collection
    about = {"number": number, "collection": collection, "failures": len(done.failures)}
    if done.shard is None:
        return ShardInfo(**about, key=None, chips=0, size=0, sha256=None, arrays_sha256=None)
    files = WRITERS[plan.spec.format](done.shard)
    sha256 = files_sha256(files)
    key = shard_key(plan.spec.format, collection, f"{number:05d}-{sha256[:16]}")
    put(store, _key(plan.name, key), files)
    return ShardInfo(
        **about,
        key=key,
        chips=len(done.shard),
        size=size_of(files),
        sha256=sha256,
        arrays_sha256=arrays_sha256(done.shard),
    )


def _records(store: Store, plan: DatasetPlan) -> list[ShardRecord]:
    """One record per planned shard."""
    found = _in_threads(lambda number: _load_record(store, plan.name, number), len(plan.shards))
    missing = [str(number) for number, record in enumerate(found) if record is None]
    if missing:
        raise InputError(
            f"dataset {plan.name!r}: {len(missing)} of {len(found)} shards are not written yet "
            f"({', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}); write them, then finish"
        )
    records = [record for record in found if record is not None]
    if not any(record.info.chips for record in records):
        reason = next(failure.reason for record in records for failure in record.failures)
        raise ReadError(f"dataset {plan.name!r}: none of its {plan.chips} chips could be read; the first: {reason}")
    return records


def _locked(record: ShardRecord, libraries: dict[str, str]) -> ShardInfo:
    """A shard as the lock lists it: it says which libraries made it where they are not the lock's."""
    if record.libraries == libraries:
        return record.info
    return record.info.model_copy(update={"libraries": record.libraries})


def _chips_table(store: Store, plan: DatasetPlan, records: list[ShardRecord]) -> bytes:
    """All planned chips: those in shards, in the order of the dataset, then those that could not be read."""
    parts = _in_threads(lambda number: _load_part(store, plan, number).table, len(records))
    table = pa.concat_tables([_placed(part, record) for part, record in zip(parts, records, strict=True)])
    is_there = pc.equal(table["status"], "ok")
    content = io.BytesIO()
    write_chips([pa.concat_tables([table.filter(is_there), table.filter(pc.invert(is_there))])], content)
    return content.getvalue()


def _placed(table: pa.Table, record: ShardRecord) -> pa.Table:
    """Chips of one shard with `shard`, `offset`, `status` and `reason` after their id."""
    reasons = {failure.chip_id: failure.reason for failure in record.failures}
    per_chip = [reasons.get(chip_id) for chip_id in table["chip_id"].to_pylist()]
    is_there = np.array([reason is None for reason in per_chip])
    offsets = pa.array(np.cumsum(is_there) - 1, pa.int32(), mask=~is_there)
    columns = {
        "shard": pa.array(np.full(table.num_rows, record.info.number), pa.int32(), mask=~is_there),
        "offset": offsets,
        "status": pa.array(np.where(is_there, "ok", "failed")),
        "reason": pa.array(per_chip, pa.string()),
    }
    for place, (name, column) in enumerate(columns.items(), start=1):
        table = table.add_column(place, name, column)
    return table
