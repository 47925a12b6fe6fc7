"""Prefect tasks: thin wrappers that take a key and return small values, and how flows run them.

Whatever asks the warehouse for something is a task, so that a store that fails for a while does not end a run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.futures import as_completed
from prefect.tasks import Task

from flows.config import WarehouseConfig
from flows.results import MaintainOutcome, MaterializeOutcome, MergeOutcome, Tally
from flows.runner import AnyRunner
from flows.staging import Comparison, StagedBatch, StagedPage
from stacchip_core import ChipSpec, Dataset, IndexSettings, Storage, Warehouse
from stacchip_core.chips.assembly import finish, is_finished, prepare, write_group, write_shard
from stacchip_core.chips.lock import ShardInfo
from stacchip_core.errors import CommitConflictError, LookupFailedError, StacchipError, TransientError
from stacchip_core.index.grid import GridSpec
from stacchip_core.sources.interval import parse_interval
from stacchip_core.sources.item import StagedItem
from stacchip_core.sources.source import Source
from stacchip_core.warehouse.batch import BatchResult
from stacchip_core.warehouse.classify import Classified, Rebuild
from stacchip_core.warehouse.commit import Commit

Logger = logging.Logger | logging.LoggerAdapter[Any]
R = TypeVar("R")

STORED_BATCH_ITEMS = 8  # as IndexConfig.batch_items has it
FILES_NAMED = 200  # of those that vacuum removes; all of them are counted
RETRIES = 3
RETRY_DELAYS_SECONDS = [2.0, 10.0, 30.0]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Items of a collection, to index once more.

    Attributes:
        keys: of the items.
        by_grid: size, stride and edge -> keys of the items that are indexed so.
    """

    keys: tuple[str, ...]
    by_grid: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class DatasetAccess:
    """What writing a dataset of a warehouse takes: the warehouse, and how the items' assets are reached."""

    warehouse: WarehouseConfig
    storage: Storage
    local_roots: tuple[str, ...] = ()

    def open(self) -> Warehouse:
        """The warehouse, with the folders that assets may be read from."""
        return self.warehouse.open(local_roots=self.local_roots)


@dataclass(frozen=True, slots=True)
class DatasetTask:
    """What there is to do for a dataset."""

    chips: int
    groups: int
    shards: int
    is_finished: bool


def run_logger() -> Logger:
    """The run's logger; outside of a run (`.fn`, tests), a plain one."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("flows")


def failed_with(*errors: type[StacchipError]) -> Callable[[Task[..., Any], TaskRun, State[Any]], bool]:
    """Whether a task failed with one of these errors: Prefect's `retry_condition_fn`."""

    def is_one_of_them(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
        try:
            state.result()
        except errors:
            return True
        except BaseException:  # whatever else ended the task, repeating it won't mend
            return False
        return False

    return is_one_of_them


ON_TRANSIENT_ERRORS: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": RETRY_DELAYS_SECONDS,
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": failed_with(TransientError),
    "persist_result": False,
    "cache_policy": NO_CACHE,
}
ON_LOST_RACES_TOO = {**ON_TRANSIENT_ERRORS, "retry_condition_fn": failed_with(TransientError, CommitConflictError)}


@task(name="open-warehouse", **ON_TRANSIENT_ERRORS)
def open_warehouse(warehouse: WarehouseConfig) -> None:
    """See to it that there is a warehouse."""
    warehouse.open(create=True)


@task(name="stage", task_run_name="stage {name}", **ON_TRANSIENT_ERRORS)
def stage_items(warehouse: WarehouseConfig, name: str, items: Sequence[StagedItem], how: Comparison) -> StagedPage:
    """Find out which items are new or changed, and stage those in batches.

    A flow passes `quote(items)`: Prefect looks through all else for futures, for seconds where items are many.
    """
    opened = warehouse.open()
    return _staged(opened, opened.classify(name, items, how.settings, backoff=how.backoff), how.batch_items)


@task(name="stage-failed", task_run_name="stage failures of {name}", **ON_TRANSIENT_ERRORS)
def stage_failed(warehouse: WarehouseConfig, name: str, source: Source, how: Comparison) -> StagedPage:
    """Stage the items of a source that failed before and are due: a catalog asked for what is new never names them."""
    opened = warehouse.open()
    items = opened.failed_items(name, how.settings, source, how.backoff)
    if not items:
        return StagedPage(name, version=0, same=0, batches=())
    return _staged(opened, opened.classify(name, items, how.settings, backoff=how.backoff), how.batch_items)


