"""A whole installation on this machine, all of it on 127.0.0.1: `python -m deployments.local` (`make deploy-local`).

Server, pool, worker, limits, automations and deployments; Ctrl-C, or `make deploy-local-stop`, ends it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from deployments.processes import REPO, Place, ProcessError, Running, free_port, tail
from flows.configured import ENVIRONMENT_VARIABLE, load_environment

STATE = REPO / ".local"
SCENES = REPO / ".demo" / "scenes"


class _Stopped(Exception):
    """Somebody wants it to end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.local", description=__doc__)
    parser.add_argument("--stop", action="store_true", help="end the installation that runs here")
    parser.add_argument("--port", type=int, default=4200, help="of the server; 0: one that is free")
    parser.add_argument("--workers", type=int, default=1, help="how many")
    parser.add_argument("--state", type=Path, default=STATE, help="folder for Prefect's state and logs")
    parser.add_argument("--database", default="", help="connection URL of a PostgreSQL server; default: SQLite")
    options = parser.parse_args(arguments)
    if options.stop:
        return stop(options.state)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stopped)
    place = Place(options.state.resolve() / "prefect", options.port or free_port(), options.database)
    pid = options.state / "pid"
    try:
        start(place, workers=options.workers)
        pid.write_text(str(os.getpid()), encoding="utf-8")
        _watch(place.running)
    except _Stopped:
        say("ending")
        return 0
    except ProcessError as err:
        say(f"{err}")
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # ending must not be interrupted
        place.stop()
        pid.unlink(missing_ok=True)
    return 0


def start(place: Place, *, workers: int = 1) -> None:
    """Start all that there is, and say where.

    Raises:
        ProcessError: something ended, or did not answer.
    """
    environment = load_environment()
    if os.environ.get(ENVIRONMENT_VARIABLE, "local") == "local":
        _draw_scenes()
    say("starting Prefect's server (a minute the first time)")
    place.start_server()
    say("deploying")
    place.deploy()
    for number in range(1, workers + 1):
        place.start_worker(environment.pool, f"worker-{number}")
    say(f"ready: {place.url}/deployments (logs: {place.home})")
    say(f"by hand on this server: PREFECT_API_URL={place.url}/api python -m flows index --config …")
    say("Ctrl-C, or `make deploy-local-stop`, ends it")


def stop(state: Path) -> int:
    """End the installation that runs here; the exit code."""
    pid = state / "pid"
    if not pid.is_file():
        say("nothing runs here")
        return 0
    try:
        os.kill(int(pid.read_text(encoding="utf-8")), signal.SIGTERM)
    except ProcessLookupError:
        pid.unlink()
    deadline = time.monotonic() + 120
    while pid.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    return int(pid.exists())


def say(text: str) -> None:
    """Tell the person in front of it."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _stopped(*_: object) -> None:
    raise _Stopped


def _draw_scenes() -> None:
    from flows.demo.scenes import build_demo

    if not (SCENES / "catalog.json").is_file():
        say("drawing scenes to index")
        build_demo(SCENES)


def _watch(running: Sequence[Running]) -> None:
    """Return when somebody wants an end; a process that ends by itself ends all."""
    while True:
        for one in running:
            if not one.is_alive:
                raise ProcessError(f"{one.name} ended; {one.log} ends with: {tail(one.log)}")
        time.sleep(1.0)


if __name__ == "__main__":
    sys.exit(main())
