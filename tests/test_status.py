"""The status page: shows what the summary says, loads nothing, and lets no text from outside become markup."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from flows.report.__main__ import main
from flows.report.charts import BARS_SHOWN, bars_of, colour, count_text, months_svg, spark_svg
from flows.report.page import render
from stacchip_core.warehouse.summary import Cause, DatasetState, Month, Point, Summary, summarize
from stacchip_core.warehouse.warehouse import Warehouse
from tests.care import filled, grow, memory_warehouse
from tests.test_report import EVIL, Page

NOW = datetime(2026, 11, 26, 8, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def summary() -> Summary:
    store = memory_warehouse().store
    filled(store)
    grow(store, 1, name="naip", collection="naip", start=50)
    return summarize(store)


def evil(summary: Summary) -> Summary:
    """The same with markup wherever text comes from outside."""
    return replace(
        summary,
        root=EVIL,
        collections=tuple(replace(one, folder=f"collections/{EVIL}", collection=EVIL) for one in summary.collections),
        months=(Month(EVIL, "2024-06", 5, None),),
        boxes={EVIL: ((1.0, 2.0, 3.0, 4.0),)},
        causes=(Cause(EVIL, EVIL, 3, EVIL, EVIL),),
        datasets=(DatasetState(EVIL, EVIL, EVIL, 5, 1, 2, 1000, is_finished=True),),
        runs=tuple(replace(run, writer=EVIL, at=EVIL) for run in summary.runs),
        problems={EVIL: EVIL},
    )


def test_the_page_shows_what_the_summary_says(summary: Summary) -> None:
    text = render(summary, NOW)
    chips = sum(one.totals.chips for one in summary.collections)
    for expected in ("2026-11-26 08:30 UTC", "naip@2, 1 behind", "item-0090", f"<b>{chips:,}</b>", "global@3"):
        assert expected in text
    assert text.count("<svg") == 2 + 3  # the months and a map, and how each of three indexes grew
    assert "being made" not in text


def test_the_page_loads_nothing_and_no_text_becomes_markup(summary: Summary) -> None:
    text = render(evil(summary), NOW)
    page = Page(text)
    assert not page.addresses
    assert not {"script", "link", "iframe", "object", "base", "form", "img"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", text)
    assert text.count("&lt;script&gt;") >= 12


def test_the_page_fits_both_colour_schemes(summary: Summary) -> None:
    text = render(summary, NOW)
    used = set(re.findall(r"var\((--[a-z0-9-]+)", text))
    light, dark = (set(re.findall(r"(--[a-z0-9-]+):", part)) for part in text.split("@media (prefers-color-scheme", 1))
    assert used <= light
    assert light == dark & light


def test_an_empty_warehouse_is_a_page_that_says_so() -> None:
    text = render(summarize(memory_warehouse().store), NOW)
    assert "Nothing is indexed yet" in text
    assert "<table" not in text


def test_months_have_no_gaps_and_lose_no_chip() -> None:
    months = [Month("a", "2023-11", 5, 1), Month("b", "2023-11", 7, 2), Month("a", "2024-02", 1, 1)]
    bars = bars_of(months)
    assert [bar.label for bar in bars] == ["2023-11", "2023-12", "2024-01", "2024-02"]
    assert [(bar.total, bar.items) for bar in bars] == [(12, 3), (0, 0), (0, 0), (1, 1)]
    assert bars_of([]) == []


@pytest.mark.parametrize(("years", "label"), [(3, "1990-01"), (10, "1990 Q1"), (60, "1990")])
def test_a_long_time_is_drawn_in_fewer_bars(years: int, label: str) -> None:
    months = [Month("a", f"{1990 + n // 12}-{n % 12 + 1:02d}", n + 1, None) for n in range(12 * years)]
    bars = bars_of(months)
    assert bars[0].label == label
    assert len(bars) <= BARS_SHOWN
    assert sum(bar.total for bar in bars) == sum(one.chips for one in months)


def test_charts_are_whole_svg_elements() -> None:
    bars = bars_of([Month("a<b", "2024-01", 999_999, 3), Month("c", "2024-03", 1, None)])
    drawn = ElementTree.fromstring(months_svg(bars, ["a<b", "c"]))
    rects = [one.get("fill") for one in drawn.iter("rect")]
    assert rects == [colour(0), colour(1)]
    spark = ElementTree.fromstring(spark_svg([Point(1, "2024-01-01T00:00:00Z", 1, 5), Point(2, "", 2, 9)], label="<"))
    assert spark.get("aria-label") == "<: 5 to 9 chips in 2 versions"
    ElementTree.fromstring(spark_svg([Point(1, "nonsense", 0, 0)], label="x"))


@pytest.mark.parametrize(("count", "text"), [(0, "0"), (950, "950"), (12_000, "12 k"), (3_400_000, "3.4 M")])
def test_counts_of_an_axis_are_short(count: int, text: str) -> None:
    assert count_text(count) == text


def test_the_command_writes_the_page_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grow(Warehouse(tmp_path / "w", create=True).store, 1)
    assert main([str(tmp_path / "w"), "--out", str(tmp_path / "new" / "status.html")]) == 0
    assert "<h2>Collections</h2>" in (tmp_path / "new" / "status.html").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip().endswith("status.html")
    assert main([str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err
