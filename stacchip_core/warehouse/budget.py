"""How many items may fail before a run is ended: past that, something is wrong with all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from stacchip_core.errors import FailureBudgetError
from stacchip_core.sources.validation import numbered
from stacchip_core.warehouse.commit import Commit


class FailureBudget(BaseModel):
    """A number of items that may fail, and a share; a run ends when both are exceeded.

    Items that had failed before, and fail again, count for nothing: a list of old failures must not end every run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    max_failed: int = Field(10, title="Failures tolerated", description="So many may fail, whatever their share.", ge=0)
    max_failed_share: float = Field(
        0.5, title="Most failures", description="Of the items that a run tried, that may fail.", ge=0, le=1
    )

    def is_spent(self, failed: int, tried: int) -> bool:
        """Whether more of the items that were tried failed than may."""
        return failed > self.max_failed and failed > self.max_failed_share * tried

    def check(self, commits: Iterable[Commit]) -> None:
        """Raise where too many items failed; what was committed stays.

        Raises:
            FailureBudgetError: says how many failed, and why.
        """
        done = list(commits)
        again = sum(one.failed_again for one in done)
        failed, tried = sum(one.failed for one in done) - again, sum(one.tried for one in done) - again
        if not self.is_spent(failed, tried):
            return
        causes = sum((Counter(dict(one.causes)) for one in done), Counter[str]())
        told = ", ".join(f"{count} {cause}" for cause, count in causes.most_common())
        names = ", ".join(one.name for one in done if one.failed)
        raise FailureBudgetError(
            f"{failed} of {tried} items failed ({told}), more than max_failed={self.max_failed} and "
            f"max_failed_share={self.max_failed_share:g} allow, so the run has ended; {tried - failed} were committed. "
            f"The failures of {names} are on record, with their reasons: mend the cause, then retry_failed"
        )
