"""The status page: a warehouse as it is now, on one page that needs nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from markupsafe import Markup

from flows.pages import page_of
from flows.report.charts import bars_of, colour, count_text, months_svg, spark_svg
from stacchip_core.chips.charts import size_text
from stacchip_core.chips.maps import boxes_as_outlines, maps_of
from stacchip_core.warehouse.summary import IndexState, Summary

REASON_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Figure:
    """One key figure."""

    label: str
    value: str
    is_bad: bool = False


@dataclass(frozen=True, slots=True)
class IndexRow:
    """A collection or combined index."""

    name: str
    detail: str
    colour: str
    version: int
    items: int
    chips: int
    span: str
    last: str
    files: int | None
    size: str
    spark: Markup
    sources: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, state: IndexState, place: int) -> IndexRow:
        """The row of an index; `place` is that of its colour."""
        return cls(
            name=state.name,
            detail="" if state.collection == state.name else state.collection,
            colour=colour(place),
            version=state.version,
            items=state.totals.items,
            chips=state.totals.chips,
            span=_span(state.start, state.end),
            last=moment_text(state.points[-1].at),
            files=state.files,
            size="" if state.size is None else size_text(state.size),
            spark=Markup(spark_svg(state.points, label=state.name)),
            sources=tuple((f"{one.collection}@{one.version}", one.newest - one.version) for one in state.sources),
        )


@dataclass(frozen=True, slots=True)
class Page:
    """All that the page shows; what is empty is left out."""

    summary: Summary
    drawn_at: str
    figures: tuple[Figure, ...]
    collections: tuple[IndexRow, ...]
    combined: tuple[IndexRow, ...]
    legend: tuple[tuple[str, str], ...]
    months: Markup
    is_exact: bool
    maps: tuple[tuple[str, Markup], ...]


def render(summary: Summary, now: datetime) -> str:
    """The page as HTML.

    Args:
        summary: what to show.
        now: when the warehouse was looked at.
    """
    names = [one.name for one in summary.collections]
    page = Page(
        summary=summary,
        drawn_at=f"{now:%Y-%m-%d %H:%M} UTC",
        figures=tuple(_figures(summary)),
        collections=tuple(IndexRow.of(one, place) for place, one in enumerate(summary.collections)),
        combined=tuple(IndexRow.of(one, place) for place, one in enumerate(summary.combined)),
        legend=tuple((name, colour(place)) for place, name in enumerate(names)),
        months=Markup(months_svg(bars_of(summary.months), names)),
        is_exact=all(one.items is not None for one in summary.months),
        maps=tuple(_maps(summary)),
    )
    return page_of(
        "flows.report", "status.html.j2", page=page, size_text=size_text, moment_text=moment_text, shortened=shortened
    )


def moment_text(text: str) -> str:
    """A moment of the log, to the minute."""
    return text[:16].replace("T", " ") if text else "unknown"


def shortened(text: str) -> str:
    """A reason that is not endless."""
    return text if len(text) <= REASON_CHARACTERS else f"{text[: REASON_CHARACTERS - 1]}…"


def _figures(summary: Summary) -> list[Figure]:
    totals = [one.totals for one in summary.collections]
    failing = sum(one.items for one in summary.causes)
    found = [
        Figure("collections", f"{len(summary.collections):,}"),
        Figure("items", _count(sum(one.items for one in totals))),
        Figure("chips", _count(sum(one.chips for one in totals))),
        Figure("combined indexes", f"{len(summary.combined):,}"),
        Figure("datasets", f"{len(summary.datasets):,}"),
        Figure("items failing", f"{failing:,}", is_bad=failing > 0),
    ]
    return [*found, Figure("damaged", f"{len(summary.problems):,}", is_bad=True)] if summary.problems else found


def _count(count: int) -> str:
    return f"{count:,}" if count < 1_000_000 else count_text(count)


def _span(start: str | None, end: str | None) -> str:
    if not start or not end:
        return ""
    first, last = start[:10], end[:10]
    return first if first == last else f"{first} to {last}"


def _maps(summary: Summary) -> Sequence[tuple[str, Markup]]:
    outlines = {
        name: boxes_as_outlines(np.array(boxes, np.float64).reshape(-1, 4).T) for name, boxes in summary.boxes.items()
    }
    if not any(outlines.values()):
        return []
    return [(one.title, Markup(one.svg)) for one in maps_of(outlines)]
