"""From what a run made to the next version of a collection, whoever else is committing meanwhile."""

from __future__ import annotations

import os
import platform
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import version as installed_version

import pyarrow as pa
import pyarrow.compute as pc

from stacchip_core.errors import CommitConflictError, CorruptWarehouseError, InputError
from stacchip_core.index.schema import SCHEMA_VERSION
from stacchip_core.warehouse.checkpoint import Checkpoint, write_hint
from stacchip_core.warehouse.classify import other_collection, usual_collection
from stacchip_core.warehouse.data import clash, union
from stacchip_core.warehouse.entry import Counts, FileInfo, LogEntry, Totals
from stacchip_core.warehouse.files import iso
from stacchip_core.warehouse.items import ITEM_SCHEMA, ItemState, States, advance, states_of, write_items
from stacchip_core.warehouse.log import Patience
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.memory import is_news
from stacchip_core.warehouse.settle import Settled, settle
from stacchip_core.warehouse.work import Work, followed

# Vacuum removes what no version names once it is a week old; a run this old might commit files that are about to go.
MAX_AGE = timedelta(hours=24)
_WITHOUT_CHIPS = ("failed", "delete")
_ATTEMPTS = 1000  # each lost race is another writer's commit, so this many are a fault


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit did.

    Attributes:
        version: of the collection after it; the present one where there was nothing new, 0 before the first.
        new, updated: items committed.
        deleted: items taken out of the index.
        failed: items that failed in this run, whether that is news or was known.
        chips: rows committed.
        failed_again: of those that failed, how many had failed before.
        waiting: items that failed before and were left alone, as their next try was not due.
        causes: how many failed by which cause, of those that failed in this run.
    """

    name: str
    version: int
    sha256: str
    new: int = 0
    updated: int = 0
    deleted: int = 0
    failed: int = 0
    chips: int = 0
    failed_again: int = field(default=0, compare=False)
    waiting: int = 0
    causes: tuple[tuple[str, int], ...] = field(default=(), compare=False)

    @property
    def tried(self) -> int:
        """Items that this run indexed, or tried to."""
        return self.new + self.updated + self.failed

    @property
    def is_partial(self) -> bool:
        """Whether some of the items that were tried are not in the index."""
        return self.failed > 0


@dataclass(frozen=True, slots=True)
class Own:
    """A run's work as a part of one collection.

    Attributes:
        collection: the id that its live items have; "" where there are none.
        rows: those of the work, with items of other collections as failures.
        states: the same as values, in the same order.
    """

    work: Work
    collection: str
    rows: pa.Table
    states: tuple[ItemState, ...]


def commit(manifest: Manifest, work: Work, patience: Patience | None = None) -> Commit:
    """Commit what is news: of items, or of what is remembered of their sources; nothing new, nothing is written.

    A lost race is looked at, and what remains of the work goes into the next number: an item that the winner
    committed in the same form is dropped, and of two forms of an item the later one stays.

    Items of another collection id than the collection's are failures; so are, in a collection without any yet, those
    of another than most. Parts that were committed before are no news, whatever came after them.

    Raises:
        InputError: the parts are of another collection or too old, or a property has another type than in live rows.
        CommitConflictError: lost too many races.
        CommitUnknownError: no answer from the store; nothing was removed.
    """
    _refuse_strays(manifest, work)
    own = _own(manifest, work)
    keys = {state.key for state in own.states}
    states = manifest.states(keys)
    settled: Settled | None = None
    items: FileInfo | None = None
    now: datetime | None = None  # by the store's clock, after a pause that may have been a suspended machine's
    checkpoint: Checkpoint | None = None
    for attempt in range(_ATTEMPTS):
        before, settled = settled, _settled(manifest, own, states)
        if not settled.places and not (manifest.version and is_news(manifest.sources, work.sources)):
            return replace(_failures(own), name=manifest.name, version=manifest.version, sha256=manifest.sha256)
        _refuse_other_types(manifest, own, settled)
        if items is None or settled != before:
            items = _write_items(manifest, own.rows, settled, work.written_at)
        stored_at = manifest.store.modified(items.path)
        _refuse_old(work, items, now or stored_at)
        if checkpoint is None or checkpoint.version <= manifest.base:
            checkpoint = manifest.with_checkpoint()
        entry = _entry(manifest, own, settled, added=_added(own, settled, items, checkpoint))
        try:
            done = manifest.log.append(replace(entry, stored_at=iso(stored_at)))
        except CommitConflictError:
            (patience or Patience()).pause(min(attempt, 4))
            now = manifest.store.now()
            seen, manifest = manifest.version, manifest.newest()
            states = advance(states, manifest.changes_since(seen, keys))
            own = own if manifest.collection in ("", own.collection) else _own(manifest, work)
            continue
        if checkpoint is not None:
            write_hint(manifest.store, manifest.log.folder, done.version)
        counts = done.counts
        return replace(
            _failures(own),
            name=manifest.name,
            version=done.version,
            sha256=done.sha256,
            new=counts.new,
            updated=counts.updated,
            deleted=counts.deleted,
            chips=counts.chips,
        )
    raise CommitConflictError(f"collection {manifest.name!r}: lost {_ATTEMPTS} races for the next version; run again")


def _refuse_strays(manifest: Manifest, work: Work) -> None:
    folder = f"{manifest.log.folder}/data/"
    strays = sorted(path for path in work.files if not path.startswith(folder))
    if strays:
        raise InputError(
            f"collection {manifest.name!r}: the parts were made for another collection, they name {strays[0]!r}: "
            "commit them to the one that they were made for"
        )


def _own(manifest: Manifest, work: Work) -> Own:
    """The work as a part of its collection: rows of another collection id are failures."""
    done = [state for state in states_of(work.rows) if state.op not in _WITHOUT_CHIPS]
    collection = manifest.collection or usual_collection(_collection_of(state) for state in done)
    rows = work.rows
    if any(_collection_of(state) != collection for state in done):
        rows = _with_others_failed(rows, collection, manifest.name)
    return Own(work, collection, rows, tuple(states_of(rows)))


def _settled(manifest: Manifest, own: Own, states: States) -> Settled:
    work = own.work
    committed = manifest.data_files(work.files)
    return settle(own.states, states, work.read_version, is_rebuilt=work.is_rebuilt, committed=committed)


def _collection_of(state: ItemState) -> str:
    return state.key.removesuffix(f"/{state.item_id}")


def _with_others_failed(rows: pa.Table, collection: str, name: str) -> pa.Table:
    found = list(map(_collection_of, states_of(rows)))
    brings_none = pc.is_in(rows["op"], pa.array(_WITHOUT_CHIPS))
    is_own = pc.or_(brings_none, pa.array([one == collection for one in found], pa.bool_()))
    reasons = [
        f"item {item_id}: {other_collection(one, collection, name)}"
        for item_id, one in zip(rows["item_id"].to_pylist(), found, strict=True)
    ]
    nothing = dict.fromkeys(("scene", "file", "row_group", "datetime", "bbox"))
    why = {"stage": "item", "reason": reasons, "is_transient": False, "cause": "collection", "attempts": 1}
    failure = {**nothing, **why, "op": "failed", "rows": 0}
    for column, value in failure.items():
        kind = ITEM_SCHEMA.field(column)
        other = pa.array(value if isinstance(value, list) else [value] * len(rows), kind.type)
        chosen = pc.if_else(is_own, rows[column], other)
        rows = rows.set_column(ITEM_SCHEMA.get_field_index(column), kind, chosen)
    return rows.combine_chunks()


def _paths(own: Own, settled: Settled) -> list[str]:
    """Data files of the rows that are news."""
    paths = pc.unique(own.rows["file"].take(pa.array(settled.places, pa.int64()))).drop_null().to_pylist()
    strays = [path for path in paths if path not in own.work.files]
    if strays:
        raise CorruptWarehouseError(f"no part names data file {strays[0]!r}")
    return sorted(paths)


def _refuse_other_types(manifest: Manifest, own: Own, settled: Settled) -> None:
    """A version whose live rows have two types for one property could not be read, nor merged."""
    columns = union(own.work.files[path].columns for path in _paths(own, settled))
    if not any(clash(known, columns) for known in manifest.column_sets()):
        return
    replaced = {own.states[place].identity for place in settled.places}
    live = {state.file for state in states_of(manifest.states().live) if state.file and state.identity not in replaced}
    for _, info in sorted(manifest.data_files(live).items()):
        if found := clash(info.columns, columns):
            name, before, after = found
            raise InputError(
                f"collection {manifest.name!r}: property {name!r} is {before} in what is indexed and {after} in these "
                f"items: make it {before} in the profile, or index them under another name"
            )


def _decided(settled: Settled, failed_at: datetime | None) -> Iterator[tuple[str, Sequence[object]]]:
    """Columns of item rows that only a commit can fill; `failed_at`: when the run was, by the store's clock."""
    is_failed = [op == "failed" for op in settled.ops]
    yield "op", settled.ops
    yield "was", settled.was
    yield "last_failed", [failed_at if failed else None for failed in is_failed]
    yield (
        "first_failed",
        [(since or failed_at) if failed else None for since, failed in zip(settled.since, is_failed, strict=True)],
    )


