"""Flow: make the rows of chosen items anew, although the items are the same."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.utilities.annotations import quote
from pydantic import BaseModel, ConfigDict, Field

from flows.artifacts import Progress, publish_reindex, tell
from flows.configured import listed, load_deployed, load_environment
from flows.index_items import IndexConfig
from flows.overlap import alone
from flows.pictures import drawn, index_pictures
from flows.results import FRESH_KEPT, IndexOutcome, ReindexOutcome, Tally
from flows.runner import AnyRunner, task_runner
from flows.staging import StagedPage
from flows.tasks import (
    Chosen,
    choose_items,
    commit_parts,
    count_stored,
    index_batch,
    run_all,
    run_logger,
    stage_stored,
)
from stacchip_core import IndexSettings
from stacchip_core.chips.spec import NAME_PATTERN
from stacchip_core.errors import InputError, StacchipError
from stacchip_core.index.grid import GridSpec
from stacchip_core.sources.interval import parse_interval
from stacchip_core.sources.validation import numbered
from stacchip_core.warehouse.batch import FAILURES_KEPT, BatchResult, ItemFailure
from stacchip_core.warehouse.classify import Rebuild

PAGE_ITEMS = 2000  # items of a commit, as in indexing

# A day, month or year, or a range of them; a moment is written out. Empty: no time.
TIME_PATTERN = (
    r"^$|^(\d{4}(-[01]\d(-[0-3]\d(T[0-9:.]+(Z|[+-]\d\d:\d\d)?)?)?)?"
    r"(/(\d{4}(-[01]\d(-[0-3]\d(T[0-9:.]+(Z|[+-]\d\d:\d\d)?)?)?)?|\.\.))?"
    r"|\.\./\d{4}(-[01]\d(-[0-3]\d(T[0-9:.]+(Z|[+-]\d\d:\d\d)?)?)?)?)$"
)
Which = Literal["items", "time", "everything"]
ItemId = Annotated[str, Field(min_length=1, max_length=512)]
ChipSize = Annotated[int, Field(ge=16, le=8192)]


def _form(schema: dict[str, Any]) -> None:
    """Places of the fields; and what has to be filled in for each choice, so that the server refuses what lacks it."""
    numbered(schema)
    schema["if"] = {"properties": {"which": {"const": "items"}}, "required": ["which"]}
    schema["then"] = {"properties": {"items": {"minItems": 1}}, "required": ["items"]}
    schema["else"] = {
        "if": {"properties": {"which": {"const": "time"}}, "required": ["which"]},
        "then": {"properties": {"datetime": {"minLength": 4}}, "required": ["datetime"]},
    }


def _choices(schema: dict[str, Any]) -> None:
    """The collections there are, when a form asks."""
    schema.update(listed("collections"))


class ReindexConfig(BaseModel):
    """What to index once more, and why.

    Items are taken as the index knows them. What has changed in the catalog is found by indexing, not here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_form)

    collection: str = Field(
        title="Collection",
        description="A collection that is indexed here.",
        pattern=NAME_PATTERN,
        json_schema_extra=_choices,
    )
    which: Which = Field(
        title="Which items", description="The items named below, those of the time below, or everything there is."
    )
    items: tuple[ItemId, ...] = Field((), title="Item ids", description="For 'items': their ids.", max_length=1000)
    datetime: str = Field(
        "",
        title="Time",
        description="For 'time': a day, month or year, or a range of them: 2024-05, 2024-01-01/2024-06-30.",
        pattern=TIME_PATTERN,
        max_length=80,
    )
    stale: bool = Field(
        False,
        title="Outdated rows only",
        description="Of these, only rows that were made under other rules than the configuration has now.",
    )
    chip_sizes: tuple[ChipSize, ...] = Field(
        (), title="Chip sizes", description="Pixels; none: the sizes that each item has in the index.", max_length=8
    )
    reason: str = Field(
        title="Reason", description="Kept in the log, for those who wonder later.", min_length=5, max_length=300
    )
    dry_run: bool = Field(True, title="Dry run", description="Only tell what would be done. Switch off to do it.")

    def interval(self) -> str:
        """The time asked for; "" where all of it is.

        Raises:
            InputError: what was chosen is not filled in, or is no time.
        """
        if self.which == "items" and not self.items:
            raise InputError("which is 'items', and no item ids are given")
        if self.which != "time":
            return ""
        if not self.datetime:
            raise InputError("which is 'time', and datetime is empty")
        parse_interval(self.datetime)
        return self.datetime


@dataclass(frozen=True, slots=True)
class _Run:
    """What all pages of a run share."""

    asked: ReindexConfig
    name: str
    config: IndexConfig
    runner: AnyRunner
    progress: Progress


