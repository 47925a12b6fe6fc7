"""Of any number of writers that create a key at once, exactly one succeeds: threads, and processes.

moto is left out: it looks first and writes then, so its races prove nothing.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from stacchip_core.errors import ObjectExistsError, UnsafeStoreError
from stacchip_core.warehouse.store import Store, open_store
from tests.campaign.lost import lose_answers
from tests.campaign.races import Place, new_bucket, race
from tests.faulty_store import memory_store
from tests.s3_fake import OWN_SERVER, S3Fake

RACERS, ROUNDS = 8, 25


@pytest.fixture(params=["local", "memory", "fake"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind that has a lock."""
    if request.param == "local":
        return open_store(tmp_path)
    fake: S3Fake = request.getfixturevalue("s3_fake")
    return fake.new_store() if request.param == "fake" else memory_store()


def test_one_of_many_threads_creates(store: Store) -> None:
    for number in range(ROUNDS):
        barrier, winners = threading.Barrier(RACERS), list[int]()

        def create(racer: int, key: str, barrier: threading.Barrier = barrier, winners: list[int] = winners) -> None:
            barrier.wait()
            try:
                store.create(key, str(racer).encode())
            except ObjectExistsError:
                return
            winners.append(racer)

        threads = [threading.Thread(target=create, args=(racer, f"k/{number}")) for racer in range(RACERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        assert store.read(f"k/{number}") == str(winners[0]).encode()


@pytest.fixture(params=["local", "fake", *(["own_server"] if OWN_SERVER else [])])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where several processes can meet."""
    if request.param == "local":
        return Place(str(tmp_path))
    fake: S3Fake = request.getfixturevalue("s3_fake")
    return new_bucket(OWN_SERVER if OWN_SERVER and request.param == "own_server" else fake.endpoint)


@pytest.mark.slow
def test_one_of_many_processes_creates(place: Place) -> None:
    report = race(place, rounds=50, racers=RACERS, seed=1)
    assert (report.rounds, report.violations) == (50, ())
    assert len(place.open().list("log")) == 50


@pytest.mark.slow
def test_a_store_that_ignores_the_condition_is_found_out(s3_fake: S3Fake) -> None:
    s3_fake.buckets.ignores_conditions = True
    place = new_bucket(s3_fake.endpoint)
    report = race(place, rounds=3, racers=2, seed=1)
    assert len(report.violations) == 3
    with pytest.raises(UnsafeStoreError, match="created twice"):
        place.open().probe()


@pytest.mark.slow
@pytest.mark.usefixtures("s3_credentials")
def test_commits_whose_answers_are_lost_are_known_again() -> None:
    report = lose_answers(30, seed=1)
    assert report.lost >= 30
    assert report.violations == []
