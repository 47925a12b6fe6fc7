"""Vacuum: files that no version which can be opened needs are removed, once they are old enough."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from stacchip_core.errors import CorruptWarehouseError, InputError
from stacchip_core.warehouse.care.needs import merged_versions, needed_files
from stacchip_core.warehouse.care.retention import LONGEST_DAYS, histories
from stacchip_core.warehouse.commit import MAX_AGE
from stacchip_core.warehouse.entry import KINDS, NAME, LogEntry, is_safe_path
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.store import STAGING, Listed, Store
from stacchip_core.warehouse.tags import DELETED, TRACE

logger = logging.getLogger(__name__)

GRACE = timedelta(days=7)
SHORTEST_GRACE = 3 * MAX_AGE  # a commit's files are a day old at most when it lands
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_STAGED = re.compile(rf"{STAGING}/((tmp|probe|clock)-{_UUID}|{_UUID}\.(jsonl|parquet))")
_LOGGED = re.compile(rf"({'|'.join(KINDS)})/{NAME.pattern}/(log/\d{{20}}\.json|_last_checkpoint\.json)")
_UNKNOWN = "nobody knows"  # whether a file was committed: its index has no log
_THREADS = 8
_TOLD_EVERY = 1000


@dataclass(frozen=True, slots=True)
class Removable:
    """A file that no version which can be opened needs, older than the grace period.

    Attributes:
        size: bytes.
        age_days: since it was written, by the store's clock.
        why: what it was.
    """

    path: str
    size: int
    age_days: float
    why: str


@dataclass(frozen=True, slots=True)
class Vacuum:
    """What a vacuum removed, or with `is_dry_run` would have.

    Attributes:
        files: removable ones.
        kept, kept_bytes: files that versions need.
        young, young_bytes: files that no version needs, and that may belong to a commit on its way.
        unknown: keys that are none of the warehouse's; never touched.
    """

    is_dry_run: bool
    grace_days: float
    files: tuple[Removable, ...]
    kept: int
    kept_bytes: int
    young: int
    young_bytes: int
    unknown: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Of the removable files."""
        return sum(file.size for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "bytes": self.bytes}


def vacuum(store: Store, *, dry_run: bool = True, grace: timedelta = GRACE) -> Vacuum:
    """Find files that nothing needs, and remove them unless it is a dry run.

    Files are listed before the logs are read, so that what a commit brings meanwhile is not among them. A version
    counts as expired here once the entry that says so is older than the grace period, so that whoever has it open
    has that long to finish.

    Args:
        store: where the warehouse is.
        dry_run: only tell.
        grace: how old a file must be, by the store's clock.

    Raises:
        InputError: a grace period shorter than three times what a commit may take, or longer than 100 years.
        CorruptWarehouseError: a log, tag or lock can't be read, or names a version that is not there, so nobody knows
            what is needed. Nothing was removed.
    """
    if grace > timedelta(days=LONGEST_DAYS):
        raise InputError(f"a grace period of {grace.days} days: expected at most {LONGEST_DAYS}")
    if grace < SHORTEST_GRACE:
        raise InputError(
            f"a grace period of {grace.total_seconds() / 3600:g} hours could remove files of a commit on its way: "
            f"give at least {SHORTEST_GRACE.total_seconds() / 3600:g}"
        )
    now = _now(store)
    found = _sorted_out(store, now, grace, is_dry_run=dry_run)
    if not dry_run:
        _remove(store, [file.path for file in found.files])
    return found


def _now(store: Store) -> datetime:
    return store.now()


def _is_old(listed: Listed, now: datetime, grace: timedelta) -> bool:
    return now - listed.modified > grace


def _look(store: Store, now: datetime, grace: timedelta) -> tuple[dict[str, Listed], Mapping[str, str]]:
    """All files; and by path, what is needed ("") and what was once."""
    files = _files(store)
    return files, _uses(store, files, now, grace)


