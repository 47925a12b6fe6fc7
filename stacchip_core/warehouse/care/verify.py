"""Verify: whether every version that can be opened is there, as it was written; with `deep`, byte by byte."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from stacchip_core.errors import (
    CorruptWarehouseError,
    InputError,
    ObjectNotFoundError,
    StoreError,
    TransientError,
)
from stacchip_core.warehouse.care.holds import COLLECTIONS, COMBINED, Pin, dataset_pin, lock_keys
from stacchip_core.warehouse.care.needs import current_files, merged_versions, needed_files
from stacchip_core.warehouse.care.problems import KINDS_OF_FILES, LEFT_ALONE, LOG_FIRST, OLD_ONLY, Problem, Report, todo
from stacchip_core.warehouse.care.proof import (
    damaged_files,
    strange_checkpoints,
    strange_merges,
    strange_rows,
    strange_versions,
)
from stacchip_core.warehouse.care.retention import History, history_of, source_pins, strange_pins
from stacchip_core.warehouse.checkpoint import Checkpoint, hint_key
from stacchip_core.warehouse.entry import NAME, FileInfo, LogEntry, sealed
from stacchip_core.warehouse.format import FORMAT_KEY, check_format
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.store import Listed, Store
from stacchip_core.warehouse.tags import DELETED, TAGS, TRACE, key_of, parse_tag, tag_names

logger = logging.getLogger(__name__)

Body = bytes | CorruptWarehouseError | None  # of an object; what is wrong with it; None where there is none

_NUMBERED = re.compile(r"(\d{20})\.json")
_READERS = 8
_MOST_MISSING = 1000  # entries that are told one by one


@dataclass(slots=True)
class _Work:
    """What a verification has found so far.

    Attributes:
        needed: files that versions which can be opened take, by folder and path.
    """

    store: Store
    problems: list[Problem] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    known: dict[str, History] = field(default_factory=dict)
    needed: dict[str, dict[str, FileInfo]] = field(default_factory=dict)

    def add(self, kind: str, path: str, what: object, do: str = "") -> None:
        self.problems.append(Problem(kind, path, str(what), do or todo(kind)))

    def is_log_damaged(self, folder: str) -> bool:
        """Whether entries of a log were found to be missing or damaged."""
        return any(problem.kind == "log" and problem.path.startswith(f"{folder}/") for problem in self.problems)


def verify(store: Store, *, deep: bool = False) -> Report:
    """Check a warehouse; nothing is changed. Writers may go on meanwhile: what they add is not looked at.

    Without `deep`: format, logs and their chains, sizes of all files from listings, counts, hints, tags, locks and
    what combined versions are made of. With it, also the sha256 of every file, whether it can be decoded, whether
    each row belongs to an item and each item has its rows, and whether checkpoints and combined indexes hold what
    they were made from.

    Raises:
        TransientStoreError, StoreError: the store could not be asked: nothing is known.
    """
    work = _Work(store)
    _check_format(work)
    held = [*_tags(work), *_locks(work)]  # before the logs, so that a tag made meanwhile names no unknown version
    hints = {folder: _hint(work, folder) for folder in _folders(store, COLLECTIONS)}
    for kind in (COMBINED, COLLECTIONS):
        for folder in _folders(store, kind):
            entries = _entries(work, folder)
            work.known[folder] = history_of(folder, entries, held)
            if kind == COMBINED:
                held += source_pins(work.known[folder])
    _check_pins(work, held)
    for folder, version in hints.items():
        _check_hint(work, folder, version)
    merged = merged_versions(work.known)
    for history in work.known.values():
        _check_counts(work, history)
        _check_files(work, history, merged)
    if deep:
        for history in work.known.values():
            _check_content(work, history)
    return Report(deep, tuple(dict.fromkeys(work.problems)), dict(work.checked))


def _check_format(work: _Work) -> None:
    work.checked["format file"] += 1
    try:
        check_format(work.store)
    except TransientError:
        raise
    except (StoreError, InputError) as err:
        work.add("format", FORMAT_KEY, err)


def _tags(work: _Work) -> Iterator[Pin]:
    for name in tag_names(work.store):
        key = key_of(name)
        try:
            tag = parse_tag(name, work.store.read(key), key)
        except ObjectNotFoundError:  # deleted meanwhile
            continue
        except CorruptWarehouseError as err:
            work.add("tag", key, err)
            continue
        work.checked["tags"] += 1
        yield Pin(tag.index, tag.version, tag.sha256, key)
    for key in work.store.list(DELETED):
        match, body = TRACE.fullmatch(key), _body(work.store, key)
        if match is None or body is None:
            continue
        try:
            parse_tag(match[1], _whole(body), key)
        except CorruptWarehouseError as err:
            work.add("tag", key, err, "remove the object: it is of a tag that was deleted")


def _locks(work: _Work) -> Iterator[Pin]:
    for name in work.store.folders("datasets"):
        for key in lock_keys(work.store, name):
            try:
                pin = dataset_pin(work.store, key)
            except CorruptWarehouseError as err:
                work.add("lock", key, err)
                continue
            if pin is not None:
                work.checked["dataset locks"] += 1
                yield pin


def _folders(store: Store, kind: str) -> list[str]:
    """Folders of indexes; whether there is a log in one shows when it is read."""
    return [f"{kind}/{name}" for name in store.folders(kind) if NAME.fullmatch(name)]


def _entries(work: _Work, folder: str) -> list[LogEntry]:
    """The entries of a log up to the first that can't be trusted."""
    log = Log(work.store, folder)
    names = [key.rpartition("/")[2] for key in work.store.list(f"{folder}/log")]
    numbers = {int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name))}
    newest = max(numbers, default=0)
    if (missing := newest - len(numbers)) > _MOST_MISSING:
        work.add("log", log.key(newest), f"it is there, and {missing:,} entries before it are not")
        newest = max((number for number in numbers if number <= len(numbers)), default=0)
    with ThreadPoolExecutor(_READERS) as pool:
        *bodies, beyond = pool.map(lambda number: _body(work.store, log.key(number)), range(1, newest + 2))
    if isinstance(beyond, CorruptWarehouseError):  # a listing has no folders
        bodies.append(beyond)
    found = [_parsed(work, log.key(number), body) for number, body in enumerate(bodies, start=1)]
    work.checked["log entries"] += newest
    trusted: list[LogEntry] = []
    for number, entry in enumerate(found, start=1):
        if entry is None:
            break
        if entry.version != number:
            work.add("log", log.key(number), f"it says that it is version {entry.version}")
            break
        if entry.prev_sha256 != (trusted[-1].sha256 if trusted else ""):
            work.add("log", log.key(number), "it was not written after the entry before it: one of them was replaced")
            break
        trusted.append(entry)
    return trusted


