"""A worker and its flow are killed in mid-index, as a machine that fails would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployments.processes import Place, descendants
from flows.overlap import slot_of
from stacchip_core import Warehouse
from tests.data import REPO
from tests.postgres import database
from tests.prefect_stack import Installation, Prefect, stack
from tests.scenes import sentinel2_scene
from tests.test_operations import collection, held_up, many

pytestmark = pytest.mark.ops

ITEMS = 300
CRASHED_WITHIN_S = 180.0


def test_a_killed_run_is_marked_its_slot_is_free_and_the_next_one_finishes(tmp_path: Path) -> None:
    items = many(sentinel2_scene(tmp_path / "scenes"), ITEMS)
    slow = collection(tmp_path / "scenes", "slow", items)
    installed = Installation(tmp_path / "deployments", str(tmp_path / "w"), {"slow": slow})
    with database() as url, stack(tmp_path / "prefect", installed, database=url) as prefect:
        killed = prefect.press("index-items/slow")
        _wait_for_tasks(prefect, killed, 10)
        worker = prefect.place.running[-1]
        worker.kill()
        at = time.monotonic()
        assert prefect.state(killed)["type"] == "RUNNING"
        prefect.start_worker("another")
        waiting = prefect.press("index-items/slow")
        assert prefect.ending(killed, CRASHED_WITHIN_S) == "CRASHED"
        took = time.monotonic() - at
        assert "no heartbeat" in prefect.state(killed)["message"]
        assert prefect.ending(waiting, 900) == "COMPLETED"
        slot = prefect.ask("GET", f"/v2/concurrency_limits/{slot_of('slow')}")
        assert slot["active_slots"] == 0
    warehouse = Warehouse(tmp_path / "w")
    assert warehouse.collection("slow").entry.totals.items == ITEMS
    assert warehouse.verify(deep=True).is_clean
    print(f"crashed {took:.0f} s after kill -9; the next run indexed all {ITEMS} items")


def test_a_run_by_hand_that_is_killed_with_its_server_leaves_no_slot_taken(tmp_path: Path) -> None:
    """The server that Prefect brings for a run by hand ends with it, and its leases must not."""
    slow = collection(tmp_path / "scenes", "slow", many(sentinel2_scene(tmp_path / "scenes"), 3))
    installed = Installation(tmp_path / "deployments", str(tmp_path / "w"), {"slow": slow})
    installed.write()
    place = Place(tmp_path / "prefect", 0)
    place.home.mkdir()
    kept = {key: value for key, value in place.environment.items() if key != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "flows", "index", "--config", str(installed.folder / "collections" / "slow.yaml")]
    with held_up(Path(slow["source"]["url"])) as is_reading:
        run = subprocess.Popen(command, cwd=REPO, env=kept, start_new_session=True)
        is_reading()
        children = descendants(run.pid)
        for pid in (run.pid, *children):
            os.kill(pid, signal.SIGKILL)
        run.wait()
    again = subprocess.run(command, cwd=REPO, env=kept, capture_output=True, text=True, check=False, timeout=600)
    assert again.returncode == 0, again.stderr
    assert "3 new" in again.stderr


def _wait_for_tasks(prefect: Prefect, run: str, count: int) -> None:
    deadline = time.monotonic() + 300
    wanted = {"flow_runs": {"id": {"any_": [run]}}, "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    while prefect.ask("POST", "/task_runs/count", wanted) < count:
        assert time.monotonic() < deadline
        time.sleep(0.5)
