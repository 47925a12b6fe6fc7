"""Exclusive creates by racing processes, and commits whose answers are lost.

    python -m tests.campaign.races --rounds 10000 --backend local|fake|radosgw
    python -m tests.campaign.races --lost 2000

Prints seed, figures and violations; ends with 1 where there is a violation, with 2 where radosgw is not installed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Literal

from stacchip_core.errors import ObjectExistsError, TransientStoreError
from stacchip_core.sources.access import Storage
from stacchip_core.warehouse.store import Store, open_store
from tests.campaign.lost import lose_answers
from tests.campaign.radosgw import radosgw, what_is_missing
from tests.s3_fake import CREDENTIALS, S3Fake

Told = Literal["won", "taken", "unclear"]
Answer = tuple[Told, int | None]  # what a racer was told, and whose bytes it then read; None: it did not look
BACKENDS = ("local", "fake", "radosgw")
RACERS = 8
_PATIENCE_SECONDS = 120.0
_READERS = 8


@dataclass(frozen=True)
class Place:
    """Where to race: what `open_store` takes, in words that a process can be started with."""

    root: str
    endpoint: str | None = None

    def open(self) -> Store:
        """The store there."""
        return open_store(self.root, Storage(endpoint=self.endpoint))


@dataclass(frozen=True)
class RaceReport:
    """What came of a race."""

    rounds: int
    unclear: int
    violations: tuple[str, ...]


@contextmanager
def backend(kind: str) -> Iterator[Place]:
    """An empty place on a fresh backend of its own."""
    if kind == "local":
        with tempfile.TemporaryDirectory(prefix="races-") as folder:
            yield Place(folder)
    elif kind == "fake":
        with S3Fake() as fake:
            yield new_bucket(fake.endpoint)
    else:
        with radosgw() as endpoint:
            yield new_bucket(endpoint)


def new_bucket(endpoint: str) -> Place:
    """A place in a bucket of its own."""
    bucket = f"b{uuid.uuid4().hex}"
    place = Place(f"s3://{bucket}/races", endpoint)
    place.open().fs.mkdir(bucket)
    return place


def race(place: Place, *, rounds: int, racers: int = RACERS, seed: int = 0) -> RaceReport:
    """`racers` processes create the same key at once, `rounds` times; exactly one may win, and its bytes stay."""
    context = multiprocessing.get_context("forkserver")  # what they need is loaded once
    context.set_forkserver_preload(["tests.campaign.lost", "s3fs"])
    barrier = context.Barrier(racers)
    pipes = [context.Pipe(duplex=False) for _ in range(racers)]
    processes = [
        context.Process(target=_racer, args=(place, racer, barrier, rounds, seed, pipes[racer][1]), daemon=True)
        for racer in range(racers)
    ]
    for process in processes:
        process.start()
    for _, sending in pipes:
        sending.close()
    answers: list[list[Answer]] = [receiving.recv() for receiving, _ in pipes]
    for process in processes:
        process.join()
    return _judged(place, list(zip(*answers, strict=True)), seed)


def _racer(place: Place, racer: int, barrier: Barrier, rounds: int, seed: int, sending: Connection) -> None:
    os.environ.update(CREDENTIALS)
    store = place.open()
    answers: list[Answer] = []
    for number in range(rounds):
        body = _body(seed, number, racer)
        barrier.wait(_PATIENCE_SECONDS)
        told = _create(store, _key(number), body)
        has_turn = number % barrier.parties == racer or told == "unclear"  # who lost sees the winner's bytes at once
        answers.append((told, _owner(store, number, seed, barrier.parties) if has_turn else None))
    sending.send(answers)


def _create(store: Store, key: str, body: bytes) -> Told:
    try:
        store.create(key, body)
    except ObjectExistsError:
        return "taken"
    except TransientStoreError:
        return "unclear"
    return "won"


def _owner(store: Store, number: int, seed: int, racers: int) -> int:
    """Whose bytes stand at the key; -1: nobody's."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            body = store.read(_key(number))
            break
        except TransientStoreError:
            if time.monotonic() > deadline:
                raise
    racer = int(body[:3]) if body[:3].isdigit() else -1
    return racer if 0 <= racer < racers and body == _body(seed, number, racer) else -1


def _judged(place: Place, answers: list[tuple[Answer, ...]], seed: int) -> RaceReport:
    store = place.open()
    with ThreadPoolExecutor(_READERS) as pool:
        racers = len(answers[0]) if answers else 0
        owners = list(pool.map(lambda number: _owner(store, number, seed, racers), range(len(answers))))
    violations = []
    for number, (told, owner) in enumerate(zip(answers, owners, strict=True)):
        winners = [racer for racer, (word, _) in enumerate(told) if word == "won"]
        may_have_won = winners or [racer for racer, (word, _) in enumerate(told) if word == "unclear"]
        if len(winners) > 1 or owner not in may_have_won or {seen for _, seen in told} - {None} != {owner}:
            violations.append(f"round {number}: winners {winners}, owner {owner}, answers {told}")
    unclear = sum(all(word != "won" for word, _ in told) for told in answers)
    return RaceReport(len(answers), unclear, tuple(violations))


def _key(number: int) -> str:
    return f"log/{number:020d}.json"


def _body(seed: int, number: int, racer: int) -> bytes:
    """Bytes that no other racer, round or run writes: of 3 to 4,000."""
    chance = random.Random(f"{seed}/{number}/{racer}")
    return f"{racer:03d}".encode() + chance.randbytes(chance.randrange(4000))


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=BACKENDS, default="local")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of exclusive creates by racing processes")
    parser.add_argument("--racers", type=int, default=RACERS)
    parser.add_argument("--lost", type=int, default=0, help="commits whose answers are lost, on the fake")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    wanted = parser.parse_args()
    os.environ.update(CREDENTIALS)
    if wanted.rounds and wanted.backend == "radosgw" and (missing := what_is_missing()):
        print(missing, file=sys.stderr)
        return 2
    violations: list[str] = []
    if wanted.rounds:
        with backend(wanted.backend) as place:
            begin = time.monotonic()
            raced = race(place, rounds=wanted.rounds, racers=wanted.racers, seed=wanted.seed)
        seconds = time.monotonic() - begin
        print(
            f"races on {wanted.backend}: seed {wanted.seed}, {raced.rounds} rounds x {wanted.racers} processes, "
            f"{raced.unclear} unclear, {len(raced.violations)} violations, {seconds:.1f} s with starting"
        )
        violations += raced.violations
    if wanted.lost:
        begin = time.monotonic()
        report = lose_answers(wanted.lost, seed=wanted.seed)
        print(f"{report.summary()}, seed {wanted.seed}, {time.monotonic() - begin:.1f} s")
        violations += report.violations
    for violation in violations[:20]:
        print(violation, file=sys.stderr)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
