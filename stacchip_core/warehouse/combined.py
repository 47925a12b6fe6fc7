"""Combined indexes: collections merged into versions that list all their files and hold no dead row."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stacchip_core.errors import CommitConflictError, CorruptWarehouseError, InputError
from stacchip_core.index.schema import SCHEMA_VERSION, conform
from stacchip_core.warehouse.commit import writer
from stacchip_core.warehouse.data import Columns, retyped, schema_of, union, write_data
from stacchip_core.warehouse.entry import Counts, FileInfo, LogEntry, Totals, canonical
from stacchip_core.warehouse.files import open_parquet, read_whole, time_range
from stacchip_core.warehouse.items import IDENTITY, ITEM_SCHEMA, bounds_of, write_slices
from stacchip_core.warehouse.log import Log, Patience
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.order import hilbert_order, row_groups
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.version import CombinedVersion

# Row groups of a file are as equal as whole items allow, so that all but those of small files hold 47 500 rows or more,
# and 100 000 at most unless an item alone has more than 5 000.
_ROW_GROUP_ROWS = 95_000
_WHOLE_BYTES = 256 * 2**20  # source files of a month up to this are fetched whole, each in one request, and proven
_SLICE_ROWS = 4096  # items whose JSON is in memory at a time: some 120 MB; a multiple of the file's row groups
_ATTEMPTS = 100


@dataclass(frozen=True)
class Month:
    """What a combined index holds of one collection and month.

    Attributes:
        manifest: the collection, at the version that is merged.
        month: "YYYY-MM".
        live: its live item rows, light columns and `version`.
        content: hash of which items these are, in which form, under which recipe.
    """

    manifest: Manifest
    month: str
    live: pa.Table
    content: str

    @property
    def place(self) -> tuple[str, str]:
        """Collection name and month."""
        return self.manifest.name, self.month

    def sources(self) -> list[FileInfo]:
        """Data files of the collection that hold its rows, by path.

        Raises:
            CorruptWarehouseError: item rows name a file that the log does not.
        """
        known = self.manifest.data_files()
        paths = sorted(pc.unique(self.live["file"].drop_null()).to_pylist())
        for path in paths:
            if path not in known:
                raise CorruptWarehouseError(
                    f"items of collection {self.manifest.name!r} name {path!r}, the log does not"
                )
        return [known[path] for path in paths]


Made = dict[tuple[str, str, str, Columns], tuple[FileInfo, ...]]


def merge(store: Store, name: str, collections: Sequence[str], patience: Patience | None = None) -> CombinedVersion:
    """Make the next version of a combined index; where nothing changed, the present one is returned.

    A file holds one collection and one month: those whose live items are the same are listed again, the others are
    written anew, one month in memory at a time. A lost race starts again from the winner's version; what was written
    is used again.

    Raises:
        InputError: no collections, two of one collection id, or a property of two types.
        CommitConflictError: lost too many races.
        CommitUnknownError: no answer from the store; nothing was removed.
    """
    names = tuple(sorted(set(collections)))
    if not names:
        raise InputError(f"combined index {name!r}: name at least one collection to merge")
    log, made = Log(store, f"combined/{name}"), Made()
    for attempt in range(_ATTEMPTS):
        head = log.newest()  # before the collections: whoever commits after this makes us look at both again
        manifests = [Manifest.load(store, collection) for collection in names]
        _check_distinct(name, manifests)
        months = [month for manifest in manifests for month in months_of(manifest)]
        columns = _columns(head, months)
        if head is not None and _is_current(head, names, months, columns):
            return CombinedVersion(store, name, head)
        files = _files(store, name, head, months, columns=columns, made=made)
        try:
            return CombinedVersion(store, name, log.append(_entry(head, manifests, files)))
        except CommitConflictError:
            (patience or Patience()).pause(min(attempt, 4))
    raise CommitConflictError(f"combined index {name!r}: lost {_ATTEMPTS} races for the next version; run again")


def months_of(manifest: Manifest) -> list[Month]:
    """The live items of a collection by month."""
    live = manifest.states().live
    month = live["datetime"].to_numpy().astype("datetime64[M]").astype(str)
    return [
        Month(manifest, str(one), own, content_of(own))
        for one in np.unique(month)
        for own in [live.filter(pa.array(month == one))]
    ]


def content_of(live: pa.Table) -> str:
    """Hash of the items of a file: which, in which form, under which recipe; in the order of their identity."""
    names = [*IDENTITY, "fingerprint", "recipe"]
    ordered = live.select(names).sort_by([(name, "ascending") for name in IDENTITY])
    digest = hashlib.sha256()
    for row in zip(*(ordered[name].to_pylist() for name in names), strict=True):  # items, not chips
        digest.update(canonical(row) + b"\n")
    return digest.hexdigest()


def _check_distinct(name: str, manifests: Sequence[Manifest]) -> None:
    by_id: dict[str, str] = {}
    for manifest in manifests:
        if not manifest.collection:  # nothing but failures so far
            continue
        other = by_id.setdefault(manifest.collection, manifest.name)
        if other != manifest.name:
            raise InputError(
                f"combined index {name!r}: {other!r} and {manifest.name!r} both hold items of {manifest.collection!r}, "
                "so chip ids could mean two chips: merge them into two indexes"
            )


def _columns(head: LogEntry | None, months: Iterable[Month]) -> Columns:
    """Carried properties of the next version: those of the present one, then what is new.

    They only grow, so that a collection that leaves costs nothing. Their types are those of the live rows: files whose
    rows are all dead, as after a change of type, don't count.

    Raises:
        InputError: live rows of two types.
    """
    present = head.files("data")[0].columns if head and head.files("data") else ()
    return retyped(present, union(info.columns for month in months for info in month.sources()))


def _is_current(head: LogEntry, names: Sequence[str], months: Sequence[Month], columns: Columns) -> bool:
    is_same_set = [source["collection"] for source in head.sources] == list(names)
    held = {(info.collection, info.month): info.content for info in head.files("items")}
    has_columns = all(info.columns == columns for info in head.files("data"))
    return is_same_set and has_columns and held == {month.place: month.content for month in months}


def _files(
    store: Store, name: str, head: LogEntry | None, months: Sequence[Month], *, columns: Columns, made: Made
) -> list[FileInfo]:
    """All files of the next version: those of the present one whose content is the same, and new ones."""
    held: dict[tuple[str, str], tuple[FileInfo, ...]] = {}
    for info in (*head.kept, *head.added) if head else ():
        held[info.collection, str(info.month)] = (*held.get((info.collection, str(info.month)), ()), info)
    txn, files = str(uuid.uuid4()), list[FileInfo]()
    for number, month in enumerate(months):
        key = (*month.place, month.content, columns)
        present = held.get(month.place, ())
        if all(i.content == month.content and (i.role != "data" or i.columns == columns) for i in present) and present:
            made[key] = present
        if key not in made:
            made[key] = write_month(store, f"combined/{name}", f"{txn}/part-{number}", month, columns)
        files.extend(made[key])
    return files


def write_month(store: Store, folder: str, stem: str, month: Month, columns: Columns) -> tuple[FileInfo, ...]:
    """Write the data file (where there are chips) and the items file of a month."""
    live = in_hilbert_order(month.live)
    live = live.append_column("group", pa.array(row_groups(live["rows"].to_numpy(), _ROW_GROUP_ROWS), pa.int32()))
    start, end = time_range(live["datetime"])
    draft = FileInfo(
        f"{folder}/data/{stem}.parquet",
        "data",
        0,
        "",
        0,
        bbox=bounds_of(live),
        start=start,
        end=end,
        collection=month.manifest.name,
        month=month.month,
        columns=columns,
        content=month.content,
        collection_id=month.manifest.collection,
    )
    with_chips = live.filter(pc.greater(live["rows"], 0))
    chips = _chips(month, with_chips, schema_of(columns))
    data = [write_data(store, draft, chips)] if len(with_chips) else []
    items = replace(draft, path=f"{folder}/items/{stem}.parquet", role="items", columns=())
    return (*data, _write_items(store, items, month, live, file=draft.path))


def in_hilbert_order(live: pa.Table) -> pa.Table:
    """Item rows by their centre along a Hilbert curve, then by identity."""
    boxes = live["bbox"].combine_chunks()
    sides = {side: boxes.field(side).to_numpy(zero_copy_only=False) for side in ("xmin", "ymin", "xmax", "ymax")}
    lon, lat = (sides["xmin"] + sides["xmax"]) / 2, (sides["ymin"] + sides["ymax"]) / 2
    with_place = live.append_column("place", pa.array(hilbert_order(lon, lat)))
    return with_place.sort_by([(name, "ascending") for name in ("place", *IDENTITY)]).drop_columns(["place"])


def _chips(month: Month, live: pa.Table, schema: pa.Schema) -> Iterator[pa.Table]:
    """Chip rows of items, in their order: a table for each of their row groups, one in memory at a time.

    The bytes of the source files are kept, not the opened files: footers of many small row groups are larger.
    """
    store, known = month.manifest.store, {info.path: info for info in month.sources()}
    is_small = sum(info.size for info in known.values()) <= _WHOLE_BYTES
    bodies = {path: read_whole(store, info) for path, info in known.items() if is_small}
    for group in pc.unique(live["group"]).to_pylist():
        own = live.filter(pc.equal(live["group"], group))
        in_file_order = own.append_column("place", pa.array(np.arange(len(own)))).sort_by(
            [("file", "ascending"), ("place", "ascending")]
        )
        tables = []
        for path in pc.unique(in_file_order["file"]).to_pylist():
            wanted = in_file_order.filter(pc.equal(in_file_order["file"], path))
            with open_parquet(store, known[path], bodies.get(path)) as file:
                found = _read_items_of(file, path, wanted)
            tables.append(conform(found, schema))
        yield _in_order(pa.concat_tables(tables).combine_chunks(), in_file_order)


def _read_items_of(file: pq.ParquetFile, path: str, items: pa.Table) -> pa.Table:
    """Chip rows of items of one file, in their order."""
    columns = [items[name].to_pylist() for name in ("row_group", "rows", "key")]
    for group, rows, key in zip(*columns, strict=True):  # items, not chips
        found = file.metadata.row_group(group).num_rows if group < file.num_row_groups else 0
        if found != rows:
            raise CorruptWarehouseError(
                f"{path}: row group {group} holds {found} chips, the manifest says {rows} for item {key}"
            )
    return file.read_row_groups(columns[0])


def _in_order(chips: pa.Table, items: pa.Table) -> pa.Table:
    """Chip rows of items, moved so that their items come by `place`."""
    rows, place = items["rows"].to_numpy(), items["place"].to_numpy()
    by_place = np.argsort(place)
    starts, counts = (np.cumsum(rows) - rows)[by_place], rows[by_place]
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return chips.take(pa.array(np.repeat(starts, counts) + within))


def _write_items(store: Store, draft: FileInfo, month: Month, placed: pa.Table, *, file: str) -> FileInfo:
    """The items of a month, with their JSON, pointing into its data file."""
    ordered = placed.sort_by([(name, "ascending") for name in IDENTITY])
    starts = range(0, len(ordered), _SLICE_ROWS)
    slices = (_item_rows(month.manifest, ordered.slice(start, _SLICE_ROWS), file) for start in starts)
    return write_slices(store, draft, ordered, slices)


def _item_rows(manifest: Manifest, placed: pa.Table, file: str) -> pa.Table:
    """Whole rows of items, in the order of their identity, pointing into `file`."""
    rows = manifest.rows_of(placed, ITEM_SCHEMA.names)
    has_chips = pa.array(placed["rows"].to_numpy() > 0)
    values = {
        "op": pa.repeat(pa.scalar("add"), len(rows)),
        "file": pc.if_else(has_chips, file, pa.scalar(None, pa.string())),
        "row_group": pc.if_else(has_chips, placed["group"], pa.scalar(None, pa.int32())),
    }
    for name, value in values.items():
        rows = rows.set_column(ITEM_SCHEMA.get_field_index(name), ITEM_SCHEMA.field(name), value)
    return rows


def _entry(head: LogEntry | None, manifests: Sequence[Manifest], files: Sequence[FileInfo]) -> LogEntry:
    before = {info.path for info in (*head.kept, *head.added)} if head else set[str]()
    added = tuple(info for info in files if info.path not in before)
    return LogEntry(
        version=head.version + 1 if head else 1,
        prev_sha256=head.sha256 if head else "",
        txn=str(uuid.uuid4()),
        operation="merge",
        read_version=head.version if head else 0,
        added=added,
        kept=tuple(info for info in files if info.path in before),
        removed=tuple(sorted(before - {info.path for info in files})),
        sources=tuple({"collection": m.name, "version": m.version, "sha256": m.sha256} for m in manifests),
        counts=Counts(chips=_rows(added, "data")),
        totals=Totals(items=_rows(files, "items"), chips=_rows(files, "data")),
        schema_version=SCHEMA_VERSION,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        writer=writer(),
    )


def _rows(files: Iterable[FileInfo], role: str) -> int:
    return sum(info.rows for info in files if info.role == role)
