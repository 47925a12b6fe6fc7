"""An installation as people have it: server, worker, deployments; what runs by itself, by hand and by the form."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from deployments.setup import NOTIFY_VARIABLE
from flows.overlap import slot_of
from stacchip_core import Warehouse
from tests.data import REPO
from tests.postgres import database
from tests.prefect_stack import Installation, Prefect, stack
from tests.scenes import Item, landsat_l2_scene, naip_scene, sentinel2_scene, write_catalog

pytestmark = [pytest.mark.server, pytest.mark.slow]

SLOW = {"chip_size": 96, "pictures": False, "batch_items": 1, "max_workers": 1}


def many(scene: Item, count: int) -> list[Item]:
    """Items of different ids that share their pixels."""
    found = []
    for number in range(count):
        one = copy.deepcopy(scene)
        one["id"] = f"{scene['id']}_{number:04}"
        found.append(one)
    return found


def collection(folder: Path, name: str, items: list[Item], **more: Any) -> dict[str, Any]:
    """Parameters of a collection with a catalog of its own."""
    return {**SLOW, "source": {"url": str(write_catalog(folder, items))}, "name": name, **more}


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[str, list[str]]]:
    """URL of a chat service's webhook, and the bodies that were sent to it."""
    bodies: list[str] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", bodies
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, told: tuple[str, list[str]]) -> Installation:
    """A collection that can be held up, one that is quick, and one that runs every minute."""
    root = tmp_path_factory.mktemp("installed")
    slow = collection(root / "slow", "slow", many(sentinel2_scene(root / "slow"), 3))
    quick = collection(root / "quick", "quick", [landsat_l2_scene(root / "quick")], pictures=True)
    often = collection(root / "often", "often", [naip_scene(root / "often")], deploy={"cron": "* * * * *"})
    collections = {"slow": slow, "quick": quick, "often": often}
    broken = {"spec": {"name": "broken", "index": "nowhere", "bands": [{"collection": "x", "bands": ["red"]}]}}
    return Installation(
        root / "deployments",
        str(root / "w"),
        collections,
        {"all": {"name": "all"}},
        {"broken": broken},
        variables={NOTIFY_VARIABLE: told[0]},
    )


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory, installed: Installation) -> Iterator[Prefect]:
    with database() as url, stack(tmp_path_factory.mktemp("prefect"), installed, database=url) as running:
        yield running


@contextmanager
def held_up(catalog: Path) -> Iterator[Callable[[], None]]:
    """Runs over the items of a catalog wait, while the block runs, for one of its files to be written.

    Yields what waits until a run is there.
    """
    item = next(catalog.parent.glob("*/*_0000.json"))
    whole = item.with_suffix(".whole")
    item.rename(whole)
    os.mkfifo(item)
    opened: list[int] = []
    try:
        yield lambda: opened.append(os.open(item, os.O_WRONLY))  # opens once a run is reading
    finally:
        pipe = opened[0] if opened else os.open(item, os.O_WRONLY)
        shutil.copy(whole, whole.with_suffix(".next"))
        whole.with_suffix(".next").replace(item)  # runs that come later read a file
        with suppress(BrokenPipeError):  # the run was killed
            os.write(pipe, whole.read_bytes())
        os.close(pipe)


def by_hand(prefect: Prefect, installed: Installation, *arguments: str) -> subprocess.Popen[str]:
    """A run of `slow` started in a shell on the same server."""
    config = installed.folder / "collections" / "slow.yaml"
    command = [sys.executable, "-m", "flows", "index", "--config", str(config), *arguments]
    return subprocess.Popen(command, cwd=REPO, env=prefect.place.environment, text=True, stdout=PIPE, stderr=PIPE)


