"""Prefect's settings for runs by hand: an ephemeral server that has time to start, and a quiet console.

They must be in the environment before Prefect is imported; what the user has set stays.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

EPHEMERAL_SERVER = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # its first start took 37 s on a slow machine
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # In memory, as by default, leases end with the server: slots of its runs would be taken for ever.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}


def prepare_environment(*, home: Path | None = None, console_level: str = "CRITICAL", level: str | None = None) -> None:
    """Set what is not set yet.

    Args:
        home: where Prefect keeps its state; None: where it does by default.
        console_level: of run logs on this console; the server gets them all the same.
        level: of run logs altogether; None: Prefect's default.
    """
    wanted = {**EPHEMERAL_SERVER, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": console_level}
    if home is not None:
        wanted["PREFECT_HOME"] = str(home.resolve())
    if level is not None:
        wanted["PREFECT_LOGGING_LEVEL"] = level
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    if home is not None:
        Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes only the last folder


def start_server() -> None:
    """Start the server that Prefect brings for runs by hand; where `PREFECT_API_URL` names one, say hello to that.

    A terminal's Ctrl-C goes to the server as well, and a run whose server is gone waits for a minute before it ends.
    So the server starts, and stays, with that signal blocked; it ends with this process.
    """
    from prefect import get_client  # not before the environment is prepared

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        with get_client(sync_client=True) as client:
            client.hello()
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
