"""Prefect tasks: thin wrappers that take a key and return small values, and how flows run them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.futures import PrefectConcurrentFuture, as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.config import WarehouseConfig
from stacchip_core import IndexSettings, Storage
from stacchip_core.chips.dataset import write_shard
from stacchip_core.chips.lock import ShardInfo
from stacchip_core.errors import StacchipError, TransientError
from stacchip_core.warehouse.batch import BatchResult

Logger = logging.Logger | logging.LoggerAdapter[Any]
R = TypeVar("R")

RETRIES = 3
RETRY_DELAYS_SECONDS = [2.0, 10.0, 30.0]


@dataclass(frozen=True, slots=True)
class DatasetAccess:
    """What writing a dataset of a warehouse takes: the warehouse, and how the items' assets are reached."""

    warehouse: WarehouseConfig
    storage: Storage
    local_roots: tuple[str, ...] = ()


def run_logger() -> Logger:
    """The run's logger; outside of a run (`.fn`, tests), a plain one."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("flows")


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task may work later: decided by the class of its error alone."""
    try:
        state.result()
    except TransientError:
        return True
    except BaseException:  # whatever else ended the task, repeating it won't mend
        return False
    return False


ON_TRANSIENT_ERRORS: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": RETRY_DELAYS_SECONDS,
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
    "persist_result": False,
    "cache_policy": NO_CACHE,
}


@task(name="index-batch", task_run_name="index {name}", **ON_TRANSIENT_ERRORS)
def index_batch(warehouse: WarehouseConfig, name: str, staged_key: str, settings: IndexSettings) -> BatchResult:
    """Index the items of one staged file; items that fail are rows of the result."""
    result = warehouse.open().index_batch(name, staged_key, settings)
    run_logger().info("%s: %d items, %d chips, %d failed", name, result.items, result.chips, result.failed)
    return result


@task(name="merge", task_run_name="merge {name}", **ON_TRANSIENT_ERRORS)
def merge_collections(warehouse: WarehouseConfig, name: str, collections: tuple[str, ...]) -> int:
    """Bring a combined index up to date with its collections; the number of its version then."""
    opened = warehouse.open()
    return opened.merge(name, collections=list(collections) or opened.collections()).version


@task(name="write-shard", task_run_name="shard {number} of {dataset}", **ON_TRANSIENT_ERRORS)
def write_one_shard(access: DatasetAccess, dataset: str, number: int) -> ShardInfo:
    """Cut and write the chips of one shard; chips that can't be read are failures of the shard."""
    context = TaskRunContext.get()
    is_last_try = context is None or context.task_run.run_count > RETRIES
    warehouse = access.warehouse.open(local_roots=access.local_roots)
    return write_shard(warehouse, dataset, number, storage=access.storage, is_last_try=is_last_try)


def task_runner(max_workers: int) -> TaskRunner[PrefectConcurrentFuture[Any]]:
    """Where the tasks of a flow run: threads of this process."""
    return ThreadPoolTaskRunner(max_workers=max_workers)


def run_all(
    runner: TaskRunner[PrefectConcurrentFuture[Any]],
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
