"""An environment of its own for stacchip: it pins numpy below 2, and pyarrow newer than 18 breaks its imports.

Its packages are pinned in stacchip.txt, compiled from stacchip.in with

    uv pip compile tests/benchmarks/stacchip.in --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.data import REPO

PINS = Path(__file__).with_name("stacchip.txt")
HOME = REPO / ".cache" / "stacchip-venv"


class EnvironmentUnavailableError(Exception):
    """stacchip could not be installed here; the message says why."""


def stacchip_python() -> Path:
    """Interpreter of an environment with stacchip, which is made on first use.

    Raises:
        EnvironmentUnavailableError: no uv, no package index, or a Python without numpy below 2.
    """
    python, stamp = HOME / "bin" / "python", HOME / "pins.sha256"
    pins = hashlib.sha256(PINS.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == pins:
        return python
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        raise EnvironmentUnavailableError("uv is not installed, so stacchip can't be")
    _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(HOME)])
    _run([uv, "pip", "install", "--quiet", "--python", str(python), "--require-hashes", "-r", str(PINS)])
    stamp.write_text(pins, encoding="utf-8")
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise EnvironmentUnavailableError(f"stacchip can't be installed: {last}")
