"""A Prefect server with worker and deployments of a test's own, and buttons to press on it.

with stack(tmp_path, catalog) as prefect:
    run = prefect.press("reindex-items/reindex", {"config": {...}})
    assert prefect.ending(run) == "COMPLETED"
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import yaml

from deployments.processes import Place, Running, free_port
from flows.configured import ENVIRONMENT_VARIABLE, FOLDER_VARIABLE

POOL = "local"
# A machine that is busy takes its time: nothing here waits for less than minutes.
PATIENCE_S = 300.0
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

Yaml = Mapping[str, Any]


@dataclass(slots=True)
class Installation:
    """What is deployed: files as `deployments/` holds them, in a folder of the test's own.

    Attributes:
        folder: where they are written.
        warehouse: root of the warehouse.
        collections, combined, datasets, care: parameters by name; the warehouse is added.
    """

    folder: Path
    warehouse: str
    collections: Mapping[str, Yaml] = field(default_factory=dict)
    combined: Mapping[str, Yaml] = field(default_factory=dict)
    datasets: Mapping[str, Yaml] = field(default_factory=dict)
    care: Mapping[str, Yaml] = field(default_factory=dict)
    storage: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)

    def write(self) -> None:
        """Write the files, and `environments/local.yaml` that names them all."""
        kinds = {name: getattr(self, name) for name in ("collections", "combined", "datasets", "care")}
        place = {"root": self.warehouse, "storage": dict(self.storage)}
        for kind, files in kinds.items():
            for name, values in files.items():
                self._write(f"{kind}/{name}", {"warehouse": place, **values})
        names = {kind: list(files) for kind, files in kinds.items()}
        own = {"pool": POOL, "warehouse": place, "variables": dict(self.variables)}
        self._write("environments/local", {**own, **names})

    def _write(self, name: str, values: Yaml) -> None:
        path = self.folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(dict(values)), encoding="utf-8")


@dataclass(slots=True)
class Prefect:
    """A server that runs, and what a person does in its pages."""

    place: Place

    @property
    def url(self) -> str:
        """Of the pages, for a browser."""
        return self.place.url

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """An answer of the API; whatever is not a success is an error."""
        answer = self.send(method, path, body)
        assert answer.ok, f"{path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

    def send(self, method: str, path: str, body: object = None) -> requests.Response:
        """A request to the API, and whatever comes back."""
        login = self.place.variables.get("PREFECT_API_AUTH_STRING", "")
        user, _, password = login.partition(":")
        auth = (user, password) if login else None
        return requests.request(method, f"{self.url}/api{path}", json=body, timeout=120, auth=auth)

    def deployment(self, name: str) -> Any:
        """A deployment, by `<flow>/<deployment>`."""
        return self.ask("GET", f"/deployments/name/{name}")

    def request(self, name: str, parameters: Yaml | None = None) -> requests.Response:
        """What the form sends when its button is pressed, and the answer to it."""
        body = {"parameters": dict(parameters or {}), "state": {"type": "SCHEDULED"}, "enforce_parameter_schema": True}
        return self.send("POST", f"/deployments/{self.deployment(name)['id']}/create_flow_run", body)

    def press(self, name: str, parameters: Yaml | None = None) -> str:
        """Start a run of a deployment; its id. Where SQLite is too busy, press again, as people do."""
        answer = self.request(name, parameters)
        for _ in range(30):
            if answer.status_code != 503:
                break
            time.sleep(2)
            answer = self.request(name, parameters)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def state(self, run: str) -> Any:
        """State of a run."""
        return self.ask("GET", f"/flow_runs/{run}")["state"]

    def wait_until(self, run: str, states: Sequence[str], within: float = PATIENCE_S) -> str:
        """Wait until a run's state is, by type or name, one of some; which."""
        deadline = time.monotonic() + within
        while True:
            state = self.state(run)
            if found := {state["type"], state["name"]} & set(states):
                return str(found.pop())
            assert time.monotonic() < deadline, f"run {run} is {state['name']} after {within:.0f} s"
            time.sleep(0.5)

    def ending(self, run: str, within: float = PATIENCE_S) -> str:
        """Wait until a run has ended; how."""
        return self.wait_until(run, ENDED, within)

    def runs(self, flow: str, states: Sequence[str] = ()) -> list[Any]:
        """Runs of a flow, the oldest first; with `states`, those in one of these types."""
        wanted: dict[str, Any] = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_ASC"}
        if states:
            wanted["flow_runs"] = {"state": {"type": {"any_": list(states)}}}
        found: list[Any] = self.ask("POST", "/flow_runs/filter", wanted)
        return found

    def logs(self, run: str) -> list[str]:
        """Messages in the log of a run."""
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        return [one["message"] for one in self.ask("POST", "/logs/filter", wanted)]

    def artifacts(self, run: str) -> list[Any]:
        """What a run left."""
        wanted = {"artifacts": {"flow_run_id": {"any_": [run]}}}
        found: list[Any] = self.ask("POST", "/artifacts/filter", wanted)
        return found

    def start_worker(self, name: str) -> Running:
        """One more worker of the pool."""
        return self.place.start_worker(POOL, name)


@contextmanager
def stack(home: Path, installed: Installation, *, database: str = "", workers: int = 1) -> Iterator[Prefect]:
    """A server with workers and deployments; all of it has ended when the block has.

    Args:
        home: folder for Prefect's state and all logs.
        installed: what is deployed.
        database: connection URL of PostgreSQL; "": SQLite.
        workers: how many.
    """
    installed.write()
    variables = {FOLDER_VARIABLE: str(installed.folder), ENVIRONMENT_VARIABLE: "local"}
    place = Place(home, free_port(), database, {**variables, **installed.variables})
    try:
        place.start_server()
        place.deploy()
        for number in range(workers):
            place.start_worker(POOL, f"worker-{number}")
        yield Prefect(place)
    finally:
        place.stop()
