"""From what a run made to the next version of a collection, whoever else is committing meanwhile."""

from __future__ import annotations

import json
import os
import platform
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import version as installed_version

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stacchip_core.errors import CommitConflictError, CorruptWarehouseError, InputError
from stacchip_core.index.schema import SCHEMA_VERSION
from stacchip_core.warehouse.entry import Counts, FileInfo, LogEntry, Totals
from stacchip_core.warehouse.files import naming
from stacchip_core.warehouse.items import (
    ITEM_SCHEMA,
    Identity,
    ItemState,
    States,
    advance,
    states_of,
    write_items,
)
from stacchip_core.warehouse.log import Patience
from stacchip_core.warehouse.manifest import Manifest, check_collection, is_older, rank
from stacchip_core.warehouse.store import Store

FILES_FOOTER = b"stacchip:files"  # footer entry of a part: the data files that its rows point to

# Vacuum removes what no version names once it is a week old; a run this old might commit files that are about to go.
MAX_AGE = timedelta(hours=24)
_ATTEMPTS = 1000  # each lost race is another writer's commit, so this many are a fault


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit did.

    Attributes:
        version: of the collection after it; the present one where there was nothing new, 0 before the first.
        new, updated: items committed.
        failed: items that failed in this run, whether that is news or was known.
        chips: rows committed.
    """

    name: str
    version: int
    sha256: str
    new: int = 0
    updated: int = 0
    failed: int = 0
    chips: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """What a run made and wants committed.

    Attributes:
        rows: item rows, all columns.
        files: the data files they point to, by path.
        written_at: when the oldest of it was written, by the store's clock.
        read_version: of the manifest that the run compared its items with.
        sources: where the items came from; goes into the log.
    """

    rows: pa.Table
    files: Mapping[str, FileInfo]
    written_at: datetime | None
    read_version: int
    sources: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """The rows of a run that are news to a manifest.

    Attributes:
        places: which rows of the run's table.
        ops: what each does: "add", "update" or "failed".
        chips: rows of chips they bring.
        change: what they do to the totals.
    """

    places: tuple[int, ...]
    ops: tuple[str, ...]
    chips: int
    change: Totals


def read_work(
    store: Store, parts: Sequence[str], *, read_version: int, sources: Iterable[Mapping[str, object]] = ()
) -> Work:
    """Gather the parts that batches have staged."""
    tables, files = [ITEM_SCHEMA.empty_table()], dict[str, FileInfo]()
    for key in parts:
        with naming(store, key):
            table = pq.read_table(pa.BufferReader(store.read(key)))
            listed = json.loads((table.schema.metadata or {})[FILES_FOOTER])
            files |= {info.path: info for info in map(FileInfo.from_json, listed)}
            tables.append(table.replace_schema_metadata(None).cast(ITEM_SCHEMA))
    return Work(
        rows=pa.concat_tables(tables).combine_chunks(),
        files=files,
        written_at=min((store.modified(key) for key in parts), default=None),
        read_version=read_version,
        sources=tuple(sources),
    )


def commit(manifest: Manifest, work: Work, patience: Patience | None = None) -> Commit:
    """Commit what is news; nothing new, nothing is written.

    A lost race is looked at, and what remains of the work goes into the next number: an item that the winner
    committed in the same form is dropped, and of two forms of an item the later one stays.

    Raises:
        InputError: the items belong to another collection id than the collection's, or the work is too old.
        CommitConflictError: lost too many races.
        CommitUnknownError: no answer from the store; nothing was removed.
    """
    mine = states_of(work.rows)
    keys = {state.key for state in mine}
    states = manifest.states(keys)
    settled: Settled | None = None
    items: FileInfo | None = None
    for attempt in range(_ATTEMPTS):
        collection = _collection_of(manifest, mine)
        before, settled = settled, settle(mine, states, work.read_version)
        if not settled.places:
            return Commit(manifest.name, manifest.version, manifest.sha256, failed=_count(mine, "failed"))
        if items is None or settled != before:
            items = _write_items(manifest, work.rows, settled)
        _refuse_old(manifest.store, work, items)
        entry = _entry(manifest, work, settled, items, collection=collection)
        try:
            done = manifest.log.append(entry)
        except CommitConflictError:
            (patience or Patience()).pause(min(attempt, 4))
            seen, manifest = manifest.version, manifest.newest()
            states = advance(states, manifest.changes(seen, keys))
            continue
        counts = done.counts
        return Commit(
            manifest.name,
            done.version,
            done.sha256,
            new=counts.new,
            updated=counts.updated,
            failed=_count(mine, "failed"),
            chips=counts.chips,
        )
    raise CommitConflictError(f"collection {manifest.name!r}: lost {_ATTEMPTS} races for the next version; run again")


def settle(mine: Sequence[ItemState], states: States, read_version: int) -> Settled:
    """Which rows are news, given what is committed by now.

    Args:
        mine: the run's rows.
        states: of the same items, at the newest version.
        read_version: the version the run compared its items with.
    """
    live = {state.identity: state for state in states_of(states.live)}
    failed = {state.identity: state for state in states_of(states.failed)}
    chosen: dict[Identity, int] = {}
    for place, state in enumerate(mine):
        before = chosen.get(state.identity)
        if before is None or rank(state) > rank(mine[before]):
            chosen[state.identity] = place
    ops = {
        place: op
        for identity, place in chosen.items()
        if (op := decide(mine[place], live.get(identity), failed.get(identity), read_version))
    }
    done = [(mine[place], live.get(mine[place].identity)) for place, op in ops.items() if op != "failed"]
    return Settled(
        places=tuple(ops),
        ops=tuple(ops.values()),
        chips=sum(after.rows for after, _ in done),
        change=Totals(
            items=sum(before is None for _, before in done),
            chips=sum(after.rows - (before.rows if before else 0) for after, before in done),
        ),
    )


def decide(mine: ItemState, live: ItemState | None, failed: ItemState | None, read_version: int) -> str | None:
    """What a row does to the state; None where it is no news.

    Which form of an item stays follows its source's `updated`, then, between two runs that overlapped, its
    fingerprint; never anybody's clock.
    """
    if live is not None and _is_same(mine, live):
        return None
    if live is not None and is_older(mine, live):
        return None
    if mine.op == "failed":
        return None if failed is not None and _is_same_failure(mine, failed) else "failed"
    if live is None:
        return "add"
    is_tie = live.version > read_version and not is_older(live, mine)
    if is_tie and mine.fingerprint < live.fingerprint:
        return None
    return "update"


def _is_same(one: ItemState, other: ItemState) -> bool:
    return (one.fingerprint, one.recipe) == (other.fingerprint, other.recipe)


def _is_same_failure(one: ItemState, other: ItemState) -> bool:
    """Whether a failure is the one already on record; what a passing one says varies."""
    is_alike = (one.stage, one.is_transient) == (other.stage, other.is_transient)
    return _is_same(one, other) and is_alike and (bool(one.is_transient) or one.reason == other.reason)


def _collection_of(manifest: Manifest, mine: Sequence[ItemState]) -> str:
    """The collection id of the work's items; that of the collection where all of them failed."""
    found = sorted({s.key.removesuffix(f"/{s.item_id}") for s in mine if s.op != "failed"})
    if len(found) > 1:
        raise InputError(
            f"collection {manifest.name!r} of the warehouse: items of several collections, {', '.join(found)}; "
            "each needs a name of its own"
        )
    for collection in found:
        check_collection(manifest, collection)
    return found[0] if found else manifest.collection


