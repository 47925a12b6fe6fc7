"""Which files versions need, so that they can be read, mended and merged."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse.care.holds import COMBINED
from stacchip_core.warehouse.care.retention import History
from stacchip_core.warehouse.checkpoint import Checkpoint
from stacchip_core.warehouse.entry import FileInfo, LogEntry
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store


def needed_files(store: Store, history: History, merged: Mapping[str, int]) -> dict[str, FileInfo]:
    """Files that reading any retained version takes, and the next merge, by path.

    Args:
        store: where they are.
        history: of the index.
        merged: lowest version of each collection that a combined index's newest version is made of.
    """
    if history.folder.startswith(COMBINED):
        retained = set(history.retained)
        listed = [entry for entry in history.entries if entry.version in retained]
        return {info.path: info for entry in listed for info in (*entry.kept, *entry.added)}
    found: dict[str, FileInfo] = {}
    for first, last in history.runs:
        found |= _needed_by_run(store, history, first, last)
    for entry in history.entries[merged.get(history.name, len(history.entries)) :]:
        found |= {info.path: info for info in entry.files("items")}
    return found


def merged_versions(known: Mapping[str, History]) -> dict[str, int]:
    """Lowest version of each collection that the newest version of any combined index is made of."""
    found: dict[str, int] = {}
    for history in known.values():
        if history.folder.startswith(COMBINED) and history.entries:
            for source in history.entries[-1].sources:
                name, version = str(source["collection"]), int(source["version"])
                found[name] = min(version, found.get(name, version))
    return found


def current_files(store: Store, history: History) -> frozenset[str] | None:
    """Paths of the files that the newest version takes; None where that can't be told."""
    if not history.entries:
        return frozenset()
    head = history.entries[-1]
    if history.folder.startswith(COMBINED):
        return frozenset(info.path for info in (*head.kept, *head.added))
    start = _state_version(store, history.entries[head.checkpoint - 1]) if head.checkpoint else 0
    try:
        own = _needed_by_state(store, history, head.version)
    except CorruptWarehouseError:
        return None
    later = (info.path for entry in history.entries[start:] for info in entry.files("items"))
    return frozenset((*own, *later))


def _needed_by_run(store: Store, history: History, first: int, last: int) -> dict[str, FileInfo]:
    """Files that versions `first` to `last` of a collection take.

    The checkpoint before the one that `first` is loaded from stays, so that either may be lost.
    """
    entries, span = history.entries, range(first, last + 1)
    used = {entries[version - 1].checkpoint for version in span}
    used |= {entries[one - 2].checkpoint if one > 1 else 0 for one in used if one}
    start = min(_state_version(store, entries[one - 1]) if one else 0 for one in used)
    used.discard(0)
    kept = [
        *(info for one in used for info in entries[one - 1].files("checkpoints")),
        *(info for entry in entries[start:last] for info in entry.files("items")),
        *(info for entry in entries[first - 1 : last] for info in entry.added),
    ]
    found = {info.path: info for info in kept}
    return found | _needed_by_state(store, history, first) if first > 1 else found


def _state_version(store: Store, entry: LogEntry) -> int:
    """Version whose state the checkpoint of an entry holds; 0 where the entry names none that is whole."""
    checkpoint = Checkpoint.of(store, entry)
    return checkpoint.version if checkpoint else 0


def _needed_by_state(store: Store, history: History, version: int) -> dict[str, FileInfo]:
    """Data files with live rows at a version, and the items files that hold its items' JSON."""
    states = Manifest.load(store, history.name, version).states()
    tables = [table.select(["version", "file"]) for table in (states.live, states.failed, states.deleted)]
    rows = pa.concat_tables(tables)
    known = {info.path: info for entry in history.entries[:version] for info in entry.files("data")}
    paths = pc.unique(rows["file"]).drop_null().to_pylist()
    missing = [path for path in paths if path not in known]
    if missing:
        raise CorruptWarehouseError(f"items of collection {history.name!r} name {missing[0]!r}, the log does not")
    items = [info for one in pc.unique(rows["version"]).to_pylist() for info in history.entries[one - 1].files("items")]
    return {path: known[path] for path in paths} | {info.path: info for info in items}
