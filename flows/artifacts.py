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

from flows.events import emit
from flows.results import IndexOutcome, MaintainOutcome, MaterializeOutcome, MergeOutcome, ReindexOutcome
from stacchip_core.warehouse.batch import ItemFailure

PROGRESS_EVERY_SECONDS = 2.0  # of Prefect's API; a listener in this process hears of each step
REASON_CHARACTERS = 300

RETRIED = "a later run tries it again"
# What to do about an item that failed, by the stage it failed at; what is wrong with which asset is in the reason.
NEXT_STEP = {
    "discover": f"see whether the catalog's file can be read; {RETRIED}",
    "item": "mend the item in its catalog, or describe its assets in a profile: it fails until either changes",
    "read": f"see whether the asset is there and may be read with `access`; {RETRIED}",
    "index": "look at the run's log for the traceback, and report it with the item",
}

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
    _emit_tallies("collection.indexed", outcome)
    _table(f"{key}-items", _tally_rows(outcome), "Items found, by collection")
    _table(
        f"{key}-failures",
        _failure_rows(outcome.failures),
        f"{outcome.total.failed} items failed; later runs try them again, or one with retry_failed does now",
    )
    _table(f"{key}-gaps", [{"gap": plain(gap)} for gap in outcome.gaps], "Parts of the source that could not be read")
    _publish(key, index_headline(outcome), index_summary(outcome), pictures)


def publish_reindex(key: str, outcome: ReindexOutcome, pictures: Mapping[str, str]) -> None:
    """Artifacts of indexing items once more."""
    if not outcome.is_dry_run:
        _emit_tallies("collection.reindexed", outcome.done)
    _table(f"{key}-items", _tally_rows(outcome.done), "Items indexed once more")
    failed = outcome.done.total.failed
    _table(f"{key}-failures", _failure_rows(outcome.done.failures), f"{failed} items failed; their rows of before stay")
    _publish(key, reindex_headline(outcome), reindex_summary(outcome), pictures)


def publish_maintain(key: str, outcome: MaintainOutcome) -> None:
    """Artifacts of looking after a warehouse."""
    counts = {"problems": len(outcome.problems), "mended": len(outcome.mended), "removable": outcome.removable_files}
    emit("warehouse.maintained", outcome.root, {**counts, "is_dry_run": outcome.is_dry_run})
    problems = [{"where": plain(p.path), "what": plain(p.what), "what to do": plain(p.todo)} for p in outcome.problems]
    _table(f"{key}-problems", problems, f"{len(problems)} problems")
    would = "would be removed" if outcome.is_dry_run else "were removed"
    files = [{"file": plain(path), "bytes": size, "what it was": why} for path, size, why in outcome.removable]
    _table(f"{key}-files", files, f"{outcome.removable_files} files that no version needs {would}")
    headline = f"{len(problems)} problems" if problems else "no problems"
    _publish(key, headline, maintain_summary(outcome), {})


def publish_merge(key: str, outcome: MergeOutcome, pictures: Mapping[str, str]) -> None:
    """Artifacts of a merge."""
    counts = {"version": outcome.version, "items": outcome.items, "chips": outcome.chips, "is_new": outcome.changed}
    emit("index.merged", outcome.name, counts)
    rows = [{"collection": name, "version": version} for name, version in sorted(outcome.sources.items())]
    _table(f"{key}-sources", rows, f"Collections in {outcome.name}@{outcome.version}")
    what = "a new version" if outcome.changed else "nothing was new"
    _publish(key, f"{outcome.name}@{outcome.version}: {what}", merge_summary(outcome), pictures)


def publish_materialize(key: str, outcome: MaterializeOutcome, pictures: Mapping[str, str]) -> None:
    """Artifacts of materializing a dataset."""
    counts = {"chips": outcome.chips, "shards": outcome.shards, "failed": outcome.failed, "bytes": outcome.size_bytes}
    emit("dataset.written", outcome.name, {**counts, "is_new": outcome.changed})
    _table(f"{key}-failures", _failure_rows(outcome.failures), f"{outcome.failed} chips failed")
    failed = f", {outcome.failed:,} failed" if outcome.failed else ""
    _publish(key, f"{outcome.chips:,} chips{failed}", materialize_summary(outcome), pictures)


def index_summary(outcome: IndexOutcome) -> str:
    """Markdown: what an indexing run did."""
    total = outcome.total
    head = f"**{index_headline(outcome)}**"
    said = [*_lines("Missing, the next run tries again:", outcome.gaps), *_lines("Note:", outcome.notices)]
    is_idle = not total.tried and not total.deleted and not said
    if is_idle and total.waiting:
        return f"{head}\n\nNothing to do: {total.waiting} items that failed before are to be tried again later."
    if is_idle:
        return f"{head}\n\nNothing to do: the index was up to date, and nothing was written."
    lines = [
        f"- `{tally.name}` version {'-' if tally.version is None else tally.version}: {tally.new} new, "
        f"{tally.updated} updated, {tally.deleted} deleted, {tally.failed} failed, {tally.chips:,} chips"
        for tally in outcome.collections
    ]
    return "\n".join([head, "", *lines, *said, *_failure_lines(outcome.failures)])