def _write_items(manifest: Manifest, rows: pa.Table, settled: Settled) -> FileInfo:
    table = rows.take(pa.array(settled.places, pa.int64()))
    place = ITEM_SCHEMA.get_field_index("op")
    table = table.set_column(place, ITEM_SCHEMA.field("op"), pa.array(settled.ops, pa.string()))
    path = f"collections/{manifest.name}/items/{uuid.uuid4()}.parquet"
    return write_items(manifest.store, FileInfo(path, "items", 0, "", 0, collection=manifest.name), table)


def _refuse_old(store: Store, work: Work, items: FileInfo) -> None:
    """Both times are the store's, so nobody's clock has to be right."""
    if work.written_at is None:
        return
    age = store.modified(items.path) - work.written_at
    if age > MAX_AGE:
        raise InputError(
            f"{items.path}: its data was written {age.total_seconds() / 3600:.1f} hours ago, and a commit must follow "
            f"within {MAX_AGE.total_seconds() / 3600:.0f}: index these items again"
        )


def _entry(manifest: Manifest, work: Work, settled: Settled, items: FileInfo, *, collection: str) -> LogEntry:
    paths = pc.unique(work.rows["file"].take(pa.array(settled.places, pa.int64()))).drop_null().to_pylist()
    strays = [path for path in paths if path not in work.files]
    if strays:
        raise CorruptWarehouseError(f"collection {manifest.name!r}: no part names data file {strays[0]!r}")
    before = manifest.head.totals if manifest.head else Totals()
    return LogEntry(
        version=manifest.version + 1,
        prev_sha256=manifest.sha256,
        txn=str(uuid.uuid4()),
        operation="append",
        read_version=work.read_version,
        added=(*(work.files[path] for path in sorted(paths)), items),
        collection=collection,
        sources=work.sources,
        counts=Counts(
            new=settled.ops.count("add"),
            updated=settled.ops.count("update"),
            failed=settled.ops.count("failed"),
            chips=settled.chips,
        ),
        totals=Totals(before.items + settled.change.items, before.chips + settled.change.chips),
        schema_version=SCHEMA_VERSION,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        writer=writer(),
    )


@cache
def _software() -> str:
    return f"stacchip-core {installed_version('stacchip-core')}"


def writer() -> dict[str, object]:
    """Who writes; for people who read the log."""
    return {"host": platform.node(), "pid": os.getpid(), "software": _software()}


def _count(states: Iterable[ItemState], op: str) -> int:
    return sum(state.op == op for state in states)
