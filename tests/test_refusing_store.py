"""A store that refuses, at any write of a run: nothing half written has a name, and the next run completes."""

from __future__ import annotations

import multiprocessing as mp
import resource
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from stacchip_core import Dataset, StoreError, Warehouse, materialize
from stacchip_core.chips.assembly import prepare, write_group
from stacchip_core.chips.checking import verify_dataset
from stacchip_core.warehouse.store import open_store
from tests.faulty_store import WRITES, FaultyStore, Scripted, Work
from tests.quick import opened
from tests.scenes import sentinel2_scene
from tests.warehouses import made, scenes, spec


def disk_full(_: Work) -> None:
    raise StoreError("no space left on device")


def seen_through(store: FaultyStore, pixels: Path) -> Warehouse:
    warehouse = opened(store)
    warehouse.local_roots = (str(pixels),)
    return warehouse


def shards(folder: Path) -> dict[str, bytes]:
    """Files of shards by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FORMATS = ("zarr", "safetensors", "webdataset", "npz", "geotiff")
TWO = [{"collection": "sentinel-2-l2a", "bands": ["red", "nir"]}]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_a_full_disk_at_any_write_leaves_no_half_shard_and_a_later_run_completes(tmp_path: Path, form: str) -> None:
    pixels, root = tmp_path / "pixels", tmp_path / "warehouse"
    made(pixels, root, scenes(pixels)[:1])
    wanted = spec(bands=TWO, limit=4, shard_size=2, format=form)
    undisturbed = FaultyStore(open_store(root))
    expected = materialize(seen_through(undisturbed, pixels), wanted, workers=1)
    whole = shards(root / "datasets/fields/shards")
    names = [(name, key) for name, key in undisturbed.operations if name in WRITES]
    assert len(names) > 8
    for number, (name, _) in enumerate(names):
        other = wanted.model_copy(update={"name": f"full-{number}"})
        store = FaultyStore(open_store(root))
        before = sum(one == name for one, _ in names[:number])
        store.script = [Scripted(lambda work: work(), name, times=before), Scripted(disk_full, name)]
        warehouse = seen_through(store, pixels)
        with pytest.raises(StoreError, match="no space left"):
            materialize(warehouse, other, workers=1)
        folder = root / "datasets" / other.name
        for path, content in shards(folder / "shards").items():
            assert content == whole[path]
        if (folder / "dataset.json").exists():
            assert not verify_dataset(Dataset.open(folder), deep=True)
        done = materialize(seen_through(FaultyStore(open_store(root)), pixels), other, workers=1)
        assert done.lock.shards == expected.lock.shards
        assert not verify_dataset(done, deep=True)
        assert shards(folder / "shards") == whole
        assert (folder / "item.json").exists()


def fill_up(root: Path, pixels: Path, form: str, is_cut: bool, limit: int, answer: Connection) -> None:
    """Materialize where no file may be longer than `limit`: a write beyond it is cut short, as on a full disk."""
    warehouse = Warehouse(root, local_roots=[str(pixels)])
    wanted = spec(bands=TWO, limit=8, shard_size=4, format=form)
    if is_cut:
        plan = prepare(warehouse, wanted)
        for number in range(len(plan.groups)):
            write_group(warehouse, plan.name, number)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        materialize(warehouse, wanted, workers=1)
        answer.send("nothing was refused")
    except StoreError as err:
        answer.send(str(err))
    except BaseException as err:
        answer.send(f"{type(err).__name__}: {err}")


@pytest.mark.slow
@pytest.mark.parametrize("is_cut", [True, False], ids=["while-writing-shards", "while-cutting"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_disk_that_fills_up_within_a_file_shows_no_half_of_it(tmp_path: Path, form: str, is_cut: bool) -> None:
    """The system itself refuses, in the middle of a file, so that half of it has been written."""
    pixels, root = tmp_path / "pixels", tmp_path / "warehouse"
    noise = {
        name: np.random.default_rng(0).integers(1, 60_000, (480, 480)).astype(np.uint16) for name in ("red", "nir")
    }
    made(pixels, root, [sentinel2_scene(pixels, pixels=noise)])
    undisturbed = materialize(
        Warehouse(root, local_roots=[str(pixels)]), spec(name="whole", bands=TWO, limit=8, shard_size=4, format=form)
    )
    whole = shards(root / "datasets/whole/shards")
    limit = max(map(len, whole.values())) * 2 // 3 if is_cut else 150_000  # of a group's 294,912 bytes
    here, there = mp.Pipe()
    process = mp.get_context("spawn").Process(target=fill_up, args=(root, pixels, form, is_cut, limit, there))
    process.start()
    assert here.poll(120)
    said = here.recv()
    process.join()
    assert "could not be written" in said and "File too large" in said
    folder = root / "datasets/fields"
    assert not (folder / "dataset.json").exists()
    assert all(content == whole[path] for path, content in shards(folder / "shards").items())
    assert not list((root / "_staging").glob("tmp-*"))
    done = materialize(Warehouse(root, local_roots=[str(pixels)]), spec(bands=TWO, limit=8, shard_size=4, format=form))
    assert done.lock.shards == undisturbed.lock.shards
    assert shards(folder / "shards") == whole
    assert not verify_dataset(done, deep=True)
