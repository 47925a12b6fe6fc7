"""Flow: follow a source: index what is new or changed, remove what is gone, commit page by page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

from prefect import flow, task
from prefect.utilities.annotations import quote
from pydantic import BaseModel, ConfigDict, Field

from flows.artifacts import Progress, publish_index, tell
from flows.config import WarehouseConfig
from flows.overlap import Overlap, alone
from flows.pictures import drawn, index_pictures
from flows.results import FRESH_KEPT, IndexOutcome, Tally
from flows.runner import AnyRunner, Runner, task_runner
from flows.staging import Comparison, StagedPage
from flows.tasks import (
    ON_LOST_RACES_TOO,
    ON_TRANSIENT_ERRORS,
    commit_parts,
    index_batch,
    open_warehouse,
    run_all,
    run_logger,
    stage_failed,
    stage_items,
)
from stacchip_core import IndexSettings, Storage
from stacchip_core.chips.spec import NAME_PATTERN
from stacchip_core.errors import FailureBudgetError, StacchipError
from stacchip_core.sources.item import StagedItem
from stacchip_core.sources.source import Source
from stacchip_core.sources.validation import numbered
from stacchip_core.warehouse.backoff import AT_ONCE, Backoff
from stacchip_core.warehouse.batch import FAILURES_KEPT, BatchResult, ItemFailure
from stacchip_core.warehouse.budget import FailureBudget
from stacchip_core.warehouse.follow import Follower, Step
from stacchip_core.warehouse.followed import removed
from stacchip_core.warehouse.intake import safe_name
from stacchip_core.warehouse.memory import Following

R = TypeVar("R")


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
    ask_files: bool = Field(
        False,
        title="Ask files",
        description="Ask each remote file for its size and ETag, one request each, so that a change is noticed.",
    )
    access: Storage = Field(
        Storage(), title="Access to the assets", description="Endpoint, region and account for reading pixels."
    )
    batch_items: int = Field(
        8, title="Items per task", description="Aim at 20 to 30 seconds of work for a task.", ge=1, le=500
    )
    max_workers: int = Field(4, title="Tasks at a time", description="Threads of this process.", ge=1, le=64)
    runner: Runner = Field(Runner(), title="Task runner", description="Where tasks run: threads, or a Dask cluster.")
    overlap: Overlap = Field(
        "wait",
        title="Overlap",
        description="While another run is at work on the collection: wait for its end, or give up.",
    )
    max_failed_share: float = Field(
        0.5,
        title="Most failures",
        description="The run fails when a larger share of the items it tried did; all others are kept.",
        ge=0,
        le=1,
    )
    max_failed: int = Field(10, title="Failures tolerated", description="So many may fail, whatever their share.", ge=0)
    retry_failed: bool = Field(
        False, title="Retry failures now", description="Try all items that failed before; else only those that are due."
    )
    backoff: Backoff = Field(
        Backoff(), title="Wait after failures", description="How long an item that failed is left alone."
    )
    follow: Following = Field(
        Following(),
        title="Following",
        description="How often the whole source is read, and when an item counts as deleted.",
    )
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
            ask_files=self.ask_files,
            local_roots=self.source.roots,
            storage=self.access,
            profile=self.profile,
        )

    def comparison(self, settings: IndexSettings) -> Comparison:
        """How items that were found are compared with what is indexed."""
        return Comparison(settings, AT_ONCE if self.retry_failed else self.backoff, self.batch_items)

    def failing(self) -> list[str]:
        """Collections of the warehouse that may hold failures of this source; none where only the items tell."""
        return [self.name] if self.name else [safe_name(one) for one in self.source.collections]

    @property
    def title(self) -> str:
        """What a run with these parameters is called."""
        return self.name or ", ".join(self.source.collections) or "items"


@dataclass(frozen=True, slots=True)
class _Run:
    """What all steps of a run share."""

    config: IndexConfig
    settings: IndexSettings
    how: Comparison
    runner: AnyRunner
    progress: Progress


@task(name="remove", task_run_name="remove from {step.name}", **ON_LOST_RACES_TOO)
def remove_gone(warehouse: WarehouseConfig, step: Step) -> IndexOutcome:
    """Remove items that the source does not have any more; where another run was first, nothing is left to do."""
    done = removed(warehouse.open(), step)
    return IndexOutcome((Tally(step.name, done.version, deleted=done.deleted),) if done else ())


@task(name="ask-warehouse", **ON_TRANSIENT_ERRORS)
def _ask(work: Callable[[], object]) -> object:
    return work()


def patiently(work: Callable[[], R]) -> R:
    """What asks the warehouse for something, as a task: repeated where the store fails for a while."""
    return cast(R, _ask(cast(Callable[[], object], quote(work))))


@flow(name="index-items", flow_run_name="index {config.title}", persist_result=False)
def index_items(config: IndexConfig) -> IndexOutcome:
    """Index what is new or changed in a source, and remove what it has deleted.

    Each page of items is committed before the next is looked for, so a run that ends early loses one page at
    most. Items that fail are reported, and tried again by the next run. What could not be found out is said as
    INCOMPLETE, and looked for again by the next run. Nothing new: nothing is written.
    """
    open_warehouse(config.warehouse)
    progress = Progress(f"index-{config.title}-progress", "Indexing")
    settings, outcome = config.settings(), IndexOutcome()
    follower = Follower(
        config.warehouse.open().store, config.source, config.name, settings, config.follow, ask=patiently
    )
    with alone(config.title, config.overlap), task_runner(config.max_workers, config.runner) as runner:
        run = _Run(config, settings, config.comparison(settings), runner, progress)
        tell("trying items again that failed")
        staged = [stage_failed(config.warehouse, name, config.source, run.how) for name in config.failing()]
        outcome += _index_staged(run, [one for one in staged if one.batches])
        tell("looking for items")
        for step in follower.steps():
            outcome += _carry_out(run, step)
            run_logger().info("so far %s", outcome.total)
            if is_over_budget(config, outcome.total):
                break
            tell(f"looking for more items, after {outcome.total.found:,}")
    progress.finish()
    outcome += IndexOutcome(gaps=tuple(map(str, follower.gaps)), notices=tuple(follower.notices))
    _warn_of_gaps(outcome)
    _warn_of_failures(outcome)
    pictures = drawn(lambda: index_pictures(config.warehouse.open(), settings, outcome)) if config.pictures else {}
    publish_index(f"index-{config.title}", outcome, pictures)
    _check_budget(config, outcome)
    return outcome


def _carry_out(run: _Run, step: Step) -> IndexOutcome:
    """Index and commit the items of a step, or remove those that are gone."""
    if not step.name:
        return _homeless(step.items)
    if step.removed:
        tell(f"removing {len(step.removed):,} items from {step.name}")
        return remove_gone(run.config.warehouse, step)
    tell(f"comparing {len(step.items):,} items with {step.name}")
    return _index_staged(run, [stage_items(run.config.warehouse, step.name, quote(step.items), run.how)], step.sources)


def _index_staged(run: _Run, staged: Sequence[StagedPage], told: Sequence[Mapping[str, object]] = ()) -> IndexOutcome:
    """Index and commit what was staged, with what is told of its source."""
    outcome = IndexOutcome()
    arguments = [
        {"warehouse": run.config.warehouse, "name": one.name, "staged_key": batch.key, "settings": run.settings}
        for one in staged
        for batch in one.batches
    ]
    total = len(arguments)
    results = run_all(run.runner, index_batch, arguments, lambda done: run.progress(done, total, "batches of items"))
    for one in staged:
        own, results = results[: len(one.batches)], results[len(one.batches) :]
        outcome += _commit(run, one, own, told)
    return outcome


def _commit(
    run: _Run,
    staged: StagedPage,
    results: Sequence[BatchResult | StacchipError],
    told: Sequence[Mapping[str, object]],
) -> IndexOutcome:
    """Commit what the batches made; a batch that failed as a whole is a failure of each of its items."""
    parts = [result for result in results if not isinstance(result, StacchipError)]
    lost = [
        ItemFailure(item, "index", str(result))
        for batch, result in zip(staged.batches, results, strict=True)
        if isinstance(result, StacchipError)
        for item in batch.items
    ]
    tell(f"committing to {staged.name}")
    commit = commit_parts(
        run.config.warehouse,
        staged.name,
        [part.part for part in parts],
        read_version=staged.version,
        sources=told,
    )
    tally = Tally(
        name=staged.name,
        version=commit.version,
        new=commit.new,
        updated=commit.updated,
        same=staged.same,
        failed=commit.failed + len(lost),
        chips=commit.chips,
        failed_again=commit.failed_again,
        waiting=staged.waiting,
    )
    failures = (*(failure for part in parts for failure in part.failures), *lost)
    failed = {failure.item for failure in failures}
    fresh = [item for batch in staged.batches for item in batch.items if item not in failed]
    return IndexOutcome((tally,), failures[:FAILURES_KEPT], {staged.name: tuple(fresh[:FRESH_KEPT])})


def _homeless(items: Sequence[StagedItem]) -> IndexOutcome:
    """Items that could not be read, of no collection that is known: failures of this run alone."""
    unnamed = "its collection can't be told; give the run a name"
    failures = [ItemFailure(str(staged.item.get("id")), "discover", staged.error or unnamed) for staged in items]
    tallies = (Tally("(no collection)", failed=len(items)),) if items else ()
    return IndexOutcome(tallies, tuple(failures[:FAILURES_KEPT]))


def is_over_budget(config: IndexConfig, total: Tally) -> bool:
    """Whether more items failed than the run may have failing; those that had failed before count for nothing."""
    budget = FailureBudget(max_failed=config.max_failed, max_failed_share=config.max_failed_share)
    return budget.is_spent(total.failed - total.failed_again, total.tried - total.failed_again)


def _warn_of_gaps(outcome: IndexOutcome) -> None:
    """Say in the run's log what could not be found out, and what people should know."""
    for notice in outcome.notices:
        run_logger().warning("%s", notice)
    if outcome.gaps:
        run_logger().warning(
            "INCOMPLETE: %d parts of the source could not be read, the next run tries again; the first: %s",
            len(outcome.gaps),
            outcome.gaps[0],
        )


def _warn_of_failures(outcome: IndexOutcome) -> None:
    """Say in the run's log what failed: a run within its failure budget ends as completed."""
    total = outcome.total
    if not total.failed:
        return
    first = outcome.failures[0]
    how_many = "all of them" if total.failed == total.tried else f"{total.tried - total.failed} were indexed"
    run_logger().warning(
        "%d of %d items failed (%s); the first: %s (%s): %s",
        total.failed,
        total.tried,
        how_many,
        first.item,
        first.stage,
        first.reason,
    )


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
        f"{total.failed} of {total.tried} items failed, more than max_failed="
        f"{config.max_failed} and max_failed_share={config.max_failed_share:g} allow; the others are committed. "
        f"First: {first.item} ({first.stage}): {first.reason}"
    )
