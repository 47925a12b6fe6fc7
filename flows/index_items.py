"""Flow: find the items of a catalog, index those that are new or changed, commit page by page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prefect import flow
from prefect.futures import PrefectConcurrentFuture
from prefect.task_runners import TaskRunner
from pydantic import BaseModel, ConfigDict, Field

from flows.artifacts import Progress, publish_index
from flows.config import WarehouseConfig
from flows.outcome import FAILURES_KEPT, FRESH_KEPT, Failure, IndexOutcome, Tally
from flows.pictures import index_pictures
from flows.tasks import index_batch, run_all, run_logger, task_runner
from stacchip_core import IndexSettings, Storage, Warehouse
from stacchip_core.chips.spec import NAME_PATTERN
from stacchip_core.errors import StacchipError
from stacchip_core.sources.catalog import discover
from stacchip_core.sources.item import StagedItem
from stacchip_core.sources.source import Source
from stacchip_core.sources.validation import numbered
from stacchip_core.warehouse.batch import BatchResult
from stacchip_core.warehouse.manifest import Classified, collection_of
from stacchip_core.warehouse.warehouse import safe_name


class FailureBudgetError(StacchipError):
    """More items failed than the configuration allows."""


class IndexConfig(BaseModel):
    """What to index, how, and into which warehouse."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    warehouse: WarehouseConfig = Field(title="Warehouse", description="Where the index is kept.")
    source: Source = Field(title="Source", description="Where the items come from.")
    name: str | None = Field(
        None,
        title="Name",
        description="Collection in the warehouse; none: made from each item's collection id.",
        pattern=NAME_PATTERN,
    )
    profile: str | None = Field(
        None,
        title="Profile",
        description="Sensor profile, by name or YAML file; none: the one that serves the collection.",
        max_length=500,
    )
    chip_size: int = Field(256, title="Chip size", description="Pixels of the reference grid.", ge=16, le=8192)
    stride: int | None = Field(
        None, title="Stride", description="Pixels between chip starts; none: the chip size.", ge=1, le=8192
    )
    edge: Literal["drop", "pad"] = Field(
        "drop", title="Edges", description="Drop the last, incomplete column and row of chips, or pad them."
    )
    grid: Literal["item", "asset"] = Field(
        "item",
        title="Grid from",
        description="The item's projection fields, or the header of the reference asset.",
    )
    max_nodata: float | None = Field(
        None, title="Most nodata", description="Leave out chips with a larger share of nodata.", ge=0, le=1
    )
    access: Storage = Field(
        Storage(), title="Access to the assets", description="Endpoint, region and account for reading pixels."
    )
    batch_items: int = Field(
        8, title="Items per task", description="Aim at 20 to 30 seconds of work for a task.", ge=1, le=500
    )
    max_workers: int = Field(4, title="Tasks at a time", description="Threads of this process.", ge=1, le=64)
    max_failed_share: float = Field(
        0.5,
        title="Most failures",
        description="The run fails when a larger share of the items it tried did; all others are kept.",
        ge=0,
        le=1,
    )
    max_failed: int = Field(10, title="Failures tolerated", description="So many may fail, whatever their share.", ge=0)
    pictures: bool = Field(
        True, title="Pictures", description="Leave a coverage map and a contact sheet of what was new."
    )

    def settings(self) -> IndexSettings:
        """What decides the rows, as the core takes it."""
        return IndexSettings(
            chip_size=self.chip_size,
            stride=self.stride,
            edge=self.edge,
            max_nodata=self.max_nodata,
            grid=self.grid,
            local_roots=self.source.roots,
            storage=self.access,
            profile=self.profile,
        )

    @property
    def title(self) -> str:
        """What a run with these parameters is called."""
        return self.name or ", ".join(self.source.collections) or "items"


@dataclass(frozen=True, slots=True)
class _Job:
    """Items of one collection of a page that are to be indexed, staged in batches."""

    name: str
    found: Classified
    batches: tuple[tuple[StagedItem, ...], ...]
    keys: tuple[str, ...]


@flow(name="index-items", flow_run_name="index {config.title}", persist_result=False)
def index_items(config: IndexConfig) -> IndexOutcome:
    """Index what is new or changed in a catalog.

    Each page of items is committed before the next is looked for, so a run that ends early loses one page at
    most. Items that fail are reported, and tried again by the next run. Nothing new: nothing is written.
    """
    warehouse = config.warehouse.open(create=True)
    progress = Progress(f"index-{config.title}-progress", "Indexing")
    outcome = IndexOutcome()
    with task_runner(config.max_workers) as runner:
        for page in discover(config.source):
            outcome += _index_page(warehouse, config, page, runner=runner, progress=progress)
            run_logger().info("so far %s", outcome.total)
            if is_over_budget(config, outcome.total):
                break
    progress.finish()
    pictures = index_pictures(warehouse, config.settings(), outcome) if config.pictures else {}
    publish_index(f"index-{config.title}", outcome, pictures)
    _check_budget(config, outcome)
    return outcome


