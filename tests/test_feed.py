"""Feeds: each chip once per epoch over ranks and workers, in real processes, and the rest of an epoch after a stop."""

from __future__ import annotations

import json
import logging
import multiprocessing as mp
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core import InputError, ReadError, Warehouse, materialize, stream
from stacchip_core.chips.epoch import Deal
from stacchip_core.chips.feed import Fed, Feed, read_ahead
from stacchip_core.chips.stream import ChipStream
from tests.numbered_chips import NumberedChips, Sight, digest, s3_elsewhere, see, warehouse_on_s3
from tests.scenes import sentinel2_scene
from tests.warehouses import spec

FEW = {"limit": 48, "bands": [{"collection": "sentinel-2-l2a", "bands": ["red", "swir16"]}]}
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def numbered(sizes: list[int]) -> NumberedChips:
    return NumberedChips(np.repeat(np.arange(len(sizes)), sizes).tolist())


def rows(fed: Iterator[Fed]) -> list[int]:
    seen = []
    for _, row, chip in fed:
        assert (chip["red"] == row).all()
        seen.append(row)
    return seen


@settings(deadline=None, max_examples=60)
@given(sizes=SIZES, mix=st.integers(1, 30), shuffle=st.booleans(), workers=st.integers(1, 4))
def test_a_feed_gives_every_chip_once_and_reads_groups_together(
    sizes: list[int], mix: int, shuffle: bool, workers: int
) -> None:
    source = numbered(sizes)
    feed = Feed(source, Deal(mix=mix, shuffle=shuffle))
    for epoch in (0, 1):
        feed.set_epoch(epoch)
        seen = [row for worker in range(workers) for row in rows(feed.part(worker, workers))]
        assert sorted(seen) == list(range(len(source)))
    for together in source.reads:
        assert len(set(source.groups[together].tolist())) == 1
        assert len(together) <= mix


@settings(deadline=None, max_examples=60)
@given(
    sizes=SIZES,
    ranks=st.integers(1, 3),
    stops=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 60)), min_size=1, max_size=3),
    batch=st.integers(1, 7),
    epoch=st.integers(0, 2),
)
def test_after_any_stops_an_epoch_repeats_and_skips_nothing(
    sizes: list[int], ranks: int, stops: list[tuple[int, int]], batch: int, epoch: int
) -> None:
    """Workers are as many as one likes after each stop; what they read ahead, and nobody took, comes again."""
    source = numbered(sizes)
    ranks = min(ranks, len(source))
    for rank in range(ranks):
        deal = Deal(rank=rank, world_size=ranks, batch_size=batch, mix=10)
        whole = Feed(source, deal)
        whole.set_epoch(epoch)
        expected = rows(whole.part(0, 1))
        seen: list[int] = []
        feed = Feed(source, deal)
        feed.set_epoch(epoch)
        state = feed.state_dict()
        for workers, taken in [*stops, (1, len(expected))]:
            copies = [resumed(source, deal, state) for _ in range(workers)]
            ahead = [list(copy.part(worker, workers)) for worker, copy in enumerate(copies)]
            in_turn = [one for turn in range(len(source)) for part in ahead for one in part[turn : turn + 1]][:taken]
            asking = resumed(source, deal, state)  # reads nothing itself
            asking.done([one.place for one in in_turn])
            seen += [one.row for one in in_turn]
            state = asking.state_dict()
        assert sorted(seen) == sorted(expected)


def resumed(source: NumberedChips, deal: Deal, state: dict[str, Any]) -> Feed:
    feed = Feed(source, deal)
    feed.load_state_dict(json.loads(json.dumps(state)))
    return feed


