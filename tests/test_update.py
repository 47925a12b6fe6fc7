"""Updates: what failed is retried, what the index changed is made again, and everything else stays byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from stacchip_core import Dataset, InputError, Warehouse, materialize
from stacchip_core.chips.assembly import is_finished, write_group
from stacchip_core.chips.checking import diff_datasets, verify_dataset
from stacchip_core.chips.dataset import update
from stacchip_core.chips.update import prepare_update
from stacchip_core.cli import app
from tests.scenes import sentinel2_scene
from tests.warehouses import RGBN, SIZE, cut, grow, listing, made, scenes, spec


@pytest.fixture
def place(tmp_path: Path) -> tuple[Warehouse, Path]:
    """A warehouse of two Sentinel-2 items, and the folder of their pixels."""
    pixels = tmp_path / "pixels"
    return made(pixels, tmp_path / "warehouse", scenes(pixels)[:2]), pixels


def assert_holds_what_is_chosen(warehouse: Warehouse, dataset: Dataset) -> None:
    """The dataset's chips are those that the spec means in its index version, as the Chipper cuts them."""
    expected = cut(warehouse, dataset.lock.spec)
    found = {row["chip_id"]: chip for row, chip in dataset}
    assert set(found) == set(expected)
    assert len(found) == len(dataset)
    for chip_id, chip in found.items():
        assert all(np.array_equal(chip[band], pixels) for band, pixels in expected[chip_id].items())
    assert not verify_dataset(dataset, deep=True)


def test_where_nothing_changed_nothing_is_written(place: tuple[Warehouse, Path]) -> None:
    warehouse, _ = place
    dataset = materialize(warehouse, spec(bands=RGBN))
    before = listing(dataset.path)
    assert prepare_update(warehouse, "fields") is None
    assert update(warehouse, "fields").lock == dataset.lock
    assert {path: facts for path, facts in listing(dataset.path).items() if not path.startswith("parts/")} == {
        path: facts for path, facts in before.items() if not path.startswith("parts/")
    }


def test_new_items_go_into_new_shards_and_old_shards_stay(place: tuple[Warehouse, Path]) -> None:
    warehouse, pixels = place
    first = materialize(warehouse, spec(bands=RGBN)).lock
    grow(warehouse, pixels)
    dataset = update(warehouse, "fields")
    assert dataset.lock.revision == 2
    assert dataset.lock.index.version == first.index.version + 1
    assert dataset.lock.shards[: len(first.shards)] == first.shards
    assert len(dataset) == 75
    assert_holds_what_is_chosen(warehouse, dataset)
    as_before = Dataset.open(dataset.path, revision=1)
    assert as_before.lock == first
    assert len(as_before) == 50
    assert not verify_dataset(as_before, deep=True)


def test_only_shards_of_an_item_that_changed_are_made_again(tmp_path: Path) -> None:
    pixels = tmp_path / "pixels"
    items = scenes(pixels)[:2]
    warehouse = made(pixels, tmp_path / "warehouse", items)
    first = materialize(warehouse, spec(bands=RGBN, shard_size=3)).lock
    rows = Dataset.open(f"{warehouse.root}/datasets/fields").chips
    touched = {
        shard
        for shard, item in zip(rows["shard"].to_pylist(), rows["item_id"].to_pylist(), strict=True)
        if item == items[1]["id"]
    }
    again = sentinel2_scene(pixels, item_id=items[1]["id"], when="2024-06-20T10:30:31Z", seed=77)  # other pixels
    again["properties"]["updated"] = "2024-09-01T00:00:00Z"
    warehouse.index_items([again], chip_size=SIZE)
    warehouse.merge("global", collections=warehouse.collections())
    dataset = update(warehouse, "fields")
    assert_holds_what_is_chosen(warehouse, dataset)
    kept = [n for n, info in enumerate(first.shards) if info.sha256 == dataset.lock.shards[n].sha256]
    assert set(kept) == set(range(len(first.shards))) - touched
    assert 0 < len(kept) < len(first.shards)
    changed = diff_datasets(Dataset.open(dataset.path, revision=1), dataset)
    assert not changed.is_same
    assert {chip_id.split("/")[1] for chip_id in changed.other_pixels} == {items[1]["id"]}
    assert changed.settings["index"] == (str(first.index), str(dataset.lock.index))


def test_chips_that_failed_are_tried_again(place: tuple[Warehouse, Path]) -> None:
    warehouse, pixels = place
    nir = pixels / scenes(pixels)[0]["id"] / "nir.tif"
    content = nir.read_bytes()
    nir.unlink()
    first = materialize(warehouse, spec(bands=RGBN)).lock
    assert first.failures == 25
    nir.write_bytes(content)
    dataset = update(warehouse, "fields")
    assert (dataset.lock.failures, len(dataset), dataset.lock.index) == (0, 50, first.index)
    assert_holds_what_is_chosen(warehouse, dataset)


def test_chips_that_are_no_longer_chosen_leave(place: tuple[Warehouse, Path]) -> None:
    warehouse, pixels = place
    materialize(warehouse, spec(bands=RGBN, limit=20))
    grow(warehouse, pixels)
    dataset = update(warehouse, "fields")
    assert len(dataset) == 20
    assert_holds_what_is_chosen(warehouse, dataset)


