"""When an item that failed is tried again: after a while that doubles with each try, by the store's clock."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from stacchip_core.sources.validation import numbered
from stacchip_core.warehouse.items import ItemState

_MOST_DOUBLINGS = 40  # beyond any bound there is; Python's floats would take 1023


class Backoff(BaseModel):
    """How long an item that failed is left alone; with each try twice as long, up to a bound."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    passing_minutes: float = Field(
        5,
        title="After a passing failure, minutes",
        description="Before the second try, where the server was slow, busy or away.",
        ge=0,
        le=60 * 24 * 365,
    )
    lasting_hours: float = Field(
        1,
        title="After any other failure, hours",
        description="Before the second try, where a file is missing, broken or does not fit.",
        ge=0,
        le=24 * 365,
    )
    most_days: float = Field(7, title="At most, days", description="No try is put off for longer.", ge=0, le=365)

    def wait(self, attempts: int, *, is_transient: bool) -> timedelta:
        """How long after try number `attempts` the next one is due."""
        first = timedelta(minutes=self.passing_minutes) if is_transient else timedelta(hours=self.lasting_hours)
        seconds = math.ldexp(first.total_seconds(), min(max(attempts, 1) - 1, _MOST_DOUBLINGS))
        return timedelta(seconds=min(seconds, timedelta(days=self.most_days).total_seconds()))

    def due(self, failed: ItemState) -> datetime | None:
        """When the next try of a failure is due; None: at once, as for one that an earlier release recorded."""
        wait = self.wait(failed.attempts or 1, is_transient=bool(failed.is_transient))
        return failed.last_failed + wait if failed.last_failed is not None and wait else None


DEFAULT_BACKOFF = Backoff()
AT_ONCE = Backoff(passing_minutes=0, lasting_hours=0)