def _write_items(manifest: Manifest, rows: pa.Table, settled: Settled, failed_at: datetime | None) -> FileInfo:
    table = rows.take(pa.array(settled.places, pa.int64()))
    for name, values in _decided(settled, failed_at):
        field = ITEM_SCHEMA.field(name)
        table = table.set_column(ITEM_SCHEMA.get_field_index(name), field, pa.array(values, field.type))
    path = f"collections/{manifest.name}/items/{uuid.uuid4()}.parquet"
    return write_items(manifest.store, FileInfo(path, "items", 0, "", 0, collection=manifest.name), table)


def _refuse_old(work: Work, items: FileInfo, now: datetime) -> None:
    """Both times are the store's, so nobody's clock has to be right."""
    if work.written_at is None:
        return
    age = now - work.written_at
    if age > MAX_AGE:
        raise InputError(
            f"{items.path}: its data was written {age.total_seconds() / 3600:.1f} hours ago, and a commit must follow "
            f"within {MAX_AGE.total_seconds() / 3600:.0f}: index these items again"
        )


def _added(own: Own, settled: Settled, items: FileInfo, checkpoint: Checkpoint | None) -> tuple[FileInfo, ...]:
    files = (*(own.work.files[path] for path in _paths(own, settled)), items)
    return files if checkpoint is None else (*files, checkpoint.items, checkpoint.files)


