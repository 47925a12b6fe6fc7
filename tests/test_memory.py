"""Memory of a materialization: that of what it holds at a time, however many scenes there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stacchip_core import Warehouse
from tests.scenes import naip_scene, utm_grid

SIDE = 2048
SCENE_MIB = 4 * SIDE**2 / 2**20  # pixels of a scene
COUNTS = (4, 24)  # with fewer, neither are both workers busy nor is GDAL's cache full

# In a process of its own: a peak is one of the process, and GDAL reads the size of its cache once.
CHILD = """
import sys
from pathlib import Path
from stacchip_core import ChipSpec, Warehouse, materialize

spec = ChipSpec(name="peak", index="global", shard_size=64, bands=[{"collection": "naip", "bands": ["image"]}])
dataset = materialize(Warehouse(sys.argv[1], local_roots=[sys.argv[2]]), spec)
(line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(len(dataset), int(line.split()[1]) / 1024)
"""


def peak(root: Path, pixels: Path) -> tuple[int, float]:
    """Chips of a dataset made by a fresh process, and the most memory that it held, MiB (proc(5), VmHWM)."""
    command = [sys.executable, "-c", CHILD, str(root), str(pixels)]
    environment = {**os.environ, "GDAL_CACHEMAX": "16", "MALLOC_ARENA_MAX": "2"}  # of glibc, else one a thread
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.stdout, done.stderr
    chips, mib = done.stdout.split()
    return int(chips), float(mib)


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_number_of_scenes(tmp_path: Path) -> None:
    item = naip_scene(tmp_path / "pixels", grid=utm_grid(SIDE, 1.0, epsg=26914))
    peaks = []
    for count in COUNTS:
        warehouse = Warehouse(tmp_path / f"warehouse-{count}", create=True, local_roots=[str(tmp_path / "pixels")])
        warehouse.index_items([{**item, "id": f"scene-{number}"} for number in range(count)])
        warehouse.merge("global", collections=["naip"])
        chips, mib = peak(tmp_path / f"warehouse-{count}", tmp_path / "pixels")
        assert chips == count * (SIDE // 256) ** 2
        peaks.append(mib)
    few, many = peaks
    more = (COUNTS[1] - COUNTS[0]) * SCENE_MIB
    assert many < 1024
    assert many - few < more / 5, f"{many - few:.0f} MiB more memory for {more:.0f} MiB more pixels"
