"""Ten index runs that end together ask for ten merges, and leave one current version."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from stacchip_core import Warehouse
from tests.postgres import database
from tests.prefect_stack import ENDED, Installation, stack
from tests.scenes import sentinel2_scene, write_catalog
from tests.test_operations import SLOW

pytestmark = pytest.mark.ops

COLLECTIONS = 10


def test_ten_runs_that_end_together_leave_one_current_version(tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    item = sentinel2_scene(scenes)
    names = [f"c{number}" for number in range(COLLECTIONS)]
    write_catalog(scenes, [{**item, "collection": name} for name in names])
    of = {name: {"url": str(scenes / name / "collection.json")} for name in names}
    found = {name: {**SLOW, "name": name, "source": of[name], "profile": "sentinel-2-l2a"} for name in names}
    installed = Installation(tmp_path / "deployments", str(tmp_path / "w"), found, {"all": {"name": "all"}})
    with database() as url, stack(tmp_path / "prefect", installed, database=url) as prefect:
        runs = [prefect.press(f"index-items/{name}") for name in names]
        assert {prefect.ending(run, 900) for run in runs} == {"COMPLETED"}
        deadline = time.monotonic() + 900
        while len(merges := prefect.runs("merge-indexes", ENDED)) < COLLECTIONS:
            assert time.monotonic() < deadline, len(merges)
            time.sleep(2)
        assert {run["state_type"] for run in merges} == {"COMPLETED"}
        times = sorted((run["start_time"], run["end_time"]) for run in merges)
        assert all(before[1] <= after[0] for before, after in pairwise(times)), times
    warehouse = Warehouse(tmp_path / "w")
    merged = {str(source["collection"]): source["version"] for source in warehouse.combined("all").sources}
    assert merged == {name: warehouse.collection(name).version for name in names}
    assert warehouse.verify(deep=True).is_clean
    print(f"{COLLECTIONS} runs, {len(merges)} merges, all@{warehouse.combined('all').version}")