@given(taken=st.integers(0, 40), workers=st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_a_worker_can_save_where_it_is_itself(taken: int, workers: int) -> None:
    source, again = numbered([5] * 8), list[int]()
    seen = list[int]()
    for worker in range(workers):
        feed = Feed(source)
        part = feed.part(worker, workers)
        seen += rows(islice(part, taken))
        part.close()  # type: ignore[attr-defined]
        other = Feed(source)
        state = feed.state_dict()
        if taken == 0:  # not begun
            continue
        other.load_state_dict(state)
        if state["done"] != [[0, 40]]:
            again += rows(other.part(worker, workers))
        if workers > 1 and state["done"] != [[0, 40]]:
            with pytest.raises(InputError, match=rf"by worker {worker} of {workers}, and is loaded by worker 0 of"):
                next(other.part(0, workers + 1))
    assert taken == 0 or sorted(seen + again) == list(range(40))


def test_an_epoch_after_one_that_was_begun_anew_is_whole() -> None:
    source, feed = numbered([4] * 5), Feed(numbered([4] * 5))
    rows(islice(iter(feed), 7))
    state = feed.state_dict()
    other = Feed(source)
    other.load_state_dict(state)
    assert len(rows(iter(other))) == 13
    other.set_epoch(1)
    assert len(rows(iter(other))) == 20
    assert len(rows(iter(other))) == 20
    assert len(other) == 20


def test_looking_at_a_few_chips_takes_none_away() -> None:
    feed = Feed(numbered([4] * 5))
    rows(islice(iter(feed), 7))
    assert len(rows(iter(feed))) == 20


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Feed(numbered([4] * 5), Deal(seed=1)), r"not of this feed: seed was 0, is 1, rows_sha256 was"),
        (Feed(numbered([4] * 5), Deal(world_size=2)), r"world_size was 1, is 2"),
        (Feed(numbered([4] * 6)), r"rows_sha256 was '\w+', is '\w+'$"),
    ],
    ids=["seed", "ranks", "chips"],
)
def test_a_state_of_something_else_is_refused(other: Feed, message: str) -> None:
    with pytest.raises(InputError, match=message):
        other.load_state_dict(Feed(numbered([4] * 5)).state_dict())


def test_a_chip_that_can_not_be_read_ends_the_epoch_or_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    source = NumberedChips([0] * 6, broken=[2])
    with pytest.raises(ReadError, match="chip 2 is broken"):
        list(Feed(source))
    with caplog.at_level(logging.WARNING):
        feed = Feed(source, on_error="skip")
        assert sorted(one.row for one in feed) == [0, 1, 3, 4, 5]
    assert "chip chip-2 is left out: chip 2 is broken" in caplog.text
    assert feed.state_dict()["done"] == [[0, 6]]


def test_a_feed_of_a_split_gives_its_chips_alone() -> None:
    source = NumberedChips([0, 0, 1, 1], splits=["train", "test", "train", "train"])
    assert sorted(rows(iter(Feed(source, split="train")))) == [0, 2, 3]
    with pytest.raises(InputError, match="no chip is in split 'val'; there are test, train"):
        Feed(source, split="val")
    with pytest.raises(InputError, match="no chip is in split 'val'; there are none: its spec has no split"):
        Feed(numbered([1]), split="val")
    with pytest.raises(InputError, match="epoch -1: expected 0 or more"):
        Feed(source).set_epoch(-1)


def test_reading_ahead_is_bounded_and_keeps_the_order() -> None:
    running, most, lock = 0, 0, threading.Lock()
    begun: list[int] = []

    def read(task: int) -> int:
        nonlocal running, most
        with lock:
            begun.append(task)
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return task * 2

    results = read_ahead(read, range(30), 3)
    taken = []
    for result in results:
        taken.append(result)
        assert len(begun) <= len(taken) + 4
    assert taken == [2 * task for task in range(30)]
    assert most <= 3


def test_leaving_in_the_middle_stops_reading() -> None:
    begun: list[int] = []
    results = read_ahead(lambda task: begun.append(task) or task, range(1000), 2)  # type: ignore[func-returns-value]
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_an_error_of_a_read_is_raised_where_it_is_taken() -> None:
    def read(task: int) -> int:
        if task == 2:
            raise ZeroDivisionError
        return task

    results = read_ahead(read, range(9), 2)
    assert list(islice(results, 2)) == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.fixture(scope="module")
