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

    Each names the hash of the one before, so the newest proves them all. Entries that were read and proven are
    remembered: they can't change.
    """

    def __init__(self, store: Store, folder: str, patience: Patience | None = None) -> None:
        """`folder` is "collections/<name>" or "combined/<name>"."""
        self.store = store
        self.folder = folder
        self._patience = patience or Patience()
        self._known: tuple[LogEntry, ...] = ()

    def key(self, version: int) -> str:
        """Key of an entry."""
        return f"{self.folder}/log/{version:020d}.json"

    def head(self) -> LogEntry | None:
        """The newest entry, proven by the chain; None where nothing was ever committed."""
        entries = self.entries()
        return entries[-1] if entries else None

    def newest(self) -> LogEntry | None:
        """The newest entry, checked against the one before; cheaper than `head` where entries speak for themselves.

        Raises:
            CorruptWarehouseError: one of the two is missing or damaged, or the newest was not written after the other.
        """
        version = len(self._known) or self._listed()
        entry = self._read_pair(version) if version > len(self._known) else self._known[-1] if version else None
        while (body := self._read_if_there((entry.version if entry else 0) + 1)) is not None:
            after = self._parse((entry.version if entry else 0) + 1, body)
            self._prove(after, entry)
            entry = after
        return entry

    def _read_pair(self, version: int) -> LogEntry:
        """An entry of the listing, proven by the one before it."""
        first = max(1, version - 1)
        bodies = [self._whole(number, self._read_if_there(number), version) for number in range(first, version + 1)]
        *before, entry = (self._parse(number, body) for number, body in enumerate(bodies, start=first))
        self._prove(entry, before[0] if before else None)
        return entry

    def entries(self) -> tuple[LogEntry, ...]:
        """All entries, oldest first.

        Raises:
            CorruptWarehouseError: one is missing, damaged, or not the one that its successor was written after.
        """
        known = self._known
        if not known:
            known = self._extend(known, self._read_all(self._listed()))
        while (body := self._read_if_there(len(known) + 1)) is not None:  # listings may lag behind
            known = self._extend(known, [body])
        self._known = known
        return known

    def read(self, version: int) -> LogEntry:
        """One entry, checked against its successor if it has one; cheaper than the whole chain.

        Raises:
            VersionNotFoundError: lists the versions there are.
            CorruptWarehouseError: its bytes are not those that the next entry was written after.
        """
        if 0 < version <= len(self._known):
            return self._known[version - 1]
        body = self._read_if_there(version) if version > 0 else None
        if body is None:
            entries = self.entries()
            there = f"versions 1 to {len(entries)}" if entries else "no version yet"
            raise VersionNotFoundError(f"{self.folder} has no version {version}; it has {there}")
        entry = self._parse(version, body)
        after = self._read_if_there(version + 1)
        if after is not None:
            self._prove(self._parse(version + 1, after), entry)
        return entry

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

    def _listed(self) -> int:
        """Number of the newest entry in a listing, none before it missing."""
        prefix = f"{self.folder}/log"
        names = [key.removeprefix(f"{prefix}/") for key in self.store.list(prefix)]
        numbers = {int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name))}
        newest = max(numbers, default=0)
        for number in sorted(set(range(1, newest)) - numbers):  # a listing may lag behind: ask for the entry itself
            self._whole(number, self._read_if_there(number), newest)
        return newest

    def _read_all(self, newest: int) -> list[bytes]:
        with ThreadPoolExecutor(_READERS) as pool:
            bodies = list(pool.map(self._read_if_there, range(1, newest + 1)))
        return [self._whole(number, body, newest) for number, body in enumerate(bodies, start=1)]

    def _whole(self, number: int, body: bytes | None, newest: int) -> bytes:
        if body is None:
            raise CorruptWarehouseError(f"log entry {self.key(number)} is missing, though version {newest} is there")
        return body

    def _read_if_there(self, version: int) -> bytes | None:
        try:
            return self.store.read(self.key(version))
        except ObjectNotFoundError:
            return None

    def _extend(self, known: tuple[LogEntry, ...], bodies: list[bytes]) -> tuple[LogEntry, ...]:
        entries = list(known)
        for body in bodies:
            entry = self._parse(len(entries) + 1, body)
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
