"""The numbered log of a collection or combined index: the only authority on what is in it."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from stacchip_core.errors import (
    CommitConflictError,
    CommitUnknownError,
    CorruptWarehouseError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreError,
    TransientStoreError,
    VersionNotFoundError,
)
from stacchip_core.warehouse.entry import LogEntry
from stacchip_core.warehouse.store import Store

_NUMBERED = re.compile(r"(\d{20})\.json")
_READERS = 8  # entries fetched at a time: a request to a bucket takes tens of milliseconds, whatever its size
_AHEAD = 4  # entries asked for beyond the known ones, of which the last find nothing


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an unclear commit is looked into before `CommitUnknownError`.

    Attributes:
        seconds: from the first attempt.
        first_delay, longest_delay: upper ends of the random pauses, which double.
        sleep: waits; tests replace it.
    """

    seconds: float = 60.0
    first_delay: float = 0.1
    longest_delay: float = 5.0
    sleep: Callable[[float], None] = time.sleep

    def pause(self, attempt: int) -> None:
        """Wait before attempt `attempt` + 1, for a random time, so that rivals don't meet again."""
        self.sleep(random.uniform(0, min(self.longest_delay, self.first_delay * 2**attempt)))


class Log:
    """Entries 1, 2, 3 … of one folder, each created exclusively, never changed, never deleted.

    Each names the hash of the one before, so the newest proves them all.
    """

    def __init__(self, store: Store, folder: str, patience: Patience | None = None) -> None:
        """`folder` is "collections/<name>" or "combined/<name>"."""
        self.store = store
        self.folder = folder
        self._patience = patience or Patience()

    def key(self, version: int) -> str:
        """Key of an entry."""
        return f"{self.folder}/log/{version:020d}.json"

    def body(self, version: int) -> bytes | None:
        """Bytes of an entry, not looked at; None where there is none."""
        try:
            return self.store.read(self.key(version))
        except ObjectNotFoundError:
            return None

    def entries(self) -> tuple[LogEntry, ...]:
        """All entries, oldest first, proven by the chain.

        Raises:
            CorruptWarehouseError: one is missing, was changed, or was not written after the one before it.
        """
        return self._extended(self.span(1, self.listed()))

    def since(self, first: int) -> tuple[LogEntry, ...]:
        """Entries from `first` to the newest, proven among themselves; none where there is no such entry."""
        return self._extended((), first)

    def span(self, first: int, last: int) -> tuple[LogEntry, ...]:
        """Entries `first` to `last`, proven among themselves; none where `last` is the lesser.

        Raises:
            CorruptWarehouseError: one is missing, was changed, or was not written after the one before it.
        """
        numbers = range(first, last + 1)
        with ThreadPoolExecutor(_READERS) as pool:
            bodies = list(pool.map(self.body, numbers))
        return self._proven((), [self._whole(*pair, last) for pair in zip(numbers, bodies, strict=True)], first)

    def follow(self, entries: tuple[LogEntry, ...], later: tuple[LogEntry, ...]) -> tuple[LogEntry, ...]:
        """Entries and those after them.

        Raises:
            CorruptWarehouseError: these were not written after those.
        """
        if entries and later:
            self._prove(later[0], entries[-1])
        return (*entries, *later)

    def newest(self) -> LogEntry | None:
        """The newest entry, checked against the one before; for logs whose entries speak for themselves.

        Raises:
            CorruptWarehouseError: one of the two is missing or damaged, or the newest was not written after the other.
        """
        listed = self.listed()
        found = self._extended(self.span(max(1, listed - 1), listed))
        return found[-1] if found else None

    def read(self, version: int) -> LogEntry:
        """One entry, checked against its successor if it has one; cheaper than the whole chain.

        Raises:
            VersionNotFoundError: lists the versions there are.
            CorruptWarehouseError: its bytes are not those that the next entry was written after.
        """
        body = self.body(version) if version > 0 else None
        if body is None:
            newest = self.listed()
            there = f"versions 1 to {newest}" if newest else "no version yet"
            raise VersionNotFoundError(f"{self.folder} has no version {version}; it has {there}")
        after = self.body(version + 1)
        return self._proven((), [body] if after is None else [body, after], version)[0]

    def append(self, entry: LogEntry) -> LogEntry:
        """Commit an entry under its number.

        Whatever goes wrong with the write, the entry is read back and speaks for itself; nothing is ever removed.

        Returns:
            The entry with its `sha256`.

        Raises:
            CommitConflictError: another writer has the number: look at what it did, then try the next.
            CommitUnknownError: no answer until the deadline. The commit may have landed; a later run will see.
            StoreError: certainly not committed: the store refused each attempt.
            CorruptWarehouseError: certainly not committed: no reader would take the entry.
        """
        key, body = self.key(entry.version), entry.to_bytes()
        self._parse(entry.version, body)  # an entry can't be taken back: what a reader refuses is never written
        deadline, attempt, may_have_landed = time.monotonic() + self._patience.seconds, 0, False
        while True:
            failure = self._try_create(key, body)
            found = body if failure is None else self._read_back(key)
            if isinstance(found, bytes):
                return self._judged(entry, found)
            may_have_landed |= isinstance(failure, TransientStoreError | ObjectExistsError)
            if failure is not None and found is None and not may_have_landed:
                raise failure
            if time.monotonic() >= deadline:
                raise CommitUnknownError(
                    f"{key}: nobody answered for {self._patience.seconds:g} s whether transaction {entry.txn} landed "
                    f"({failure}); nothing was removed. Look at version {entry.version}, or just run again"
                ) from failure
            self._patience.pause(attempt)
            attempt += 1

    def _try_create(self, key: str, body: bytes) -> StoreError | None:
        try:
            self.store.create(key, body)
        except StoreError as err:
            return err
        return None

    def _read_back(self, key: str) -> bytes | StoreError | None:
        """What stands at `key`: bytes, None if there is nothing, the error if the store does not say."""
        try:
            return self.store.read(key)
        except ObjectNotFoundError:
            return None
        except StoreError as err:
            return err

    def _judged(self, mine: LogEntry, found: bytes) -> LogEntry:
        there = LogEntry.from_bytes(found, self.key(mine.version))
        if there.txn == mine.txn:
            return replace(mine, sha256=there.sha256)
        raise CommitConflictError(
            f"{self.folder}: version {mine.version} was committed by another writer "
            f"({there.writer.get('host', 'unknown host')}, transaction {there.txn}): reload and retry"
        )

    def listed(self) -> int:
        """Number of the newest entry in a listing; 0 where there is none.

        Raises:
            CorruptWarehouseError: one before it is missing.
        """
        prefix = f"{self.folder}/log"
        names = [key.removeprefix(f"{prefix}/") for key in self.store.list(prefix)]
        numbers = {int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name))}
        newest = max(numbers, default=0)
        for number in range(1, newest):
            if number not in numbers:  # a listing may lag behind: ask for the entry itself
                self._whole(number, None, newest)
        return newest

    def _extended(self, known: tuple[LogEntry, ...], first: int = 1) -> tuple[LogEntry, ...]:
        """Known entries and all that follow, asked for by number: a listing may lag behind.

        Raises:
            CorruptWarehouseError: one is missing, though a later one of those asked for is there.
        """
        first = known[-1].version + 1 if known else first
        with ThreadPoolExecutor(_AHEAD) as pool:
            while True:
                bodies = list(pool.map(self.body, range(first, first + _AHEAD)))
                newest = max((number for number, body in enumerate(bodies, first) if body is not None), default=0)
                # an earlier entry may have been asked for just before it was there, and a later one just after
                found = [self._whole(number, bodies[number - first], newest) for number in range(first, newest + 1)]
                known = self._proven(known, found, first)
                first += _AHEAD
                if len(found) < _AHEAD:
                    return known

    def _whole(self, number: int, body: bytes | None, newest: int) -> bytes:
        """An entry's bytes, asked for once more where it was not there."""
        body = self.body(number) if body is None else body
        if body is None:
            raise CorruptWarehouseError(f"log entry {self.key(number)} is missing, though version {newest} is there")
        return body

    def _proven(self, known: tuple[LogEntry, ...], bodies: list[bytes], first: int) -> tuple[LogEntry, ...]:
        entries = list(known)
        for number, body in enumerate(bodies, start=first):
            entry = self._parse(number, body)
            if entries or number == 1:
                self._prove(entry, entries[-1] if entries else None)
            entries.append(entry)
        return tuple(entries)

    def _parse(self, version: int, body: bytes) -> LogEntry:
        entry = LogEntry.from_bytes(body, self.key(version))
        if entry.version != version:
            raise CorruptWarehouseError(f"log entry {self.key(version)} says that it is version {entry.version}")
        return entry

    def _prove(self, entry: LogEntry, before: LogEntry | None) -> None:
        expected = before.sha256 if before else ""
        if entry.prev_sha256 != expected:
            raise CorruptWarehouseError(
                f"the log of {self.folder} is broken: version {entry.version} was written after an entry with sha256 "
                f"{entry.prev_sha256[:12] or 'none'}, but {self.key(entry.version - 1)} has {expected[:12] or 'none'}"
            )