def index_headline(outcome: IndexOutcome) -> str:
    """A run in one line; what went wrong comes first, since a run within its failure budget ends as completed."""
    total = outcome.total
    gone = f"{total.deleted} deleted, " if total.deleted else ""
    counts = f"{total.new} new, {total.updated} updated, {total.same} the same, {gone}{total.failed} failed"
    counts += f", {total.waiting} waiting for another try" if total.waiting else ""
    if not outcome.is_complete:
        counts = f"INCOMPLETE, {len(outcome.gaps)} parts of the source could not be read: {counts}"
    if not total.failed:
        return counts
    share = f"All {total.tried}" if total.failed == total.tried else f"{total.failed} of {total.tried}"
    return f"{share} items tried failed: {counts}"


def reindex_summary(outcome: ReindexOutcome) -> str:
    """Markdown: what indexing items once more did, or would do."""
    head = f"**{reindex_headline(outcome)}**\n\nReason: {plain(outcome.reason)}"
    if outcome.is_dry_run:
        return f"{head}\n\nThis was a dry run: nothing was written. Run it again with Dry run off to do it."
    lines = [
        f"- `{tally.name}` version {'-' if tally.version is None else tally.version}: {tally.updated} rebuilt, "
        f"{tally.new} at a chip size they did not have, {tally.same} left alone, {tally.failed} failed, "
        f"{tally.chips:,} chips"
        for tally in outcome.done.collections
    ]
    return "\n".join([head, "", *lines, *_failure_lines(outcome.done.failures)])


def reindex_headline(outcome: ReindexOutcome) -> str:
    """It in one line."""
    sizes, total = ", ".join(outcome.grids) or "no chip size", outcome.done.total
    todo, chosen = total.new + total.updated, f"{outcome.items:,} items at {sizes}"
    if outcome.is_dry_run:
        return f"{chosen}: {todo:,} would be indexed once more"
    return f"{chosen}: {todo:,} indexed once more" + (f", {total.failed} failed" if total.failed else "")


def maintain_summary(outcome: MaintainOutcome) -> str:
    """Markdown: what was done for a warehouse, or would be."""
    would = "would be " if outcome.is_dry_run else ""
    head = f"**{len(outcome.problems) or 'No'} problems** in `{plain(outcome.root)}`"
    checked = ", ".join(f"{count:,} {what}" for what, count in outcome.checked.items())
    lines = [f"- checked: {checked}"] if checked else []
    lines += [f"- {plain(str(problem))}: {plain(problem.todo)}" for problem in outcome.problems[:20]]
    lines += [f"- {would}mended: {plain(one)}" for one in outcome.mended[:20]]
    lines += [f"- {would}expired: {count} versions of `{name}`" for name, count in outcome.expired.items()]
    size = f"{outcome.removable_bytes / 1e6:,.1f} MB"
    lines += [f"- {would}removed: {outcome.removable_files:,} files, {size}"] if outcome.removable_files else []
    return "\n".join([head, "", *lines])


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


def _tally_rows(outcome: IndexOutcome) -> list[dict[str, Any]]:
    return [
        {
            "collection": tally.name,
            "version": "-" if tally.version is None else tally.version,
            "new": tally.new,
            "updated": tally.updated,
            "same": tally.same,
            "deleted": tally.deleted,
            "failed": tally.failed,
            "waiting": tally.waiting,
            "chips": tally.chips,
        }
        for tally in outcome.collections
    ]


def _emit_tallies(what: str, outcome: IndexOutcome) -> None:
    """One event for each collection, of what was done in it."""
    for tally in outcome.collections:
        counts = {
            name: getattr(tally, name) for name in ("version", "new", "updated", "same", "deleted", "failed", "chips")
        }
        emit(what, tally.name, counts)


def _failure_rows(failures: Sequence[ItemFailure]) -> list[dict[str, Any]]:
    ordered = sorted(failures, key=lambda one: one.cause)
    rows = [{"item": plain(f.item), "stage": f.stage, "cause": f.cause, "reason": plain(f.reason)} for f in ordered]
    return [{**row, "next step": NEXT_STEP.get(row["stage"], RETRIED)} for row in rows]


def _lines(title: str, texts: Sequence[str]) -> list[str]:
    shown = [f"- {plain(text)}" for text in texts[:20]]
    more = [f"- and {len(texts) - 20} more"] if len(texts) > 20 else []
    return ["", title, "", *shown, *more] if texts else []


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
