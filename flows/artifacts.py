"""What a run leaves to look at: tables, a summary, pictures, progress."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext

from flows.results import IndexOutcome, MaterializeOutcome, MergeOutcome, Tally
from stacchip_core.warehouse.batch import ItemFailure

PROGRESS_EVERY_SECONDS = 2.0  # of Prefect's API; a listener in this process hears of each step
REASON_CHARACTERS = 300

# Hears in words what a run is at; set by whoever runs a flow in this process and shows its progress.
PROGRESS_LISTENER: ContextVar[Callable[[str], None] | None] = ContextVar("progress", default=None)


def tell(what: str) -> None:
    """Tell a listener in this process what the run is at: for steps that take long and can't be counted."""
    if listener := PROGRESS_LISTENER.get():
        listener(what)


class Progress:
    """Progress of a long run: an artifact of the run, and news for a listener in this process."""

    def __init__(self, key: str, description: str) -> None:
        self._description = description
        self._told = time.monotonic()
        self._artifact: UUID | None = None
        if is_in_a_run():
            created = create_progress_artifact(0.0, key=safe_key(key), description=description)
            self._artifact = cast(UUID, created)  # not a coroutine: flows are synchronous

    def __call__(self, done: int, total: int, what: str) -> None:
        """Tell that `done` of `total` steps are done."""
        tell(f"{done} of {total} {what}")
        is_due = time.monotonic() - self._told > PROGRESS_EVERY_SECONDS
        if self._artifact is not None and is_due:
            self._update(100.0 * done / max(total, 1), f"{self._description}: {what}, {done} of {total}")

    def finish(self) -> None:
        """All is done."""
        if self._artifact is not None:
            self._update(100.0, f"{self._description}: done")

    def _update(self, percent: float, description: str) -> None:
        if self._artifact is not None:
            self._told = time.monotonic()
            update_progress_artifact(self._artifact, percent, description)


def is_in_a_run() -> bool:
    """Whether this code runs inside a flow run, so that artifacts have one to belong to."""
    return FlowRunContext.get() is not None


def publish_index(key: str, outcome: IndexOutcome, pictures: Mapping[str, str]) -> None:
    """Artifacts of an indexing run.

    Args:
        key: name of the run's artifacts; later runs under the same name are their next versions.
        outcome: what the run did.
        pictures: title -> image as a data URI.
    """
    rows = [
        {
            "collection": tally.name,
            "version": "-" if tally.version is None else tally.version,
            "new": tally.new,
            "updated": tally.updated,
            "same": tally.same,
            "failed": tally.failed,
            "chips": tally.chips,
        }
        for tally in outcome.collections
    ]
    _table(f"{key}-items", rows, "Items found, by collection")
    _table(
        f"{key}-failures",
        _failure_rows(outcome.failures),
        f"{outcome.total.failed} items failed; the next run tries them again",
    )
    _publish(key, index_headline(outcome.total), index_summary(outcome), pictures)


def publish_merge(key: str, outcome: MergeOutcome, pictures: Mapping[str, str]) -> None:
    """Artifacts of a merge."""
    rows = [{"collection": name, "version": version} for name, version in sorted(outcome.sources.items())]
    _table(f"{key}-sources", rows, f"Collections in {outcome.name}@{outcome.version}")
    what = "a new version" if outcome.changed else "nothing was new"
    _publish(key, f"{outcome.name}@{outcome.version}: {what}", merge_summary(outcome), pictures)


def publish_materialize(key: str, outcome: MaterializeOutcome, pictures: Mapping[str, str]) -> None:
    """Artifacts of materializing a dataset."""
    _table(f"{key}-failures", _failure_rows(outcome.failures), f"{outcome.failed} chips failed")
    failed = f", {outcome.failed:,} failed" if outcome.failed else ""
    _publish(key, f"{outcome.chips:,} chips{failed}", materialize_summary(outcome), pictures)


def index_summary(outcome: IndexOutcome) -> str:
    """Markdown: what an indexing run did."""
    total = outcome.total
    head = f"**{index_headline(total)}**"
    if not total.tried:
        return f"{head}\n\nNothing to do: the index was up to date, and nothing was written."
    lines = [
        f"- `{tally.name}` version {'-' if tally.version is None else tally.version}: {tally.new} new, "
        f"{tally.updated} updated, {tally.failed} failed, {tally.chips:,} chips"
        for tally in outcome.collections
    ]
    return "\n".join([head, "", *lines, *_failure_lines(outcome.failures)])


def index_headline(total: Tally) -> str:
    """A run in one line; failures come first, since a run within its failure budget ends as completed."""
    counts = f"{total.new} new, {total.updated} updated, {total.same} the same, {total.failed} failed"
    if not total.failed:
        return counts
    share = f"All {total.tried}" if total.failed == total.tried else f"{total.failed} of {total.tried}"
    return f"{share} items tried failed: {counts}"


def merge_summary(outcome: MergeOutcome) -> str:
    """Markdown: what a merge did."""
    what = "is a new version" if outcome.changed else "was up to date: nothing was written"
    return (
        f"**`{outcome.name}@{outcome.version}` {what}**\n\n"
        f"{outcome.items:,} items, {outcome.chips:,} chips from {len(outcome.sources)} collections.\n\n"
        f"sha256 `{outcome.sha256}`"
    )


def materialize_summary(outcome: MaterializeOutcome) -> str:
    """Markdown: what materializing made."""
    head = f"**{outcome.chips:,} chips** of `{outcome.index}`"
    if not outcome.changed:
        return f"{head} were there already: nothing was written\n\n`{plain(outcome.path)}`"
    size = f"{outcome.shards} shards, {outcome.size_bytes / 1e6:,.1f} MB"
    return f"{head} in {size}; {outcome.failed} could not be read\n\n`{plain(outcome.path)}`"


def plain(text: str) -> str:
    """`text` from outside (ids, messages) fit for a page: no markup, no line breaks, not endless."""
    flat = " ".join(text.split())
    cut = flat if len(flat) <= REASON_CHARACTERS else f"{flat[: REASON_CHARACTERS - 1]}…"
    return html.escape(cut, quote=False).replace("|", "\\|").replace("`", "'")


def safe_key(text: str) -> str:
    """A name as Prefect's artifact keys take it: lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "run"


def _failure_rows(failures: Sequence[ItemFailure]) -> list[dict[str, Any]]:
    return [{"item": plain(f.item), "stage": f.stage, "reason": plain(f.reason)} for f in failures]


def _failure_lines(failures: Sequence[ItemFailure]) -> list[str]:
    shown = [f"- `{plain(f.item)}` ({f.stage}): {plain(f.reason)}" for f in failures[:20]]
    more = [f"- and {len(failures) - 20} more"] if len(failures) > 20 else []
    return ["", "Failed:", "", *shown, *more] if failures else []


def _table(key: str, rows: list[dict[str, Any]], description: str) -> None:
    if rows and is_in_a_run():
        create_table_artifact(rows, key=safe_key(key), description=description)


def _publish(key: str, headline: str, summary: str, pictures: Mapping[str, str]) -> None:
    """The summary with the pictures below it: one page to look at (image artifacts show the address as well)."""
    if is_in_a_run():
        shown = [f"\n\n### {plain(title)}\n\n![{plain(title)}]({address})" for title, address in pictures.items()]
        create_markdown_artifact("".join([summary, *shown]), key=safe_key(key), description=headline)