@task(name="stage", task_run_name="stage {name}", **ON_TRANSIENT_ERRORS)
def stage_stored(
    warehouse: WarehouseConfig, name: str, keys: Sequence[str], settings: IndexSettings, rebuild: Rebuild
) -> StagedPage:
    """Stage items of a collection, as it knows them, to index once more: all, or those of an old recipe."""
    opened = warehouse.open()
    return _staged(opened, _compared(opened, name, keys, settings, rebuild), STORED_BATCH_ITEMS)


@task(name="count", task_run_name="count {name}", **ON_TRANSIENT_ERRORS)
def count_stored(
    warehouse: WarehouseConfig, name: str, keys: Sequence[str], settings: IndexSettings, rebuild: Rebuild
) -> Tally:
    """What `stage_stored` would stage; nothing is written."""
    found = _compared(warehouse.open(), name, keys, settings, rebuild)
    return Tally(name, found.version, new=len(found.new), updated=len(found.updated), same=found.same + found.older)


def _compared(
    opened: Warehouse, name: str, keys: Sequence[str], settings: IndexSettings, rebuild: Rebuild
) -> Classified:
    return opened.classify(name, opened.collection(name).stored_items(set(keys)), settings, rebuild=rebuild)


def _staged(opened: Warehouse, found: Classified, batch_items: int) -> StagedPage:
    """Write down in batches what is to be indexed."""
    todo = (*found.new, *found.updated)
    batches = [todo[start : start + batch_items] for start in range(0, len(todo), batch_items)]
    return StagedPage(
        name=found.name,
        version=found.version,
        same=found.same + found.older,
        waiting=found.waiting,
        batches=tuple(StagedBatch(opened.stage(own), tuple(str(one.item.get("id")) for one in own)) for own in batches),
    )


@task(name="choose", task_run_name="choose {name}", **ON_TRANSIENT_ERRORS)
def choose_items(warehouse: WarehouseConfig, name: str, item_ids: Sequence[str] | None, interval: str) -> Chosen:
    """Find the items of a collection that have these ids and are of this time; None and "": all of them.

    Raises:
        LookupFailedError: names ids that the collection has not.
    """
    rows = warehouse.open().collection(name).items(("key", "item_id", "datetime", "size_px", "stride_px", "edge"))
    if item_ids is not None:
        if missing := sorted(set(item_ids) - set(rows["item_id"].to_pylist())):
            raise LookupFailedError(f"collection {name!r} has no item {', '.join(missing[:5])} that could be rebuilt")
        rows = rows.filter(pc.is_in(rows["item_id"], pa.array(sorted(item_ids))))
    span = parse_interval(interval) if interval else (None, None)
    for end, compare in zip(span, (pc.greater_equal, pc.less_equal), strict=True):
        if end is not None:
            rows = rows.filter(compare(rows["datetime"], pa.scalar(end, rows["datetime"].type)))
    by_grid: dict[str, list[str]] = {}
    for row in rows.to_pylist():
        by_grid.setdefault(str(GridSpec(row["size_px"], row["stride_px"], row["edge"])), []).append(row["key"])
    keys = tuple(dict.fromkeys(rows["key"].to_pylist()))
    return Chosen(keys, {grid: tuple(own) for grid, own in sorted(by_grid.items())})


@task(name="index-batch", task_run_name="index {name}", **ON_TRANSIENT_ERRORS)
def index_batch(warehouse: WarehouseConfig, name: str, staged_key: str, settings: IndexSettings) -> BatchResult:
    """Index the items of one staged file; items that fail are rows of the result."""
    result = warehouse.open().index_batch(name, staged_key, settings)
    run_logger().info("%s: %d items, %d chips, %d failed", name, result.items, result.chips, result.failed)
    return result


@task(name="commit", task_run_name="commit {name}", **ON_LOST_RACES_TOO)
def commit_parts(
    warehouse: WarehouseConfig,
    name: str,
    parts: Sequence[str],
    *,
    read_version: int,
    sources: Iterable[Mapping[str, object]],
    is_rebuilt: bool = False,
) -> Commit:
    """Make what batches have left the next version of a collection."""
    return warehouse.open().commit(name, parts, read_version=read_version, sources=sources, is_rebuilt=is_rebuilt)


@task(name="merge", task_run_name="merge {name}", **ON_LOST_RACES_TOO)
def merge_collections(warehouse: WarehouseConfig, name: str, collections: tuple[str, ...]) -> MergeOutcome:
    """Bring a combined index up to date with its collections."""
    opened = warehouse.open()
    before = opened.combined(name).version if name in opened.combined_names() else None
    version = opened.merge(name, collections=list(collections) or opened.collections())
    return MergeOutcome(
        name=version.name,
        version=version.version,
        sha256=version.sha256,
        changed=version.version != before,
        items=version.entry.totals.items,
        chips=version.count(),
        sources={str(source["collection"]): int(str(source["version"])) for source in version.sources},
    )