def test_an_update_that_was_killed_is_carried_on_with(place: tuple[Warehouse, Path]) -> None:
    warehouse, pixels = place
    first = materialize(warehouse, spec(bands=RGBN)).lock
    grow(warehouse, pixels)
    planned = prepare_update(warehouse, "fields")
    assert planned is not None
    write_group(warehouse, "fields", 0)
    assert not is_finished(warehouse, "fields")
    assert Dataset.open(f"{warehouse.root}/datasets/fields").lock == first  # as it was, until the update is whole
    assert prepare_update(warehouse, "fields") == planned
    assert_holds_what_is_chosen(warehouse, update(warehouse, "fields"))


def test_a_spec_that_names_its_version_keeps_it_unless_told(place: tuple[Warehouse, Path]) -> None:
    warehouse, pixels = place
    version = warehouse.combined("global").version
    materialize(warehouse, spec(bands=RGBN, version=version))
    grow(warehouse, pixels)
    assert update(warehouse, "fields").lock.index.version == version
    assert update(warehouse, "fields", version=version + 1).lock.index.version == version + 1


def test_a_dataset_that_is_not_finished_is_told_so(place: tuple[Warehouse, Path]) -> None:
    with pytest.raises(InputError, match=r"dataset 'fields': not finished in .*; materialize it first"):
        update(place[0], "fields")


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "deep", "said"),
    [
        (Path.unlink, False, r"0 bytes in 0 files, the lock says \d+"),
        (cut_short, False, r"\d+ bytes in 1 files, the lock says \d+"),
        (damaged, True, "its bytes are not those that the lock names"),
    ],
    ids=["gone", "short", "damaged"],
)
def test_damage_is_told_shard_by_shard(place: tuple[Warehouse, Path], harm: Any, deep: bool, said: str) -> None:
    dataset = materialize(place[0], spec(bands=RGBN, format="safetensors"))
    assert verify_dataset(dataset, deep=deep) == ()
    key = dataset.lock.shards[2].key
    harm(Path(dataset.path) / str(key))
    [problem] = verify_dataset(dataset, deep=deep)
    assert problem.startswith(f"shard 2 ({key}): ")
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(problem)


def test_datasets_in_two_formats_hold_the_same(place: tuple[Warehouse, Path]) -> None:
    one = materialize(place[0], spec(name="one", bands=RGBN, limit=9))
    two = materialize(place[0], spec(name="two", bands=RGBN, limit=8, format="npz"))
    found = diff_datasets(one, two)
    assert found.other_pixels == found.only_in_second == ()
    assert (found.common, len(found.only_in_first), found.is_same) == (8, 1, False)
    assert found.settings == {"name": ("one", "two"), "limit": (9, 8), "format": ("zarr", "npz")}


def test_the_commands_update_verify_and_compare(place: tuple[Warehouse, Path]) -> None:
    warehouse, pixels = place
    materialize(warehouse, spec(bands=RGBN))
    grow(warehouse, pixels)

    def run(*command: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["-w", str(warehouse.root), "dataset", *command])
        return done.exit_code, done.output

    code, told = run("update", "fields", "--local-root", str(pixels))
    assert code == 0, told
    assert "global@2" in told
    assert run("verify", "fields", "--deep") == (0, "no problems\n")
    assert run("verify", "fields@1")[0] == 0
    code, told = run("diff", "fields@1", "fields")
    assert code == 1
    assert "chips of its own" in told
    assert run("diff", "fields", "fields")[0] == 0
    next((Path(warehouse.store.root) / "datasets/fields/shards").iterdir()).joinpath("zarr.json").unlink()
    assert run("verify", "fields")[0] == 1


def test_a_copy_of_a_dataset_is_read_and_not_made_further(tmp_path: Path) -> None:
    warehouse = made(tmp_path / "pixels", tmp_path / "warehouse", scenes(tmp_path / "pixels")[:1])
    dataset = materialize(warehouse, spec(name="fields", limit=3))
    shutil.copytree(dataset.path, f"{warehouse.root}/datasets/backup")
    assert len(Dataset.open(f"{warehouse.root}/datasets/backup")) == 3
    with pytest.raises(InputError, match="is of dataset 'fields': a copy can be read, and not made further"):
        update(warehouse, "backup")


@pytest.mark.parametrize("is_gone", [True, False])
def test_shards_that_are_not_whole_are_made_again(tmp_path: Path, is_gone: bool) -> None:
    warehouse = made(tmp_path / "pixels", tmp_path / "warehouse", scenes(tmp_path / "pixels")[:1])
    dataset = materialize(warehouse, spec(name="fields", shard_size=10, format="safetensors"))
    before = listing(dataset.path)
    shard = Path(dataset.path) / str(dataset.lock.shards[1].key)
    content = shard.read_bytes()
    shard.unlink() if is_gone else shard.write_bytes(content[:-1])
    assert len(verify_dataset(dataset)) == 1
    again = update(warehouse, "fields")
    assert shard.read_bytes() == content
    assert not verify_dataset(again, deep=True)
    kept = [str(one.key) for one in dataset.lock.shards if one.number != 1]
    assert {key: listing(dataset.path)[key] for key in kept} == {key: before[key] for key in kept}
    assert update(warehouse, "fields").lock == again.lock
