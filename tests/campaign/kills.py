"""Processes that commit, merge, delete, expire and vacuum, killed at random moments; after each kill, all is proven.

    python -m tests.campaign.kills --kills 2000 --backend local|fake

Time is compressed: what may be committed for a day by rights may be for `_MAX_AGE` seconds here, and vacuum's grace is
`_GRACE` seconds in place of a week. Prints seed, kills, commits, orphaned files and violations; ends with 1 where there
is a violation.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from stacchip_core.errors import CommitConflictError, InputError, LookupFailedError, TransientError
from stacchip_core.sources.access import Storage
from stacchip_core.warehouse import commit as committing
from stacchip_core.warehouse.care import vacuum as cleaning
from stacchip_core.warehouse.care.expire import expire
from stacchip_core.warehouse.care.retention import indexes
from stacchip_core.warehouse.care.vacuum import vacuum
from stacchip_core.warehouse.combined import merge as merging
from stacchip_core.warehouse.format import make_format
from stacchip_core.warehouse.store import Store, open_store
from stacchip_core.warehouse.warehouse import Warehouse
from tests.model import Reader, check_collection, check_combined
from tests.quick import opened
from tests.s3_fake import CREDENTIALS, S3Fake
from tests.warehouse_rows import Piece, part_of

WRITERS, CLEANERS = 8, 1
NAMES = ("a", "b")
COLLECTIONS = tuple(f"collections/{name}" for name in NAMES)
_SHARED = 40  # items that all writers index over and over
_OWN = 1_000_000  # numbers of items that only one writer indexes, from here on
_MAX_AGE, _GRACE = 5.0, 25.0  # seconds
_KEEP, _KEEP_SECONDS = 20, 30.0  # versions that `expire` leaves
_REMEMBERED = 200  # versions whose states the checker keeps

R = TypeVar("R")

_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Place:
    """Where the warehouse is, and where processes note what was acknowledged.

    Attributes:
        acks: folder with a file for each process: a line for each commit that was reported to have landed.
    """

    root: str
    acks: Path
    endpoint: str | None = None

    def open(self) -> Store:
        """The store there; only ever in a process that forks no more."""
        return open_store(self.root, Storage(endpoint=self.endpoint))


@dataclass
class Report:
    """What came of a campaign."""

    seed: int
    backend: str
    kills: int = 0
    commits: int = 0
    acknowledged: int = 0
    merges: int = 0
    orphans: int = 0
    removed: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """For people."""
        told = (
            f"seed {self.seed}, {self.backend}: {self.kills} kills, {self.commits} commits "
            f"({self.acknowledged} acknowledged items), {self.merges} merges, {self.orphans} orphaned files left, "
            f"{self.removed} files removed by vacuum, {self.seconds:.0f} s, {len(self.violations)} violations"
        )
        return "\n".join([told, *self.violations[:20]])


def compress_time() -> None:
    """Let a day be seconds, in this process and those forked from it."""
    for module in (committing, merging):
        vars(module)["MAX_AGE"] = timedelta(seconds=_MAX_AGE)
    cleaning.SHORTEST_GRACE = timedelta(seconds=3 * _MAX_AGE)


# --- processes that are killed


def write(place: Place, seed: int) -> None:
    """A writer: commits, now and then a merge or a delete, until it is killed."""
    chance, own = random.Random(seed), _OWN + seed * 100_000
    warehouse = opened(place.open())
    note = os.open(place.acks / f"{seed}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    while True:
        name, dice = chance.choice(NAMES), chance.random()
        try:
            if dice < 0.8:
                own += 1
                _commit(warehouse, name, own, chance)
                os.write(note, f"{name} {own}\n".encode())
            elif dice < 0.92:
                warehouse.merge("global", [name for name in NAMES if name in warehouse.collections()])
            else:
                warehouse.remove_items(name, [Piece(chance.randrange(_SHARED)).item_id], reason="told to")
        except (TransientError, CommitConflictError, LookupFailedError):
            continue
        except InputError as err:
            if not any(told in str(err) for told in ("hours ago", "hours to write", "at least one collection")):
                raise


def _commit(warehouse: Warehouse, name: str, own: int, chance: random.Random) -> None:
    seen = warehouse._manifest(name).version
    shared = chance.sample(range(_SHARED), 2)
    forms = [Piece(number, form=chance.choice("abcdef"), collection=name, rows=1) for number in shared]
    part = part_of(warehouse.store, name, [Piece(own, collection=name, rows=1), *forms]).part
    warehouse.commit(name, [part], read_version=seen)


def clean(place: Place, seed: int) -> None:
    """Expires old versions and removes what only they need, over and over."""
    warehouse, chance = opened(place.open()), random.Random(seed)
    note = os.open(place.acks / f"removed-{seed}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    while True:
        try:
            for index in indexes(warehouse.store):
                expire(warehouse.store, index, keep=_KEEP, days=_KEEP_SECONDS / 86_400)
            done = vacuum(warehouse.store, dry_run=False, grace=timedelta(seconds=_GRACE))
            os.write(note, f"{len(done.files)}\n".encode())
        except (TransientError, CommitConflictError, LookupFailedError):
            pass
        time.sleep(chance.random() * 0.2)


# --- the checker, in a process of its own


class Checker:
    """Proves the whole warehouse, what is new each time."""

    def __init__(self, place: Place) -> None:
        self.place, self.store = place, place.open()
        self.reader = Reader(self.store)
        self._read: dict[str, int] = {}  # bytes of each file of acknowledgements
        self._acks: list[tuple[str, str]] = []

    def check(self) -> list[str]:
        """What is wrong by now."""
        acks = self._new_acks()  # before the logs: what was acknowledged by now has to be in them
        found: list[str] = []
        # A merge pins what was committed before it: with its log read first, what it pins is there when its turn comes.
        grown = [folder for folder in ("combined/global", *COLLECTIONS) if _told(found, folder, self.reader.extend)]
        for folder in grown:
            _told(found, folder, self._check_newest)
        for name, key in acks:
            if (key, 256) not in self.reader.folded[f"collections/{name}"][-1].live:
                found.append(f"collections/{name}: {key} was acknowledged and is not live")
        return found

    @property
    def acknowledged(self) -> int:
        """Commits that were told to have landed, by now."""
        return len(self._acks)

    def _check_newest(self, folder: str) -> None:
        head = self.reader.head(folder)
        (check_collection if folder in COLLECTIONS else check_combined)(self.reader, folder, head)
        self.reader.forget(folder, head - _REMEMBERED)

    def _new_acks(self) -> list[tuple[str, str]]:
        fresh = []
        for path in self.place.acks.iterdir():
            if path.name.startswith("removed"):
                continue
            with path.open("rb") as file:
                file.seek(self._read.get(path.name, 0))
                body = file.read()
            whole = body[: body.rfind(b"\n") + 1]
            self._read[path.name] = self._read.get(path.name, 0) + len(whole)
            for line in whole.decode().splitlines():
                name, number = line.split()
                fresh.append((name, Piece(int(number), collection=name).key))
        self._acks += fresh
        return fresh

    def finish(self) -> tuple[list[str], dict[str, int]]:
        """All acknowledged items, every byte, and figures, when nobody writes any more."""
        found = self.check()
        for name, key in self._acks:
            if (key, 256) not in self.reader.folded[f"collections/{name}"][-1].live:
                found.append(f"collections/{name}: {key} was acknowledged and is not live at the end")
        report = opened(self.store).verify(deep=True)
        found += [f"verify: {problem}" for problem in report.problems]
        named = {info["path"] for entries in self.reader.entries.values() for e in entries for info in e["added"]}
        there = [key for top in ("collections", "combined") for key in self.store.list(top) if key.endswith(".parquet")]
        removed = sum(int(line) for path in self.place.acks.glob("removed-*") for line in path.read_text().splitlines())
        figures = {
            "commits": sum(self.reader.head(f"collections/{name}") for name in NAMES),
            "merges": self.reader.head("combined/global"),
            "acknowledged": len(self._acks),
            "orphans": len(set(there) - named),
            "removed": removed,
        }
        return found, figures


def _told(found: list[str], folder: str, work: Callable[[str], R]) -> R | None:
    """What `work` gives; what it finds wrong goes to `found`."""
    try:
        return work(folder)
    except (AssertionError, Exception) as err:
        found.append(f"{folder}: {type(err).__name__}: {err}")
        return None


def _serve(place: Place, calls: Connection) -> None:
    checker = Checker(place)
    while (asked := calls.recv()) is not None:
        calls.send((checker.check(), checker.acknowledged) if asked == "check" else checker.finish())


def _ask(calls: Connection, what: str, seconds: float = 300) -> Any:
    calls.send(what)
    if not calls.poll(seconds):
        raise TimeoutError("the checker does not answer")
    return calls.recv()


# --- the campaign


class _Herd:
    """The processes that live at a time."""

    def __init__(self, place: Place, chance: random.Random) -> None:
        self._place, self._chance, self._started = place, chance, 0
        self.members: list[tuple[Callable[[Place, int], None], BaseProcess]] = []
        for work in (*[write] * WRITERS, *[clean] * CLEANERS):
            self._start(work)

    def _start(self, work: Callable[[Place, int], None]) -> None:
        self._started += 1
        process = _fork.Process(target=work, args=(self._place, self._started), daemon=True)
        process.start()
        self.members.append((work, process))

    def kill_one(self) -> None:
        """Kill one in the middle of whatever it does, and start another."""
        work, process = self.members.pop(self._chance.randrange(len(self.members)))
        process.kill()
        process.join()
        self._start(work)

    def failed(self) -> list[str]:
        """Processes that ended by themselves, which none should."""
        return [f"a process ended by itself with {p.exitcode}" for _, p in self.members if p.exitcode is not None]

    def end(self) -> None:
        """Kill them all."""
        for _, process in self.members:
            process.kill()
            process.join()


def campaign(place: Place, *, kills: int, seed: int, backend: str) -> Report:
    """Kill processes one after the other, and look at what they leave."""
    compress_time()
    report, chance, start = Report(seed, backend), random.Random(seed), time.monotonic()
    mine, theirs = _fork.Pipe()
    maker = _fork.Process(target=lambda: make_format(place.open()))
    maker.start()
    maker.join()
    checker = _fork.Process(target=_serve, args=(place, theirs), daemon=True)
    checker.start()
    herd = _Herd(place, chance)
    try:
        patience = 1.0
        while report.kills < kills and len(report.violations) < 5:
            time.sleep(chance.uniform(0.01, 0.25) * patience)
            herd.kill_one()
            report.kills += 1
            wrong, acknowledged = _ask(mine, "check")
            report.violations += [*wrong, *herd.failed()]
            # whoever is killed before it has done anything shows little: about as many commits as kills
            patience = min(40.0, patience * 1.2) if acknowledged < report.kills else max(1.0, patience / 1.2)
    finally:
        herd.end()
    last, figures = _ask(mine, "finish")
    report.violations += last
    for name, value in figures.items():
        setattr(report, name, value)
    mine.send(None)
    report.seconds = time.monotonic() - start
    return report


@contextmanager
def places(backend: str) -> Iterator[Place]:
    """A fresh place on a local disk, or on the S3 server for tests, which runs in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="stacchip-kills-") as folder:
        acks = Path(folder) / "acks"
        acks.mkdir()
        if backend == "local":
            yield Place(f"{folder}/warehouse", acks)
            return
        os.environ.update(CREDENTIALS)
        mine, theirs = _fork.Pipe()
        server = _fork.Process(target=_run_fake, args=(theirs,), daemon=True)
        server.start()
        try:
            yield Place("s3://warehouse/root", acks, mine.recv())
        finally:
            server.kill()
            server.join()


def _run_fake(calls: Connection) -> None:
    with S3Fake() as fake:
        fake.buckets.make("warehouse")
        calls.send(fake.endpoint)
        while True:
            time.sleep(3600)


def main(args: list[str] | None = None) -> int:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2000)
    parser.add_argument("--backend", choices=["local", "fake"], default="local")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args(args)
    with places(given.backend) as place:
        report = campaign(place, kills=given.kills, seed=given.seed, backend=given.backend)
    print(report)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