@task(name="verify", **ON_TRANSIENT_ERRORS)
def verify_warehouse(warehouse: WarehouseConfig, *, deep: bool) -> MaintainOutcome:
    """Prove that all versions can be read as they were written."""
    report = warehouse.open().verify(deep=deep)
    return MaintainOutcome(warehouse.root, problems=report.problems, checked=dict(report.checked))


@task(name="repair", **ON_TRANSIENT_ERRORS)
def repair_warehouse(warehouse: WarehouseConfig, *, dry_run: bool) -> MaintainOutcome:
    """Mend what can be mended, or tell what that is."""
    done = warehouse.open().repair(dry_run=dry_run)
    return MaintainOutcome(warehouse.root, mended=tuple(f"{one.path}: {one.what}" for one in done.actions))


@task(name="expire", **ON_LOST_RACES_TOO)
def expire_versions(warehouse: WarehouseConfig, *, keep: int, days: float, dry_run: bool) -> MaintainOutcome:
    """Let go of old versions of every index."""
    opened = warehouse.open()
    names = [*(f"combined/{name}" for name in opened.combined_names())]
    names += [f"collections/{name}" for name in opened.collections()]
    done = [opened.expire(name, keep=keep, days=days, dry_run=dry_run) for name in names]
    return MaintainOutcome(warehouse.root, expired={one.index: one.added for one in done if one.added})


@task(name="vacuum", **ON_TRANSIENT_ERRORS)
def vacuum_warehouse(warehouse: WarehouseConfig, *, grace_days: float, dry_run: bool) -> MaintainOutcome:
    """Remove files that no version needs, or tell which those are."""
    found = warehouse.open().vacuum(dry_run=dry_run, grace=timedelta(days=grace_days))
    first = tuple((file.path, file.size, file.why) for file in found.files[:FILES_NAMED])
    return MaintainOutcome(
        warehouse.root, removable=first, removable_files=len(found.files), removable_bytes=found.bytes
    )


@task(name="prepare", task_run_name="prepare {spec.name}", **ON_TRANSIENT_ERRORS)
def prepare_dataset(access: DatasetAccess, spec: ChipSpec) -> DatasetTask:
    """Choose the chips of a dataset and their shards, or find out that this was done before."""
    warehouse = access.open()
    plan = prepare(warehouse, spec)
    return DatasetTask(plan.chips, len(plan.groups), len(plan.shards), is_finished(warehouse, plan.name))


@task(name="cut-group", task_run_name="group {number} of {dataset}", **ON_TRANSIENT_ERRORS)
def cut_one_group(access: DatasetAccess, dataset: str, number: int) -> int:
    """Cut the chips of some items, each block of their files once; how many could not be read."""
    context = TaskRunContext.get()
    is_last_try = context is None or context.task_run.run_count > RETRIES
    return write_group(access.open(), dataset, number, storage=access.storage, is_last_try=is_last_try)


@task(name="write-shard", task_run_name="shard {number} of {dataset}", **ON_TRANSIENT_ERRORS)
def write_one_shard(access: DatasetAccess, dataset: str, number: int) -> ShardInfo:
    """Write the chips of one shard, all groups being cut; those that could not be read are failures of the shard."""
    return write_shard(access.open(), dataset, number)


@task(name="finish", task_run_name="finish {dataset}", **ON_TRANSIENT_ERRORS)
def finish_dataset(access: DatasetAccess, dataset: str, *, changed: bool) -> MaterializeOutcome:
    """Lock a dataset whose shards are all there, and say it as a STAC item; one that is locked is left alone."""
    warehouse = access.open()
    finish(warehouse, dataset)
    made = Dataset.open(f"{warehouse.root}/datasets/{dataset}", access.warehouse.storage)
    if not made.has_item:
        made.write_item()
    return MaterializeOutcome.of(made, changed=changed)


def run_all(
    runner: AnyRunner,
    work: Task[..., R],
    arguments: Sequence[Mapping[str, Any]],
    on_done: Callable[[int], None],
) -> list[R | StacchipError]:
    """Result of `work` for each set of arguments, in their order; an error of ours comes as a value.

    Args:
        runner: a started task runner.
        work: the task.
        arguments: what to call it with, once per run.
        on_done: hears how many runs have ended, at each.
    """
    futures = [runner.submit(work, dict(given)) for given in arguments]
    for count, _ in enumerate(as_completed(list(futures)), start=1):
        on_done(count)
    results: list[R | StacchipError] = []
    for future in futures:
        try:
            results.append(future.result())
        except StacchipError as err:
            results.append(err)
    return results
