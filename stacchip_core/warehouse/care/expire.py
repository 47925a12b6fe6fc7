"""Expiry: old versions are named in the log before vacuum may remove what they alone need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from stacchip_core.errors import CommitConflictError, InputError
from stacchip_core.warehouse.care.retention import LONGEST_DAYS
from stacchip_core.warehouse.commit import writer
from stacchip_core.warehouse.entry import LogEntry
from stacchip_core.warehouse.files import iso
from stacchip_core.warehouse.log import Log, Patience
from stacchip_core.warehouse.store import Store

_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class Expiry:
    """What `expire` did, or with `is_dry_run` would do.

    Attributes:
        version: newest version of the index now.
        expired: versions up to this one are expired, 0: none; those that a tag, a dataset or a retained combined
            version holds can be opened nevertheless.
        added: how many versions this call has expired.
    """

    index: str
    version: int
    expired: int
    added: int
    is_dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def expire(
    store: Store,
    folder: str,
    *,
    keep: int = 30,
    days: float = 90,
    dry_run: bool = False,
    patience: Patience | None = None,
) -> Expiry:
    """Name the versions of an index that may no longer be opened: those neither among the newest nor young.

    Entries that only expire others, or only bring a checkpoint, are not counted among the newest, so that the same call
    again does nothing. No file is removed.

    Args:
        store: where the index is.
        folder: "combined/<name>" or "collections/<name>".
        keep: how many of the newest versions stay.
        days: versions that were the newest less than so many days ago stay, by the store's clock.
        dry_run: only tell.
        patience: with lost races.

    Raises:
        InputError: keep below 1, or days below 0 or above 100 years.
        CommitConflictError: lost too many races.
        CommitUnknownError: nobody answered; the next call will see.
    """
    if keep < 1 or not 0 <= days <= LONGEST_DAYS:
        raise InputError(
            f"{folder}: keep at least 1 version, and 0 to {LONGEST_DAYS} days; got keep={keep}, days={days:g}"
        )
    log = Log(store, folder)
    for attempt in range(_ATTEMPTS):
        entries = log.entries()
        if not entries:
            return Expiry(folder, 0, 0, 0, dry_run)
        limit = min(_beyond_newest(entries, keep), _long_replaced(store, log, entries, days))
        head = entries[-1]
        if limit <= head.expired:
            return Expiry(folder, head.version, head.expired, 0, dry_run)
        if dry_run:
            return Expiry(folder, head.version, limit, limit - head.expired, dry_run)
        try:
            done = log.append(_entry(store, folder, head, limit))
        except CommitConflictError:
            (patience or Patience()).pause(min(attempt, 4))
            continue
        return Expiry(folder, done.version, limit, limit - head.expired)
    raise CommitConflictError(f"{folder}: lost {_ATTEMPTS} races for the next version; run again")


def _beyond_newest(entries: Sequence[LogEntry], keep: int) -> int:
    """The last version before the newest `keep`; 0 where there are fewer."""
    numbers = [entry.version for entry in entries if not _is_upkeep(entry)]
    return numbers[-keep] - 1 if len(numbers) >= keep else 0


def _is_upkeep(entry: LogEntry) -> bool:
    """Whether an entry changes no row: it expires others, or brings a checkpoint of the one before it."""
    has_checkpoint_only = bool(entry.added) and all(info.role == "checkpoints" for info in entry.added)
    return entry.operation == "expire" or has_checkpoint_only


def _long_replaced(store: Store, log: Log, entries: Sequence[LogEntry], days: float) -> int:
    """The last version that, like all before it, was replaced more than `days` ago."""
    written = store.listing(f"{log.folder}/log")
    before = _now(store) - timedelta(days=days)
    for entry in entries[1:]:
        listed = written.get(log.key(entry.version))
        if listed is None or listed.modified > before:
            return entry.version - 2
    return entries[-1].version - 1


def _now(store: Store) -> datetime:
    return store.now()


def _entry(store: Store, folder: str, head: LogEntry, limit: int) -> LogEntry:
    """The next entry: the same state as the one before, of which it carries everything forward."""
    return replace(
        head.successor(writer()),
        operation="expire",
        kept=() if folder.startswith("collections/") else (*head.kept, *head.added),
        expired=limit,
        stored_at=iso(_now(store)),
    )
