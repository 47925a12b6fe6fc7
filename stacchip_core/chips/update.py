"""A finished dataset brought up to date: what failed is tried again, what a newer index changed is made again."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pyarrow as pa

from stacchip_core.chips.lock import DatasetLock, DatasetPlan, PlannedShard, ShardInfo, ShardRecord
from stacchip_core.chips.preparing import Chosen, Part, choose, parts_of, plan_of, planned_shard, with_rows
from stacchip_core.chips.stored import stored_sizes
from stacchip_core.chips.work import Work, current, in_threads, load_lock
from stacchip_core.errors import InputError
from stacchip_core.warehouse.warehouse import Warehouse

logger = logging.getLogger(__name__)


def prepare_update(warehouse: Warehouse, name: str, *, version: int | None = None) -> DatasetPlan | None:
    """Plan the next revision of a finished dataset; one that was begun before is carried on with.

    A shard is kept as it is where its chips, the items that they are cut from, and their bands are the same, where none
    of its chips failed, and where its files have the size that the lock says. Else it is made again from those of its
    chips that are still chosen; chips that are new go into new shards.

    Args:
        warehouse: holds the dataset and its index.
        name: of the dataset.
        version: of the index; None: the latest where the spec asked for that, else the one it named.

    Returns:
        None where all shards would be kept, and there are no new ones.

    Raises:
        InputError: the dataset is not finished.
        SpecError: see `select`.
    """
    store = warehouse.store
    lock, work = load_lock(store, name), current(store, name)
    if lock is None:
        raise InputError(f"dataset {name!r}: not finished in {store.root}; materialize it first")
    old = work.plan()
    if work.revision > lock.revision:
        logger.info("dataset %r: carrying on with revision %d, of %s", name, work.revision, old.index)
        return old
    asked = version if version is not None or old.is_latest else old.spec.version
    spec = old.spec.model_copy(update={"version": asked})
    chosen = choose(warehouse.combined(spec.index, asked), spec)
    following = Work(store, name, lock.revision + 1)
    before = _before(work, old, lock)
    parts = [*_old_parts(work, old, chosen), *_new_parts(work, old, chosen)]
    shards = in_threads(lambda number: _with_record(chosen, parts[number], number, before, following), len(parts))
    if all(shard.record for shard in shards) and len(shards) == len(old.shards):
        logger.info("dataset %r: nothing to update", name)
        return None
    plan = plan_of(chosen, shards, parts, following, is_latest=old.is_latest)
    return plan if following.begin(plan) else following.plan()


def _before(work: Work, old: DatasetPlan, lock: DatasetLock) -> dict[str, ShardRecord]:
    """Records of shards without failures that are there in full, by what they were made from."""
    records = in_threads(work.shard_record, len(old.shards))
    is_there = in_threads(lambda number: _is_there(work, lock.shards[number]), len(lock.shards))
    return {
        shard.digest: record.model_copy(update={"info": info})
        for shard, record, info, is_whole in zip(old.shards, records, lock.shards, is_there, strict=True)
        if record is not None and not info.failures and is_whole
    }


def _is_there(work: Work, info: ShardInfo) -> bool:
    sizes = {} if info.key is None else stored_sizes(work.store, work.key(info.key))
    return sum(sizes.values()) == info.size


def _with_record(
    chosen: Chosen, part: Part, number: int, before: Mapping[str, ShardRecord], work: Work
) -> PlannedShard:
    planned = planned_shard(chosen, part, work)
    record = before.get(planned.digest)
    if record is None:
        return planned
    info = record.info.model_copy(update={"number": number, "libraries": None})
    return planned.model_copy(update={"record": record.model_copy(update={"info": info})})


def _old_parts(work: Work, old: DatasetPlan, chosen: Chosen) -> Iterator[Part]:
    """Shards of before with the chips that are still chosen, in their order; those without any are left out."""
    row_of = {chip_id: row for row, chip_id in enumerate(chosen.index.table["chip_id"].to_pylist())}
    splits = chosen.index.table["split"].to_pylist() if "split" in chosen.index.table.column_names else None
    for ids, shard in zip(_ids(work, old), old.shards, strict=True):
        rows = [row_of[chip_id] for chip_id in ids if chip_id in row_of]
        rows = [row for row in rows if splits is None or splits[row] == shard.split]
        if rows:
            yield Part(shard.collection, shard.split, with_rows(chosen.index, chosen.index.table.take(rows)))


def _new_parts(work: Work, old: DatasetPlan, chosen: Chosen) -> Iterator[Part]:
    """Shards of chips that were in none before."""
    known = {chip_id for ids in _ids(work, old) for chip_id in ids}
    is_new = [chip_id not in known for chip_id in chosen.index.table["chip_id"].to_pylist()]
    fresh = chosen.index.table.filter(pa.array(is_new, pa.bool_()))
    if fresh.num_rows:
        yield from parts_of(replace(chosen.index, table=fresh), chosen.spec.shard_size)


def _ids(work: Work, plan: DatasetPlan) -> list[list[str]]:
    """Ids of the chips of each shard."""
    return in_threads(lambda number: work.part(plan.shards[number].part).table["chip_id"].to_pylist(), len(plan.shards))
