"""Indexes an item or cuts its chips with stacchip-core; the twin of run_stacchip.py.

Usage: run_ours.py index|again|cut|cut10|chipper ITEM_JSON. Prints one JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from stacchip_core import Chipper, ChipSpec, Indexer
from stacchip_core.chips.cutting import SceneLayout, cut_into
from stacchip_core.chips.files import Access
from stacchip_core.chips.shards import Pixels

BANDS = ["red", "green", "blue", "nir"]
TEN = [*BANDS, "rededge1", "rededge2", "rededge3", "nir08", "swir16", "swir22"]


class Summing:
    """Adds up the pixels of chips, and keeps none."""

    total = 0

    def begin(self, key: str, layout: SceneLayout) -> None:
        """Nothing to make room for."""

    def put(self, row: int, band: str, pixels: Pixels) -> None:
        """Add one band of one chip."""
        self.total += int(pixels.sum(dtype="uint64"))


def cut(path: str, bands: list[str]) -> tuple[int, int]:
    """Number of chips, and the sum of all their pixels; by blocks, as datasets are cut."""
    index, sink = Indexer(path).create_index(), Summing()
    spec = ChipSpec(name="all", index="none")
    assert not cut_into(sink, index, spec, tuple(bands), Access(local_roots=index.local_roots))
    return len(index), sink.total


def chipper(path: str) -> tuple[int, int]:
    """The same, chip by chip."""
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
    match task:
        case "cut" | "cut10":
            count, total = cut(path, TEN if task == "cut10" else BANDS)
        case "chipper":
            count, total = chipper(path)
        case _:
            count, total = len(Indexer(path).create_index()), 0
    took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    print(json.dumps({**took, "peak_mb": peak_memory_mb(), "chips": count, "pixels": total}))


if __name__ == "__main__":
    main()