def _body(store: Store, key: str) -> Body:
    try:
        return store.read(key)
    except ObjectNotFoundError:
        return None
    except CorruptWarehouseError as err:
        return err


def _whole(body: bytes | CorruptWarehouseError) -> bytes:
    if isinstance(body, CorruptWarehouseError):
        raise body
    return body


def _parsed(work: _Work, key: str, body: Body) -> LogEntry | None:
    if body is None:
        work.add("log", key, "it is missing, though a later entry is there")
        return None
    try:
        return LogEntry.from_bytes(_whole(body), key)
    except StoreError as err:
        work.add("log", key, err)
        return None


def _check_pins(work: _Work, held: Iterable[Pin]) -> None:
    for pin, what in strange_pins(work.known, held):
        kind = "tag" if pin.key.startswith(TAGS) else "lock" if pin.key.startswith("datasets") else "source"
        work.add(kind, pin.key, what, LOG_FIRST if work.is_log_damaged(pin.folder) else "")


def _hint(work: _Work, folder: str) -> int | str | None:
    """The version that the hint of a collection names, or what is wrong with it; None where there is none."""
    body = _body(work.store, hint_key(folder))
    if body is None:
        return None
    work.checked["hints"] += 1
    if isinstance(body, CorruptWarehouseError):
        return str(body)
    try:
        data = json.loads(body)
        version = int(data["version"])
        is_whole = version > 0 and sealed(data) == body
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        is_whole = False
    return version if is_whole else "it does not agree with its own checksum"


