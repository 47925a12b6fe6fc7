"""The status page in a real browser: it fits its window in both colour schemes, and asks nobody for anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from playwright.sync_api import Page

from flows.pages import write_page
from flows.report.page import render
from stacchip_core.warehouse.combined.merge import merge
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.summary import Summary, summarize
from tests.care import memory_warehouse
from tests.ui.pages import picture, tab
from tests.warehouse_rows import Piece, commit_pieces

pytestmark = pytest.mark.ui

# Collection -> commits, items of each, first and last month.
GROWN = {
    "landsat-c2-l2": (6, 9, 3, 11),
    "naip": (3, 6, 5, 8),
    "sentinel-1-rtc": (5, 6, 2, 10),
    "sentinel-2-l2a": (9, 12, 1, 12),
}


def grown(store: Store) -> None:
    """Four collections that grew for a while, with failures, and a combined index that lags behind one of them."""
    random = np.random.default_rng(7)
    for name, (commits, items, first, last) in GROWN.items():
        for number in range(commits):
            months, rows = random.integers(first, last + 1, items), random.integers(5, 60, items)
            pieces = [
                Piece(number * items + place, collection=name, month=int(month), rows=int(count))
                for place, (month, count) in enumerate(zip(months, rows, strict=True))
            ]
            reason = f"item item-{900 + number:04d}: asset 'scl': HTTP 404 Not Found"
            broken = [Piece(900 + number, collection=name, failure="read", reason=reason)] if number % 3 == 2 else []
            commit_pieces(store, name, [*pieces, *broken])
            if number == commits - 2:
                merge(store, "world", [one for one in GROWN if one <= name])


@pytest.fixture(scope="module")
def summary() -> Summary:
    store = memory_warehouse().store
    grown(store)
    return replace(summarize(store), root="s3://chips/index")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with tab() as one:
        yield one


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 900])
def test_the_page_fits_its_window(
    page: Page, summary: Summary, tmp_path: Path, scheme: Literal["light", "dark"], width: int
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    path = write_page(tmp_path / "status.html", render(summary, datetime(2026, 11, 26, 8, 30, tzinfo=UTC)))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 1900})
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    brightness = sum(int(part) for part in background.removeprefix("rgb(").rstrip(")").split(","))
    assert (brightness > 600) is (scheme == "light")
    assert asked == [path.as_uri()]
    assert page.get_by_text("1 behind").count() > 0
    if (scheme, width) == ("light", 1400):
        picture(page, "status", {"x": 110, "y": 0, "width": 1180, "height": 1120})
