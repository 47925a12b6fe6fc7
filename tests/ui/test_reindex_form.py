"""Someone reindexes a collection in Prefect's pages, in a real browser, and finds what came of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.demo.scenes import build_demo
from flows.reindex_items import ReindexConfig
from stacchip_core import Warehouse
from tests.data import REPO
from tests.postgres import database
from tests.prefect_stack import PATIENCE_S, Installation, Prefect, stack
from tests.scenes import naip_scene, sentinel2_scene, utm_grid, write_catalog
from tests.ui.pages import SCREENSHOTS, Pages, tab

pytestmark = pytest.mark.ui

NAME, OTHER, INDEX = "demo-sentinel-2", "demo-naip", "demo-world"
IOWA = [-95.0, 41.5, -93.0, 43.0]  # one of the demo's two places, so that a picture shows map and contact sheet
REASON = "the cloud mask was mended"


def deployed(kind: str, name: str, **changes: Any) -> dict[str, Any]:
    """A file of `deployments/`, with some values replaced."""
    values: dict[str, Any] = yaml.safe_load((REPO / "deployments" / kind / f"{name}.yaml").read_text(encoding="utf-8"))
    del values["warehouse"], values["deploy"]
    return {**values, **changes}


def small_scenes(folder: Path) -> Path:
    """A catalog of scenes that are drawn in a second; those of the demo are for pictures, and take half a minute."""
    grid = utm_grid(600)
    days = ("2024-06-15T10:00:00Z", "2024-07-15T10:00:00Z")
    scenes = [sentinel2_scene(folder, grid=grid, item_id=f"S2_{day[:10]}", when=day) for day in days]
    return write_catalog(folder, [*scenes, naip_scene(folder, grid=grid)])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """What `make deploy-local` deploys, without schedules, with scenes of its own."""
    root = tmp_path_factory.mktemp("ui")
    catalog = str(
        build_demo(REPO / ".demo" / "scenes") if os.environ.get(SCREENSHOTS) else small_scenes(root / "scenes")
    )
    place = {"url": catalog, "bbox": IOWA} if os.environ.get(SCREENSHOTS) else {"url": catalog}
    collections = {
        name: deployed("collections", name, source={**deployed("collections", name)["source"], **place})
        for name in (NAME, OTHER)
    }
    combined = {INDEX: {"name": INDEX}}
    return Installation(root / "deployments", str(root / "warehouse"), collections, combined)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory, installed: Installation) -> Iterator[Prefect]:
    """A server and a worker; both collections are indexed."""
    with database() as url, stack(tmp_path_factory.mktemp("prefect"), installed, database=url) as running:
        runs = [running.press(f"index-items/{name}") for name in (NAME, OTHER)]
        assert [running.ending(run) for run in runs] == ["COMPLETED", "COMPLETED"]
        settle(running, merges=2)
        yield running


@pytest.fixture(scope="module")
def pages(prefect: Prefect) -> Iterator[Pages]:
    with tab() as page:
        one = Pages(prefect, page)
        page.on("request", lambda request: None if request.url.startswith((prefect.url, "data:", "blob:"))
                else one.elsewhere.append(request.url))  # fmt: skip
        yield one


def settle(prefect: Prefect, merges: int) -> list[Any]:
    """Wait until so many merges have followed, and all have ended; they."""
    deadline = time.monotonic() + PATIENCE_S
    while len(found := prefect.runs("merge-indexes")) < merges:
        assert time.monotonic() < deadline, f"{len(found)} merges followed, not {merges}"
        time.sleep(0.5)
    assert {prefect.ending(run["id"]) for run in found} == {"COMPLETED"}
    return found


def test_the_form_is_in_order_and_lists_what_there_is(pages: Pages) -> None:
    pages.open_form("reindex-items/reindex")
    titles = [field.title for field in ReindexConfig.model_fields.values()]
    assert pages.labels()[1:] == titles
    assert pages.choices("Collection") == [OTHER, NAME]
    assert pages.choices("Which items") == ["items", "time", "everything"]


def test_a_mistake_is_refused_in_the_form_and_no_run_begins(pages: Pages) -> None:
    pages.open_form("reindex-items/reindex")
    pages.choose("Collection", NAME)
    pages.choose("Which items", "everything")
    pages.fill("Reason", "no")
    pages.submit()
    assert "'config.reason'" in pages.refusal()
    assert "'no' is too short" in pages.refusal()
    pages.shoot("reindex-refused", height=1500)
    assert pages.page.url.split("?")[0].endswith("/run")
    assert pages.prefect.runs("reindex-items") == []


def test_a_run_from_the_form_makes_a_version_and_a_merge_follows(pages: Pages, installed: Installation) -> None:
    warehouse = Warehouse(installed.warehouse)
    before, merged = warehouse.collection(NAME), warehouse.combined(INDEX)
    merges = {run["id"] for run in pages.prefect.runs("merge-indexes")}
    pages.open_form("reindex-items/reindex")
    pages.choose("Collection", NAME)
    pages.choose("Which items", "everything")
    pages.fill("Reason", REASON)
    pages.switch("Dry run")
    pages.submit()
    pages.leave_form()
    (run,) = pages.prefect.runs("reindex-items")
    assert run["parameters"]["config"]["dry_run"] is False

    names = pages.watch(run["id"])
    assert f"reindex-{NAME}" in names
    pages.shoot("reindex-run", height=880)
    after = warehouse.collection(NAME)
    assert after.version == before.version + 1
    assert any(source.get("reason") == REASON for source in after.sources)
    assert after.entry.counts.updated == before.entry.totals.items > 0

    found = {one["key"]: one for one in pages.prefect.artifacts(run["id"])}
    pages.open_artifact(found[f"reindex-{NAME}-items"]["id"], "table")
    assert f"{before.entry.totals.items}" in pages.page.locator("table").first.inner_text()
    pages.open_artifact(found[f"reindex-{NAME}"]["id"], "img")
    shown = pages.page.locator("body").inner_text()
    assert REASON in shown
    assert f"version {after.version}" in shown
    assert "Coverage" in shown
    assert "chips of" in shown
    widths = pages.picture_widths()
    assert len(widths) >= 2
    assert all(widths)
    pages.shoot("reindex-artifact", height=1110)

    follow_up = [one for one in settle(pages.prefect, len(merges) + 1) if one["id"] not in merges]
    assert follow_up
    assert "AUTOMATION" in str(follow_up[0]["created_by"])
    assert warehouse.combined(INDEX).version == merged.version + 1
    assert dict(warehouse.combined(INDEX).sources[1])["version"] == after.version
    assert warehouse.verify(deep=True).is_clean


def test_pages_ask_nobody_else(pages: Pages) -> None:
    pages.page.goto(f"{pages.prefect.url}/dashboard")
    pages.page.get_by_text("Flow Runs").first.wait_for()
    assert pages.elsewhere == []
