"""Coverage maps: well-formed, self-contained SVG with everything inside the frame."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry.base import BaseGeometry

from stacchip_core.chips.coverage import coverage_map_svg

SVG = "{http://www.w3.org/2000/svg}"
BOXES = st.builds(
    lambda west, south, width, height: shapely.box(west, south, min(west + width, 180), min(south + height, 90)),
    st.floats(-180, 179.9),
    st.floats(-90, 89.9),
    st.floats(0.001, 40),
    st.floats(0.001, 20),
)
ACROSS = shapely.MultiPolygon([shapely.box(179, -17, 180, -16), shapely.box(-180, -17, -179, -16)])


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def points(svg: str) -> list[tuple[float, float]]:
    """All corners of outlines, in pixels."""
    paths = [path.get("d", "") for path in parsed(svg).iter(f"{SVG}path")]
    return [(float(x), float(y)) for path in paths for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path)]


def frame(svg: str) -> tuple[float, float, float, float]:
    rect = next(rect for rect in parsed(svg).iter(f"{SVG}rect") if rect.get("fill") == "none")
    x, y, width, height = (float(rect.get(name, "nan")) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=20), st.lists(BOXES | st.just(ACROSS), max_size=6), max_size=4))
def test_any_outlines_give_a_map_that_holds_them(outlines: dict[str, list[BaseGeometry]]) -> None:
    outlines = {re.sub(r"[^\x20-\ud7ff]", "", name): shapes for name, shapes in outlines.items()}
    svg = coverage_map_svg(outlines)
    root = parsed(svg)
    assert root.tag == f"{SVG}svg"
    if any(outlines.values()):
        left, top, right, bottom = frame(svg)
        for x, y in points(svg):
            assert left - 0.1 <= x <= right + 0.1
            assert top - 0.1 <= y <= bottom + 0.1
    else:
        assert "no outlines" in svg


def test_nothing_comes_from_outside_and_colours_follow_the_page() -> None:
    svg = coverage_map_svg({"naip": [shapely.box(10, 40, 11, 41)]})
    assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]
    assert "<script" not in svg
    assert "currentColor" in svg
    assert "var(--map-1,#" in svg


def test_names_are_escaped() -> None:
    svg = coverage_map_svg({'<b>"&': [shapely.box(10, 40, 11, 41)]})
    assert "<b>" not in svg
    assert any(title.text == '<b>"&' for title in parsed(svg).iter(f"{SVG}title"))


def test_the_legend_counts_outlines() -> None:
    svg = coverage_map_svg({"naip": [shapely.box(10, 40, 11, 41)] * 3, "linz": []})
    counts = [span.text for span in parsed(svg).iter(f"{SVG}tspan")]
    assert counts == ["3", "0"]


def test_what_straddles_the_antimeridian_stays_in_one_piece() -> None:
    svg = coverage_map_svg({"a": [ACROSS]})
    xs = [x for x, _ in points(svg)]
    left, _, right, _ = frame(svg)
    assert max(xs) - min(xs) > 0.5 * (right - left)  # a scene of 2 degrees fills the map
    assert len(list(parsed(svg).iter(f"{SVG}path"))) == 1
    labels = [text.text for text in parsed(svg).iter(f"{SVG}text")]
    assert "180.0°" in labels


def test_the_world_is_cut_at_the_antimeridian_where_nothing_straddles_it() -> None:
    svg = coverage_map_svg(
        {"a": [shapely.box(-97, 34, -96, 35), shapely.box(10, 45, 11, 46), shapely.box(140, -30, 141, -29)]}
    )
    america, europe, australia = (path.get("d", "")[1:].split(" ")[0] for path in parsed(svg).iter(f"{SVG}path"))
    assert float(america) < float(europe) < float(australia)


def test_small_scenes_get_a_dot_on_a_large_map() -> None:
    svg = coverage_map_svg({"a": [shapely.box(-97, 34, -96.9, 34.1), shapely.box(10, 45, 40, 60)]})
    assert len(list(parsed(svg).iter(f"{SVG}circle"))) == 1


def test_very_many_outlines_are_drawn_as_their_union() -> None:
    chips = [shapely.box(x / 100, y / 100, (x + 1) / 100, (y + 1) / 100) for x in range(30) for y in range(30)]
    svg = coverage_map_svg({"naip": chips})
    assert len(list(parsed(svg).iter(f"{SVG}path"))) == 1
    assert len(svg) < 10_000
    assert "900" in svg


@pytest.mark.parametrize("latitude", [-89.5, 0.0, 84.0, 89.5])
def test_north_is_up_and_east_is_right(latitude: float) -> None:
    low, high = shapely.box(10, latitude, 10.1, latitude + 0.1), shapely.box(12, latitude + 0.3, 12.1, latitude + 0.4)
    (x1, y1), (x2, y2) = (points(coverage_map_svg({"a": [low, high]}))[at] for at in (0, 4))
    assert x1 < x2
    assert y1 > y2


@pytest.mark.parametrize("span", [0.05, 0.2, 0.31, 0.5, 1, 3, 10, 47, 170])
@pytest.mark.parametrize("width_px", [300, 360, 430, 860])
def test_longitudes_keep_apart(span: float, width_px: int) -> None:
    picture = coverage_map_svg({"a": [shapely.box(-121.93, 38.6, -121.93 + span, 38.6 + span / 3)]}, width_px=width_px)
    labels = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle"[^>]*>([^<]+)<', picture)
    places = [(float(x), 7.0 * len(text)) for x, text in labels]  # letters of 12 px are some 7 wide
    assert len(places) >= 1
    for (x, wide), (further, other) in pairwise(places):
        assert further - x > (wide + other) / 2
