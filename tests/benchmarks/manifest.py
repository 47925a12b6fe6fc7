"""A manifest of a million items: what an unchanged run and a commit of 100 items cost. `make bench` runs it."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from stacchip_core.index.indexer import IndexSettings
from stacchip_core.sources.item import StagedItem
from stacchip_core.warehouse.classify import candidate, classify
from stacchip_core.warehouse.commit import commit
from stacchip_core.warehouse.items import ITEM_SCHEMA
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store, open_store
from stacchip_core.warehouse.work import Work
from tests.faulty_store import FaultyStore
from tests.warehouse_rows import Piece, part_of

NAME, PAGE, CANDIDATES, NEW = "s2", 2000, 500, 100
SETTINGS = IndexSettings()
START = datetime(2019, 1, 1, tzinfo=UTC)


def staged(number: int) -> StagedItem:
    """A small but whole STAC item."""
    when = (START + timedelta(minutes=3 * number)).isoformat()
    return StagedItem(
        {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": f"S2A_{number % 60:02d}TQM_{number:09d}_0_L2A",
            "collection": "sentinel-2-l2a",
            "properties": {
                "datetime": when,
                "updated": when,
                "platform": "sentinel-2a",
                "eo:cloud_cover": number % 100,
            },
            "assets": {
                "red": {"href": f"https://example.com/{number}/B04.tif", "type": "image/tiff", "roles": ["data"]}
            },
        }
    )


def page(store: Store, numbers: Sequence[int], file: str) -> pa.Table:
    """Item rows of a run, as batches leave them; all chips are said to be in one data file."""
    rows = []
    for number in numbers:
        one = staged(number)
        state = candidate(one, SETTINGS).state
        lon, lat = number % 3600 / 10 - 180, number % 1600 / 10 - 80
        rows.append(
            {
                **{name: getattr(state, name) for name in state.__dataclass_fields__ if name != "version"},
                "item": json.dumps(one.item),
                "scene": "{}",
                "profile": "sentinel-2-l2a",
                "file": file,
                "row_group": 0,
                "offset": 0,
                "rows": 20,
                "datetime": START + timedelta(minutes=3 * number),
                "bbox": {"xmin": lon, "ymin": lat, "xmax": lon + 1, "ymax": lat + 1},
            }
        )
    return pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)


def add(store: Store, numbers: Sequence[int]) -> None:
    """Commit some items in one page."""
    part = part_of(store, NAME, [Piece(0, collection="sentinel-2-l2a", rows=20)])
    manifest = Manifest.load(store, NAME)
    info = part_files(store, part.part)[0]
    rows = page(store, numbers, info.path)
    commit(manifest, Work(rows, {info.path: info}, None, manifest.version))


def part_files(store: Store, key: str) -> list[Any]:
    """Data files that a part names."""
    from stacchip_core.warehouse.work import read_work

    return list(read_work(store, [key], read_version=0).files.values())


def build(root: Path, count: int) -> None:
    """A collection of `count` items, committed in pages."""
    store, begun = open_store(root), time.perf_counter()
    done = Manifest.load(store, NAME).version * PAGE
    for start in range(done, count, PAGE):
        add(store, range(start, min(start + PAGE, count)))
        if start % (50 * PAGE) == 0:
            print(f"  {start:,} items after {time.perf_counter() - begun:.0f} s", flush=True)


def unchanged(root: Path, count: int) -> dict[str, float]:
    """Classify candidates that are all known."""
    store = FaultyStore(open_store(root))
    items = [staged(number) for number in range(0, count, count // CANDIDATES)][:CANDIDATES]
    begun = time.perf_counter()
    manifest = Manifest.load(store, NAME)
    found = classify(manifest, items, SETTINGS)
    seconds = time.perf_counter() - begun
    assert (found.same, len(found.new), len(found.updated)) == (CANDIDATES, 0, 0)
    return {**told(store, manifest, seconds), "checkpoint": 0.0}


def committing(root: Path, count: int) -> dict[str, float]:
    """Commit new items; their data file is written before the clock starts."""
    store = FaultyStore(open_store(root))
    first = count + int(time.time() * 1000) % 10**8
    part = part_of(store.inner, NAME, [Piece(0, collection="sentinel-2-l2a", rows=20)])
    info = part_files(store.inner, part.part)[0]
    rows = page(store.inner, range(first, first + NEW), info.path)
    begun = time.perf_counter()
    manifest = Manifest.load(store, NAME)
    done = commit(manifest, Work(rows, {info.path: info}, None, manifest.version))
    seconds = time.perf_counter() - begun
    assert done.new == NEW
    return {**told(store, manifest, seconds), "checkpoint": float(done.version - 1 - manifest.base >= 16)}


def told(store: FaultyStore, manifest: Manifest, seconds: float) -> dict[str, float]:
    """What it cost."""
    tail = manifest.version - manifest.base
    return {
        "seconds": seconds,
        "requests": len(store.operations),
        "beyond_tail": len(store.operations) - 2 * tail,
        "tail": tail,
        "writes": len(store.written),
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def apart(scenario: str, root: Path, count: int) -> dict[str, float]:
    """Run a scenario in a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "tests.benchmarks.manifest", "--run", scenario]
    command += ["--root", str(root), "--items", str(count)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(answer.splitlines()[-1]))


def main() -> None:
    """Build manifests of several sizes and compare what runs on them cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--run", choices=("unchanged", "committing"))
    parser.add_argument("--root", type=Path)
    parser.add_argument("--repeats", type=int, default=17, help="17: one of so many commits writes a checkpoint")
    given = parser.parse_args()
    if given.run:
        print(json.dumps({"unchanged": unchanged, "committing": committing}[given.run](given.root, given.items)))
        return
    with tempfile.TemporaryDirectory(prefix="stacchip-bench-") as folder:
        for count in (given.items // 10, given.items):
            root = (given.root or Path(folder)) / str(count)
            print(f"{count:,} items", flush=True)
            build(root, count)
            for scenario in ("unchanged", "committing"):
                report(scenario, [apart(scenario, root, count) for _ in range(given.repeats)])


def report(scenario: str, runs: Sequence[dict[str, float]]) -> None:
    """Print medians, of runs that wrote a checkpoint and of those that did not."""
    for checkpoint in (0.0, 1.0):
        if some := [run for run in runs if run["checkpoint"] == checkpoint]:
            middle = {name: statistics.median(run[name] for run in some) for name in some[0]}
            figures = ", ".join(f"{name} {value:.4g}" for name, value in middle.items())
            print(f"  {scenario:<11} {len(some)} runs: {figures}", flush=True)


if __name__ == "__main__":
    main()
