"""The page of a dataset: whole, self-contained, escaped, and never in the way of the dataset."""

from __future__ import annotations

import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.pictures import dataset_pictures
from stacchip_core import Dataset, Storage, Warehouse, materialize
from stacchip_core.chips import report
from stacchip_core.chips.charts import Histogram, histogram_svg, number_text
from stacchip_core.chips.pictures import coverage_of, sample_of, spread
from stacchip_core.chips.report import report_html
from stacchip_core.cli import app
from tests.warehouses import made, spec

VOID = {"meta", "img", "br"}


class Tags(HTMLParser):
    """Elements that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Of SVG."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    warehouse = made(tmp_path_factory.mktemp("pixels"), tmp_path_factory.mktemp("warehouse"))
    return materialize(warehouse, spec())


def test_a_page_is_whole_and_fetches_nothing(dataset: Dataset) -> None:
    page = report_html(dataset)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(tags.images) == 3
    assert all(image.startswith("data:image/png;base64,") for image in tags.images)
    assert re.findall(r"https?://[^\"'\s<]+", page) == ["http://www.w3.org/2000/svg"] * page.count("<svg xmlns")
    assert "<script" not in page
    assert 'name="color-scheme" content="light dark"' in page
    assert "58 chips of 4 items" in page
    for text in ("sentinel-2-l2a", "12 chips, shown as red, green, blue", "shown as vv, vh", dataset.lock.spec_sha256):
        assert text in page


def test_the_page_lies_beside_the_dataset(dataset: Dataset) -> None:
    path = dataset.write_report()
    assert path == f"{dataset.path}/report.html"
    assert Path(path).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert len(Dataset.open(dataset.path)) == len(dataset)


def test_the_command_writes_the_page_and_the_item(dataset: Dataset) -> None:
    root, _, name = dataset.path.rpartition("/datasets/")
    done = CliRunner().invoke(app, ["-w", root, "dataset", "report", name])
    assert done.exit_code == 0, done.output
    assert done.output.split() == [f"{dataset.path}/item.json", f"{dataset.path}/report.html"]


def test_pictures_of_a_run_are_maps_and_sheets_and_the_page_is_written(dataset: Dataset) -> None:
    Path(dataset.path, "report.html").unlink(missing_ok=True)
    found = dataset_pictures(dataset.path, Storage())
    sheets = {f"Chips of {name}" for name in ("naip", "sentinel-1-rtc", "sentinel-2-l2a")}
    assert sheets | {"Coverage"} <= set(found)
    assert all(address.startswith("data:image/") for address in found.values())
    assert Path(dataset.path, "report.html").is_file()


def test_a_picture_that_can_not_be_drawn_is_a_line_in_the_log(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(report, "coverage_of", broken)
    with caplog.at_level(logging.WARNING):
        assert dataset.write_report() is None
    assert "dataset 'fields': its report could not be drawn" in caplog.text


def test_what_could_not_be_read_is_listed_and_escaped(tmp_path: Path) -> None:
    warehouse = made(tmp_path / "scenes", tmp_path / "w")
    (tmp_path / "scenes" / "S2A_32TMT_20240620_0_L2A" / "nir.tif").write_bytes(b"<script>")
    page = report_html(materialize(warehouse, spec(collections=["sentinel-2-l2a"])))
    assert "Could not be read" in page
    assert "and 5 more: the table of chips lists all" in page
    assert "<script" not in page


def test_a_histogram_of_pixels_leaves_out_nodata_and_counts_what_is_shown(dataset: Dataset) -> None:
    sample = sample_of(dataset, "sentinel-1-rtc")
    assert sample is not None
    found = sample.histograms()["vv"]
    values = np.concatenate([chip["vv"].ravel() for row, chip in dataset if row["collection"] == "sentinel-1-rtc"])
    measured = values[values != -32768].astype(np.float64)
    assert found.unknown == len(values) - len(measured) > 0
    assert found.mean == pytest.approx(measured.mean(), rel=1e-6)
    assert found.std == pytest.approx(measured.std(), rel=1e-6)
    assert found.known == ((measured >= found.low) & (measured <= found.high)).sum()
    svg = histogram_svg(found, label="vv", tone="red")
    assert svg.count("<rect") == sum(count > 0 for count in found.counts)
    assert svg.count("<svg") == svg.count("</svg>") == 1


@pytest.mark.parametrize("values", [[], [3.0], [3.0, 3.0]])
def test_a_histogram_of_few_or_equal_pixels_is_one_all_the_same(values: list[float]) -> None:
    found = Histogram.of_pixels(np.array(values, np.float32), 2)
    assert (found.known, found.unknown, found.mean) == (len(values), 2, values[0] if values else None)
    assert histogram_svg(found, label="x", tone="red").endswith("</svg>")


def test_maps_are_coloured_by_a_column(dataset: Dataset) -> None:
    whole, *places = coverage_of(dataset)
    assert len(places) == 2  # two corners of the world
    by_item = coverage_of(dataset, "item_id")[0].svg
    assert whole.svg.count("<title>") == 3
    assert by_item.count("<title>") == 4


@pytest.mark.parametrize(("count", "most", "expected"), [(0, 5, []), (3, 5, [0, 1, 2]), (10, 2, [2, 7])])
def test_places_are_spread_evenly(count: int, most: int, expected: list[int]) -> None:
    assert spread(count, most).tolist() == expected


def test_splits_have_a_map_of_their_own(dataset: Dataset, tmp_path: Path) -> None:
    warehouse = made(tmp_path / "scenes", tmp_path / "w")
    by_chip = {"by": "chip", "force": True, "train": 1, "validation": 1, "test": 1}
    page = report_html(materialize(warehouse, spec(split=by_chip, collections=["sentinel-2-l2a"])))
    maps = page[page.index("<h2>Splits</h2>") : page.index("<h2>Contact sheets</h2>")]
    assert all(f"<title>{name}</title>" in maps for name in ("test", "train", "validation"))
    assert "blocks of the ground" not in maps
    assert "<h2>Splits</h2>" not in report_html(dataset)


def test_a_dataset_of_a_collection_without_chips_has_a_page(tmp_path: Path) -> None:
    warehouse: Warehouse = made(tmp_path / "scenes", tmp_path / "w")
    page = report_html(materialize(warehouse, spec(limit=1, bands=[{"collection": "naip", "bands": ["image"]}])))
    assert "1 chips of 1 items" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0312345, "0.03123"),
        (94.087, "94.09"),
        (999.96, "1000"),
        (11_430.4, "11,430"),
        (-12_345.0, "-12,345"),
        (0, "0"),
    ],
)
def test_values_of_pixels_are_written_as_people_write_them(value: float, text: str) -> None:
    assert number_text(value) == text