def _index_page(
    warehouse: Warehouse,
    config: IndexConfig,
    page: Sequence[StagedItem],
    *,
    runner: TaskRunner[PrefectConcurrentFuture[Any]],
    progress: Progress,
) -> IndexOutcome:
    """Index and commit the items of one page."""
    groups = _by_name(page, config)
    outcome = _homeless(groups.pop("", []))
    jobs = [_stage(warehouse, config, name, items) for name, items in groups.items()]
    arguments = [
        {"warehouse": config.warehouse, "name": job.name, "staged_key": key, "settings": config.settings()}
        for job in jobs
        for key in job.keys
    ]
    results = run_all(runner, index_batch, arguments, lambda done: progress(done, len(arguments), "batches of items"))
    for job in jobs:
        own, results = results[: len(job.keys)], results[len(job.keys) :]
        outcome += _commit(warehouse, config, job, own)
    return outcome


def _stage(warehouse: Warehouse, config: IndexConfig, name: str, items: Sequence[StagedItem]) -> _Job:
    """Find out which items are new or changed, and stage those."""
    found = warehouse.classify(name, items, config.settings())
    todo = (*found.new, *found.updated)
    size = config.batch_items
    batches = tuple(todo[start : start + size] for start in range(0, len(todo), size))
    return _Job(name, found, batches, tuple(warehouse.stage(batch) for batch in batches))


def _commit(
    warehouse: Warehouse, config: IndexConfig, job: _Job, results: Sequence[BatchResult | StacchipError]
) -> IndexOutcome:
    """Commit what the batches made; a batch that failed as a whole is a failure of each of its items."""
    parts = [result for result in results if not isinstance(result, StacchipError)]
    lost = [
        Failure(staged.item["id"], "index", str(result))
        for batch, result in zip(job.batches, results, strict=True)
        if isinstance(result, StacchipError)
        for staged in batch
    ]
    commit = warehouse.commit(
        job.name, [part.part for part in parts], read_version=job.found.version, sources=(config.source.summary(),)
    )
    tally = Tally(
        name=job.name,
        version=commit.version,
        new=commit.new,
        updated=commit.updated,
        same=job.found.same + job.found.older,
        failed=commit.failed + len(lost),
        chips=commit.chips,
    )
    known = [Failure(failure.item, failure.stage, failure.reason) for part in parts for failure in part.failures]
    failed = {failure.item for failure in (*known, *lost)}
    fresh = [staged.item["id"] for batch in job.batches for staged in batch if staged.item["id"] not in failed]
    return IndexOutcome((tally,), (*known, *lost)[:FAILURES_KEPT], {job.name: tuple(fresh[:FRESH_KEPT])})


def _by_name(items: Sequence[StagedItem], config: IndexConfig) -> dict[str, list[StagedItem]]:
    """Items by the collection of the warehouse that they go to; those of which it can't be told, under ""."""
    groups: dict[str, list[StagedItem]] = {}
    for staged in items:
        groups.setdefault(config.name or _name_of(staged, config), []).append(staged)
    return groups


def _name_of(staged: StagedItem, config: IndexConfig) -> str:
    if staged.error is None:
        return safe_name(collection_of(staged.item, config.settings()))
    only = config.source.collections[0] if len(config.source.collections) == 1 else ""
    collection = staged.item.get("collection") or only
    return safe_name(collection) if collection else ""


def _homeless(items: Sequence[StagedItem]) -> IndexOutcome:
    """Items that could not be read, of no collection that is known: failures of this run alone."""
    failures = [Failure(str(staged.item.get("id")), "discover", staged.error or "") for staged in items]
    tallies = (Tally("(no collection)", failed=len(items)),) if items else ()
    return IndexOutcome(tallies, tuple(failures[:FAILURES_KEPT]))


def is_over_budget(config: IndexConfig, total: Tally) -> bool:
    """Whether more items failed than the run may have failing."""
    tried = total.new + total.updated + total.failed
    return total.failed > config.max_failed and total.failed > config.max_failed_share * tried


def _check_budget(config: IndexConfig, outcome: IndexOutcome) -> None:
    """Fail a run in which too many items failed; what it committed stays.

    Raises:
        FailureBudgetError: says how many failed, and why the first did.
    """
    total = outcome.total
    if not is_over_budget(config, total):
        return
    first = outcome.failures[0]
    raise FailureBudgetError(
        f"{total.failed} of {total.new + total.updated + total.failed} items failed, more than max_failed="
        f"{config.max_failed} and max_failed_share={config.max_failed_share:g} allow; the others are committed. "
        f"First: {first.item} ({first.stage}): {first.reason}"
    )
