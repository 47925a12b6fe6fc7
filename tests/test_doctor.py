"""The doctor: a source that is well passes every check; of one that is ill it says at which, why, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stacchip_core.chips.doctor import ADVICE, CHECKS, Diagnosis, clean, diagnose
from stacchip_core.cli import app
from stacchip_core.index.indexer import IndexSettings
from stacchip_core.sources.access import Storage
from stacchip_core.sources.cause import CAUSES
from stacchip_core.sources.source import Source
from tests.broken import WAYS, Folder, tiny_item
from tests.file_server import serve
from tests.scenes import sentinel2_scene, write_catalog
from tests.stac_server import StacServer, serving

SETTINGS = IndexSettings(chip_size=16)


def status_of(found: Diagnosis) -> dict[str, str]:
    """Status by check."""
    return {check.name: check.status for check in found.checks}


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """A static catalog of one Sentinel-2 item."""
    folder = tmp_path / "scenes"
    return write_catalog(folder, [sentinel2_scene(folder, nodata_share=0)])


def test_a_source_that_is_well_passes_every_check(catalog: Path) -> None:
    found = diagnose(Source(url=str(catalog)), IndexSettings(chip_size=96))
    assert found.is_healthy and list(status_of(found)) == list(CHECKS)
    told = {check.name: check.found for check in found.checks}
    assert "sentinel-2-l2a/S2B_32TMT_20240615_0_L2A" in told["item"]
    assert told["bands"].startswith("profile sentinel-2-l2a: ") and "red" in told["bands"]
    assert "EPSG:32632" in told["grid"] and "480 x 480" in told["access"]
    assert "25 chips: nodata" in told["quality"] and "cloud" in told["quality"]
    assert "red" in told["chip"] or "bands were cut" in told["chip"]
    assert {one.status for one in found.checks} <= {"ok", "warning"}


@pytest.mark.parametrize("way", WAYS)
def test_an_ill_source_is_told_where_and_what_to_do(way: str, tmp_path: Path) -> None:
    folder = Folder.made(tmp_path, 1, {0: way})
    found = diagnose(Source(items=(str(folder.item_path(0)),)), SETTINGS)
    assert not found.is_healthy
    (failed,) = [check for check in found.checks if check.status == "failed"]
    at = {"bad-json": "catalog", "grid": "grid", "truncated": "quality"}.get(way, "access")
    assert failed.name == at or (way == "truncated" and failed.name in ("access", "grid"))
    assert failed.todo == ADVICE[way] and failed.found
    after = list(CHECKS)[list(CHECKS).index(failed.name) + 1 :]
    assert all(status_of(found)[name] == "skipped" for name in after)


def test_a_source_without_items_and_one_that_is_not_there_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": []}))
    nothing = diagnose(Source(url=str(tmp_path)), SETTINGS).checks[0]
    assert (nothing.status, nothing.todo) == ("failed", "widen the time and area, and check the ids of collections")
    gone = diagnose(Source(url=str(tmp_path / "nowhere.json")), SETTINGS).checks[0]
    assert (gone.status, gone.todo) == ("failed", ADVICE["not-found"])
    away = diagnose(Source(items=("http://127.0.0.1:9/x.json",)), SETTINGS).checks[0]
    assert (away.status, away.todo) == ("failed", ADVICE["unavailable"])


def test_a_collection_that_nobody_described_is_a_warning(tmp_path: Path) -> None:
    folder = Folder.made(tmp_path, 1, {})
    found = diagnose(Source(items=(str(folder.item_path(0)),)), SETTINGS)
    assert found.is_healthy and status_of(found)["bands"] == "warning"
    too_large = diagnose(Source(items=(str(folder.item_path(0)),)), IndexSettings(chip_size=64))
    assert status_of(too_large)["quality"] == "failed"


def test_every_cause_has_its_advice() -> None:
    assert ADVICE.keys() == CAUSES.keys()


def test_no_secret_is_shown(tmp_path: Path) -> None:
    text = "item a: https://user:pw@h.example.com/a.tif?sig=SECRET&se=1: HTTP 403 (https://h/b?X-Amz-Signature=S)"
    assert clean(text) == "item a: https://h.example.com/a.tif: HTTP 403 (https://h/b)"
    folder = Folder.made(tmp_path, 0, {})
    folder.write(0, tiny_item(0, "https://127.0.0.1:9/a.tif?sig=CANARY&se=2030"))
    found = diagnose(Source(items=(str(folder.item_path(0)),)), SETTINGS)
    assert not found.is_healthy and "CANARY" not in json.dumps(found.to_json())


@pytest.mark.server
def test_forbidden_files_behind_http_are_told_with_what_to_do(tmp_path: Path) -> None:
    folder = Folder.made(tmp_path, 1, {})
    with serve(folder.path) as server:
        source = Source(items=(f"{server.url}/tiny-00000.json",))
        assert diagnose(source, SETTINGS).is_healthy
        server.fault("/whole.tif", 403)
        (failed,) = [check for check in diagnose(source, SETTINGS).checks if check.status == "failed"]
    assert (failed.name, failed.todo) == ("access", ADVICE["forbidden"]) and "403" in failed.found


def test_the_command_shows_a_checklist_or_json_and_ends_with_1_where_it_is_ill(catalog: Path, tmp_path: Path) -> None:
    well = CliRunner().invoke(app, ["doctor", str(catalog), "--chip-size", "96"], env={"COLUMNS": "200"})
    assert well.exit_code == 0, well.output
    assert all(name in well.stdout for name in CHECKS) and "✓" in well.stdout and "✗" not in well.stdout
    folder = Folder.made(tmp_path / "ill", 1, {0: "not-a-raster"})
    ill = CliRunner().invoke(app, ["doctor", str(folder.item_path(0)), "--chip-size", "16", "--json"])
    assert ill.exit_code == 1
    told = json.loads(ill.stdout)
    assert (told["is_healthy"], [one["name"] for one in told["checks"]]) == (False, list(CHECKS))
    wrong = CliRunner().invoke(app, ["doctor", str(catalog), "--datetime", "yesterday"])
    assert wrong.exit_code == 1 and "stacchip: " in wrong.stderr and "Traceback" not in wrong.output


@pytest.mark.server
def test_an_api_is_tried_for_what_can_be_relied_on(tmp_path: Path) -> None:
    folder = Folder.made(tmp_path, 2, {})
    with serve(folder.path) as files:
        items = [tiny_item(number, f"{files.url}/whole.tif") for number in (0, 1)]
        server = StacServer(pages=[items], collections=("tiny",))
        with serving(server):
            here = IndexSettings(chip_size=16, storage=Storage(hosts=("127.0.0.1",)))
            found = diagnose(Source(url=server.url, collections=("tiny",)), here)
            status = status_of(found)
            assert found.is_healthy and status["chip"] == "ok", found
            (able,) = [check for check in found.checks if check.name == "capabilities"]
            assert (able.status, "changes can be asked for: no" in able.found) == ("warning", True)
            assert "whole sweeps" in able.todo
            strange = diagnose(Source(url=server.url, collections=("naip",)), here).checks[0]
    assert strange.status == "failed" and "it has: tiny" in strange.found


def test_a_stac_geoparquet_file_is_a_source_too(tmp_path: Path) -> None:
    import stac_geoparquet.arrow as written

    folder = Folder.made(tmp_path, 1, {})
    item = {**tiny_item(0), "stac_extensions": []}
    written.to_parquet(written.parse_stac_items_to_arrow([item]), str(tmp_path / "items.parquet"))
    found = diagnose(Source(url=str(tmp_path / "items.parquet"), local_roots=(str(folder.path),)), SETTINGS)
    assert found.is_healthy, found