def on_s3(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """A warehouse and its scenes, all on an S3 server."""
    with s3_elsewhere() as storage:
        folder = tmp_path_factory.mktemp("pixels")
        yield warehouse_on_s3(storage, folder, [sentinel2_scene(folder, item_id=name) for name in ("a", "b")])


def leave_after(work: Callable[..., None], *arguments: Any) -> None:
    """Do the work of a child, and leave without the goodbyes of libraries that were at work in its parent.

    Prefect's, where a flow ran there before the fork, fail an assertion of their own.
    """
    work(*arguments)
    os._exit(0)


def seen_by_processes(context: BaseContext, feeds: list[Feed], workers: int) -> dict[tuple[int, int], list[Sight]]:
    """What the workers of all ranks see, each a process of its own, by rank and worker."""
    answers = context.SimpleQueue()
    processes = [
        context.Process(target=leave_after, args=(see, feed, n, workers, answers))  # type: ignore[attr-defined]
        for feed in feeds
        for n in range(workers)
    ]
    for process in processes:
        process.start()
    found = {}
    for _ in processes:
        rank, worker, sights = answers.get()
        found[rank, worker] = sights
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return found


@pytest.mark.server
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "method", "workers"), [("stream", "fork", 3), ("dataset", "fork", 3), ("stream", "spawn", 2)]
)
def test_ranks_and_workers_on_a_bucket_see_each_chip_once_per_epoch(
    on_s3: Warehouse, kind: str, method: str, workers: int
) -> None:
    wanted = spec(name="dealt", **FEW)
    dataset = materialize(on_s3, wanted)
    expected = {row["chip_id"]: digest(chip) for row, chip in dataset}
    source = dataset if kind == "dataset" else stream(on_s3, wanted)
    assert digest(source[0])  # files are open here before the others begin
    orders = set()
    for epoch in (0, 1) if method == "fork" else (0,):
        feeds = [Feed(source, Deal(rank=rank, world_size=2, batch_size=4, mix=16)) for rank in (0, 1)]
        for feed in feeds:
            feed.set_epoch(epoch)
        found = seen_by_processes(mp.get_context(method), feeds, workers)
        ids = [chip_id for key in sorted(found) for _, chip_id, _ in found[key]]
        assert len(ids) == len(set(ids)) == 48
        assert {chip_id: sha for sights in found.values() for _, chip_id, sha in sights} == expected
        assert [sum(len(found[rank, n]) for n in range(workers)) for rank in (0, 1)] == [24, 24]
        orders.add(tuple(ids))
    assert len(orders) == (2 if method == "fork" else 1)


@pytest.mark.server
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_go_on_in_the_middle_of_an_epoch_and_repeat_and_skip_nothing(on_s3: Warehouse) -> None:
    source = stream(on_s3, spec(name="resumed", **FEW))
    deals = [Deal(rank=rank, world_size=2, batch_size=4, mix=16, seed=3) for rank in (0, 1)]
    feeds = [Feed(source, deal) for deal in deals]
    found = seen_by_processes(mp.get_context("fork"), feeds, 3)
    trained, states = list[str](), list[bytes]()
    for rank, feed in enumerate(feeds):  # a loader gave out three batches of each of two workers, one of the third
        taken = [sight for n, batches in ((0, 1), (1, 2), (2, 1)) for sight in found[rank, n][: 4 * batches]]
        feed.done([place for place, _, _ in taken])
        trained += [chip_id for _, chip_id, _ in taken]
        states.append(pickle.dumps(feed.state_dict()))
    again = [Feed(source, deal) for deal in deals]
    for feed, state in zip(again, states, strict=True):
        feed.load_state_dict(pickle.loads(state))
    rest = seen_by_processes(mp.get_context("fork"), again, 2)
    trained += [chip_id for sights in rest.values() for _, chip_id, _ in sights]
    assert sorted(trained) == sorted(source.chips["chip_id"].to_pylist())


def _see_by_row(source: ChipStream, answers: Any) -> None:
    ids = source.chips["chip_id"].to_pylist()
    answers.put({ids[row]: digest(source[row]) for row in range(len(source))})


@pytest.mark.server
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_is_forked_shares_no_connection_with_its_parent(on_s3: Warehouse) -> None:
    """Else answers cross: a child gets pixels of the file that another asked for."""
    source = stream(on_s3, spec(name="forked", limit=12, bands=FEW["bands"]))
    expected = {row["chip_id"]: digest(chip) for row, chip in materialize(on_s3, source.spec)}
    assert digest(source[0]) in expected.values()
    context = mp.get_context("fork")
    answers = context.SimpleQueue()
    children = [context.Process(target=leave_after, args=(_see_by_row, source, answers)) for _ in range(3)]
    for child in children:
        child.start()
    assert [answers.get() for _ in children] == [expected] * 3
    for child in children:
        child.join(60)
        assert child.exitcode == 0


def test_a_state_of_the_end_of_an_epoch_leaves_nothing_of_it() -> None:
    source = numbered([4, 3])
    feed = Feed(source)
    assert len(list(feed)) == 7
    again = resumed(source, Deal(), feed.state_dict())
    assert list(again) == []
    again.set_epoch(1)
    assert len(list(again)) == 7
