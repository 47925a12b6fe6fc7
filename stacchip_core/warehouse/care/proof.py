"""Deep proofs: bytes against the log, rows against items, checkpoints and combined indexes against their origin."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stacchip_core.errors import CorruptWarehouseError, ObjectNotFoundError, VersionNotFoundError
from stacchip_core.warehouse.care.holds import COLLECTIONS, COMBINED
from stacchip_core.warehouse.care.problems import Problem, todo
from stacchip_core.warehouse.care.retention import History
from stacchip_core.warehouse.checkpoint import Checkpoint
from stacchip_core.warehouse.combined.parts import read_part_items
from stacchip_core.warehouse.data import schema_of
from stacchip_core.warehouse.entry import FileInfo, LogEntry
from stacchip_core.warehouse.files import open_parquet
from stacchip_core.warehouse.items import IDENTITY, LIGHT, empty_rows, fold, read_items, stamped
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store

logger = logging.getLogger(__name__)

_THREADS = 4
_WHOLE_BYTES = 32 * 2**20  # files up to this are fetched once and looked at in memory; larger ones are read twice
_RANGE_BYTES = 8 * 2**20
_TOLD_EVERY = 500
_PLACE = ("file", "row_group", "offset", "rows")
_POINTER = (*IDENTITY, "item_id", *_PLACE)


def damaged_files(store: Store, infos: Sequence[FileInfo]) -> Iterator[tuple[FileInfo, str]]:
    """Files that are not byte for byte what the log says, or can't be decoded; and what is wrong with each."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for number, what in enumerate(pool.map(lambda info: _damage(store, info), infos), start=1):
            if number % _TOLD_EVERY == 0 or number == len(infos):
                logger.info("verify of %s: %d of %d files read", store.root, number, len(infos))
            if what:
                yield infos[number - 1], what


def _damage(store: Store, info: FileInfo) -> str:
    try:
        body = store.read(info.path) if info.size <= _WHOLE_BYTES else None
        found = _sha256(store, info) if body is None else hashlib.sha256(body).hexdigest()
        if found != info.sha256:
            return f"its bytes were changed: sha256 {found[:12]}, the log says {info.sha256[:12]}"
        with open_parquet(store, info, body) as file:
            schema = file.schema_arrow.remove_metadata()
            if info.role == "data" and not schema.equals(schema_of(info.columns)):
                return "its columns are not those that the log says"
            for group in range(file.num_row_groups):
                file.read_row_group(group)
    except (ObjectNotFoundError, CorruptWarehouseError) as err:
        return str(err)
    return ""


def _sha256(store: Store, info: FileInfo) -> str:
    digest = hashlib.sha256()
    for start in range(0, info.size, _RANGE_BYTES):
        digest.update(store.read_range(info.path, start, min(start + _RANGE_BYTES, info.size)))
    return digest.hexdigest()


def strange_rows(store: Store, history: History, sound: Mapping[str, FileInfo]) -> Iterator[Problem]:
    """Data files whose rows are not those of the items that point to them.

    In a combined index every row belongs to an item; in a collection, a whole row group belongs to one or to none.

    Args:
        store: where they are.
        history: of the index.
        sound: its files, without those that are known to be damaged.
    """
    read = read_part_items if history.folder.startswith(COMBINED) else read_items
    pointers = _by_file([read(store, info, _POINTER) for info in sound.values() if info.role == "items"])
    is_whole = history.folder.startswith(COMBINED)
    listed = [info for version in history.retained for info in history.entries[version - 1].files("items")]
    hidden = {(info.collection, info.month) for info in listed if is_whole and info.path not in sound}
    data = [info for info in sound.values() if info.role == "data"]
    infos = [info for info in data if (info.collection, info.month) not in hidden]

    def look(info: FileInfo) -> str:
        return _strange(store, info, pointers.get(info.path), is_whole=is_whole)

    with ThreadPoolExecutor(_THREADS) as pool:
        for number, (info, what) in enumerate(zip(infos, pool.map(look, infos), strict=True), start=1):
            _tell(store, history, number, len(infos), "files compared with their items")
            if what:
                yield Problem("rows", info.path, what, todo("rows"))


def _tell(store: Store, history: History, number: int, count: int, what: str) -> None:
    """Say now and then how far work is that takes long."""
    if number % _TOLD_EVERY == 0 or number == count:
        logger.info("verify of %s: %s: %d of %d %s", store.root, history.folder, number, count, what)


