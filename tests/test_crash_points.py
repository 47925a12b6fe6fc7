"""Crashes and failures at every single store operation of everything that writes: the next run finds its way.

Operations are enumerated, not sampled: the k-th is met before and after it is done, for k = 0, 1, 2 … until the whole
runs through. What is left behind is then given to the next run; of crashes that leave the same objects, one is.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from stacchip_core.errors import CommitConflictError, CommitUnknownError, CorruptWarehouseError, TransientStoreError
from stacchip_core.warehouse.warehouse import Warehouse
from tests.dict_store import Numbered, scratch
from tests.faulty_store import Crash, Fault, FaultyStore, fails_before, loses_the_answer, retries_itself
from tests.model import Reader
from tests.quick import opened, quick
from tests.warehouse_rows import Piece, part_of
from tests.worlds import DiskWorld, MemoryWorld, S3World, View, World, look, make

Notes = dict[str, Any]
CHANGES = ("create", "write", "writing", "delete")
WHENS: tuple[Literal["before", "after"], ...] = ("before", "after")
WEEKS = timedelta(days=30)


def commit(warehouse: Warehouse, name: str, *pieces: Piece) -> None:
    part = part_of(warehouse.store, name, pieces).part
    warehouse.commit(name, [part], read_version=warehouse._manifest(name).version)


def pages(warehouse: Warehouse, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        commit(warehouse, "s2", Piece(number, rows=2), Piece(40 + number, rows=1, month=7))


def staged(world: World, *pieces: Piece) -> Notes:
    """A part that waits for its commit."""
    return {
        "part": part_of(world.store, "s2", pieces).part,
        "seen": world.warehouse._manifest("s2").version,
    }


# --- what is done before


def some_pages(world: World) -> Notes:
    pages(world.warehouse, 2)
    return staged(world, Piece(1, form="b", rows=1), Piece(9, rows=2), Piece(8, failure="read"))


def two_pages(world: World) -> Notes:
    pages(world.warehouse, 2)
    return {}


def due_checkpoint(world: World) -> Notes:
    pages(world.warehouse, 4)
    return staged(world, Piece(1, form="b", rows=1), Piece(9, rows=2))


def merged(world: World) -> Notes:
    pages(world.warehouse, 2)
    commit(world.warehouse, "naip", Piece(1, collection="naip"))
    world.warehouse.merge("global", ["s2", "naip"])
    return {}


def merged_then_new(world: World) -> Notes:
    merged(world)
    commit(world.warehouse, "s2", Piece(9, rows=2), Piece(10, month=8))
    return {}


def merged_then_changed(world: World) -> Notes:
    merged(world)
    commit(world.warehouse, "s2", Piece(1, form="b", rows=4), Piece(41, form="b", month=7))
    world.warehouse.remove_items("s2", [Piece(2).item_id], reason="gone")
    return {}


def many_merges(world: World) -> Notes:
    warehouse = world.warehouse
    for number in range(1, 5):
        commit(warehouse, "s2", Piece(number, rows=2))
        if number < 4:
            warehouse.merge("global", ["s2"])
    return {}


def old_and_expired(world: World) -> Notes:
    warehouse = world.warehouse
    pages(warehouse, 3)
    warehouse.merge("global", ["s2"])
    warehouse.tag("paper", "global")
    part_of(world.store, "s2", [Piece(77)])  # of a run that never committed
    commit(
        warehouse,
        "s2",
        *(Piece(n, form="b") for n in (1, 2, 3)),
        *(Piece(40 + n, form="b", month=7) for n in (1, 2, 3)),
    )
    warehouse.merge("global", ["s2"])
    commit(warehouse, "s2", *(Piece(n, form="c") for n in (1, 2, 3)))
    warehouse.merge("global", ["s2"])
    commit(warehouse, "s2", Piece(1, form="d"))
    world.age(WEEKS * 4)
    for index in ("combined/global", "collections/s2"):
        warehouse.expire(index, keep=1, days=2)
    world.age(WEEKS)
    return {}


def old(world: World) -> Notes:
    pages(world.warehouse, 4)
    world.age(WEEKS * 4)
    return {}


def damaged(world: World) -> Notes:
    pages(world.warehouse, 2)
    world.warehouse.merge("global", ["s2"])
    entries = world.warehouse._manifest("s2").log.entries()
    checkpoint = next(entry for entry in entries if entry.checkpoint)
    (combined,) = world.warehouse.combined("global").files[:1]
    data = entries[0].files("data")[0]
    for path in (*(i.path for i in checkpoint.files("checkpoints")), combined.path, data.path):
        body = world.store.read(path)
        world.store.write(path, body[: len(body) // 2] + b"?" + body[len(body) // 2 + 1 :])
    world.store.write("collections/s2/_last_checkpoint.json", b"{")
    return {}


# --- what is done


def commits(warehouse: Warehouse, notes: Notes) -> None:
    warehouse.commit("s2", [notes["part"]], read_version=notes["seen"])


def merges(warehouse: Warehouse, _: Notes) -> None:
    warehouse.merge("global", warehouse.collections())


def removes(warehouse: Warehouse, _: Notes) -> None:
    if Piece(1).item_id in warehouse.collection("s2").items(["item_id"])["item_id"].to_pylist():
        warehouse.remove_items("s2", [Piece(1).item_id], reason="told to")


def brings(folder: str) -> Callable[[set[str], set[str]], object]:
    return lambda before, after: [key for key in after - before if folder in key.split("/")]


def removes_some(folder: str) -> Callable[[set[str], set[str]], object]:
    return lambda before, after: [key for key in before - after if folder in key.split("/")]


@dataclass(frozen=True)
class Scenario:
    """Something that writes, and what was there before.

    Attributes:
        every: versions from one checkpoint to the next.
        is_exact: the next run leaves as many versions as an undisturbed one.
        has_problems: some stay that nothing can mend.
        has_done: whether an undisturbed run did what the scenario is about, given the objects before and after.
    """

    before: Callable[[World], Notes]
    act: Callable[[Warehouse, Notes], object]
    every: int = 100
    is_exact: bool = True
    has_problems: bool = False
    has_done: Callable[[set[str], set[str]], object] = lambda before, after: after - before


SCENARIOS = {
    "commit": Scenario(some_pages, commits),
    "commit with a checkpoint": Scenario(due_checkpoint, commits, every=2, has_done=brings("checkpoints")),
    "delete": Scenario(some_pages, removes),
    "first merge": Scenario(two_pages, merges),
    "merge of new items": Scenario(merged_then_new, merges),
    "merge of changes": Scenario(merged_then_changed, merges),
    "compaction": Scenario(many_merges, merges),
    "tag": Scenario(merged, lambda w, _: w.tag("paper", "global", 1)),
    "untag": Scenario(old_and_expired, lambda w, _: w.untag("paper"), every=3, has_done=removes_some("tags")),
    "expire": Scenario(old, lambda w, _: w.expire("collections/s2", keep=1, days=2), every=2),
    "vacuum": Scenario(old_and_expired, lambda w, _: w.vacuum(dry_run=False), every=3, has_done=removes_some("data")),
    "repair": Scenario(damaged, lambda w, _: w.repair(dry_run=False), every=1, is_exact=False, has_problems=True),
    "a new warehouse": Scenario(lambda w: Notes(), lambda w, _: make(_Bare(w.store)), has_done=lambda *_: True),
}


class _Bare(World):
    def copy(self) -> _Bare:
        raise NotImplementedError

    def age(self, time: timedelta) -> None:
        raise NotImplementedError


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.server)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "disk":
        with tempfile.TemporaryDirectory(
            dir=scratch()
        ) as folder:  # where syncing costs nothing, if there is such a place
            yield DiskWorld(Path(folder) / "warehouse")
    else:
        yield S3World(request.getfixturevalue("s3_fake"))


# --- the law


@dataclass
class Trial:
    """A scenario in a world, with what an undisturbed run makes of it."""

    scenario: Scenario
    seed: World
    notes: Notes
    known: Reader
    before: View
    after: View = field(init=False)
    left: set[tuple[str, str]] = field(init=False)
    operations: list[tuple[str, str]] = field(init=False)
    states: set[tuple[tuple[str, int], ...]] = field(default_factory=set)

    def undisturbed(self) -> None:
        world, process = self.begin()
        before = set(world.objects())
        self.scenario.act(opened(process), self.notes)
        assert self.scenario.has_done(before, set(world.objects()))
        self.operations = list(process.operations)
        self.left = problems(world)
        self.after = look(world, self.known)
        assert self.scenario.has_problems or not self.left

    def begin(self) -> tuple[World, FaultyStore]:
        random.seed(1)  # names of files follow from it, see `quick`
        world = self.seed.copy()
        return world, FaultyStore(world.store)

    def check(self, world: World) -> None:
        """Nobody sees half of anything; the next run does what was asked for, once, and loses nothing."""
        state = tuple(sorted(world.objects().items()))
        if state in self.states:
            return
        self.states.add(state)
        self._compare(look(world, self.known, with_versions=False), is_done=False)
        random.seed(2)
        self.scenario.act(opened(FaultyStore(world.store)), self.notes)
        self._compare(look(world, self.known), is_done=True)
        assert problems(world) == self.left

    def _compare(self, found: View, *, is_done: bool) -> None:
        for folder, chips in self.after.chips.items():
            allowed = (chips,) if is_done else (chips, self.before.chips.get(folder, ()))
            assert found.chips.get(folder, ()) in allowed, f"{folder} holds something else"
        if self.scenario.is_exact and is_done:
            assert found.heads == self.after.heads
        for place, told in self.before.digests.items() if is_done else ():
            if place in self.after.digests:
                assert found.digests.get(place) in (told, self.after.digests[place]), f"{place} reads otherwise"


def problems(world: World) -> set[tuple[str, str]]:
    found = world.warehouse.verify(deep=True).problems
    return {(problem.kind, problem.path) for problem in found}


@contextmanager
def trial_of(name: str, world: World) -> Iterator[Trial]:
    scenario = SCENARIOS[name]
    with quick(scenario.every):
        random.seed(0)
        if name != "a new warehouse":
            make(world)
        notes = scenario.before(world)
        known = Reader(world.store)
        before = look(world, known)
        for folder in before.heads:
            known.extend(folder, prove=False)
        trial = Trial(scenario, world, notes, known, before)
        trial.undisturbed()
        yield trial


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SCENARIOS))
def test_a_crash_before_and_after_every_operation_is_recovered_from_by_the_next_run(name: str, world: World) -> None:
    with trial_of(name, world) as trial:
        for number, (operation, _) in enumerate(trial.operations):
            # dying after a read is dying before the next operation: the store is the same, and so is what comes
            for when in WHENS if operation in CHANGES else WHENS[:1]:
                copy, process = trial.begin()
                process.crash_at = (number, when)
                with pytest.raises(Crash):
                    trial.scenario.act(opened(process), trial.notes)
                trial.check(copy)
        assert len(trial.states) > 1


FAILURES: Mapping[str, tuple[Fault, ...]] = {
    "create": (fails_before, loses_the_answer, retries_itself),
    **dict.fromkeys(CHANGES[1:], (fails_before, loses_the_answer)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SCENARIOS))
def test_a_failure_of_every_operation_is_survived_or_recovered_from(name: str) -> None:
    told = (TransientStoreError, CommitUnknownError, CommitConflictError)
    with trial_of(name, MemoryWorld()) as trial:
        for number, (operation, _) in enumerate(trial.operations):
            for fault in FAILURES.get(operation, (fails_before,)):  # of a read, a lost answer is no other failure
                copy, process = trial.begin()
                process.plan = plan = Numbered({number + 1: fault})
                try:
                    trial.scenario.act(opened(process), trial.notes)
                except CorruptWarehouseError:
                    raise
                except told:
                    pass
                assert plan.met
                trial.check(copy)
