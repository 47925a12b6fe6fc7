"""Measures making and reading datasets of the full-size scene; `make bench` runs it.

Every measurement is a process of its own, files in the page cache. CPU seconds are those of all threads; the bare read
decodes every block of the four files once, with the same block reader, and keeps nothing.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.full_scene import full_scene
from tests.data import REPO

FORMATS = ("zarr", "zarr-plain", "safetensors", "webdataset", "npz", "geotiff")
HERE = Path(__file__).parent

logger = logging.getLogger(__name__)


def measured(task: str, *given: str) -> dict[str, Any]:
    """What one process said of itself."""
    command = [sys.executable, "-W", "ignore", str(HERE / "run_datasets.py"), task, *given]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(REPO)}
    )
    if done.returncode != 0:
        raise RuntimeError(f"{task} {given} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    logger.info("%s %s %s", task, given, found)
    return found


def main() -> None:
    """Print tables."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    item, root = full_scene(), REPO / ".cache" / "bench-datasets"
    shutil.rmtree(root, ignore_errors=True)
    measured("index", str(item), str(root))
    bare = measured("bare", str(item), str(root))
    size = bare["bytes"]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}", end="\n\n")
    print(
        f"bare read: {size / bare['wall_s'] / 1e6:.0f} MB/s wall, {size / bare['cpu_s'] / 1e6:.0f} MB/s CPU", end="\n\n"
    )
    print("| format | end to end, MB/s | of the bare read: wall, CPU | peak | write MB/s | random chips/s | size |")
    print("|---|---|---|---|---|---|---|")
    for form in FORMATS:
        made = measured("make", form, str(root))
        written = measured("write", form, str(root))
        read = measured("read", form, str(root))
        shares = [bare[name] / made[name] for name in ("wall_s", "cpu_s")]
        print(
            f"| {form} | {size / made['wall_s'] / 1e6:.0f} | {shares[0]:.0%}, {shares[1]:.0%} "
            f"| {made['peak_mb']:.0f} MiB | {written['bytes'] / written['wall_s'] / 1e6:.0f} "
            f"| {read['chips'] / read['wall_s']:.0f} "
            f"| {made['size'] / size:.0%} |"
        )
    seen = measured("http", str(item), str(root))
    print(f"\nover HTTP, the whole scene: {seen['requests'] / seen['chips']:.3f} requests a chip")
    shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
