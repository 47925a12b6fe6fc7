"""Repair: what a warehouse can mend out of itself; it says first, and acts when asked to."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from stacchip_core.errors import CommitConflictError, CorruptWarehouseError
from stacchip_core.warehouse.care.holds import COLLECTIONS
from stacchip_core.warehouse.care.problems import LEFT_ALONE, OLD_ONLY, Problem
from stacchip_core.warehouse.care.retention import indexes
from stacchip_core.warehouse.care.salvage import affected, salvage
from stacchip_core.warehouse.care.verify import verify
from stacchip_core.warehouse.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    hint_body,
    hint_key,
    write_checkpoint,
    write_hint,
)
from stacchip_core.warehouse.combined.merge import merge
from stacchip_core.warehouse.commit import writer
from stacchip_core.warehouse.log import Log, Patience
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store

logger = logging.getLogger(__name__)

_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class Action:
    """Something that mends, in words.

    Attributes:
        path: of the object or index.
        what: is done with it.
    """

    path: str
    what: str


@dataclass(frozen=True, slots=True)
class Repair:
    """What mends a warehouse, or with `is_dry_run` would.

    Attributes:
        actions: in the order they are done.
        left: problems that the warehouse can't mend out of itself, each with what to do about it.
    """

    is_dry_run: bool
    actions: tuple[Action, ...]
    left: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Step:
    """An action, the problems that it mends, and what does it."""

    action: Action
    problems: tuple[Problem, ...]
    act: Callable[[], object]


def repair(store: Store, *, dry_run: bool = True) -> Repair:
    """Tell what would mend a warehouse, after a deep verification, and do it unless it is a dry run.

    Hints and checkpoints are written anew. Of a damaged data file of a collection, the items that can be read, in it or
    in a combined index, move to a new file, and the others are released: the next indexing run takes them for new.
    Damaged files of a combined index are made anew from its collections. Nothing is removed, and no row that can be
    read is given up. A version that needs a damaged file is not mended by this, the next one is.

    Raises:
        TransientStoreError, StoreError: the store could not be asked, or written; do it again.
    """
    problems = verify(store, deep=True).problems
    hopeless: dict[str, str] = {}
    steps = [
        *_hints(store, problems),
        *_checkpoints(store, problems),
        *_data(store, problems, hopeless),
        *_combined(store, problems),
    ]
    mended = {problem for step in steps for problem in step.problems}
    left = [_given_up(problem, hopeless) for problem in problems if problem not in mended]
    failed = list[_Step]()
    for step in steps if not dry_run else ():
        logger.info("repair of %s: %s: %s", store.root, step.action.path, step.action.what)
        try:
            step.act()
        except CorruptWarehouseError as err:
            failed.append(step)
            left += [replace(problem, what=f"{problem.what}; {err}", todo=LEFT_ALONE) for problem in step.problems]
    return Repair(dry_run, tuple(step.action for step in steps if step not in failed), tuple(left))


def _given_up(problem: Problem, why: Mapping[str, str]) -> Problem:
    """A problem that is left, without the advice to run what has just been run."""
    if "stacchip repair" not in problem.todo:
        return problem
    folder = "/".join(problem.path.split("/")[:2])
    reason = why.get(folder, "the log that would tell how to mend it is damaged")
    return replace(problem, what=f"{problem.what}; {reason}", todo=LEFT_ALONE)


def _hints(store: Store, problems: Sequence[Problem]) -> Iterator[_Step]:
    """Hints that are wrong, and those that are missing."""
    wrong = {problem.path: problem for problem in problems if problem.kind == "hint"}
    broken = {problem.path.rpartition("/log/")[0] for problem in problems if problem.kind == "log"}
    for folder in indexes(store, (COLLECTIONS,)):
        key = hint_key(folder)
        if folder in broken or (key not in wrong and store.exists(key)):
            continue
        head = Log(store, folder).newest()
        if head is not None and head.checkpoint:
            mended = tuple(filter(None, [wrong.get(key)]))
            what = f"write the hint anew: entry {head.checkpoint} names the newest checkpoint"
            yield _Step(Action(key, what), mended, partial(store.write, key, hint_body(head.checkpoint)))
        elif key in wrong:
            what = "remove the hint: there is no checkpoint yet"
            yield _Step(Action(key, what), (wrong[key],), partial(store.delete, key))


def _checkpoints(store: Store, problems: Sequence[Problem]) -> Iterator[_Step]:
    for folder, own in _by_index(problems, "checkpoint").items():
        paths = {problem.path for problem in own}
        what = f"write {len(paths)} damaged files of checkpoints anew, from the log"
        follows = [problem for problem in problems if problem.kind == "state" and problem.path.startswith(f"{folder}@")]
        yield _Step(Action(folder, what), (*own, *follows), partial(_mend_checkpoints, store, folder, paths))


def _data(store: Store, problems: Sequence[Problem], hopeless: dict[str, str]) -> Iterator[_Step]:
    """Moves and releases; where not even the items are known, why not goes to `hopeless`, by folder."""
    for folder, own in _by_index(problems, "data").items():
        name, paths = folder.rpartition("/")[2], {problem.path for problem in own}
        try:
            found = affected(store, name, paths)
        except CorruptWarehouseError as err:
            hopeless[folder] = str(err)
            continue
        what = (
            f"of {len(paths)} damaged data files, move {len(found.kept)} items that can still be read, there or in a "
            f"combined index, to new files, and release {len(found.lost)} others, which the next indexing run takes "
            "for new"
        )
        yield _Step(Action(folder, what), tuple(own), partial(salvage, store, name, paths))


def _combined(store: Store, problems: Sequence[Problem]) -> Iterator[_Step]:
    for folder, own in _by_index(problems, "combined").items():
        paths = {problem.path for problem in own}
        what = f"make {len(paths)} damaged files anew from its collections, in its next version"
        yield _Step(Action(folder, what), tuple(own), partial(_merge_anew, store, folder, paths))


def _by_index(problems: Sequence[Problem], kind: str) -> dict[str, list[Problem]]:
    """Problems of one kind that its newest version has, by folder of the index."""
    found: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        if problem.kind == kind and problem.todo != OLD_ONLY:
            found["/".join(problem.path.split("/")[:2])].append(problem)
    return found


def _merge_anew(store: Store, folder: str, damaged: Collection[str], patience: Patience | None = None) -> None:
    """Commit a version of a combined index whose damaged parts are made as if their collections were new to it."""
    head = Log(store, folder).newest()
    if head is not None:
        names = [str(source["collection"]) for source in head.sources]
        merge(store, folder.rpartition("/")[2], names, patience, damaged)


def _mend_checkpoints(store: Store, folder: str, damaged: Collection[str]) -> None:
    """Put the bytes back that the log names; where another release made them, write one of the newest version."""
    log, is_mended = Log(store, folder), True
    for entry in log.entries():
        old = Checkpoint.of(store, entry)
        if old is not None and {old.items.path, old.files.path} & set(damaged):
            is_mended &= _put_back(store, Manifest.load(store, folder.rpartition("/")[2], old.version), old)
    if not is_mended:
        _add_checkpoint(store, folder)


def _put_back(store: Store, at: Manifest, old: Checkpoint) -> bool:
    """Write a checkpoint again; whether it came out as the log says."""
    new = _written(at)
    if (new.items.sha256, new.files.sha256) != (old.items.sha256, old.files.sha256):
        return False
    for one, other in ((new.items, old.items), (new.files, old.files)):
        store.write(other.path, store.read(one.path))
    return True


def _written(at: Manifest) -> Checkpoint:
    """Write a checkpoint of a version, built on the newest one before it that is whole."""
    entries = at.log.span(1, at.version)
    found = (Checkpoint.of(at.store, entry) for entry in reversed(entries))
    for before in (*(one for one in found if one is not None), None):
        start = before.version if before else 0
        tables = replace(at, entries=entries, checkpoint=before).changes_since(start)
        try:
            return write_checkpoint(at.store, at.log.folder, before, entries[start:], tables)
        except DamagedCheckpointError:
            continue
    raise CorruptWarehouseError(f"{at.log.folder}: nothing of version {at.version} can be read")


def _add_checkpoint(store: Store, folder: str, patience: Patience | None = None) -> None:
    """Commit a checkpoint of the newest version, by an entry that changes nothing else."""
    for attempt in range(_ATTEMPTS):
        manifest = Manifest.load(store, folder.rpartition("/")[2])
        head = manifest.head
        if head is None:
            return
        new = _written(manifest)
        entry = replace(head.successor(writer()), added=(new.items, new.files), checkpoint=head.version + 1)
        try:
            write_hint(store, folder, manifest.log.append(entry).version)
        except CommitConflictError:
            (patience or Patience()).pause(min(attempt, 4))
            continue
        return
    raise CommitConflictError(f"{folder}: lost {_ATTEMPTS} races for the next version; run again")
