"""Follow operations.md word for word in an empty clone, up to an index that is made on schedule."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import snippets
from tests.data import REPO

pytestmark = pytest.mark.ops

PAGE = "docs/operations.md"
READY_WITHIN_S = 1200.0  # an environment is made, which takes minutes without a cache of packages


def _blocks() -> list[str]:
    return [one.code for one in snippets.snippets(PAGE) if one.mark == "run by tests/ops/test_fresh_clone.py"]


def _shell(code: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-ec", code], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_an_empty_clone_reaches_a_scheduled_index(tmp_path: Path) -> None:
    """The first block of operations.md in one shell, the second in another, as the page says."""
    first, second = _blocks()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "STACCHIP_"))}
    environment = {**kept, "REPOSITORY": str(REPO)}
    log, clone = tmp_path / "log", tmp_path / "stacchip-core"
    with log.open("wb") as out:
        shell = subprocess.Popen(
            ["sh", "-ec", first], cwd=tmp_path, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while "ready: " not in log.read_text():
            assert shell.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(1)
        done = _shell(second, clone, environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "demo-naip" in done.stdout
        stopped = _shell("make deploy-local-stop", clone, environment)
        assert stopped.returncode == 0, stopped.stderr
        shell.wait(60)
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGTERM)
            shell.wait(60)
