"""A warehouse at a glance: what a person wants to see of it, from logs and file statistics alone.

What it costs is bounded, however much is indexed: so many log entries, so many footers of files, so many item rows of
the last commits, and no row of chips.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import pyarrow.compute as pc

from stacchip_core.errors import CorruptWarehouseError, ObjectNotFoundError, StacchipError
from stacchip_core.warehouse.care.holds import COLLECTIONS, COMBINED, LOCK, lock_keys
from stacchip_core.warehouse.care.retention import indexes
from stacchip_core.warehouse.entry import BBox, Counts, FileInfo, LogEntry, Totals
from stacchip_core.warehouse.files import open_parquet
from stacchip_core.warehouse.items import fold
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store

COMMITS_READ = 200  # the newest of a collection's log
MERGES_READ = 40  # the newest of a combined index's: each of its entries lists all files
FAILURE_COMMITS = 50  # the last, whose item rows tell what fails
FOOTERS_READ = 96  # of all collections together, for the map
BOXES_KEPT = 4000
DATASETS_READ = 100
CAUSES_KEPT = 20
RUNS_KEPT = 25
_READERS = 8
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class Point:
    """An index at one of its versions; `at` as its writer's clock had it."""

    version: int
    at: str
    items: int
    chips: int


@dataclass(frozen=True, slots=True)
class SourceState:
    """A collection that a combined index is made of: the version in it, and the newest there is."""

    collection: str
    version: int
    newest: int


@dataclass(frozen=True, slots=True)
class IndexState:
    """A collection or combined index as it is now.

    Attributes:
        folder: "collections/<name>" or "combined/<name>".
        collection: STAC collection id; "" of a combined index.
        files, size: data files and their bytes; None where the log does not tell live ones from dead.
        start, end: first and last datetime of its items, ISO 8601; None where it has none.
        points: its versions, oldest first, of the newest `COMMITS_READ` or `MERGES_READ`.
        sources: of a combined index.
    """

    folder: str
    collection: str
    version: int
    totals: Totals
    files: int | None
    size: int | None
    start: str | None
    end: str | None
    points: tuple[Point, ...]
    sources: tuple[SourceState, ...] = ()

    @property
    def name(self) -> str:
        """Without its kind."""
        return self.folder.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Month:
    """Chips of a collection with a datetime in one month.

    Attributes:
        items: None where only the files of the collection tell, which hold replaced rows too.
    """

    collection: str
    month: str
    chips: int
    items: int | None


@dataclass(frozen=True, slots=True)
class Cause:
    """Items of a collection that fail for one cause; `item` and `reason` are of one of them."""

    collection: str
    cause: str
    items: int
    item: str
    reason: str


@dataclass(frozen=True, slots=True)
class DatasetState:
    """A dataset, as its lock has it; while it is being made, its plan."""

    name: str
    index: str
    format: str
    chips: int
    failures: int
    shards: int
    size: int
    is_finished: bool


@dataclass(frozen=True, slots=True)
class Run:
    """A log entry: what one commit or merge did."""

    folder: str
    version: int
    operation: str
    at: str
    counts: Counts
    totals: Totals
    writer: str


@dataclass(frozen=True, slots=True)
class Summary:
    """All there is to see.

    Attributes:
        boxes: collection -> boxes around the chips of some items, degrees.
        problems: index or dataset -> why it can't be shown.
    """

    root: str
    collections: tuple[IndexState, ...]
    combined: tuple[IndexState, ...]
    months: tuple[Month, ...]
    boxes: Mapping[str, tuple[BBox, ...]]
    causes: tuple[Cause, ...]
    datasets: tuple[DatasetState, ...]
    runs: tuple[Run, ...]
    problems: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Index:
    """An index as it was read.

    Attributes:
        entries: the newest of its log, oldest first.
        data, items: its files; of a collection only those of data, also such without a live row.
    """

    folder: str
    entries: tuple[LogEntry, ...]
    data: tuple[FileInfo, ...]
    items: tuple[FileInfo, ...] = ()
    boxes: tuple[BBox, ...] = ()
    causes: tuple[Cause, ...] = ()

    @property
    def head(self) -> LogEntry:
        return self.entries[-1]

    @property
    def name(self) -> str:
        return self.folder.rpartition("/")[2]

    @property
    def is_combined(self) -> bool:
        return self.folder.startswith(COMBINED)


