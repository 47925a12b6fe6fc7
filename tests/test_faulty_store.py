"""The store that fails on request does so as told, and otherwise is the store inside."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from stacchip_core.errors import ObjectExistsError, StoreError, TransientStoreError
from stacchip_core.warehouse.store import STAGING, Store, open_store
from tests.faulty_store import (
    FAULTS,
    OPERATIONS,
    Crash,
    Fault,
    FaultyStore,
    Plan,
    Scripted,
    conflicts,
    each_crash,
    fails_before,
    is_overloaded,
    loses_the_answer,
    memory_store,
    refuses,
    retries_itself,
    slow,
)
from tests.s3_fake import S3Fake


def publish(store: Store) -> None:
    with store.writing("a/3") as local:
        local.write_bytes(b"x")


def everything(store: Store) -> None:
    """Each operation, in the order of `EVERYTHING`."""
    store.write("a/1", b"x")
    store.create("a/2", b"x")
    publish(store)
    store.read("a/1")
    store.read_range("a/1", 0, 1)
    store.size("a/1")
    store.modified("a/1")
    store.list("a")
    store.folders("a")
    store.delete("a/1")


EVERYTHING = ["a/1", "a/2", "a/3", "a/1", "a/1", "a/1", "a/1", "a", "a", "a/1"]


@pytest.fixture(params=["memory", "local", "fake"])
def inner(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return memory_store()
    fake: S3Fake = request.getfixturevalue("s3_fake")
    return fake.new_store() if request.param == "fake" else open_store(tmp_path)


def test_operations_are_counted_and_named(inner: Store) -> None:
    store = FaultyStore(inner)
    everything(store)
    assert store.operations == list(zip(OPERATIONS, EVERYTHING, strict=True))
    assert store.written == ["a/1", "a/2"]
    assert (store.count("read*"), store.count(key="a/1"), store.count("delete", "b*")) == (2, 6, 0)
    store.exists("a/2")
    store.now()
    assert [name for name, _ in store.operations[-3:]] == ["size", "write", "modified"]


def test_each_crash_happens_and_is_final(tmp_path: Path) -> None:
    folders = iter(range(100))
    seen = []
    for what, store in each_crash(lambda: FaultyStore(open_store(tmp_path / str(next(folders)))), everything):
        seen.append(what)
        done = len(store.operations)
        operation = OPERATIONS[done - 1]
        assert what.endswith(f"operation {done - 1}: {operation} {EVERYTHING[done - 1]}")
        happened = what.startswith("after")
        if operation in ("write", "create", "writing"):
            assert store.inner.exists(EVERYTHING[done - 1]) is happened
            assert len(store.inner.list(STAGING)) == (0 if happened else 1), "a torn file stays behind"
        if operation == "delete":
            assert store.inner.exists("a/1") is not happened
        with pytest.raises(Crash, match="dead since"):
            store.read("a/2")
        with pytest.raises(Crash, match="dead since"):
            publish(store)
        assert store.sibling().exists("a/1") is store.inner.exists("a/1")
    assert len(seen) == 2 * len(OPERATIONS)


def test_a_crash_is_no_error_that_a_handler_takes() -> None:
    store = FaultyStore()
    store.crash_at = (0, "before")
    with pytest.raises(Crash):
        try:
            store.write("a", b"x")
        except Exception:
            pytest.fail("swallowed")
    assert not store.inner.exists("a")


@pytest.mark.parametrize(
    ("fault", "error", "is_there"),
    [
        (fails_before, TransientStoreError, False),
        (loses_the_answer, TransientStoreError, True),
        (retries_itself, ObjectExistsError, True),
        (refuses, StoreError, False),
        (conflicts, TransientStoreError, False),
        (is_overloaded, TransientStoreError, False),
    ],
)
def test_faults_do_the_work_or_do_not(fault: Fault, error: type[StoreError], is_there: bool) -> None:
    assert fault in FAULTS
    for operation, change in (("create", FaultyStore.create), ("write", FaultyStore.write)):
        store = FaultyStore()
        store.script = [Scripted(fault, operation, "log/*")]
        change(store, "data/1", b"x")
        with pytest.raises(StoreError) as caught:
            change(store, "log/1", b"x")
        assert type(caught.value) is error
        assert store.inner.exists("log/1") is is_there
        change(store, "log/2", b"x")


def test_a_script_reaches_every_operation(inner: Store) -> None:
    everything(inner)
    work: dict[str, Callable[[FaultyStore], object]] = {
        "read": lambda store: store.read("a/2"),
        "read_range": lambda store: store.read_range("a/2", 0, 1),
        "size": lambda store: store.exists("a/2"),
        "modified": lambda store: store.modified("a/2"),
        "listing": lambda store: store.list("a"),
        "folders": lambda store: store.folders("a"),
        "delete": lambda store: store.delete("a/2"),
        "writing": publish,
    }
    for operation, run in work.items():
        store = FaultyStore(inner)
        store.script = [Scripted(fails_before, operation)]
        with pytest.raises(TransientStoreError):
            run(store)
        run(store)


def test_a_plan_gives_the_same_faults_again() -> None:
    def met(seed: int) -> list[str]:
        store, failures = FaultyStore(plan=Plan(seed, 0.3)), []
        for number in range(200):
            try:
                store.create(f"k/{number}", b"x")
            except StoreError as err:
                failures.append(f"{number}: {err}")
        return failures

    assert met(1) == met(1) != met(2)
    assert 30 < len(met(1)) < 90


def test_a_plan_takes_no_key_for_taken_but_by_a_create() -> None:
    store = FaultyStore(plan=Plan(1, 1.0, (retries_itself,)))
    store.write("a", b"x")
    assert store.read("a") == b"x"
    with pytest.raises(ObjectExistsError):
        store.create("b", b"x")


def test_a_slow_operation_lets_others_act_first() -> None:
    store = FaultyStore()
    store.script = [Scripted(slow(lambda: store.sibling().create("a", b"theirs")), "create")]
    with pytest.raises(ObjectExistsError):
        store.create("a", b"mine")
    assert store.read("a") == b"theirs"


def test_listings_are_late_for_all_who_share_them(inner: Store) -> None:
    inner.write("a/old", b"x")
    store = FaultyStore(inner)
    other = store.sibling()
    store.shared.late_listings = 3
    store.create("a/b/new", b"x")
    assert (other.list("a"), other.folders("a")) == (["a/old"], [])
    assert other.read("a/b/new") == b"x", "only listings are late"
    assert other.list("a") == ["a/b/new", "a/old"]
    assert store.folders("a") == ["b"]


def test_what_is_written_keeps_the_time_of_its_writing() -> None:
    store = FaultyStore()
    store.write("a/old", b"x")
    store.shared.clock_offset = timedelta(days=8)
    store.create("a/new", b"x")
    assert timedelta(days=7) < store.now() - store.modified("a/old") < timedelta(days=9)
    ages = {key: store.now() - listed.modified for key, listed in store.sibling().listing("a").items()}
    assert ages["a/old"] > timedelta(days=7)
    assert ages["a/new"] < timedelta(days=1)