def _by_file(tables: Sequence[pa.Table]) -> dict[str, pa.Table]:
    """Where item rows say that their chips are, each place once, by data file and in the order of the rows there."""
    rows = pa.concat_tables([empty_rows(_POINTER), *tables])
    rows = rows.filter(pc.and_(pc.is_valid(rows["file"]), pc.greater(rows["rows"], 0)))
    rows = rows.set_column(rows.schema.get_field_index("offset"), "offset", pc.fill_null(rows["offset"], 0))
    rows = rows.group_by(list(_POINTER)).aggregate([]).sort_by([(name, "ascending") for name in _PLACE])
    paths, starts = np.unique(np.array(rows["file"].to_pylist(), dtype=object), return_index=True)
    cuts = [*starts.tolist(), len(rows)]
    return {str(path): rows.slice(a, b - a) for path, (a, b) in zip(paths, pairwise(cuts), strict=True)}


def _strange(store: Store, info: FileInfo, own: pa.Table | None, *, is_whole: bool) -> str:
    own = empty_rows(_POINTER) if own is None else own
    with open_parquet(store, info) as file:
        count = file.num_row_groups
        if len(own) and pc.max(own["row_group"]).as_py() >= count:
            return f"items point to row group {pc.max(own['row_group']).as_py()}, it has {count}"
        for group in range(count):
            items = own.filter(pc.equal(own["row_group"], group))
            if not len(items) and not is_whole:
                continue
            rows = file.read_row_group(group, columns=["collection", "item_id", "size_px"])
            if what := _strange_group(rows, items):
                return f"row group {group}: {what}"
    return ""


def _strange_group(rows: pa.Table, items: pa.Table) -> str:
    counts, offsets = items["rows"].to_numpy(), items["offset"].to_numpy()
    if counts.sum() != len(rows) or not np.array_equal(offsets, np.cumsum(counts) - counts):
        return f"{len(rows)} rows, items say that they have {int(counts.sum())} of them, one after the other"
    keys, ids = items["key"].to_pylist(), items["item_id"].to_pylist()
    owners = {
        "item_id": ids,
        "collection": [key.removesuffix(f"/{one}") for key, one in zip(keys, ids, strict=True)],
        "size_px": items["size_px"].to_pylist(),
    }
    for name, values in owners.items():
        expected = pa.array(values, rows.schema.field(name).type).take(
            pa.array(np.repeat(np.arange(len(items)), counts))
        )
        if not rows[name].combine_chunks().equals(expected):
            return f"rows have another {name} than the items that point to them"
    return ""


def strange_versions(store: Store, history: History, sound: Mapping[str, FileInfo]) -> Iterator[Problem]:
    """Retained versions that hold an item twice, or whose items point to files that the version does not list."""
    if history.folder.startswith(COLLECTIONS):
        yield from _strange_collections(store, history, sound)
        return
    known: dict[str, pa.Table] = {}
    seen: set[frozenset[str]] = set()
    retained = history.retained
    for number, entry in enumerate((history.entries[version - 1] for version in retained), start=1):
        _tell(store, history, number, len(retained), "versions compared with their files")
        infos = entry.files("items")
        data = frozenset(info.path for info in entry.files("data"))
        if (paths := frozenset(info.path for info in infos) | data) in seen or not paths <= sound.keys():
            continue
        seen.add(paths)
        known |= {i.path: read_part_items(store, i, [*IDENTITY, "file"]) for i in infos if i.path not in known}
        rows = pa.concat_tables([empty_rows([*IDENTITY, "file"]), *(known[info.path] for info in infos)])
        if what := _strange_version(rows, data):
            yield Problem("rows", f"{history.folder}@{entry.version}", what, todo("rows"))


def _strange_version(rows: pa.Table, data: Collection[str]) -> str:
    counted = rows.group_by(list(IDENTITY)).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted["count_all"], 1))
    if len(twice):
        return f"item {twice['key'][0].as_py()} is in it {twice['count_all'][0].as_py()} times"
    strays = set(pc.unique(rows["file"].drop_null()).to_pylist()) ^ set(data)
    return f"its items and its list of files disagree on {min(strays)}" if strays else ""


