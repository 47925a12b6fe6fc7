"""A run that is killed at any moment is carried on by the next, and ends in the dataset of an undisturbed one."""

from __future__ import annotations

import multiprocessing as mp
import random
import shutil
import time
from pathlib import Path

import pytest

from stacchip_core import Dataset, Warehouse, materialize
from stacchip_core.chips.checking import verify_dataset
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
    pixels, undisturbed, root = (tmp_path / name for name in ("pixels", "undisturbed", "killed"))
    made(pixels, undisturbed, scenes(pixels)[:2])
    shutil.copytree(undisturbed, root)
    started = time.monotonic()
    run(undisturbed, pixels)
    took = time.monotonic() - started
    expected = contents(undisturbed / "datasets/fields")
    shards = {name.split("/")[1] for name in expected if name.startswith("shards/")}
    moments, survived, folder = random.Random(7), 0, root / "datasets/fields"
    for kill in range(KILLS):
        process = mp.get_context("fork").Process(target=run, args=(root, pixels))
        process.start()
        process.join(took * moments.uniform(0.02, 0.9))
        process.kill()
        process.join()
        survived += process.exitcode == 0
        is_finished = (folder / "dataset.json").exists()
        if is_finished:
            assert not verify_dataset(Dataset.open(folder), deep=True)
        assert {path.name for path in folder.glob("shards/*")} <= shards  # named for their content
        if kill % 2 or is_finished:  # the others are killed once more
            run(root, pixels)
            assert contents(folder) == expected
            shutil.rmtree(folder)
    assert survived < KILLS / 2
    run(root, pixels)
    assert contents(folder) == expected
