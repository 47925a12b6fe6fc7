"""The report: one page that shows what there is, loads nothing, and lets no text from outside become markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
import shapely
from markupsafe import Markup

from flows.demo.report import (
    CollectionCard,
    CombinedRow,
    Fact,
    Figure,
    MapCard,
    Report,
    Step,
    render,
    write_report,
)
from stacchip_core.chips.charts import BINS, Histogram, histogram_svg, size_text
from stacchip_core.chips.maps import scattered_places
from stacchip_core.warehouse.batch import ItemFailure

EVIL = '<script>alert("x")</script>'


def card(name: str) -> CollectionCard:
    fractions = Histogram.of(pa.chunked_array([pa.array([0.0, 0.1, 1.0, None], pa.float32())]))
    unknown = Histogram.of(pa.chunked_array([pa.nulls(4, pa.float32())]))
    return CollectionCard(
        name, 2, 4, ("2024-06-01", "10 m"), fractions, unknown, "data:image/png;base64,AAAA", "4 chips"
    )


def whole_report() -> Report:
    return Report(
        title=EVIL,
        lead=EVIL,
        figures=(Figure("items", EVIL),),
        steps=(
            Step("Index", (16, 0, 0, 0, 784), 4.25, "16 new items", is_good=True),
            Step("Merge", (None, None, None, None, 784), 1.0, EVIL, is_good=False),
        ),
        maps=(MapCard("All", Markup("<svg id='map'></svg>")),),
        collections=(card(EVIL), card("naip")),
        combined=(CombinedRow("world", 3, "a" * 64, "naip@2", 17, 833, 9, 166_300),),
        failures=(ItemFailure(EVIL, "read", EVIL),),
        snippet=EVIL,
        footer="end",
    )


class Page(HTMLParser):
    """Tags in order, and every address a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    text = render(whole_report())
    page = Page(text)
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", text)


def test_the_page_shows_what_it_was_given() -> None:
    text = render(whole_report())
    for expected in ("16 new items", "784", "world@3", "naip@2", "166.3 kB", "mean 36.7%", "unknown for all 4 chips"):
        assert expected in text
    assert "<svg id='map'></svg>" in text
    assert text.count("&lt;script&gt;") >= 8


def test_an_empty_report_is_a_page_without_sections() -> None:
    page = Page(render(Report(title="Nothing yet", lead="An empty warehouse.")))
    assert "h1" in page.tags
    assert not {"section", "table", "img"} & set(page.tags)


def test_the_page_fits_both_colour_schemes() -> None:
    text = render(whole_report())
    assert "prefers-color-scheme: dark" in text
    light, dark = (set(re.findall(r"(--[a-z0-9-]+):", part)) for part in text.split("@media (prefers-color-scheme", 1))
    used = set(re.findall(r"var\((--[a-z0-9-]+)", text))
    assert used <= light
    assert light == dark & light


def test_writing_replaces_the_page_in_one_go(tmp_path: Path) -> None:
    path = write_report(tmp_path / "a" / "report.html", Report(title="one", lead=""))
    write_report(path, Report(title="two", lead=""))
    assert "<h1>two</h1>" in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_a_histogram_counts_every_known_chip_once() -> None:
    values = [0.0, 0.049, 0.05, 0.5, 0.999, 1.0, None, None]
    histogram = Histogram.of(pa.chunked_array([pa.array(values[:3], pa.float32()), pa.array(values[3:], pa.float32())]))
    assert len(histogram.counts) == BINS
    assert (histogram.known, histogram.unknown) == (6, 2)
    assert (histogram.counts[0], histogram.counts[-1]) == (2, 2)
    assert histogram.mean == pytest.approx(sum(v for v in values if v is not None) / 6, abs=1e-6)
    svg = histogram_svg(histogram, label="cloud", tone="red")
    assert svg.count("<rect") == sum(count > 0 for count in histogram.counts)


def test_places_far_apart_get_maps_of_their_own() -> None:
    near = {"a": [shapely.box(10, 45, 10.2, 45.2)], "b": [shapely.box(10.1, 45.1, 10.4, 45.3)]}
    assert scattered_places(near) == []
    far = {**near, "c": [shapely.box(120, -10, 120.2, -9.8), shapely.Polygon()]}
    places = scattered_places(far)
    assert len(places) == 2
    assert all(
        sum(place.intersects(shape) for place in places) == 1 for some in far.values() for shape in some if shape
    )
    many = {"a": [shapely.box(10 * n, 0, 10 * n + 0.1, 0.1) for n in range(9)]}
    assert scattered_places(many) == []
    assert scattered_places({"a": []}) == []


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (166_300, "166.3 kB"), (21_100_000, "21.1 MB")])
def test_sizes_are_given_in_the_unit_people_read(size: int, text: str) -> None:
    assert size_text(size) == text
    assert Fact("Size", text).value == text