def _entry(manifest: Manifest, own: Own, settled: Settled, *, added: tuple[FileInfo, ...]) -> LogEntry:
    head, version = manifest.head, manifest.version + 1
    before = head.totals if head else Totals()
    has_checkpoint = any(info.role == "checkpoints" for info in added)
    return LogEntry(
        version=version,
        prev_sha256=manifest.sha256,
        txn=str(uuid.uuid4()),
        operation="append",
        read_version=own.work.read_version,
        added=added,
        collection=own.collection,
        sources=followed(manifest.sources, own.work.sources),
        counts=Counts(
            new=settled.ops.count("add"),
            updated=settled.ops.count("update"),
            deleted=settled.ops.count("add") - settled.change.items,  # some deletes only take a failure off the list
            failed=settled.ops.count("failed"),
            chips=settled.chips,
        ),
        totals=Totals(before.items + settled.change.items, before.chips + settled.change.chips),
        schema_version=SCHEMA_VERSION,
        checkpoint=version if has_checkpoint else head.checkpoint if head else 0,
        expired=head.expired if head else 0,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        writer=writer(),
    )


@cache
def _software() -> str:
    return f"stacchip-core {installed_version('stacchip-core')}"


def writer() -> dict[str, object]:
    """Who writes; for people who read the log."""
    return {"host": platform.node(), "pid": os.getpid(), "software": _software()}


def _failures(own: Own) -> Commit:
    """What is to be told of a run's failures, whether they are news or were known."""
    failed = [state for state in own.states if state.op == "failed"]
    causes = Counter(state.cause or "other" for state in failed)
    again = sum((state.attempts or 1) > 1 for state in failed)
    return Commit("", 0, "", failed=len(failed), failed_again=again, causes=tuple(sorted(causes.items())))