def summarize(store: Store) -> Summary:
    """Look at a warehouse. An index or dataset that is damaged is a problem of the summary, not an error."""
    folders, problems, read = indexes(store), dict[str, str](), list[_Index]()
    footers = FOOTERS_READ // max(1, sum(folder.startswith(COLLECTIONS) for folder in folders))
    for folder in folders:
        try:
            read.append(_read_combined(store, folder) if folder.startswith(COMBINED) else _read(store, folder, footers))
        except StacchipError as err:
            problems[folder] = " ".join(str(err).split())
    collections = [one for one in read if not one.is_combined]
    newest = {one.name: one.head.version for one in collections}
    datasets, more = _datasets(store)
    return Summary(
        root=store.root,
        collections=tuple(_state(one, newest) for one in collections),
        combined=tuple(_state(one, newest) for one in read if one.is_combined),
        months=tuple(_months(read)),
        boxes={one.name: one.boxes for one in collections},
        causes=tuple(sorted((c for one in read for c in one.causes), key=lambda c: -c.items)[:CAUSES_KEPT]),
        datasets=datasets,
        runs=tuple(_runs(read)),
        problems={**problems, **more},
    )


def _read_combined(store: Store, folder: str) -> _Index:
    log = Log(store, folder)
    entries = _newest(log, log.newest(), MERGES_READ)
    return _Index(folder, entries, entries[-1].files("data"), entries[-1].files("items"))


def _read(store: Store, folder: str, footers: int) -> _Index:
    manifest = Manifest.load(store, folder.rpartition("/")[2])
    data = tuple(manifest.data_files().values())
    boxes = tuple(_boxes(store, data, footers))
    entries = _newest(manifest.log, manifest.head, COMMITS_READ)
    return _Index(folder, entries, data, boxes=boxes, causes=tuple(_causes(manifest)))


def _newest(log: Log, head: LogEntry | None, count: int) -> tuple[LogEntry, ...]:
    """The newest entries of a log up to `head`, oldest first."""
    if head is None:
        raise CorruptWarehouseError(f"{log.folder} has no log entry: `stacchip verify` says what is missing")
    return (*log.span(max(1, head.version - count + 1), head.version - 1), head)


def _state(one: _Index, newest: Mapping[str, int]) -> IndexState:
    spans = [(info.start, info.end) for info in one.data if info.start and info.end]
    names = [(str(source["collection"]), int(str(source["version"]))) for source in one.head.sources if one.is_combined]
    return IndexState(
        folder=one.folder,
        collection=one.head.collection,
        version=one.head.version,
        totals=one.head.totals,
        files=len(one.data) if one.is_combined else None,
        size=sum(info.size for info in one.data) if one.is_combined else None,
        start=min((start for start, _ in spans), default=None),
        end=max((end for _, end in spans), default=None),
        points=tuple(Point(e.version, e.created_at, e.totals.items, e.totals.chips) for e in one.entries),
        sources=tuple(SourceState(name, version, newest.get(name, version)) for name, version in names),
    )


def _months(read: Iterable[_Index]) -> Iterator[Month]:
    """Chips by collection and month: of a combined index that holds the collection, else of its own files."""
    told: set[str] = set()
    for one in sorted(read, key=lambda one: not one.is_combined):  # combined ones first: their rows are all live
        names = {info.collection or one.name for info in one.data} - told
        told |= names
        chips, items = _by_month(one.data, one.name), _by_month(one.items, one.name)
        for (name, month), count in sorted(chips.items()):
            if name in names:
                yield Month(name, month, count, items[name, month] if one.is_combined else None)


