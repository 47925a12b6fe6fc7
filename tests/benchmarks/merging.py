"""Measures merging and reading combined indexes: `python -m tests.benchmarks.merging [scenario] [--scale 0.1]`.

- `files`: 1,000 Sentinel-2-sized item files into one index, beside polars' scan and sink of the same files.
- `growth`: 1,000 new items into an index of 10,000 items, and into one of 1,000,000.
- `updates`: 1,000 items in another form, of one month and of all months, beside the files that they touch.
- `box`: a box of a degree in an index of 5 million rows that 100 daily merges have made.

Each merge that is measured is a process of its own, on the local disk. Figures are ratios of one run; nothing fails
for being slow. polars lives in an environment of its own, made on first use.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stacchip_core.warehouse.combined.merge import merge
from stacchip_core.warehouse.files import open_parquet
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.store import Store, open_store
from stacchip_core.warehouse.version import CombinedVersion
from tests.benchmarks.synthetic_index import index, index_in_bulk, month_after, place
from tests.data import ITEMS, REPO

HOME = REPO / ".cache" / "merging"
RUN = HOME / f"run-{os.getpid()}"
POLARS = REPO / ".cache" / "polars-venv"
MONTHS = 20
SINK = """
import json, sys, time
import polars
start = time.perf_counter()
polars.scan_parquet(sys.argv[2:]).sink_parquet(sys.argv[1])
print(json.dumps({"wall_s": time.perf_counter() - start, "cpu_s": time.process_time(),
                  "peak_mib": int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024}))
"""


@dataclass(frozen=True, slots=True)
class Merge:
    """What one merge took and wrote."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    written: int
    removed: int


def say(text: str) -> None:
    print(text, flush=True)


def run_merge(root: Path, name: str = "global") -> Merge:
    """Merge in a process of its own."""
    return Merge(**_in_process([sys.executable, "-m", "tests.benchmarks.merging", "--merge", str(root), name]))


def _in_process(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPO)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def merge_here(root: str, name: str) -> None:
    """Merge, and print what it took."""
    store = open_store(root)
    before = Log(store, f"combined/{name}").newest()
    sizes = {info.path: info.size for info in (*before.kept, *before.added)} if before else {}
    start, cpu = time.perf_counter(), time.process_time()
    version = merge(store, name, ["s2"])
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    written = sum(info.size for info in version.entry.added)
    removed = sum(sizes[path] for path in version.entry.removed)
    print(json.dumps(asdict(Merge(wall, cpu, peak_mib(), written, removed))))


