"""Datasets whose files are damaged, missing, of a later release or not finished: each is named, none is believed."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from stacchip_core import CorruptWarehouseError, Dataset, InputError, ObjectNotFoundError, Warehouse, materialize
from stacchip_core.chips.assembly import prepare
from stacchip_core.chips.checking import verify_dataset
from stacchip_core.chips.dataset import update
from stacchip_core.chips.formats.table import WRITERS
from tests.warehouses import RGBN, made, scenes, spec


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    pixels = tmp_path_factory.mktemp("pixels")
    return made(pixels, tmp_path_factory.mktemp("warehouse"), scenes(pixels)[:1])


@pytest.mark.parametrize("form", ["zarr", "npz"])
def test_a_shard_that_is_not_whole_is_told_not_read_as_nodata(warehouse: Warehouse, form: str) -> None:
    dataset = materialize(warehouse, spec(name=f"damaged-{form}", limit=3, bands=RGBN, format=form))
    key = dataset.lock.shards[0].key
    assert key is not None
    shard = Path(dataset.path) / key
    file = shard / "red/c/0/0/0/0" if form == "zarr" else shard
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    for _ in range(2):  # cut short, then gone
        with pytest.raises(
            CorruptWarehouseError, match=rf"shard {key} is \d+ bytes, the lock says \d+: files of it are"
        ):
            dataset[0]
        file.unlink(missing_ok=True)
    file.write_bytes(content)
    assert dataset[0]["red"].shape == (1, 96, 96)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # rasterio logs what GDAL quotes of a tag
@pytest.mark.parametrize("form", sorted(WRITERS))
def test_damage_that_reading_meets_is_told_as_damage_of_the_shard(warehouse: Warehouse, form: str) -> None:
    """Whatever the library of the form raises; deep verification finds all of it."""
    dataset = materialize(warehouse, spec(name=f"flipped-{form}", limit=3, bands=RGBN, format=form))
    (info,) = dataset.lock.shards
    shard = Path(dataset.path) / str(info.key)
    chance = random.Random(5)
    for file in [shard] if shard.is_file() else sorted(path for path in shard.rglob("*") if path.is_file()):
        content = file.read_bytes()
        places = [0, 3, len(content) // 2, len(content) - 1, *(chance.randrange(len(content)) for _ in range(12))]
        flips = [content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :] for at in places]
        for damaged in (*flips, bytes(len(content)), b'{"a": 1}'.ljust(len(content))[: len(content)]):
            file.write_bytes(damaged)
            other = Dataset.open(dataset.path)
            for place in range(3):
                with contextlib.suppress(CorruptWarehouseError):  # or pixels, right or wrong: nothing proves them
                    other[place]
            (problem,) = verify_dataset(other, deep=True)
            assert str(info.key) in problem
        file.write_bytes(content)
    assert not verify_dataset(Dataset.open(dataset.path), deep=True)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"null", b"7", b"\0\0", b'{"format": 1}'])
def test_a_damaged_lock_is_named(warehouse: Warehouse, content: bytes) -> None:
    dataset = materialize(warehouse, spec(name="lock-damaged", limit=3))
    path = Path(dataset.path) / "dataset.json"
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        uses: list[Callable[[], object]] = [
            lambda: Dataset.open(dataset.path),
            lambda: materialize(warehouse, spec(name="lock-damaged", limit=3)),
            lambda: update(warehouse, "lock-damaged"),
        ]
        for use in uses:
            with pytest.raises(CorruptWarehouseError, match=r"lock-damaged/dataset\.json is damaged"):
                use()
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("more", [{}, {"seal": "x"}])
def test_a_lock_of_a_later_release_is_told_from_damage(warehouse: Warehouse, more: dict[str, str]) -> None:
    dataset = materialize(warehouse, spec(name=f"later-{len(more)}", limit=3))
    path = Path(dataset.path) / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2, **more}))
    with pytest.raises(
        InputError, match=r"dataset\.json has format 2, and this release of .* reads 1: install a newer"
    ):
        Dataset.open(dataset.path)


def test_what_is_no_dataset_or_not_yet_one_is_told(warehouse: Warehouse) -> None:
    with pytest.raises(ObjectNotFoundError, match=r"datasets/nowhere is no dataset: it has no dataset\.json"):
        Dataset.open(f"{warehouse.root}/datasets/nowhere")
    prepare(warehouse, spec(name="begun", limit=3))
    with pytest.raises(ObjectNotFoundError, match="datasets/begun is not finished: make it once more, and it carries"):
        Dataset.open(f"{warehouse.root}/datasets/begun")


def test_a_table_that_the_lock_does_not_name_is_refused(warehouse: Warehouse) -> None:
    dataset = materialize(warehouse, spec(name="table-swapped", limit=3))
    (Path(dataset.path) / dataset.lock.chips_key).write_bytes(b"PAR1")
    with pytest.raises(CorruptWarehouseError, match=r"chips-\w+\.parquet is not the one that the lock names"):
        Dataset.open(dataset.path)
