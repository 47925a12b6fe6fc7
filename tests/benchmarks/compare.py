"""Measures indexing one full-size item and cutting all its chips, ours beside stacchip; `make bench` runs it.

Every measurement is a process of its own, ours and stacchip's in turn, files in the page cache. Times leave out
imports and start; peak memory is that of the whole process.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.environment import stacchip_python
from tests.benchmarks.full_scene import full_scene
from tests.data import REPO

HERE = Path(__file__).parent
REPETITIONS = {"index": 7, "again": 7, "cut": 3, "cut10": 1, "chipper": 1}
TITLES = {
    "index": "Index one item of 1,764 chips, the first of a process",
    "again": "Index it again in the same process",
    "cut": "Cut its 1,764 chips, 4 bands",
    "cut10": "Cut its 1,764 chips, 10 bands",
    "chipper": "Cut them one by one with `Chipper`, 4 bands",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one process said of itself; seconds and MiB."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    chips: int
    pixels: int


def measure(python: Path, script: str, task: str, item: Path) -> Measurement:
    """Run `task` once in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(
        [str(python), "-W", "ignore", str(HERE / script), task, str(item)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{script} {task} failed: {done.stderr[-2000:]}")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def median(of: list[Measurement]) -> Measurement:
    """Medians of each figure; chips and pixels must be the same in all."""
    assert len({(one.chips, one.pixels) for one in of}) == 1
    wall, cpu, peak = (statistics.median(getattr(one, name) for one in of) for name in ("wall_s", "cpu_s", "peak_mb"))
    return Measurement(wall, cpu, peak, of[0].chips, of[0].pixels)


def compare(task: str, item: Path, *, repetitions: int) -> tuple[Measurement, Measurement]:
    """Medians of ours and of stacchip, measured in turn after one unmeasured run each."""
    sides = ((Path(sys.executable), "run_ours.py"), (stacchip_python(), "run_stacchip.py"))
    runs: list[list[Measurement]] = [[], []]
    for repetition in range(repetitions + 1):
        for kept, (python, script) in zip(runs, sides, strict=True):
            measurement = measure(python, script, task, item)
            logger.info("%s %s %s", script, task, measurement)
            if repetition:
                kept.append(measurement)
    ours, theirs = median(runs[0]), median(runs[1])
    assert (ours.chips, ours.pixels) == (theirs.chips, theirs.pixels), "the two did not do the same work"
    return ours, theirs


def report(task: str, ours: Measurement, theirs: Measurement) -> list[str]:
    """Rows of the Markdown table: each figure of both, and how many times less ours is."""
    rows = []
    for title, name in (("wall", "wall_s"), ("CPU", "cpu_s"), ("peak memory", "peak_mb")):
        mine, other = getattr(ours, name), getattr(theirs, name)
        unit, digits = ("MiB", 0) if name == "peak_mb" else ("s", 3 if mine < 1 else 1)
        rows.append(
            f"| {TITLES[task]} | {title} | {mine:.{digits}f} {unit} | {other:.{digits}f} {unit} | {other / mine:.1f}x |"
        )
    return rows


def main() -> None:
    """Print the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    item = full_scene()
    rows = [
        row
        for task, repetitions in REPETITIONS.items()
        for row in report(task, *compare(task, item, repetitions=repetitions))
    ]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; medians of ", end="")
    print(", ".join(f"{count} ({task})" for task, count in REPETITIONS.items()), end="\n\n")
    print("| work | figure | stacchip-core | stacchip | ratio |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
