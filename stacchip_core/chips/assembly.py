"""The steps in which a dataset is made; each may be repeated, by any process, and ends in the same bytes.

`prepare` fixes which chips go where; `write_group` cuts the chips of some items, each block of their files once;
`write_shard` writes the chips of one shard, once all groups are cut; `finish` locks the dataset. `chips.work` says what
each leaves where.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stacchip_core.chips.area import area_sha256
from stacchip_core.chips.cutting import cut_into, failures_of
from stacchip_core.chips.files import Access
from stacchip_core.chips.formats.table import shard_key, writer_of
from stacchip_core.chips.gathering import gather
from stacchip_core.chips.labels import scene_key_of_rows
from stacchip_core.chips.lock import (
    LOCK_FORMAT,
    DatasetLock,
    DatasetPlan,
    GroupRecord,
    Measured,
    ShardInfo,
    ShardRecord,
    library_versions,
    parsed,
    readable_json,
    spec_sha256,
)
from stacchip_core.chips.measure import measure, summaries
from stacchip_core.chips.preparing import first_plan
from stacchip_core.chips.scratch import GroupFile
from stacchip_core.chips.shards import Shard, arrays_sha256, files_sha256, put, size_of
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.chips.work import Work, current, in_threads, load_lock
from stacchip_core.errors import InputError, ObjectExistsError, ReadError, SpecError
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.index.schema import write_chips
from stacchip_core.sources.access import Storage
from stacchip_core.warehouse.warehouse import Warehouse

logger = logging.getLogger(__name__)


def prepare(warehouse: Warehouse, spec: ChipSpec) -> DatasetPlan:
    """Choose the chips and their shards, and take the dataset's name; the same spec again finds its plan.

    Raises:
        SpecError: see `select`; or the name is taken by another spec or index version.
    """
    work = current(warehouse.store, spec.name)
    if work.is_begun:
        return _matching_plan(warehouse, spec, work)
    plan = first_plan(warehouse, spec, work)
    return plan if work.begin(plan) else _matching_plan(warehouse, spec, work)


def write_group(
    warehouse: Warehouse,
    name: str,
    number: int,
    *,
    storage: Storage | None = None,
    is_last_try: bool = True,
    threads: int = 1,
) -> int:
    """Cut the chips of one planned group; one that is cut without failures is left alone.

    Args:
        warehouse: holds the dataset.
        name: of the dataset, prepared before.
        number: of the group in its plan.
        storage: how to reach the items' assets; None: as the warehouse is reached.
        is_last_try: False raises transient errors, so that the call can be repeated.
        threads: files of an item that are read at a time.

    Returns:
        How many of its chips could not be read.

    Raises:
        TransientReadError: see `is_last_try`.
    """
    work = current(warehouse.store, name)
    record = work.group_record(number)
    if record is not None and (not record.failures or is_finished(warehouse, name)):
        return len(record.failures)
    plan = work.plan()
    group = plan.groups[number]
    index = work.part(group.part)
    access = Access(storage or warehouse.storage, tuple(warehouse.local_roots), is_last_try, threads)
    record = _cut_group(work, plan, number, index, access)
    work.save_group_record(record)
    return len(record.failures)


def write_shard(warehouse: Warehouse, name: str, number: int) -> ShardInfo:
    """Write the chips of one planned shard, once all groups are cut; one that is there without failures is left alone.

    Raises:
        InputError: a group with chips of it is not cut yet.
    """
    work = current(warehouse.store, name)
    record = work.shard_record(number)
    if record is not None and (not record.failures or is_finished(warehouse, name)):
        return record.info
    plan = work.plan()
    kept = plan.shards[number].record
    if kept is None:
        index = work.part(plan.shards[number].part)
        shard, failures = gather(work, plan, index, plan.shards[number].split)
        info, measured = _write(work, plan, number, shard, index.table)
        record = ShardRecord(info=info, failures=failures, libraries=library_versions(), statistics=measured)
    else:
        record = kept
    work.save_shard_record(record)
    return record.info


def finish(warehouse: Warehouse, name: str) -> DatasetLock:
    """Write the table of chips and the lock once all shards are there; a finished dataset's lock is just returned.

    Of runs that finish at once, the first to create the lock wins, and the others' tables are never looked at.

    Raises:
        InputError: shards are missing.
        ReadError: not one chip could be read, or more failed than the spec allows; run again, those that failed are
            tried again.
    """
    store = warehouse.store
    work = current(store, name)
    lock = load_lock(store, name)
    if lock is not None and lock.revision == work.revision:
        return lock
    plan = work.plan()
    records = _records(work, plan)
    _check_budget(plan, records)
    lock = _lock_of(work, plan, records)
    try:
        store.create(work.key(f"locks/{work.revision:04d}.json"), readable_json(lock))
    except ObjectExistsError:  # another run finished first, perhaps before or after chips that failed were retried
        key = work.key(f"locks/{work.revision:04d}.json")
        lock = parsed(DatasetLock, store.read(key), f"{store.root}/{key}")
    store.write(work.key("dataset.json"), readable_json(lock))
    work.clear()
    return lock


def is_finished(warehouse: Warehouse, name: str) -> bool:
    """Whether a dataset has its lock, and no update of it is under way."""
    lock = load_lock(warehouse.store, name)
    return lock is not None and current(warehouse.store, name).revision == lock.revision


def _matching_plan(warehouse: Warehouse, spec: ChipSpec, work: Work) -> DatasetPlan:
    """The plan that holds the dataset's name, if it is this spec's.

    Raises:
        SpecError: it is another's, or of an older index version than the latest, which the spec asks for.
    """
    plan = work.plan()
    wanted = {**spec.model_dump(), "version": plan.spec.version}
    differing = [key for key, value in plan.spec.model_dump().items() if wanted[key] != value]
    if differing:
        raise SpecError(
            f"chip spec {spec.name!r}: a dataset of that name was made from another spec (it differs in "
            f"{', '.join(differing)}); choose another name, or remove the folder datasets/{spec.name} first"
        )
    area = area_sha256(spec.area)
    if area and plan.area_sha256 and area != plan.area_sha256:
        raise SpecError(
            f"chip spec {spec.name!r}: the area file {spec.area!r} has changed since the dataset of that name was "
            "made; choose another name"
        )
    version = warehouse.combined(spec.index, spec.version)
    if version.sha256 == plan.index.sha256:
        return plan
    if spec.version is None and plan.is_latest and not is_finished(warehouse, spec.name):
        logger.info("dataset %r: carrying on with %s, the latest when it was begun", spec.name, plan.index)
        return plan
    raise SpecError(
        f"chip spec {spec.name!r}: a dataset of that name was made from {plan.index}, and the spec asks for "
        f"{version.name}@{version.version}; update it, choose another name, or version={plan.index.version}"
    )


def _cut_group(work: Work, plan: DatasetPlan, number: int, index: ChipIndex, access: Access) -> GroupRecord:
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(scene_key_of_rows(index.table)):
        rows.setdefault(key, []).append(row)
    key = work.new_cut(number)
    with work.store.writing(work.key(key)) as local:
        handle = os.open(local, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            sink = GroupFile(handle, rows)
            reasons = cut_into(sink, index, plan.spec, plan.bands[plan.groups[number].collection], access)
        finally:
            os.close(handle)
    return GroupRecord(number=number, key=key, regions=sink.regions, failures=failures_of(index, reasons))


def _write(
    work: Work, plan: DatasetPlan, number: int, shard: Shard | None, table: pa.Table
) -> tuple[ShardInfo, Measured]:
    """Write a shard under a name made of its content, so that nothing that is there is ever changed; and measure it."""
    planned, failures = plan.shards[number], table.num_rows - (len(shard) if shard else 0)
    about = {"number": number, "collection": planned.collection, "split": planned.split, "failures": failures}
    if shard is None:
        return ShardInfo(**about, key=None, chips=0, size=0, sha256=None, arrays_sha256=None), {}
    with ThreadPoolExecutor(2) as beside:  # hashing and counting need no interpreter, nor does writing
        told, measured = beside.submit(arrays_sha256, shard), beside.submit(measure, shard, table)
        files = writer_of(plan.spec)(shard)
        sha256 = files_sha256(files)
        key = shard_key(plan.spec.format, planned.collection, f"{number:05d}-{sha256[:16]}")
        put(work.store, work.key(key), files)
    size, arrays = size_of(files), told.result()
    info = ShardInfo(**about, key=key, chips=len(shard), size=size, sha256=sha256, arrays_sha256=arrays)
    return info, measured.result()


def _records(work: Work, plan: DatasetPlan) -> list[ShardRecord]:
    """One record per planned shard."""
    found = in_threads(work.shard_record, len(plan.shards))
    missing = [str(number) for number, record in enumerate(found) if record is None]
    if missing:
        raise InputError(
            f"dataset {plan.name!r}: {len(missing)} of {len(found)} shards are not written yet "
            f"({', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}); write them, then finish"
        )
    return [record for record in found if record is not None]


def _check_budget(plan: DatasetPlan, records: list[ShardRecord]) -> None:
    """Refuse to lock a dataset of which too many chips could not be read."""
    reasons = [failure.reason for record in records for failure in record.failures]
    if not reasons:
        return
    count, share = plan.spec.max_failed, plan.spec.max_failed_share
    limits = {
        "max_failed": count is not None and len(reasons) > count,
        "max_failed_share": share is not None and len(reasons) > share * plan.chips,
    }
    if len(reasons) == plan.chips:
        raise ReadError(f"dataset {plan.name!r}: none of its {plan.chips} chips could be read; the first: {reasons[0]}")
    for name, is_passed in limits.items():
        if is_passed:
            raise ReadError(
                f"dataset {plan.name!r}: {len(reasons)} of its {plan.chips} chips could not be read, and {name} is "
                f"{getattr(plan.spec, name):g}; the others are written, and wait for another run. "
                f"The first: {reasons[0]}"
            )


def _lock_of(work: Work, plan: DatasetPlan, records: list[ShardRecord]) -> DatasetLock:
    """The lock, and beside it the table of chips that it names."""
    chips = _chips_table(work, plan, records)
    sha256 = hashlib.sha256(chips).hexdigest()
    chips_key = f"chips-{sha256[:16]}.parquet"
    work.store.write(work.key(chips_key), chips)
    libraries = library_versions()
    return DatasetLock(
        format=LOCK_FORMAT,
        spec=plan.spec,
        spec_sha256=spec_sha256(plan.spec),
        index=plan.index,
        profiles=plan.profiles,
        bands=plan.bands,
        libraries=libraries,
        radiometry=plan.spec.radiometry,
        rules=plan.rules,
        chips=sum(record.info.chips for record in records),
        failures=sum(record.info.failures for record in records),
        null_fractions=plan.null_fractions,
        chips_key=chips_key,
        chips_sha256=sha256,
        shards=tuple(_locked(record, libraries) for record in records),
        statistics=summaries(records),
        revision=work.revision,
        area_sha256=plan.area_sha256,
    )


def _locked(record: ShardRecord, libraries: dict[str, str]) -> ShardInfo:
    """A shard as the lock lists it: it says which libraries made it where they are not the lock's."""
    if record.libraries == libraries:
        return record.info
    return record.info.model_copy(update={"libraries": record.libraries})


def _chips_table(work: Work, plan: DatasetPlan, records: list[ShardRecord]) -> bytes:
    """All planned chips: those in shards, in the order of the dataset, then those that could not be read."""
    parts = in_threads(lambda number: work.part(plan.shards[number].part).table, len(records))
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
