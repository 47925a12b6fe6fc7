"""Indexes an item or cuts its chips with stacchip-core; the twin of run_stacchip.py.

Usage: run_ours.py index|again|cut ITEM_JSON. Prints one JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from stacchip_core import Chipper, Indexer

BANDS = ["red", "green", "blue", "nir"]


def cut(path: str) -> tuple[int, int]:
    """Number of chips, and the sum of all their pixels."""
    chips = Chipper(Indexer(path).create_index(), bands=BANDS)
    count, total = 0, 0
    for _, chip in chips:
        count += 1
        total += sum(int(pixels.sum(dtype="uint64")) for pixels in chip.values())
    return count, total


def peak_memory_mb() -> float:
    """Largest resident set of this process so far."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Do the work once and say what it took."""
    task, path = sys.argv[1:3]
    if task == "again":
        Indexer(path).create_index()
    wall, cpu = time.perf_counter(), time.process_time()
    count, total = cut(path) if task == "cut" else (len(Indexer(path).create_index()), 0)
    took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    print(json.dumps({**took, "peak_mb": peak_memory_mb(), "chips": count, "pixels": total}))


if __name__ == "__main__":
    main()
