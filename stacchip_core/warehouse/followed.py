"""A run over a source without an orchestrator: its steps carried out one after the other, and what came of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from stacchip_core.errors import LookupFailedError
from stacchip_core.sources.windows import Gap
from stacchip_core.warehouse.commit import Commit
from stacchip_core.warehouse.follow import Follower, Step
from stacchip_core.warehouse.indexing import IndexRun, together

REASON = "two whole sweeps of its source did not have it"  # of deletes, for people who read the log


class Removes(Protocol):
    """What takes items out of a collection."""

    def remove_items(
        self, name: str, item_ids: Collection[str], *, reason: str, sources: Iterable[Mapping[str, object]] = ()
    ) -> Commit:
        """Take items out of a collection."""
        ...


@dataclass(frozen=True, slots=True)
class Followed:
    """What a run over a source did.

    Attributes:
        commits: one for each collection, with the counts of all its commits of this run.
        gaps: what could not be found out; the next run tries it again.
        notices: what people should know, as of items that were not deleted because they were too many.
        homeless: failures of items whose collection can't be told; they are on no record but this.
    """

    commits: tuple[Commit, ...] = ()
    gaps: tuple[Gap, ...] = ()
    notices: tuple[str, ...] = ()
    homeless: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is known to be missing."""
        return not self.gaps

    @property
    def total(self) -> Commit:
        """Items and chips of all collections together."""
        total = Commit("all", 0, "")
        for one in self.commits:
            total = together(total, one)
        return total

    def __str__(self) -> str:
        """In one line, with what is missing."""
        total = self.total
        counts = f"{total.new} new, {total.updated} updated, {total.deleted} deleted, {total.failed} failed"
        if self.is_complete:
            return counts
        more = f"; and {len(self.gaps) - 3} more" if len(self.gaps) > 3 else ""
        return f"INCOMPLETE: {'; '.join(map(str, self.gaps[:3]))}{more}. {counts}"


def carry_out(run: IndexRun, follower: Follower, warehouse: Removes) -> Followed:
    """Carry out the steps of a run: failures that are due, then what the source has.

    Args:
        run: indexes and commits.
        follower: decides what is to be done.
        warehouse: takes items out.

    Raises:
        FailureBudgetError: too many items failed; what was committed stays.
    """
    homeless = list[str]()
    for name in follower.names_for(follower.source):
        if (manifest := follower.manifest(name)).version:
            run.retry_due(manifest, follower.source)
    for step in follower.steps():
        if not step.name:
            homeless += [staged.error or f"item {staged.item.get('id')}: no collection" for staged in step.items]
        elif step.removed:
            if (done := removed(warehouse, step)) is not None:
                run.note(done)
        else:
            run.index(step.name, step.items, *step.sources)
            run.patient.budget.check(run.commits.values())
    commits = tuple(run.commits[name] for name in sorted(run.commits))
    return Followed(commits, tuple(follower.gaps), tuple(follower.notices), tuple(homeless))


def removed(warehouse: Removes, step: Step) -> Commit | None:
    """Carry out a removal; None where another run was first."""
    try:
        return warehouse.remove_items(step.name, step.removed, reason=REASON, sources=step.sources)
    except LookupFailedError:
        return None
