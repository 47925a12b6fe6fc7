"""A store that refuses, at any write of a run: nothing half written has a name, and the next run completes."""

from __future__ import annotations

from pathlib import Path

import pytest

from stacchip_core import Dataset, StoreError, Warehouse, materialize
from stacchip_core.chips.checking import verify_dataset
from stacchip_core.warehouse.store import open_store
from tests.faulty_store import WRITES, FaultyStore, Scripted, Work
from tests.quick import opened
from tests.warehouses import RGBN, made, scenes, spec


def disk_full(_: Work) -> None:
    raise StoreError("no space left on device")


def seen_through(store: FaultyStore, pixels: Path) -> Warehouse:
    warehouse = opened(store)
    warehouse.local_roots = (str(pixels),)
    return warehouse


def shards(root: Path) -> dict[str, bytes]:
    """Files of shards by path."""
    folder = root / "datasets/fields/shards"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_full_disk_at_any_write_leaves_no_half_shard_and_a_later_run_completes(tmp_path: Path) -> None:
    pixels, root = tmp_path / "pixels", tmp_path / "warehouse"
    made(pixels, root, scenes(pixels)[:1])
    wanted = spec(bands=RGBN, limit=12, format="safetensors")
    undisturbed = FaultyStore(open_store(root))
    expected = materialize(seen_through(undisturbed, pixels), wanted, workers=1)
    whole = shards(root)
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
        for path in folder.glob("shards/*"):
            assert path.read_bytes() == whole[path.name]
        if (folder / "dataset.json").exists():
            assert not verify_dataset(Dataset.open(folder), deep=True)
        done = materialize(seen_through(FaultyStore(open_store(root)), pixels), other, workers=1)
        assert done.lock.shards == expected.lock.shards
        assert not verify_dataset(done, deep=True)
