"""Prefect's pages as a person sees them: what is clicked, filled in and read, in headless Chromium.

Labels of the form are not tied to their inputs, and its lists open by keyboard only: measured with Prefect 3.8.8.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import rasterio
from playwright.sync_api import FloatRect, Locator, Page, sync_playwright
from rasterio.enums import Resampling

from tests.prefect_stack import Prefect

FORM_S, SUBMIT_S, RUN_S = 60, 30, 90  # what each took at most on a loaded machine; see `within`
SCREENSHOTS = "STACCHIP_SCREENSHOTS"  # folder that takes pictures for the docs; else none are made
LARGEST_BYTES = 150_000
PICTURE_PX = 820
SIDEBAR_PX = 256
WIDTH_PX, HEIGHT_PX = 1280, 1500
# Nothing but the pages themselves may be asked for anything.
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
           "--disable-sync", "--no-first-run")  # fmt: skip


@dataclass(slots=True)
class Pages:
    """A browser tab on a Prefect server.

    Attributes:
        elsewhere: addresses on other hosts that a page asked for.
    """

    prefect: Prefect
    page: Page
    elsewhere: list[str] = field(default_factory=list)

    def open_form(self, deployment: str) -> None:
        """From the page of a deployment to its form, by its button."""
        self.page.goto(f"{self.prefect.url}/deployments/deployment/{self.prefect.deployment(deployment)['id']}")
        self.page.get_by_role("button", name="Run", exact=True).click(timeout=within(FORM_S))
        self.page.get_by_text("Custom run").click()
        self._property("Reason").wait_for(timeout=within(FORM_S))

    def labels(self) -> list[str]:
        """Labels of the form's fields, top to bottom; the first is that of all of them."""
        texts = self.page.locator(".schema-form-property__label").all_inner_texts()
        return [text.removesuffix(" (Optional)").strip() for text in texts]

    def choices(self, label: str) -> list[str]:
        """What a list offers."""
        self._open(label)
        texts = self.page.locator(".p-select-options .p-select-option").all_inner_texts()
        self.page.keyboard.press("Escape")
        return [text.strip() for text in texts]

    def choose(self, label: str, choice: str) -> None:
        """Choose from a list."""
        self._open(label)
        self.page.locator(".p-select-options").get_by_text(choice, exact=True).first.click()

    def fill(self, label: str, text: str) -> None:
        """Fill in a text."""
        self._property(label).locator("textarea, input").first.fill(text)

    def switch(self, label: str) -> None:
        """Turn a switch."""
        self._property(label).get_by_role("switch").click()

    def submit(self) -> None:
        """Press the button below the form."""
        self.page.get_by_role("button", name="Submit", exact=True).click()

    def refusal(self) -> str:
        """What the page says against the values in the form."""
        message = self.page.get_by_text("Failure reason").first
        message.wait_for(timeout=within(SUBMIT_S))
        return message.inner_text()

    def leave_form(self) -> None:
        """Wait until the values were taken: the form goes away."""
        self.page.wait_for_url("**/deployments/deployment/*", timeout=within(SUBMIT_S))

    def watch(self, run: str) -> str:
        """Look at a run until its page says that it has ended; the tabs' worth of names of its artifacts."""
        self.page.goto(f"{self.prefect.url}/runs/flow-run/{run}")
        self.page.get_by_text("Completed", exact=True).first.wait_for(timeout=within(RUN_S))
        self.page.get_by_text("Artifacts", exact=True).first.click()
        cards = self.page.locator("a[href*='/artifacts/']")
        cards.first.wait_for(timeout=within(SUBMIT_S))
        return "\n".join(cards.all_inner_texts())

    def open_artifact(self, artifact: str, what: str) -> None:
        """Look at an artifact; `what` is an element that it must show."""
        self.page.goto(f"{self.prefect.url}/artifacts/artifact/{artifact}")
        self.page.locator(what).first.wait_for(timeout=within(SUBMIT_S))

    def picture_widths(self) -> list[int]:
        """Widths of the pictures on the page as they were decoded; 0 is one that can't be shown."""
        self.page.wait_for_function("[...document.images].every(image => image.complete)", timeout=within(SUBMIT_S))
        widths: list[int] = self.page.evaluate("[...document.images].map(image => image.naturalWidth)")
        return widths

    def shoot(self, name: str, *, height: int = HEIGHT_PX) -> None:
        """A picture of the page beside its menu, for the docs, where they are asked for."""
        clip: FloatRect = {"x": SIDEBAR_PX, "y": 0, "width": WIDTH_PX - SIDEBAR_PX, "height": height}
        picture(self.page, name, clip)

    def _property(self, label: str) -> Locator:
        """The part of the form that a label stands over."""
        names = " or ".join(f"normalize-space()='{text}'" for text in (label, f"{label} (Optional)"))
        span = f"//span[contains(@class, 'schema-form-property__label') and ({names})]"
        part = f"{span}/ancestor::div[@class='p-label schema-form-property'][1]//fieldset"
        return self.page.locator(f"xpath={part}").first

    def _open(self, label: str) -> None:
        button = self._property(label).get_by_role("button").first
        button.focus()
        button.press("ArrowDown")
        self.page.locator(".p-select-option").first.wait_for()  # a list opens empty, and is filled once it is seen


def within(seconds: float) -> float:
    """Milliseconds that are waited at most: four times what is usual, since nothing is shown by a machine's load."""
    return seconds * 4000


def picture(page: Page, name: str, clip: FloatRect) -> None:
    """Write a picture to the folder that asks for them."""
    if folder := os.environ.get(SCREENSHOTS):
        path = Path(folder) / f"{name}.png"
        page.screenshot(path=path, clip=clip, animations="disabled")
        slim(path)
        assert path.stat().st_size < LARGEST_BYTES, f"{path.name} has {path.stat().st_size} bytes"


def slim(path: Path) -> None:
    """Make a picture small enough to be kept: as wide as the docs show it, in 32 steps of each colour."""
    with rasterio.open(path) as source:
        size = (3, round(source.height * PICTURE_PX / source.width), PICTURE_PX)
        pixels = source.read([1, 2, 3], out_shape=size, resampling=Resampling.cubic)
    profile = {"driver": "PNG", "height": size[1], "width": size[2], "count": 3, "dtype": "uint8", "ZLEVEL": 9}
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels & 0xF8)
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)


@contextmanager
def tab() -> Iterator[Page]:
    """A tab of a browser of one's own."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.fail("Chromium is not installed: make packages")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        try:
            page = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX})
            page.set_default_timeout(within(SUBMIT_S))
            yield page
        finally:
            browser.close()