def peak_mib() -> float:
    """Of this process since it began; the maximum that getrusage tells may be that of the process it was started by."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def made(folder: str, make: Callable[[Store], None]) -> Path:
    """A warehouse that is made once and copied for each run."""
    root = HOME / folder
    if not (root / "done").exists():
        shutil.rmtree(root, ignore_errors=True)
        say(f"making {folder} ...")
        make(open_store(root))
        (root / "done").write_text("", encoding="utf-8")
    return root


def copied(root: Path) -> Path:
    """The warehouse once more, its files linked: nothing in them is ever changed."""
    shutil.rmtree(RUN, ignore_errors=True)
    shutil.copytree(root, RUN, copy_function=os.link)
    return RUN


# --- scenarios


def files(scale: float, repetitions: int = 5) -> None:
    """1,000 item files of 1,764 rows; items with small JSON, and with that of a real one."""
    count = int(1000 * scale)
    start = datetime(2024, 6, 1, tzinfo=UTC)
    items = [(number, start + timedelta(seconds=2500 * number)) for number in range(count)]
    real = json.loads((ITEMS / "sentinel-2-l2a" / "es-v1_S2A_31UDQ_20230617.json").read_text(encoding="utf-8"))
    small = made(f"files-{count}", lambda store: index(store, "s2", items, batch=1))
    large = made(f"files-json-{count}", lambda store: index(store, "s2", items, batch=1, like=real))
    paths = sorted(str(path) for path in (small / "collections" / "s2" / "data").rglob("*.parquet"))
    ours, real_ones, theirs = [], [], []
    for _ in range(repetitions):
        ours.append(run_merge(copied(small)))
        theirs.append(_in_process([str(_polars()), "-c", SINK, str(HOME / "polars.parquet"), *paths]))
        real_ones.append(run_merge(copied(large)))
    base, base_cpu = (statistics.median(one[name] for one in theirs) for name in ("wall_s", "cpu_s"))
    say(
        f"polars scan and sink of {count} files: {base:.2f} s, {base_cpu:.2f} s of CPU, {theirs[0]['peak_mib']:.0f} MiB"
    )
    for what, several in (("small item JSON", ours), ("real item JSON", real_ones)):
        wall, cpu, peak = (statistics.median(getattr(o, n) for o in several) for n in ("wall_s", "cpu_s", "peak_mib"))
        say(
            f"merge, {what}: {wall:.2f} s = {wall / base:.2f} x; "
            f"{cpu:.2f} s of CPU = {cpu / base_cpu:.2f} x; {peak:.0f} MiB"
        )
    version = newest(RUN)
    footers = [pq.read_metadata(RUN / info.path).metadata for info in version.files]
    has_all = all("covering" in json.loads(footer[b"geo"])["columns"]["geometry"] for footer in footers)
    say(f"geo metadata and covering kept: {has_all}")


def _polars() -> Path:
    python = POLARS / "bin" / "python"
    if not python.exists():
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(POLARS)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), "polars>=1.20"], check=True)
    return python


def _settled(count: int) -> Path:
    """An index of `count` small items, as many in each of 20 months, merged at once."""

    def make(store: Store) -> None:
        each = count // MONTHS
        for month in range(MONTHS):
            index_in_bulk(store, "s2", np.arange(month * each, (month + 1) * each), month_after(month))
            say(f"  {month + 1} of {MONTHS} months of {count} items")
        start = time.perf_counter()
        merge(store, "global", ["s2"])
        say(f"  first merge: {time.perf_counter() - start:.0f} s")

    return made(f"small-{count}", make)


def growth(scale: float, repetitions: int = 5) -> None:
    """New items in the month that is being filled."""
    counts = (10_000, int(1_000_000 * scale))
    roots = [_with_new(count) for count in counts]
    found: list[list[Merge]] = [[], []]
    for _ in range(repetitions):
        for several, root in zip(found, roots, strict=True):
            several.append(run_merge(copied(root)))
    small, large = (
        [
            statistics.median(getattr(one, name) for one in several)
            for name in ("wall_s", "cpu_s", "written", "peak_mib")
        ]
        for several in found
    )
    for count, (wall, cpu, written, peak) in zip(counts, (small, large), strict=True):
        say(f"1,000 new items into {count:,}: {wall:.2f} s, {cpu:.2f} s of CPU, {written:,} bytes, {peak:.0f} MiB")
    ratios = [more / less for more, less in zip(large, small, strict=True)]
    say(f"{ratios[0]:.2f} x the time, {ratios[1]:.2f} x the CPU, {ratios[2]:.2f} x the bytes written")


def _with_new(count: int) -> Path:
    """The index of `count` items, with 1,000 more in its collection."""
    settled = _settled(count)

    def make(store: Store) -> None:
        shutil.copytree(settled, store.root, copy_function=os.link, dirs_exist_ok=True)
        new = [(count + n, month_after(MONTHS - 1) + timedelta(hours=n % 600)) for n in range(1000)]
        index(store, "s2", new, side=(5, 4), batch=100)
        (Path(store.root) / "done").unlink()

    return made(f"small-{count}-new", make)


def updates(scale: float) -> None:
    """Items in another form: their old rows must go."""
    count = int(1_000_000 * scale)
    each = count // MONTHS
    rng = np.random.default_rng(7)
    chosen = {
        "within one month": rng.choice(np.arange(7 * each, 8 * each), min(1000, each), replace=False),
        "at random": rng.choice(count, 1000, replace=False),
    }
    for what, numbers in chosen.items():
        root = copied(_settled(count))
        again = [(n, month_after(n // each) + timedelta(hours=n % 600)) for n in numbers.tolist()]
        index(open_store(root), "s2", again, side=(5, 4), batch=100, form="b")
        took = run_merge(root)
        share = took.written / took.removed
        say(f"{len(again)} updates {what}: {took}; {share:.2f} x the bytes of the files they touch")


def box(scale: float, per_day: int = 29) -> None:
    """Row groups whose box meets one of a degree around a chip, after 100 daily merges."""
    days = int(100 * scale)

    def make(store: Store) -> None:
        written = 0
        for day in range(days):
            moment = datetime(2024, 3, 1, tzinfo=UTC) + timedelta(days=day)
            index(store, "s2", [(day * per_day + n, moment + timedelta(minutes=n)) for n in range(per_day)])
            written += sum(info.size for info in merge(store, "global", ["s2"]).entry.added)
            if day % 10 == 9:
                say(f"  day {day + 1} of {days}")
        size = sum(info.size for info in newest_of(store).files)
        say(f"bytes written over bytes there are: {written / size:.2f}")

    root = made(f"days-{days}", make)
    version = newest(root)
    boxes, months = list[list[float]](), dict[str, list[int]]()
    for info in version.files:
        with open_parquet(version.store, info) as file:
            for group in range(file.num_row_groups):
                boxes.append(_box_of(file, group))
        months.setdefault(str(info.month), []).append(info.rows)
    say(f"{version.count():,} rows, {len(boxes)} row groups; rows of the parts by month: {months}")
    west, south, east, north = np.array(boxes).T
    lon, lat = place(np.random.default_rng(3).choice(days * per_day, 200))
    touched = [
        ((west <= x + 1) & (east >= x) & (south <= y) & (north >= y - 1)).mean() for x, y in zip(lon, lat, strict=True)
    ]
    say(f"row groups touched by a box of a degree: mean {np.mean(touched):.1%}, most {np.max(touched):.1%}")
    _query(root, version, float(lon[0]), float(lat[0]))


def _box_of(file: pq.ParquetFile, group: int) -> list[float]:
    names = [file.metadata.row_group(group).column(place).path_in_schema for place in range(file.metadata.num_columns)]
    columns = [
        file.metadata.row_group(group).column(names.index(f"bbox.{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
    ]
    low, high = columns[:2], columns[2:]
    return [*(one.statistics.min for one in low), *(one.statistics.max for one in high)]


def _query(root: Path, version: CombinedVersion, west: float, north: float) -> None:
    east, south = west + 1, north - 1
    paths = [str(root / info.path) for info in version.files]
    condition = f"bbox.xmin <= {east} AND bbox.xmax >= {west} AND bbox.ymin <= {north} AND bbox.ymax >= {south}"
    start = time.perf_counter()
    (found,) = duckdb.execute(f"SELECT count(chip_id) FROM read_parquet(?) WHERE {condition}", [paths]).fetchall()
    by_duckdb = time.perf_counter() - start
    sides = {side: pc.field("bbox", side) for side in ("xmin", "xmax", "ymin", "ymax")}
    wanted = (sides["xmin"] <= east) & (sides["xmax"] >= west) & (sides["ymin"] <= north) & (sides["ymax"] >= south)
    start = time.perf_counter()
    rows = version.dataset().to_table(columns=["chip_id"], filter=wanted).num_rows
    by_pyarrow = time.perf_counter() - start
    say(f"a box of a degree, {rows} chips: DuckDB {by_duckdb:.3f} s, pyarrow (proven bytes) {by_pyarrow:.3f} s")
    assert found == (rows,)


def newest(root: Path) -> CombinedVersion:
    return newest_of(open_store(root))


def newest_of(store: Store) -> CombinedVersion:
    entry = Log(store, "combined/global").newest()
    assert entry is not None
    return CombinedVersion(store, "global", entry)


SCENARIOS: dict[str, Callable[[float], None]] = {"files": files, "growth": growth, "updates": updates, "box": box}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="?", choices=SCENARIOS, help="all of them where none is named")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes given above")
    parser.add_argument("--merge", nargs=2, metavar=("ROOT", "NAME"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.merge:
        merge_here(*given.merge)
        return
    HOME.mkdir(parents=True, exist_ok=True)
    try:
        for name, scenario in SCENARIOS.items():
            if given.scenario in (None, name):
                say(f"== {name}")
                scenario(given.scale)
    finally:
        shutil.rmtree(RUN, ignore_errors=True)


if __name__ == "__main__":
    main()
