"""Indexes an item or cuts its chips with stacchip; run by the interpreter of its own environment.

Usage: run_stacchip.py index|again|cut|cut10|chipper ITEM_JSON [TABLE_PARQUET]. Prints one JSON line. Uses
nothing of this project.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pystac
from stacchip.chipper import Chipper
from stacchip.indexer import Sentinel2Indexer

BANDS = ["red", "green", "blue", "nir"]
TEN = [*BANDS, "rededge1", "rededge2", "rededge3", "nir08", "swir16", "swir22"]


def index(item: pystac.Item) -> Any:
    """All chips, also those without data, as our index has them."""
    with contextlib.redirect_stdout(io.StringIO()):
        return Sentinel2Indexer(item, chip_max_nodata=1.0).create_index()


def cut(item: pystac.Item, bands: list[str]) -> tuple[int, int]:
    """Number of chips, and the sum of all their pixels."""
    chips = Chipper(Sentinel2Indexer(item, chip_max_nodata=1.0), assets=bands)
    count, total = 0, 0
    for _, _, chip in chips:
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
    item = pystac.Item.from_file(path)
    item.make_asset_hrefs_absolute()
    if task == "again":
        index(item)
    wall, cpu = time.perf_counter(), time.process_time()
    if task in ("index", "again"):
        table = index(item)
        count, total = table.num_rows, 0
    else:
        count, total = cut(item, TEN if task == "cut10" else BANDS)
    took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    if len(sys.argv) > 3:
        pq.write_table(table.drop_columns(["geometry"]), sys.argv[3])
    print(json.dumps({**took, "peak_mb": peak_memory_mb(), "chips": count, "pixels": total}))


if __name__ == "__main__":
    main()
