"""A run that is killed at any moment is carried on by the next, and ends in the dataset of an undisturbed one."""

from __future__ import annotations

import multiprocessing as mp
import os
import random
import signal
import time
from pathlib import Path

import pytest

from stacchip_core import Dataset, Warehouse, materialize
from stacchip_core.chips.checking import verify_dataset
from stacchip_core.warehouse.store import open_store
from tests.warehouses import RGBN, made, scenes, spec

KILLS = 20


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that makes a dataset, beside those that runs leave for each other."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    own = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: content for name, content in own.items() if name.split("/")[0] not in ("work", "parts")}


def run(root: Path, pixels: Path) -> None:
    materialize(Warehouse(root, local_roots=[str(pixels)]), spec(bands=RGBN))


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_the_same_dataset(tmp_path: Path) -> None:
    pixels = tmp_path / "pixels"
    items = scenes(pixels)
    undisturbed = tmp_path / "undisturbed"
    started = time.monotonic()
    made(pixels, undisturbed, items)
    started = time.monotonic()
    run(undisturbed, pixels)
    took = time.monotonic() - started
    expected = contents(undisturbed / "datasets/fields")
    moments, survived = random.Random(7), 0
    root = tmp_path / "killed"
    made(pixels, root, items)
    folder = root / "datasets/fields"
    for kill in range(KILLS):
        process = mp.get_context("fork").Process(target=run, args=(root, pixels))
        process.start()
        process.join(took * moments.uniform(0.02, 1.0))
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        survived += process.exitcode == 0
        if (folder / "dataset.json").exists():
            assert not verify_dataset(Dataset(open_store(folder)), deep=True)
        for path in folder.glob("shards/*"):  # every shard that is there has its name's checksum
            assert path.name in {Path(name.split("/c/")[0]).parts[1] for name in expected if name.startswith("shards/")}
        if kill % 2 or (folder / "dataset.json").exists():  # some are resumed, others killed again
            run(root, pixels)
            assert contents(folder) == expected
            __import__("shutil").rmtree(folder)
    assert survived < KILLS
    run(root, pixels)
    assert contents(folder) == expected
