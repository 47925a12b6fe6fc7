"""What a collection remembers of a source that it follows: kept in the log, inside the commit that made it true."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from stacchip_core.sources.validation import numbered

Source = Mapping[str, object]  # where items came from, as the log keeps it

MARKS_KEPT = 2000  # items that are missing, at 12 characters each: what a log entry may carry
_OWN = ("watermark", "memory")  # what a source's entry holds beside its description
_WORTH = timedelta(hours=24)  # a time that moves by less is not worth a commit of its own
_TIMES = ("watermark", "at", "swept_at")


class Following(BaseModel):
    """How a source is followed from run to run."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    overlap_hours: float = Field(
        24,
        title="Overlap",
        description="How far before the last run changes are asked for again: servers publish what is dated earlier.",
        ge=0,
    )
    lookback_days: float = Field(
        30,
        title="Look back",
        description="Where a server can't tell what changed: the latest days of datetime that every run looks at.",
        ge=0,
    )
    sweep_hours: float = Field(
        168,
        title="Sweep every",
        description="Hours between readings of the whole source, which find late and deleted items.",
        ge=0,
    )
    sweep_items: int = Field(
        100_000,
        title="Sweep budget",
        description="Items that a run reads of a sweep after the first; the next run goes on from there.",
        ge=1,
    )
    confirm_hours: float = Field(
        24,
        title="Confirm after",
        description="An item is deleted when two whole sweeps, at least so many hours apart, did not have it.",
        ge=0,
    )
    max_deleted: int = Field(
        1000, title="Most deleted", description="More items are not deleted at once: a notice says how many.", ge=0
    )
    max_deleted_share: float = Field(
        0.01,
        title="Largest share deleted",
        description="Nor is a larger share of the collection; ten items always may be.",
        ge=0,
        le=1,
    )


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known of a source; times are ISO 8601.

    Attributes:
        watermark: all that changed before is known, by the source's clock; "" before the first whole sweep.
        at: when the run that put this down began.
        known: what the server can be relied on for.
        swept_at: when the last whole sweep began.
        sweep_at: when the sweep that is under way began; "" where none is.
        sweep_to: the watermark that it will give.
        sweep_from: times before have been read.
        holes: windows of it that could not be read.
        absent: marks of live items that it did not have so far.
        missing: marks of live items that a whole sweep did not have, by the store's clock when it ended.
        is_running: whether the run that put this down was going on; not worth a commit of its own.
    """

    watermark: str = ""
    at: str = ""
    known: Mapping[str, Any] = field(default_factory=dict)
    swept_at: str = ""
    sweep_at: str = ""
    sweep_to: str = ""
    sweep_from: str = ""
    holes: int = 0
    absent: tuple[str, ...] = ()
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    is_running: bool = False

    @classmethod
    def of(cls, sources: Sequence[Source], summary: Source) -> Memory:
        """What the log says of the source with this description."""
        found = next((one for one in sources if description(one) == dict(summary)), None)
        kept = found.get("memory") if found else None
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in kept.items() if name in known} if isinstance(kept, Mapping) else {}
        values["absent"] = tuple(values.get("absent", ()))
        return cls(**{**values, "watermark": str(found.get("watermark") or "") if found else ""})

    def entry(self, summary: Source) -> dict[str, object]:
        """For the log: the source's description, how far it was followed, and the rest."""
        rest = {name: value for name, value in asdict(self).items() if name != "watermark" and value not in ("", 0)}
        kept = {name: value for name, value in rest.items() if value not in ({}, (), [])}
        told = {"watermark": self.watermark} if self.watermark else {}
        return {**summary, **told, "memory": {**kept, **({"absent": list(self.absent)} if self.absent else {})}}

    def swept(self, *, has_updates: bool) -> Memory:
        """After the sweep that was under way: with its watermark where it had no holes."""
        over = replace(self, sweep_at="", sweep_to="", sweep_from="", holes=0, absent=())
        if self.holes:
            return over
        is_further = not self.watermark or (not has_updates and self.sweep_to > self.watermark)
        return replace(over, swept_at=self.sweep_at, watermark=self.sweep_to if is_further else self.watermark)


def mark_of(key: str) -> str:
    """12 hex digits that tell an item from all others of a collection."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def description(source: Source) -> dict[str, object]:
    """What was asked for: two runs with the same description follow the same source."""
    return {name: value for name, value in source.items() if name not in _OWN}


def is_news(before: Sequence[Source], mine: Sequence[Source]) -> bool:
    """Whether what a run remembers is worth a commit though no item is new."""
    told = (one for one in mine if "memory" in one and not _memory(one).get("is_running"))
    return any(_differ(_found(before, one), one) for one in told)


def _found(before: Sequence[Source], one: Source) -> Source:
    return next((other for other in before if description(other) == description(one)), {})


def _differ(before: Source, after: Source) -> bool:
    old, new = ({**_memory(one), "watermark": one.get("watermark")} for one in (before, after))
    names = {*old, *new} - {*_TIMES, "is_running"}
    if any(old.get(name) != new.get(name) for name in names):
        return True
    return any(_has_moved(old.get(name), new.get(name)) for name in ("watermark", "swept_at"))


def _memory(source: Source) -> dict[str, object]:
    found = source.get("memory")
    return dict(found) if isinstance(found, Mapping) else {}


def _has_moved(old: object, new: object) -> bool:
    if not new or not old:
        return bool(new) != bool(old)
    return moment(str(new)) - moment(str(old)) >= _WORTH


def moment(text: str) -> datetime:
    """UTC time of an ISO 8601 text."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def text_of(when: datetime) -> str:
    """Inverse of `moment`."""
    return when.astimezone(UTC).isoformat(timespec="microseconds")