@flow(name="reindex-items", flow_run_name="reindex {config.collection}", persist_result=False)
def reindex_items(config: ReindexConfig) -> ReindexOutcome:
    """Index chosen items once more, although they are the same: their pixels or our rules have changed.

    The configuration is that of `deployments/collections/`. A dry run, which is the default, tells how many items
    and chip sizes it would be. Rows of before stay where an item fails. A merge follows by itself.
    """
    interval = config.interval()
    own, _ = load_deployed(IndexConfig, "collections", config.collection, load_environment())
    name = own.name or config.collection
    tell("choosing items")
    chosen = choose_items(own.warehouse, name, config.items if config.which == "items" else None, interval)
    todo = _todo(config, own.settings(), chosen)
    run_logger().info("%s: %d items at %d chip sizes", name, len(chosen.keys), len(todo))
    progress = Progress(f"reindex-{name}-progress", "Indexing once more")
    with _slot(own, config), task_runner(own.max_workers, own.runner) as runner:
        outcome = _reindex(_Run(config, name, own, runner, progress), todo)
    progress.finish()
    done = ReindexOutcome(config.reason, config.dry_run, len(chosen.keys), tuple(map(str, todo)), outcome)
    has_pictures = own.pictures and outcome.total.tried > 0 and not config.dry_run
    pictures = drawn(lambda: index_pictures(own.warehouse.open(), own.settings(), outcome)) if has_pictures else {}
    publish_reindex(f"reindex-{name}", done, pictures)
    return done


def _slot(own: IndexConfig, config: ReindexConfig) -> AbstractContextManager[None]:
    """A dry run, which writes nothing, is in nobody's way."""
    return nullcontext() if config.dry_run else alone(own.title, own.overlap)


def _todo(config: ReindexConfig, settings: IndexSettings, chosen: Chosen) -> dict[GridSpec, Sequence[str]]:
    """Keys of items by the size, stride and edge to index them at."""
    if not config.chip_sizes:
        return {GridSpec.parse(text): keys for text, keys in chosen.by_grid.items()}
    wanted = [
        settings.spec if size == settings.chip_size else GridSpec(size, size, settings.edge)
        for size in config.chip_sizes
    ]
    return dict.fromkeys(wanted, chosen.keys)


def _reindex(run: _Run, todo: dict[GridSpec, Sequence[str]]) -> IndexOutcome:
    outcome = IndexOutcome()
    for spec, keys in todo.items():
        settings = run.config.settings().model_copy(
            update={"chip_size": spec.size, "stride": spec.stride, "edge": spec.edge}
        )
        for start in range(0, len(keys), PAGE_ITEMS):
            outcome += _page(run, settings, keys[start : start + PAGE_ITEMS])
    return outcome


def _page(run: _Run, settings: IndexSettings, keys: Sequence[str]) -> IndexOutcome:
    """Index and commit one page of items at one chip size."""
    tell(f"comparing {len(keys):,} items of {run.name} at {settings.spec}")
    rebuild: Rebuild = "stale" if run.asked.stale else "all"
    if run.asked.dry_run:
        return IndexOutcome((count_stored(run.config.warehouse, run.name, quote(keys), settings, rebuild),))
    staged = stage_stored(run.config.warehouse, run.name, quote(keys), settings, rebuild)
    arguments = [
        {"warehouse": run.config.warehouse, "name": run.name, "staged_key": batch.key, "settings": settings}
        for batch in staged.batches
    ]
    total = len(arguments)
    results = run_all(run.runner, index_batch, arguments, lambda done: run.progress(done, total, "batches of items"))
    tell(f"committing to {run.name}")
    return _commit(run, staged, results)


def _commit(run: _Run, staged: StagedPage, results: Sequence[BatchResult | StacchipError]) -> IndexOutcome:
    parts = [result for result in results if not isinstance(result, StacchipError)]
    lost = [
        ItemFailure(item, "index", str(result))
        for batch, result in zip(staged.batches, results, strict=True)
        if isinstance(result, StacchipError)
        for item in batch.items
    ]
    commit = commit_parts(
        run.config.warehouse,
        run.name,
        [part.part for part in parts],
        read_version=staged.version,
        sources=({"reindexed": run.asked.which, "reason": run.asked.reason},),
        is_rebuilt=True,
    )
    counts = {"new": commit.new, "updated": commit.updated, "failed": commit.failed + len(lost), "chips": commit.chips}
    tally = Tally(run.name, commit.version, same=staged.same, **counts)
    failures = (*(failure for part in parts for failure in part.failures), *lost)
    failed = {failure.item for failure in failures}
    fresh = [item for batch in staged.batches for item in batch.items if item not in failed]
    return IndexOutcome((tally,), failures[:FAILURES_KEPT], {run.name: tuple(fresh[:FRESH_KEPT])})