def _strange_collections(store: Store, history: History, sound: Mapping[str, FileInfo]) -> Iterator[Problem]:
    """Versions of a collection whose live items are not those counted; the first and last of each run are looked at."""
    ends = sorted({end for run in history.runs for end in run})
    for number, version in enumerate(ends, start=1):
        _tell(store, history, number, len(ends), "versions counted")
        where, totals = f"{history.folder}@{version}", history.entries[version - 1].totals
        try:
            live = Manifest.load(store, history.name, version).states().live
        except CorruptWarehouseError as err:
            yield Problem("state", where, f"it can't be read: {err}", todo("state"))
            continue
        chips = pc.sum(live["rows"]).as_py() or 0
        if (len(live), chips) != (totals.items, totals.chips):
            what = f"{len(live)} live items with {chips} chips, the log says {totals.items} with {totals.chips}"
            yield Problem("rows", where, what, todo("rows"))


def strange_checkpoints(store: Store, history: History, sound: Mapping[str, FileInfo]) -> Iterator[Problem]:
    """Checkpoints that are not what the log before them amounts to, as far as that is still there."""
    before: Checkpoint | None = None
    for number, entry in enumerate(history.entries, start=1):
        _tell(store, history, number, len(history.entries), "entries looked at for checkpoints")
        one = Checkpoint.of(store, entry)
        if one is None or not {one.items.path, one.files.path} <= sound.keys():
            before = None if one is not None else before
            continue
        start = before.version if before else 0
        between = history.entries[start : one.version]
        infos = [(info, e.version) for e in between for info in e.files("items")]
        is_told = all(info.path in sound for info, _ in infos)
        if is_told and (what := _strange_checkpoint(store, before, one, infos) or _strange_list(one, history.entries)):
            yield Problem("checkpoint", one.items.path, what, todo("checkpoint"))
        before = one


def _strange_checkpoint(
    store: Store, before: Checkpoint | None, one: Checkpoint, infos: Iterable[tuple[FileInfo, int]]
) -> str:
    tables = [stamped(read_items(store, info, LIGHT), version) for info, version in infos]
    expected = fold([*([before.states().rows()] if before else []), *tables])
    found = one.states()
    for name in ("live", "failed", "deleted"):
        mine, theirs = getattr(expected, name), getattr(found, name)
        if not mine.equals(theirs.select(mine.schema.names)):
            return f"its {name} items are not those of the log at version {one.version}"
    return ""


def _strange_list(one: Checkpoint, entries: Sequence[LogEntry]) -> str:
    known = {info.path: info for entry in entries[: one.version] for info in entry.added}
    listed = one.listed()
    for path, text in zip(listed["path"].to_pylist(), listed["info"].to_pylist(), strict=True):  # files, not chips
        if path not in known or json.loads(text) != json.loads(json.dumps(asdict(known[path]))):
            return f"it lists {path} otherwise than the log"
    missing = set(pc.unique(one.states().live["file"].drop_null()).to_pylist()) - set(listed["path"].to_pylist())
    return f"it does not list {min(missing)}, which live items name" if missing else ""


def strange_merges(store: Store, history: History, sound: Mapping[str, FileInfo]) -> Iterator[Problem]:
    """The newest version of a combined index, where it does not hold exactly what its collections do."""
    head = history.entries[-1] if history.entries else None
    if head is None or not history.folder.startswith(COMBINED):
        return
    infos = head.files("items")
    if any(info.path not in sound for info in infos):
        return
    columns = [*IDENTITY, "fingerprint", "recipe", "rows"]
    where = f"{history.folder}@{head.version}"
    try:
        live = [
            Manifest.load(store, str(source["collection"]), int(source["version"])).states().live.select(columns)
            for source in head.sources
        ]
    except (CorruptWarehouseError, VersionNotFoundError) as err:
        yield Problem("source", where, f"a version that it is made of can't be read: {err}", todo("source"))
        return
    order = [(name, "ascending") for name in IDENTITY]
    expected = pa.concat_tables([empty_rows(columns), *live]).sort_by(order)
    found = pa.concat_tables([empty_rows(columns), *(read_part_items(store, info, columns) for info in infos)]).sort_by(
        order
    )
    if not found.equals(expected):
        what = f"{len(found)} items, and its collections have {len(expected)}, or others"
        yield Problem("rows", where, what, todo("rows"))
