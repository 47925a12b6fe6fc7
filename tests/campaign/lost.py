"""Commits whose answers are lost on the way, through the real S3 client, by writers that also race each other."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from stacchip_core.errors import CommitConflictError, CommitUnknownError
from stacchip_core.warehouse.entry import FileInfo, LogEntry
from stacchip_core.warehouse.log import Log, Patience
from stacchip_core.warehouse.store import Store
from tests.s3_fake import Fault, S3Fake

FOLDERS, WRITERS = 8, 2  # writers of one folder race for its numbers
_ANSWERS = (None, (500, "InternalError"), (503, "SlowDown"))
_TIMES = (1, 1, 1, 2, 3, 8)  # how many attempts in a row lose their answers; the client makes up to six by itself
_PATIENCE = Patience(seconds=120, first_delay=0.01, longest_delay=0.2)


@dataclass
class LostReport:
    """What came of it."""

    lost: int = 0
    commits: int = 0
    conflicts: int = 0
    violations: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def summary(self) -> str:
        """In one line."""
        return (
            f"lost answers: {self.lost} of {self.commits} commits ({self.conflicts} true conflicts), "
            f"{len(self.violations)} violations"
        )


def lose_answers(count: int, *, seed: int) -> LostReport:
    """Commit until `count` creates that succeeded were never answered; then look at every log.

    A violation is a conflict with one's own commit, a commit that is there twice or not at all, and an unknown outcome.
    """
    report = LostReport()
    with S3Fake() as fake:
        store = fake.new_store()
        folders = [f"collections/c{number}" for number in range(FOLDERS)]
        told: dict[str, list[str]] = {folder: [] for folder in folders}
        with ThreadPoolExecutor(FOLDERS * WRITERS) as pool:
            done = [
                pool.submit(_write, fake, store, folder, f"{folder}-{writer}-{seed}", count, report, told[folder])
                for folder in folders
                for writer in range(WRITERS)
            ]
            for future in done:
                future.result()
        report.lost = fake.lost
        for folder in folders:
            there = Counter(entry.txn for entry in Log(store, folder).entries())
            report.commits += there.total()
            report.violations += [f"{folder}: {txn} is there {n} times" for txn, n in there.items() if n > 1]
            report.violations += [f"{folder}: {txn} was told and is not there" for txn in {*told[folder]} - {*there}]
            report.violations += [f"{folder}: {txn} is there untold" for txn in {*there} - {*told[folder]}]
    return report


def _write(fake: S3Fake, store: Store, folder: str, name: str, count: int, report: LostReport, told: list[str]) -> None:
    """One writer: commit after commit, each with the answers to its first requests lost."""
    chance, log, number = random.Random(name), Log(store, folder, _PATIENCE), 0
    while fake.lost < count:
        fault = Fault("PUT", f"*/{folder}/log/*", "after", chance.choice(_ANSWERS), times=chance.choice(_TIMES))
        fake.inject(fault)
        txn = f"{name}-{number}"
        try:
            _commit(log, txn, report)
        except CommitUnknownError as err:
            report.violations.append(f"{folder}: {txn}: {err}")
            return
        told.append(txn)
        number += 1


def _commit(log: Log, txn: str, report: LostReport) -> None:
    """Commit under the next number that is free."""
    while True:
        head = log.newest()
        try:
            log.append(_entry(log, head, txn))
            return
        except CommitConflictError as err:
            key = log.key(head.version + 1 if head else 1)
            if LogEntry.from_bytes(log.store.read(key), key).txn == txn:
                report.violations.append(f"{log.folder}: {txn} landed, and was told: {err}")
                return
            with report.lock:
                report.conflicts += 1


def _entry(log: Log, head: LogEntry | None, txn: str) -> LogEntry:
    path = f"{log.folder}/data/{txn.replace('/', '-')}.parquet"
    return LogEntry(
        version=head.version + 1 if head else 1,
        prev_sha256=head.sha256 if head else "",
        txn=txn,
        operation="append",
        read_version=head.version if head else 0,
        added=(FileInfo(path, "data", size=10, sha256="0" * 64, rows=3),),
        collection="c",
    )
