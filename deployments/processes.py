"""Prefect's server and workers as processes of this machine, on 127.0.0.1, that end when they are told to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flows.environment import EPHEMERAL_SERVER
from stacchip_core.errors import StacchipError

REPO = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
ENDS_WITHIN_S = 10.0  # then it is killed: a worker in the background was measured to outlive SIGTERM for minutes
HEALTHY_WITHIN_S = 300.0  # 11 to 74 s were measured; machines that are busy take their time


class ProcessError(StacchipError):
    """A process of Prefect's ended, or never answered."""


@dataclass(slots=True)
class Running:
    """A process with all that it started.

    Attributes:
        log: file that takes what it prints.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End it and its children: asked first, and killed if it is still there after `ENDS_WITHIN_S`."""
        children = descendants(self.process.pid)
        self.send(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDS_WITHIN_S)
        self.kill(children)

    def kill(self, children: Iterable[int] = ()) -> None:
        """End it and its children at once, as a machine that fails would; flows of a worker are in other groups."""
        children = {*children, *descendants(self.process.pid)}
        self.send(signal.SIGKILL)
        for child in children:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        self.process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with suppress(ProcessLookupError, PermissionError):  # the latter on macOS: all of the group have ended
            os.killpg(self.process.pid, number)


@dataclass(slots=True)
class Place:
    """A Prefect server of one's own, and what runs beside it.

    Attributes:
        home: folder of Prefect's state and the logs of all processes.
        port: of the server.
        database: connection URL; "": SQLite in `home`.
        variables: more environment variables for all processes.
    """

    home: Path
    port: int
    database: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    running: list[Running] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Of the server's pages; its API is below `/api`."""
        return f"http://{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of a process that uses the server."""
        own = {
            **EPHEMERAL_SERVER,
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
        }
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        database = {"PREFECT_API_DATABASE_CONNECTION_URL": self.database} if self.database else {}
        return {**kept, **own, **database, **self.variables}

    def start(self, name: str, *command: str, variables: Mapping[str, str] | None = None) -> Running:
        """Start a Python module with its arguments in a group of its own."""
        log = self.home / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=REPO,
                env={**self.environment, **(variables or {})},
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.running.append(Running(name, process, log))
        return self.running[-1]

    def start_server(self) -> Running:
        """Start the server, and wait until it answers."""
        self.home.mkdir(parents=True, exist_ok=True)
        server = self.start("server", "prefect", "server", "start", "--host", HOST, "--port", str(self.port))
        wait_for(server, f"{self.url}/api/health")
        return server

    def start_worker(self, pool: str, name: str = "worker") -> Running:
        """Start a worker of a pool; it takes up runs within seconds."""
        query = {"PREFECT_WORKER_QUERY_SECONDS": "3"}
        return self.start(name, "prefect", "worker", "start", "--pool", pool, "--name", name, variables=query)

    def deploy(self) -> None:
        """Make what the environment needs, and deploy its flows.

        Raises:
            ProcessError: with the last lines of what it printed.
        """
        setup = self.start("setup", "deployments.setup")
        if setup.process.wait():
            raise ProcessError(f"deploying failed; {setup.log} ends with: {tail(setup.log)}")
        self.running.remove(setup)

    def stop(self) -> None:
        """End all processes, the newest first."""
        while self.running:
            self.running.pop().stop()


def descendants(pid: int) -> set[int]:
    """Processes that a process started, and those that they did."""
    shown = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in shown.splitlines())}
    found, before = {pid}, set[int]()
    while found != before:
        before, found = found, found | {child for child, parent in parents.items() if parent in found}
    return found - {pid}


def wait_for(running: Running, url: str) -> None:
    """Wait until `url` answers.

    Raises:
        ProcessError: the process ended, or did not answer in time.
    """
    deadline = time.monotonic() + HEALTHY_WITHIN_S
    while time.monotonic() < deadline and running.is_alive:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    how = f"did not answer at {url}" if running.is_alive else f"ended with {running.process.returncode}"
    raise ProcessError(f"{running.name} {how}; {running.log} ends with: {tail(running.log)}")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
