"""The same work on threads, on a Dask cluster, and on two workers of a pool: the same rows, the same shards."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.processes import Place, free_port
from stacchip_core import Warehouse
from tests.data import REPO
from tests.postgres import database
from tests.prefect_stack import Installation, Prefect, stack
from tests.scenes import landsat_l2_scene, sentinel2_scene
from tests.test_operations import collection, many

pytestmark = pytest.mark.ops

SPEC = {
    "name": "fields",
    "index": "all",
    "bands": [{"collection": "sentinel-2-l2a", "bands": ["red", "nir"]}],
    "size": 96,
    "limit": 40,
    "seed": 3,
    "shard_size": 8,
}


def _installation(folder: Path, scenes: Path) -> Installation:
    two = {"s2": many(sentinel2_scene(scenes / "s2"), 12), "l2": many(landsat_l2_scene(scenes / "l2"), 12)}
    return Installation(
        folder / "deployments",
        str(folder / "w"),
        {name: collection(scenes / name, name, items) for name, items in two.items()},
        {"all": {"name": "all"}},
        {"fields": {"spec": SPEC, "local_roots": [str(scenes / "s2")], "pictures": False}},
    )


def _by_hand(prefect: Prefect, installed: Installation, *more: str) -> None:
    """All steps, one after another, with parameters added to those that run tasks on a runner."""
    installed.write()
    for step in ("index collections/s2", "index collections/l2", "merge combined/all", "materialize datasets/fields"):
        command, name = step.split()
        own = [] if command == "merge" else list(more)
        line = [sys.executable, "-m", "flows", command, "--config", str(installed.folder / f"{name}.yaml"), *own]
        environment = prefect.place.environment
        done = subprocess.run(line, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def _on_a_pool(prefect: Prefect) -> None:
    """The two collections at once, each on a worker that takes one run at a time."""
    runs = [prefect.press("index-items/s2"), prefect.press("index-items/l2")]
    assert [prefect.ending(run) for run in runs] == ["COMPLETED"] * 2
    one, other = (prefect.ask("GET", f"/flow_runs/{run}") for run in runs)
    assert one["start_time"] < other["end_time"]
    assert other["start_time"] < one["end_time"], "one worker did both, one after the other"
    for name in ("merge-indexes/all", "materialize-chips/fields"):
        run = prefect.press(name)
        assert prefect.ending(run) == "COMPLETED", prefect.logs(run)


@contextmanager
def dask_cluster(home: Path, environment: dict[str, str]) -> Iterator[str]:
    """Address of a scheduler with two worker processes."""
    place = Place(home, 0, variables=environment)
    address = f"tcp://127.0.0.1:{free_port()}"
    home.mkdir()
    try:
        place.start("scheduler", "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard")
        for number in range(2):
            place.start(
                f"dask-{number}", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard",
                "--host", "127.0.0.1", "--local-directory", str(home),
            )  # fmt: skip
        yield address
    finally:
        place.stop()


def _contents(root: Path) -> dict[str, Any]:
    """Rows of the combined index, and what the dataset's shards hold."""
    warehouse = Warehouse(root)
    assert warehouse.verify(deep=True).is_clean
    table = warehouse.combined("all").dataset().to_table().sort_by("chip_id")
    lock = yaml.safe_load(warehouse.store.read("datasets/fields/dataset.json"))
    written = [path for path in sorted((root / "datasets" / "fields" / "shards").rglob("*")) if path.is_file()]
    assert written
    shards = {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in written}
    return {"rows": table.to_pylist(), "arrays": [shard["arrays_sha256"] for shard in lock["shards"]], "shards": shards}


def test_threads_a_cluster_and_two_workers_give_the_same(tmp_path: Path) -> None:
    ways = {name: _installation(tmp_path / name, tmp_path / "scenes") for name in ("threads", "dask", "local", "pool")}
    with database() as url, stack(tmp_path / "prefect", ways["pool"], database=url, workers=0) as prefect:
        for number in range(2):
            prefect.start_worker(f"worker-{number}")
        _on_a_pool(prefect)
        _by_hand(prefect, ways["threads"])
        with dask_cluster(tmp_path / "cluster", prefect.place.environment) as address:
            _by_hand(prefect, ways["dask"], "--set", "runner.kind=dask", "--set", f"runner.address={address}")
            logs = "".join(path.read_text() for path in (tmp_path / "cluster").glob("dask-*.log"))
            assert "Registered to" in logs
        _by_hand(prefect, ways["local"], "--set", "runner.kind=dask", "--set", "runner.processes=2")
    found = {name: _contents(tmp_path / name / "w") for name in ways}
    assert len(found["threads"]["rows"]) > 100
    for name in ways:
        assert found[name] == found["threads"], name