def _check_hint(work: _Work, folder: str, found: int | str | None) -> None:
    history = work.known.get(folder)
    if found is None or history is None:
        return
    if isinstance(found, str):
        work.add("hint", hint_key(folder), found)
    elif found > len(history.entries):
        if not work.is_log_damaged(folder):
            work.add("hint", hint_key(folder), f"entry {found} is not there")
    elif Checkpoint.of(work.store, history.entries[found - 1]) is None:
        work.add("hint", hint_key(folder), f"entry {found} names no checkpoint")


def _check_counts(work: _Work, history: History) -> None:
    """Arithmetic of the log: what entries count, against the rows of the files that they name."""
    log, before = Log(work.store, history.folder), 0
    for entry in history.entries:
        counts, wrong = entry.counts, list[str]()
        rows = {role: sum(info.rows for info in entry.files(role)) for role in ("data", "items")}
        if history.folder.startswith(COMBINED):
            if (entry.totals.items, entry.totals.chips) != (rows["items"], rows["data"]):
                wrong.append(f"totals of {entry.totals.items} items and {entry.totals.chips} chips, files of {rows}")
        else:
            changes = counts.new + counts.updated + counts.deleted + counts.failed
            if changes > rows["items"]:  # rows that only take a failure off the list are not counted
                wrong.append(f"{changes} items counted, {rows['items']} rows of items")
            if entry.totals.items != before + counts.new - counts.deleted:
                wrong.append(f"{entry.totals.items} live items after {before}, {counts.new} new, {counts.deleted} gone")
            before = entry.totals.items
        for what in wrong:
            work.add("counts", log.key(entry.version), what)


def _check_files(work: _Work, history: History, merged: Mapping[str, int]) -> None:
    """Whether the files that versions need are there in full, by a listing that is younger than the log."""
    try:
        needed = needed_files(work.store, history, merged)
    except CorruptWarehouseError as err:
        work.add("state", history.folder, f"a version can't be read: {err}", LEFT_ALONE)
        retained = set(history.retained)
        needed = {i.path: i for e in history.entries if e.version in retained for i in (*e.kept, *e.added)}
    work.needed[history.folder] = needed
    listed = work.store.listing(history.folder)
    wrong = list[tuple[FileInfo, str]]()
    for info in needed.values():
        work.checked["files"] += 1
        work.checked["bytes"] += info.size
        if what := _misfit(work.store, info, listed):
            wrong.append((info, what))
    _add_files(work, history, wrong)


def _check_content(work: _Work, history: History) -> None:
    """Every byte and row of the files that versions need."""
    damaged, needed = {problem.path for problem in work.problems}, work.needed[history.folder]
    whole = [info for path, info in needed.items() if path not in damaged]
    wrong = list(damaged_files(work.store, whole))
    _add_files(work, history, wrong)
    damaged |= {info.path for info, _ in wrong}
    sound = {info.path: info for info in whole if info.path not in damaged}
    work.checked["files read"] += len(whole)
    work.checked["rows"] += sum(info.rows for info in whole if info.role == "data")
    for look in (strange_rows, strange_versions, strange_checkpoints, strange_merges):
        what = look.__name__.removeprefix("strange_")
        logger.info("verify of %s: %s: looking at its %s", work.store.root, history.folder, what)
        work.problems += look(work.store, history, sound)


def _add_files(work: _Work, history: History, wrong: Sequence[tuple[FileInfo, str]]) -> None:
    """Note damaged files, and whether the newest version needs them."""
    current = current_files(work.store, history) if wrong else None
    for info, what in wrong:
        kind = "combined" if history.folder.startswith(COMBINED) else KINDS_OF_FILES[info.role]
        is_old = kind != "checkpoint" and current is not None and info.path not in current
        work.add(kind, info.path, what, OLD_ONLY if is_old else "")


def _misfit(store: Store, info: FileInfo, listed: Mapping[str, Listed]) -> str:
    """What is wrong with a file's size, if anything; one that a listing lacks is asked for, as listings may lag."""
    try:
        size = listed[info.path].size if info.path in listed else store.size(info.path)
    except ObjectNotFoundError:
        return "it is missing"
    return "" if size == info.size else f"{size} bytes, the log says {info.size}"
