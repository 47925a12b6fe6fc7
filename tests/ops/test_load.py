"""What `deployments/compose.yaml` starts, natively: PostgreSQL, a server with a password, a worker, an S3 server.

While a run of 500 tasks goes on, people press buttons.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import fsspec
import pytest
import requests

from stacchip_core import Storage, Warehouse
from tests.ops.test_kill import _wait_for_tasks
from tests.postgres import postgres
from tests.prefect_stack import Installation, stack
from tests.scenes import sentinel2_scene
from tests.test_operations import collection, many

pytestmark = pytest.mark.ops

TASKS = 500
REQUESTS = 30
PASSWORD = "somebody:for-this-test-alone"


def test_buttons_work_while_a_long_run_goes_on(tmp_path: Path, s3_endpoint: str) -> None:
    fsspec.filesystem("s3", endpoint_url=s3_endpoint).mkdir("ops")
    items = many(sentinel2_scene(tmp_path / "scenes"), TASKS)
    long = collection(tmp_path / "scenes", "long", items, max_workers=4)
    storage = {"endpoint": s3_endpoint, "region": "us-east-1"}
    auth = {"PREFECT_SERVER_API_AUTH_STRING": PASSWORD, "PREFECT_API_AUTH_STRING": PASSWORD}
    installed = Installation(
        tmp_path / "deployments", "s3://ops/index", {"long": long}, storage=storage, variables=auth
    )
    with (
        postgres("postgresql+asyncpg") as database,
        stack(tmp_path / "p", installed, database=database) as prefect,
    ):
        assert requests.get(f"{prefect.url}/api/deployments/count", timeout=60).status_code in (401, 405)
        run = prefect.press("index-items/long")
        _wait_for_tasks(prefect, run, 5)
        deployment = prefect.deployment("reindex-items/reindex")["id"]
        config = {"collection": "long", "which": "everything", "reason": "pressed under load"}
        later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2040-01-01T00:00:00Z"}}
        body = {"parameters": {"config": config}, "state": later, "enforce_parameter_schema": True}
        answers, seconds = [], []
        for _ in range(REQUESTS):
            start = time.monotonic()
            answers.append(prefect.send("POST", f"/deployments/{deployment}/create_flow_run", body).status_code)
            seconds.append(time.monotonic() - start)
            time.sleep(0.25)
        still_running = prefect.state(run)["type"] == "RUNNING"
        print(f"{answers.count(201)} of {REQUESTS} taken; median {median(seconds):.2f} s, slowest {max(seconds):.2f} s")
        assert answers == [201] * REQUESTS
        assert still_running, "the run ended before the buttons were pressed"
        assert prefect.ending(run, 1800) == "COMPLETED"
        warehouse = Warehouse("s3://ops/index", storage=Storage.model_validate(storage))
        assert warehouse.collection("long").entry.totals.items == TASKS
        assert warehouse.verify().is_clean
