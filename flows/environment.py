"""Prefect's settings for runs by hand: an ephemeral server that has time to start, and a quiet console.

They must be in the environment before Prefect is imported; what the user has set stays.
"""

from __future__ import annotations

import os
from pathlib import Path

EPHEMERAL_SERVER = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # its first start took 37 s on a slow machine
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
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