def _files(store: Store) -> dict[str, Listed]:
    return {key: one for prefix in (*KINDS, STAGING, DELETED) for key, one in store.listing(prefix).items()}


def _uses(store: Store, files: Mapping[str, Listed], now: datetime, grace: timedelta) -> Mapping[str, str]:
    """By path: "" for what is needed, else why the file is there."""

    def expired(folder: str, entries: Sequence[LogEntry]) -> int:
        """As the newest entry says that is older than the grace period."""
        log = Log(store, folder)
        said = [
            entry.expired
            for entry in entries
            if (listed := files.get(log.key(entry.version))) and _is_old(listed, now, grace)
        ]
        return max(said, default=0)

    known = histories(store, expired, lambda listed: _is_old(listed, now, grace))
    merged = merged_versions(known)
    uses = dict.fromkeys(_without_log(store, files, known), _UNKNOWN)
    for history in known.values():
        named = (info.path for entry in history.entries for info in (*entry.kept, *entry.added))
        uses |= dict.fromkeys(named, "only expired versions need it")
        uses |= dict.fromkeys(needed_files(store, history, merged), "")
    return uses


def _without_log(store: Store, files: Mapping[str, Listed], known: Collection[str]) -> list[str]:
    """Files of indexes without a log that may nevertheless have been committed.

    A run that ends before the first commit of an index leaves data files; a file of items is written by a commit only,
    perhaps by one that has landed and whose log was lost since. Nobody can tell, so all beside it is left alone.

    Raises:
        CorruptWarehouseError: an index has a hint or checkpoint, and no log.
    """
    own: dict[str, list[str]] = defaultdict(list)
    for key in files:
        folder = "/".join(key.split("/")[:2])
        if folder not in known and (is_safe_path(key) or _LOGGED.fullmatch(key)):
            own[folder].append(key)
    left = list[str]()
    for folder, keys in own.items():
        roles = {key.split("/")[2] for key in keys}
        if roles - {"data", "items", "log"}:
            raise CorruptWarehouseError(
                f"{store.root}: {folder} has no log, but {min(keys, key=lambda key: '/data/' in key)}: restore the log "
                f"from a backup or the bucket's older versions, or remove all of {folder}"
            )
        left += keys if roles - {"data"} else []
    return left


def _sorted_out(store: Store, now: datetime, grace: timedelta, *, is_dry_run: bool) -> Vacuum:
    files, uses = _look(store, now, grace)
    whys = {key: why for key in files if (why := _why(key, uses)) is not None}
    kept = [files[key].size for key, why in whys.items() if not why]
    young = [key for key, why in whys.items() if why and not _is_old(files[key], now, grace)]
    old = [key for key, why in whys.items() if why and _is_old(files[key], now, grace)]
    days = timedelta(days=1)
    return Vacuum(
        is_dry_run=is_dry_run,
        grace_days=grace / days,
        files=tuple(
            Removable(key, files[key].size, round((now - files[key].modified) / days, 2), whys[key]) for key in old
        ),
        kept=len(kept),
        kept_bytes=sum(kept),
        young=len(young),
        young_bytes=sum(files[key].size for key in young),
        unknown=tuple(key for key in files if key not in whys and not _LOGGED.fullmatch(key)),
    )


def _why(key: str, uses: Mapping[str, str]) -> str | None:
    """Why a file may be removed, "" if it may not, None where it is not known to be of a kind that ever is."""
    if TRACE.fullmatch(key):
        return "of a tag that was deleted"
    if _STAGED.fullmatch(key):
        return "left by a run"
    if not is_safe_path(key) or uses.get(key) == _UNKNOWN:
        return None
    return uses.get(key, "never committed")


def _remove(store: Store, paths: Sequence[str]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        for number, _ in enumerate(pool.map(store.delete, paths), start=1):
            if number % _TOLD_EVERY == 0 or number == len(paths):
                logger.info("vacuum of %s: %d of %d files removed", store.root, number, len(paths))