def test_one_run_of_a_collection_at_a_time_however_it_is_started(prefect: Prefect, installed: Installation) -> None:
    with held_up(Path(installed.collections["slow"]["source"]["url"])):
        first = prefect.press("index-items/slow")
        prefect.wait_until(first, ["Running"])
        second, other = prefect.press("index-items/slow"), prefect.press("index-items/quick")
        prefect.wait_until(second, ["AwaitingConcurrencySlot"])
        assert prefect.ending(other) == "COMPLETED"  # another collection is indexed beside it
        refused = by_hand(prefect, installed, "--set", "overlap=refuse")
        _, shown = refused.communicate(timeout=600)
        assert (refused.returncode, "another run is at work on it" in " ".join(shown.split())) == (1, True), shown
        waiting = by_hand(prefect, installed, "--json")
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(20)
        assert prefect.state(first)["type"] == "RUNNING"
    done, shown = waiting.communicate(timeout=600)
    assert waiting.returncode == 0, shown
    assert json.loads(done)["collections"][0]["name"] == "slow"
    assert [prefect.ending(run) for run in (first, second)] == ["COMPLETED", "COMPLETED"]
    version = Warehouse(installed.warehouse).collection("slow")
    assert (version.version, version.entry.totals.items) == (1, 3)  # the others found nothing new
    limit = prefect.ask("GET", f"/v2/concurrency_limits/{slot_of('slow')}")
    assert (limit["limit"], limit["active_slots"]) == (1, 0)


def test_the_schedule_fires(prefect: Prefect) -> None:
    deadline = time.monotonic() + 300
    while not (found := [run for run in prefect.runs("index-items", ["COMPLETED"]) if run["auto_scheduled"]]):
        assert time.monotonic() < deadline
        time.sleep(1)
    assert found[0]["parameters"]["config"]["name"] == "often"


def test_people_are_told_of_a_run_that_failed(prefect: Prefect, told: tuple[str, list[str]]) -> None:
    prefect.ending(prefect.press("index-items/quick"))
    assert prefect.ending(prefect.press("materialize-chips/broken")) == "FAILED"
    deadline = time.monotonic() + 300
    while not (found := [body for body in told[1] if "materialize broken" in body]):
        assert time.monotonic() < deadline, told[1]
        time.sleep(1)
    assert "nowhere" in found[0]  # the reason


def test_the_form_refuses_mistakes_and_a_merge_follows_what_it_takes(prefect: Prefect, installed: Installation) -> None:
    prefect.ending(prefect.press("index-items/quick"))
    asked = {"collection": "quick", "which": "everything", "reason": "the rules have changed", "dry_run": False}
    before = len(prefect.runs("reindex-items"))
    for wrong in ({"reason": "no"}, {"collection": "unknown"}, {"which": "items"}, {"chip_sizes": [1]}, {"size": 3}):
        answer = prefect.request("reindex-items/reindex", {"config": {**asked, **wrong}})
        assert answer.status_code == 409, (wrong, answer.text)
    assert len(prefect.runs("reindex-items")) == before

    warehouse = Warehouse(installed.warehouse)
    version = warehouse.collection("quick").version
    run = prefect.press("reindex-items/reindex", {"config": asked})
    assert prefect.ending(run) == "COMPLETED"
    assert warehouse.collection("quick").version == version + 1
    deadline = time.monotonic() + 300
    while not _is_merged(warehouse, version + 1):
        assert time.monotonic() < deadline, [run["state"] for run in prefect.runs("merge-indexes")]
        time.sleep(1)
    shown = {one["key"]: str(one["data"]) for one in prefect.artifacts(run)}
    assert "the rules have changed" in shown["reindex-quick"]
    assert "data:image/" in shown["reindex-quick"]
    assert any("chips" in line for line in prefect.logs(run))


def _is_merged(warehouse: Warehouse, version: int) -> bool:
    if "all" not in warehouse.combined_names():
        return False
    merged = {str(source["collection"]): source["version"] for source in warehouse.combined("all").sources}
    return merged.get("quick") == version
