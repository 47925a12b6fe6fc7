"""One measurement of datasets of the full-size scene, in a process of its own.

Usage: run_datasets.py TASK ITEM_JSON|FORMAT ROOT. Prints one JSON line.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stacchip_core import ChipSpec, Dataset, Storage, Warehouse, materialize
from stacchip_core.chips.assembly import prepare
from stacchip_core.chips.cutting import SceneLayout, cut_into
from stacchip_core.chips.files import Access
from stacchip_core.chips.formats.table import open_shard, writer_of
from stacchip_core.chips.shards import Pixels, Shard, in_memory, put
from tests.benchmarks.run_ours import peak_memory_mb
from tests.file_server import serve

RGBN = ["red", "green", "blue", "nir"]
RANDOM_CHIPS = 500


def spec(form: str, **values: Any) -> ChipSpec:
    """All chips of the scene, four bands."""
    form, _, plain = form.partition("-")
    bands = [{"collection": "sentinel-2-l2a", "bands": RGBN}]
    name = f"{form}-{plain or 'default'}"
    return ChipSpec(name=name, index="scene", bands=bands, format=form, compress=not plain, **values)


def opened(root: str) -> Warehouse:
    return Warehouse(root, create=True, local_roots=[str(full_scene_folder())])


def full_scene_folder() -> Path:
    """Where the scene lies."""
    from tests.benchmarks.full_scene import full_scene

    return full_scene().parent


def timed(task: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a task says, and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    said = task()
    took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    return {**said, **took, "peak_mb": peak_memory_mb()}


def index(item: str, root: str) -> dict[str, Any]:
    """Index the scene."""
    warehouse = opened(root)
    warehouse.index_items([item])
    return {"version": warehouse.merge("scene", collections=warehouse.collections()).version}


class Nowhere:
    """A sink that keeps nothing."""

    size = 0

    def begin(self, key: str, layout: SceneLayout) -> None:
        """Nothing to make room for."""

    def put(self, row: int, band: str, pixels: Pixels) -> None:
        """Only count."""
        self.size += pixels.nbytes


def bare(item: str, root: str) -> dict[str, Any]:
    """Decode all blocks once."""
    from stacchip_core.chips.selection import select

    found, sink = select(opened(root), spec("zarr")), Nowhere()
    access = Access(local_roots=(str(Path(item).parent),))

    def read() -> dict[str, Any]:
        reasons = cut_into(sink, found, spec("zarr"), tuple(RGBN), access)
        return {"failures": len(reasons), "bytes": sink.size, "chips": len(found)}

    return timed(read)


def make(form: str, root: str) -> dict[str, Any]:
    """Materialize all chips, on one worker as the bare read is."""

    def run() -> dict[str, Any]:
        lock = materialize(opened(root), spec(form), workers=1).lock
        return {"chips": lock.chips, "size": sum(shard.size for shard in lock.shards)}

    return timed(run)


def first_shard(form: str, root: str) -> tuple[Dataset, Shard]:
    """A dataset and its first shard, in memory."""
    dataset = Dataset.open(f"{root}/datasets/{spec(form).name}")
    shard = open_shard(dataset.store, str(dataset.lock.shards[0].key), dataset.lock.spec.format)
    return dataset, Shard(shard.labels, {band: in_memory(rows) for band, rows in shard.arrays.items()})


def write(form: str, root: str) -> dict[str, Any]:
    """Write one shard of 128 chips, three times."""
    dataset, shard = first_shard(form, root)

    def run() -> dict[str, Any]:
        for number in range(3):
            put(dataset.store, f"bench/{number}", writer_of(spec(form))(shard))
        return {"bytes": 3 * sum(rows[:].nbytes for rows in shard.arrays.values())}

    found = timed(run)
    shutil.rmtree(Path(dataset.path) / "bench")
    return found


def read(form: str, root: str) -> dict[str, Any]:
    """Read random chips."""
    dataset = Dataset.open(f"{root}/datasets/{spec(form).name}")
    places = random.Random(3).sample(range(len(dataset)), RANDOM_CHIPS)

    def run() -> dict[str, Any]:
        return {
            "bytes": sum(pixels.nbytes for place in places for pixels in dataset[place].values()),
            "chips": len(places),
        }

    return timed(run)


def http(item: str, root: str) -> dict[str, Any]:
    """Count the requests for the whole scene behind a server."""
    here = Storage(hosts=("127.0.0.1",))
    with serve(Path(item).parent) as server:
        data = json.loads(Path(item).read_text(encoding="utf-8"))
        for asset in data["assets"].values():
            asset["href"] = asset["href"].replace("./", f"{server.url}/")
        warehouse = Warehouse(f"{root}/http", create=True, storage=here)
        warehouse.index_items([data], storage=here)
        warehouse.merge("scene", collections=warehouse.collections())
        server.answers()
        plan = prepare(warehouse, spec("safetensors"))
        index = warehouse_part(warehouse, plan.groups[0].part)
        reasons = cut_into(Nowhere(), index, plan.spec, tuple(RGBN), Access(here))
        return {"chips": len(index), "requests": len(server.answers()), "failures": len(reasons)}


def warehouse_part(warehouse: Warehouse, key: str) -> Any:
    """Chips of a group of the dataset."""
    from stacchip_core.chips.work import current

    return current(warehouse.store, spec("safetensors").name).part(key)


TASKS = {"index": index, "bare": bare, "make": make, "write": write, "read": read, "http": http}


def main() -> None:
    """Do one task and say what it took."""
    task, first, root = sys.argv[1:4]
    print(json.dumps(TASKS[task](first, root)))


if __name__ == "__main__":
    main()
