"""PyTorch's DataLoader over streams and datasets on an S3 server; run by `make test-torch`."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed here; `make test-torch` installs it")

from torch.utils.data import DataLoader, RandomSampler  # noqa: E402

from stacchip_core import ChipNotFoundError, Dataset, InputError, Warehouse, materialize, stream  # noqa: E402
from stacchip_core.chips.epoch import Deal  # noqa: E402
from stacchip_core.chips.stream import ChipStream  # noqa: E402
from stacchip_core.chips.torch import Wish  # noqa: E402
from tests.numbered_chips import NumberedChips, s3_elsewhere, warehouse_on_s3  # noqa: E402
from tests.scenes import sentinel2_scene  # noqa: E402
from tests.warehouses import spec  # noqa: E402

pytestmark = [
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create .* worker processes"),  # on a machine of two cores
]

WANTED = {"name": "torch", "limit": 48, "bands": [{"collection": "sentinel-2-l2a", "bands": ["red", "swir16"]}]}
Seen = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def warehouse(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    with s3_elsewhere() as storage:
        folder = tmp_path_factory.mktemp("pixels")
        yield warehouse_on_s3(storage, folder, [sentinel2_scene(folder, item_id=name) for name in ("a", "b")])


@pytest.fixture(scope="module")
def dataset(warehouse: Warehouse) -> Dataset:
    return materialize(warehouse, spec(**WANTED))


@pytest.fixture(scope="module")
def streamed(warehouse: Warehouse) -> ChipStream:
    return stream(warehouse, spec(**WANTED))


@pytest.fixture(params=["stream", "dataset"])
def source(request: pytest.FixtureRequest, dataset: Dataset, streamed: ChipStream) -> Dataset | ChipStream:
    return dataset if request.param == "dataset" else streamed


def chips_of(batches: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Chips of batches by id, as arrays."""
    return [
        (chip_id, {band: batch[band][n].numpy() for band in ("red", "swir16")})
        for batch in batches
        for n, chip_id in enumerate(batch["chip_id"])
    ]


def assert_all_once(found: list[tuple[str, dict[str, Any]]], dataset: Dataset) -> None:
    assert sorted(chip_id for chip_id, _ in found) == sorted(dataset.chips["chip_id"].to_pylist())
    chips = dict(found)
    for row, expected in dataset:
        for band, pixels in expected.items():
            assert chips[row["chip_id"]][band].dtype == pixels.dtype
            assert np.array_equal(chips[row["chip_id"]][band], pixels)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_each_chip_comes_once_per_epoch_whatever_the_workers(
    source: Dataset | ChipStream, dataset: Dataset, workers: int
) -> None:
    ranks = [source.to_torch_iterable(Deal(rank=rank, world_size=2, batch_size=5, mix=16)) for rank in (0, 1)]
    orders = []
    for epoch in (0, 1):
        batches = []
        for chips in ranks:
            chips.set_epoch(epoch)
            loader = DataLoader(chips, batch_size=5, num_workers=workers)
            own = list(loader)
            assert len(own) == len(loader) == 5
            assert sum(len(batch["chip_id"]) for batch in own) == len(chips) == 24
            batches += own
        assert batches[0]["red"].shape == (5, 1, 96, 96)
        assert batches[0]["red"].dtype == torch.uint16
        assert_all_once(chips_of(batches), dataset)
        orders.append([chip_id for batch in batches for chip_id in batch["chip_id"]])
    assert orders[0] != orders[1]


