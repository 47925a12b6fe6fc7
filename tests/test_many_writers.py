"""Many processes indexing overlapping sets of items: each item is live exactly once, and no version is missing."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import open_store
from tests.dict_store import scratch
from tests.model import Reader, check_collection
from tests.quick import opened
from tests.warehouse_rows import Piece, part_of

WRITERS, ITEMS, BATCH = 32, 10_000, 120
_OVERLAP = 1.5  # each item is indexed by so many writers, on average
_fork = multiprocessing.get_context("fork")


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        yield Path(folder) / "warehouse"


def newest_form(number: int) -> str:
    """The form of an item that its source holds by now; some writers still meet an older one."""
    return f"f{number % 3}"


def write(root: Path, writer: int) -> None:
    """Index a share of the items, in an order of one's own, and commit batch by batch, as scheduled runs do."""
    chance = random.Random(writer)
    numbers = [n for n in range(ITEMS) if n % WRITERS == writer or chance.random() < (_OVERLAP - 1) / WRITERS]
    chance.shuffle(numbers)
    store = open_store(root)
    for start in range(0, len(numbers), BATCH):
        seen = Manifest.load(store, "s2").version
        pieces = [
            Piece(number, rows=1, form="old", updated=1)
            if meets_old_form(number, writer)
            else Piece(number, rows=1, form=newest_form(number), updated=2)
            for number in numbers[start : start + BATCH]
        ]
        opened(store).commit("s2", [part_of(store, "s2", pieces).part], read_version=seen)


def meets_old_form(number: int, writer: int) -> bool:
    """Whether a writer still meets the old form: one of those who index the item, never the one that must."""
    return number % WRITERS != writer and (number + writer) % 3 == 0


@pytest.mark.slow
def test_of_32_writers_with_overlapping_items_each_item_is_live_exactly_once(root: Path) -> None:
    processes = [_fork.Process(target=write, args=(root, writer)) for writer in range(WRITERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * WRITERS
    store = open_store(root)
    reader = Reader(store)
    entries = reader.extend("collections/s2")
    check_collection(reader, "collections/s2", len(entries))
    live = reader.folded["collections/s2"][-1].live
    assert Counter(key for key, _ in live) == dict.fromkeys((Piece(n).key for n in range(ITEMS)), 1)
    assert {row["fingerprint"] for row in live.values()} == {"f0", "f1", "f2"}, "the later form of each item stays"
    assert all(row["fingerprint"] == newest_form(int(row["key"][-4:])) for row in live.values())
    assert len(entries) >= WRITERS * (ITEMS // WRITERS // BATCH)
    version = opened(store).collection("s2")
    assert version.count() == version.dataset().count_rows() == ITEMS
