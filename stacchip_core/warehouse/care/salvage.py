"""Items of damaged data files: those that can still be read move to new files, the others are released."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stacchip_core.errors import CommitConflictError, CorruptWarehouseError
from stacchip_core.index.schema import conform
from stacchip_core.warehouse.care.holds import COMBINED
from stacchip_core.warehouse.care.retention import indexes
from stacchip_core.warehouse.combined.parts import parts_of, read_part_items
from stacchip_core.warehouse.commit import writer
from stacchip_core.warehouse.data import schema_of, write_data
from stacchip_core.warehouse.entry import Counts, FileInfo, LogEntry, Totals
from stacchip_core.warehouse.files import iso, naming, open_parquet
from stacchip_core.warehouse.items import IDENTITY, ITEM_SCHEMA, Identity, with_all, write_items
from stacchip_core.warehouse.log import Log, Patience
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store

_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class Place:
    """Where the chips of an item can be read: `rows` of them, `offset` rows into a row group."""

    info: FileInfo
    row_group: int
    offset: int
    rows: int


@dataclass(frozen=True, slots=True)
class Affected:
    """Live items of damaged data files.

    Attributes:
        kept: those whose chips can still be read, every byte of them proven; light rows, by identity.
        lost: the others.
        places: where those that are kept can be read, by identity: in the file itself, or in a combined index.
    """

    manifest: Manifest
    kept: pa.Table
    lost: pa.Table
    places: Mapping[Identity, Place]


def affected(store: Store, name: str, damaged: Collection[str]) -> Affected:
    """The live items of damaged data files in the newest version of a collection."""
    manifest = Manifest.load(store, name)
    live = manifest.states().live
    live = live.filter(pc.is_in(live["file"], pa.array(sorted(damaged), pa.string()))).combine_chunks()
    places = _own_places(store, manifest, live)
    places |= _combined_places(store, name, live.filter(_is_among(live, places, negate=True)))
    is_kept = _is_among(live, places)
    return Affected(manifest, live.filter(is_kept), live.filter(pc.invert(is_kept)), places)


def salvage(store: Store, name: str, damaged: Collection[str], patience: Patience | None = None) -> Affected:
    """Commit a version of a collection that needs none of the damaged data files.

    What can be read, there or in a combined index, is never released: its rows move to new files. The other items are
    deleted, so that the next indexing run takes them for new.

    Raises:
        CommitConflictError: lost too many races.
        CommitUnknownError: nobody answered; nothing was removed.
    """
    for attempt in range(_ATTEMPTS):
        found = affected(store, name, damaged)
        if not len(found.kept) and not len(found.lost):
            return found
        try:
            found.manifest.log.append(_entry(store, found, _moved(store, found)))
        except CommitConflictError:
            (patience or Patience()).pause(min(attempt, 4))
            continue
        return found
    raise CommitConflictError(f"collection {name!r}: lost {_ATTEMPTS} races for the next version; run again")


def _identities(rows: pa.Table) -> list[Identity]:
    columns = (rows[name].to_pylist() for name in IDENTITY)
    return [Identity(*one) for one in zip(*columns, strict=True)]  # items, not chips


def _is_among(rows: pa.Table, places: Mapping[Identity, Place], *, negate: bool = False) -> pa.Array:
    return pa.array([(one in places) != negate for one in _identities(rows)], pa.bool_())


def _own_places(store: Store, manifest: Manifest, live: pa.Table) -> dict[Identity, Place]:
    """Items whose row groups of the damaged files agree with the log in all bytes."""
    infos = manifest.data_files(sorted(set(live["file"].to_pylist())))
    columns = (live[name].to_pylist() for name in ("file", "row_group", "rows"))
    rows = zip(_identities(live), *columns, strict=True)
    found = {one: Place(infos[path], group, 0, count) for one, path, group, count in rows if path in infos}
    return _readable(store, found)


def _combined_places(store: Store, name: str, live: pa.Table) -> dict[Identity, Place]:
    """Items that a combined index holds in the same form, and whose rows can be read there."""
    found: dict[Identity, Place] = {}
    columns = ["fingerprint", "recipe", "rows"]
    wanted = dict(zip(_identities(live), live.select(columns).to_pylist(), strict=True))
    for folder in indexes(store, (COMBINED,)) if wanted else ():
        head = Log(store, folder).newest()
        for part in parts_of(head) if head else ():
            if part.items.collection != name or part.data is None:
                continue
            with suppress(CorruptWarehouseError):
                keys = {one.key for one in wanted}
                rows = read_part_items(store, part.items, [*IDENTITY, *columns, "row_group", "offset"], keys)
                for one, row in zip(_identities(rows), rows.to_pylist(), strict=True):
                    if wanted.get(one) == {column: row[column] for column in columns}:
                        found[one] = Place(part.data, row["row_group"], row["offset"], row["rows"])
    return _readable(store, found)


def _readable(store: Store, places: Mapping[Identity, Place]) -> dict[Identity, Place]:
    """Places that can be read, every byte of them proven."""
    by_file: dict[FileInfo, set[int]] = defaultdict(set)
    for place in places.values():
        by_file[place.info].add(place.row_group)
    whole = {(info.path, group) for info, groups in by_file.items() for group in _whole_groups(store, info, groups)}
    return {one: place for one, place in places.items() if (place.info.path, place.row_group) in whole}


def _whole_groups(store: Store, info: FileInfo, groups: Iterable[int]) -> list[int]:
    try:
        with open_parquet(store, info) as file:
            return [group for group in groups if _is_whole(store, info, file, group)]
    except CorruptWarehouseError:
        return []


def _is_whole(store: Store, info: FileInfo, file: pq.ParquetFile, group: int) -> bool:
    try:
        with naming(store, info.path):
            file.read_row_group(group)
    except CorruptWarehouseError:
        return False
    return True


def _moved(store: Store, found: Affected) -> dict[str, tuple[FileInfo, list[Identity]]]:
    """A new data file for each damaged one, and the items that its row groups are of."""
    by_path: dict[str, list[Identity]] = defaultdict(list)
    for one, path in zip(_identities(found.kept), found.kept["file"].to_pylist(), strict=True):
        by_path[path].append(one)
    infos = found.manifest.data_files(sorted(by_path))
    return {path: (_move(store, infos[path], [found.places[one] for one in own]), own) for path, own in by_path.items()}


def _move(store: Store, info: FileInfo, places: Sequence[Place]) -> FileInfo:
    """Write the rows of items, a row group each, as a file that is otherwise like `info`."""
    schema = schema_of(info.columns)

    def tables() -> Iterator[pa.Table]:
        for place in places:
            with open_parquet(store, place.info) as file:
                rows = file.read_row_group(place.row_group).slice(place.offset, place.rows)
            yield conform(rows, schema)

    folder = info.path.rpartition("/")[0]
    return write_data(store, replace(info, path=f"{folder}/{uuid.uuid4()}-0.parquet"), tables())


def _rows(found: Affected, moved: Mapping[str, tuple[FileInfo, list[Identity]]]) -> pa.Table:
    """What becomes of the items: updates that point to the new files, and deletes."""
    kept = found.manifest.rows_of(found.kept, ITEM_SCHEMA.names)
    places = {one: (info.path, number) for info, own in moved.values() for number, one in enumerate(own)}
    to = [places[one] for one in _identities(kept)]
    kept = _with(kept, {"op": "update", "file": [path for path, _ in to], "row_group": [place for _, place in to]})
    reasons = [f"data file {path} is damaged" for path in found.lost["file"].to_pylist()]
    nothing = dict.fromkeys(("stage", "is_transient", "file", "row_group"))
    lost = _with(with_all(found.lost), {**nothing, "op": "delete", "rows": 0, "reason": reasons})
    rows = pa.concat_tables([kept, lost])
    return rows.set_column(ITEM_SCHEMA.get_field_index("was"), ITEM_SCHEMA.field("was"), rows["datetime"])


def _with(rows: pa.Table, values: Mapping[str, object]) -> pa.Table:
    for name, value in values.items():
        field = ITEM_SCHEMA.field(name)
        column = pa.array(value if isinstance(value, list) else [value] * len(rows), field.type)
        rows = rows.set_column(ITEM_SCHEMA.get_field_index(name), field, column)
    return rows


def _entry(store: Store, found: Affected, moved: Mapping[str, tuple[FileInfo, list[Identity]]]) -> LogEntry:
    """The next entry of the collection."""
    head = found.manifest.head
    if head is None:
        raise CorruptWarehouseError(f"collection {found.manifest.name!r} has no version")
    path = f"collections/{found.manifest.name}/items/{uuid.uuid4()}.parquet"
    draft = FileInfo(path, "items", 0, "", 0, collection=found.manifest.name)
    items = write_items(store, draft, _rows(found, moved))
    return replace(
        head.successor(writer()),
        added=(*(info for info, _ in moved.values()), items),
        counts=Counts(updated=len(found.kept), deleted=len(found.lost), chips=_chips(found.kept)),
        totals=Totals(head.totals.items - len(found.lost), head.totals.chips - _chips(found.lost)),
        stored_at=iso(store.modified(items.path)),
    )


def _chips(rows: pa.Table) -> int:
    return pc.sum(rows["rows"]).as_py() or 0