@pytest.mark.parametrize(("workers", "then"), [(0, 3), (1, 0), (3, 1), (3, 3)])
def test_after_a_stop_in_mid_epoch_nothing_comes_twice_and_nothing_is_missing(
    source: Dataset | ChipStream, dataset: Dataset, workers: int, then: int
) -> None:
    deal = Deal(batch_size=4, mix=16, seed=2)
    chips = source.to_torch_iterable(deal)
    chips.set_epoch(3)
    trained = []
    for batch in DataLoader(chips, batch_size=4, num_workers=workers):
        trained.append(batch)
        chips.done(batch["place"])
        if len(trained) == 5:
            break
    state = json.loads(json.dumps(chips.state_dict()))
    again = source.to_torch_iterable(deal)
    again.load_state_dict(state)
    assert again.feed.epoch == 3
    trained += list(DataLoader(again, batch_size=4, num_workers=then))
    assert len(trained) == 12
    assert_all_once(chips_of(trained), dataset)
    again.set_epoch(4)
    assert_all_once(chips_of(list(DataLoader(again, batch_size=4, num_workers=then))), dataset)


def test_a_state_in_a_torch_checkpoint_is_read_back(streamed: ChipStream, tmp_path: Path) -> None:
    chips = streamed.to_torch_iterable()
    torch.save({"chips": chips.state_dict()}, tmp_path / "checkpoint.pt")
    chips.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["chips"])


def test_workers_that_are_kept_see_the_next_epoch(dataset: Dataset, streamed: ChipStream) -> None:
    chips = streamed.to_torch_iterable(Deal(batch_size=8))
    loader = DataLoader(chips, batch_size=8, num_workers=2, persistent_workers=True)
    orders = []
    for epoch in range(2):
        chips.set_epoch(epoch)
        batches = list(loader)
        assert_all_once(chips_of(batches), dataset)
        orders.append([chip_id for batch in batches for chip_id in batch["chip_id"]])
    assert orders[0] != orders[1]


def test_workers_may_be_spawned(source: Dataset | ChipStream, dataset: Dataset) -> None:
    for chips in (source.to_torch_iterable(Deal(batch_size=8)), source.to_torch()):
        assert isinstance(pickle.loads(pickle.dumps(chips)), type(chips))
        loader = DataLoader(chips, batch_size=8, num_workers=2, multiprocessing_context="spawn")
        assert_all_once(chips_of(list(loader)), dataset)


@pytest.mark.parametrize("workers", [0, 3])
def test_torchs_own_samplers_draw_from_the_map_style(
    source: Dataset | ChipStream, dataset: Dataset, workers: int
) -> None:
    chips = source.to_torch()
    assert len(chips) == 48
    sampler = RandomSampler(chips, generator=torch.Generator().manual_seed(1))
    assert_all_once(chips_of(list(DataLoader(chips, batch_size=7, sampler=sampler, num_workers=workers))), dataset)
    assert np.array_equal(chips[-1]["red"].numpy(), dataset[47]["red"])
    with pytest.raises(ChipNotFoundError, match="there is no chip 48; they run from 0 to 47"):
        chips[48]


def test_a_transform_and_a_split_are_applied() -> None:
    source = NumberedChips([0, 0, 1, 1], splits=["train", "test", "train", "train"])
    wish = Wish(split="train", transform=lambda sample: sample["red"].sum().item() / 4)
    from stacchip_core.chips.torch import by_epoch, by_row

    assert sorted(by_epoch(source, None, wish)) == [0, 2, 3]
    assert list(by_row(source, split="train", transform=wish.transform)) == [0, 2, 3]
    with pytest.raises(InputError, match="no chip is in split 'val'"):
        by_row(source, split="val")


def _rank(rank: int, folder: str, answers: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    from stacchip_core.chips.torch import by_epoch

    chips = by_epoch(NumberedChips(range(10)))
    answers.put((chips.feed.deal.rank, chips.feed.deal.world_size, [sample["chip_id"] for sample in chips]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_ranks_are_those_of_the_process_group(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    processes = [context.Process(target=_rank, args=(rank, str(tmp_path), answers)) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = sorted(answers.get() for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert [one[:2] for one in found] == [(0, 2), (1, 2)]
    assert sorted(found[0][2] + found[1][2]) == sorted(f"chip-{n}" for n in range(10))