def _by_month(files: Iterable[FileInfo], name: str) -> Counter[tuple[str, str]]:
    rows = Counter[tuple[str, str]]()
    for info in files:
        if info.month:
            rows[info.collection or name, info.month] += info.rows
    return rows


def _boxes(store: Store, data: Sequence[FileInfo], footers: int) -> Iterator[BBox]:
    """Boxes around the chips of items, from the footers of the newest data files, which have a row group an item."""
    newest = [info for info in reversed(data) if info.bbox][:footers]
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda info: _footer_boxes(store, info), newest)
        yield from islice((box for boxes in found for box in boxes), BOXES_KEPT)


def _footer_boxes(store: Store, info: FileInfo) -> list[BBox]:
    """Of each row group; none of a file that is gone, as one without live rows may be, nor of one that is damaged."""
    try:
        with open_parquet(store, info) as file:
            places = [[leaf.path for leaf in file.schema].index(f"bbox.{side}") for side in _SIDES]
            groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    except StacchipError:
        return []
    ends = [[group.column(place).statistics for place in places] for group in groups]
    return [
        (west.min, south.min, east.max, north.max)
        for west, south, east, north in ends
        if all(one is not None and one.has_min_max for one in (west, south, east, north))
    ]


def _causes(manifest: Manifest) -> Iterator[Cause]:
    """What the last commits could not index, and no later one of them could."""
    failed = fold(manifest.changes_since(max(0, manifest.version - FAILURE_COMMITS))).failed
    causes = pc.coalesce(failed["cause"], failed["stage"])  # an earlier release wrote the stage alone
    for cause, count in Counter(causes.to_pylist()).most_common(CAUSES_KEPT):
        first = failed.filter(pc.equal(causes, cause)).slice(0, 1).to_pylist()
        yield from (Cause(manifest.name, str(cause), count, row["item_id"], str(row["reason"])) for row in first)


def _datasets(store: Store) -> tuple[tuple[DatasetState, ...], dict[str, str]]:
    """Datasets by name, and those whose lock can't be read with the reason."""
    found, problems = list[DatasetState](), dict[str, str]()
    for name in islice(store.folders("datasets"), DATASETS_READ):
        try:
            found += _dataset(store, name)
        except StacchipError as err:
            problems[f"datasets/{name}"] = " ".join(str(err).split())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            problems[f"datasets/{name}"] = "its lock is damaged: restore dataset.json, or make the dataset again"
    return tuple(found), problems


def _dataset(store: Store, name: str) -> Iterator[DatasetState]:
    """A dataset from its lock or, unfinished, from its plan; none where there is neither."""
    for key in reversed(lock_keys(store, name)):
        try:
            data = json.loads(store.read(key))
        except ObjectNotFoundError:
            continue
        shards = data["shards"]
        yield DatasetState(
            name=name,
            index=f"{data['index']['name']}@{data['index']['version']}",
            format=str(data["spec"]["format"]),
            chips=sum(int(shard["chips"]) for shard in shards),
            failures=sum(int(shard.get("failures", 0)) for shard in shards),
            shards=len(shards),
            size=sum(int(shard.get("size", 0)) for shard in shards),
            is_finished=key.endswith(f"/{LOCK}"),
        )
        return


def _runs(read: Iterable[_Index]) -> list[Run]:
    """The newest entries of all logs, newest first by their writers' clocks."""
    entries = sorted(((e.created_at, one.folder, e) for one in read for e in one.entries), key=lambda run: run[:2])
    return [
        Run(folder, e.version, e.operation, at, e.counts, e.totals, _writer(e.writer))
        for at, folder, e in reversed(entries[-RUNS_KEPT:])
    ]


def _writer(writer: Mapping[str, object]) -> str:
    return " · ".join(str(writer[name]) for name in ("host", "software") if writer.get(name))
