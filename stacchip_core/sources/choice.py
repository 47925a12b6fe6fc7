"""Which of the items found are taken: the n best of each area feature and period, by a rule that always says the same.

The choice looks at items alone, never at the order they came in, so every run makes the same one of the same items.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stacchip_core.sources.area import Area
from stacchip_core.sources.interval import item_times
from stacchip_core.sources.item import StagedItem
from stacchip_core.sources.validation import numbered

_NO_TIME = dt.datetime(1, 1, 1, tzinfo=dt.UTC)


class Choice(BaseModel):
    """Take only the best of the items found, so many for each period and each feature of the area."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    by: Literal["least_cloudy", "latest", "earliest", "random"] = Field(
        "least_cloudy",
        title="Best is",
        description="Least cloudy, latest, earliest, or a random sample that the seed decides.",
    )
    number: int = Field(1, title="So many", description="Items taken of each period and feature.", ge=1, le=100_000)
    period: Literal["none", "year", "quarter", "month", "day"] = Field(
        "none", title="Of each", description="Period of time that so many are taken of; none: of all times together."
    )
    per_feature: bool = Field(
        True, title="For each feature", description="So many for each feature of the area, not for the area as a whole."
    )
    cloud_property: str = Field(
        "eo:cloud_cover", title="Cloud property", description="What tells clouds; items without come last."
    )
    seed: int = Field(0, title="Seed", description="Of the random sample.", ge=0)

    def choose(self, items: Iterable[StagedItem], area: Area | None) -> list[StagedItem]:
        """The items taken, in order of collection and id; failures are all kept."""
        cells: dict[tuple[str, int], list[_Ranked]] = {}
        failed = list[StagedItem]()
        for staged in items:
            if staged.error is not None:
                failed.append(staged)
                continue
            ranked = _Ranked(self._rank(staged.item), staged)
            for feature in area.met_by(staged.item) if area is not None and self.per_feature else (0,):
                cell = cells.setdefault((self._period(staged.item), feature), [])
                heapq.heappush(cell, ranked)
                if len(cell) > self.number:
                    heapq.heappop(cell)
        taken = {_name(one.staged): one.staged for cell in cells.values() for one in cell}
        return [*(taken[name] for name in sorted(taken)), *failed]

    def _rank(self, item: Mapping[str, Any]) -> tuple[float, float, str]:
        """What orders items, the best first; the id decides where all else is equal."""
        when = ((item_times(item)[0] or _NO_TIME) - _NO_TIME).total_seconds()
        name = f"{item.get('collection')}/{item['id']}"
        if self.by == "random":
            mark = hashlib.sha256(f"{self.seed}/{name}".encode("utf-8", "surrogatepass")).digest()
            return int.from_bytes(mark[:6], "big"), 0.0, name
        if self.by == "least_cloudy":
            cloud = item["properties"].get(self.cloud_property)
            is_known = isinstance(cloud, int | float) and not isinstance(cloud, bool) and not math.isnan(cloud)
            return (float(cloud) if is_known else float("inf")), -when, name
        return (when if self.by == "earliest" else -when), 0.0, name

    def _period(self, item: Mapping[str, Any]) -> str:
        when = item_times(item)[0]
        if when is None or self.period == "none":
            return ""
        names = {
            "year": f"{when:%Y}",
            "quarter": f"{when:%Y}-Q{(when.month + 2) // 3}",
            "month": f"{when:%Y-%m}",
            "day": f"{when:%Y-%m-%d}",
        }
        return names[self.period]


@dataclass(frozen=True, slots=True)
class _Ranked:
    """An item with its rank; the worst comes first, as a heap wants it."""

    rank: tuple[float, float, str]
    staged: StagedItem = field(compare=False)

    def __lt__(self, other: _Ranked) -> bool:
        return self.rank > other.rank


def _name(staged: StagedItem) -> str:
    return f"{staged.item.get('collection')}/{staged.item['id']}"
