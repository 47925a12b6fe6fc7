"""An index at one version, read only when asked: its files, rows, items and scenes."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from stacchip_core.errors import CorruptWarehouseError, LookupFailedError
from stacchip_core.index.grid import GridSpec
from stacchip_core.sources.item import StagedItem
from stacchip_core.sources.scene import Scene
from stacchip_core.warehouse.combined.parts import read_part_items
from stacchip_core.warehouse.data import schema_of, union
from stacchip_core.warehouse.entry import FileInfo, LogEntry
from stacchip_core.warehouse.files import proven_filesystem
from stacchip_core.warehouse.items import IDENTITY, LIGHT, at_spec, empty_rows, grids_of
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store

RowGroups = tuple[int, ...] | None  # the live ones of a data file; None: all of them


class IndexVersion(ABC):
    """A collection or a combined index at one version. It never changes: the version names its bytes."""

    def __init__(self, store: Store, name: str, entry: LogEntry) -> None:
        """`entry` is the log entry that made the version."""
        self.store = store
        self.name = name
        self.entry = entry

    def __repr__(self) -> str:
        """`<name>@<version>`, rows and hash."""
        return f"<IndexVersion {self.name}@{self.version}: {self.count()} chips, sha256 {self.sha256[:12]}>"

    @property
    def version(self) -> int:
        """Its number."""
        return self.entry.version

    @property
    def sha256(self) -> str:
        """Hash of its log entry: its identity."""
        return self.entry.sha256

    @property
    def sources(self) -> tuple[Mapping[str, object], ...]:
        """What it was made from: of a combined index, `collection`, `version` and `sha256` of each collection."""
        return self.entry.sources

    def count(self) -> int:
        """Live rows, from the log alone."""
        return self.entry.totals.chips

    @property
    @abstractmethod
    def files(self) -> tuple[FileInfo, ...]:
        """Data files that hold its rows, and dead rows too where it is a collection."""

    @property
    @abstractmethod
    def item_files(self) -> tuple[FileInfo, ...]:
        """Files that hold the rows of its items, and others too where it is a collection: dead ones, failures."""

    @abstractmethod
    def items(self, columns: Sequence[str] = LIGHT) -> pa.Table:
        """Live item rows; `item` and `scene`, their JSON, only where asked for by name."""

    def grids(self) -> dict[str, frozenset[GridSpec]]:
        """How the items of each collection id have been cut."""
        return _by_collection(grids_of(self.items(["item_id", *IDENTITY])))

    @abstractmethod
    def _scene_rows(self, keys: Collection[str], spec: GridSpec) -> pa.Table:
        """Columns `key` and `scene` of items as they are indexed at one size, stride and edge."""

    @abstractmethod
    def _live_files(self) -> Mapping[FileInfo, RowGroups]:
        """Data files with live rows, and which of their row groups those are."""

    @cached_property
    def schema(self) -> pa.Schema:
        """Of the chip rows: every property that any of its files carries."""
        return schema_of(union(info.columns for info in self.files))

    def dataset(self) -> ds.Dataset:
        """Its live rows, in the chip table's schema; damaged bytes are a CorruptWarehouseError, never wrong rows."""
        live = self._live_files()
        filesystem = proven_filesystem(self.store, live)
        layout = ds.ParquetFileFormat(default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=True))
        fragments = [
            layout.make_fragment(self.store.path(info.path), filesystem, row_groups=groups and list(groups))
            for info, groups in live.items()
        ]
        whole = ds.FileSystemDataset(fragments, self.schema, layout, filesystem)
        if all(groups is None for groups in live.values()):
            return whole
        # pyarrow counts the rows of whole files, whatever row groups a fragment has, unless there is a filter
        return whole.filter(pc.field("size_px") > 0)

    def scenes(self, keys: Sequence[str], spec: GridSpec) -> dict[str, Scene]:
        """Scenes by key `<collection>/<item_id>`: those that the chips of one size, stride and edge were made from.

        Of an item that changed between two runs of different chip sizes, each size has a form of its own.

        Raises:
            LookupFailedError: an item is not in the index with this size, stride and edge.
        """
        rows = self._scene_rows(set(keys), spec)
        texts = dict(zip(rows["key"].to_pylist(), rows["scene"].to_pylist(), strict=True))
        missing = sorted(set(keys) - texts.keys())
        if missing:
            raise LookupFailedError(f"{self.name}@{self.version} holds no item {', '.join(missing[:5])} at {spec}")
        return {key: Scene.from_json(texts[key]) for key in keys}


class CollectionVersion(IndexVersion):
    """A collection at one version: the log up to there, folded."""

    def __init__(self, manifest: Manifest, entry: LogEntry) -> None:
        """`entry` is the manifest's head."""
        super().__init__(manifest.store, manifest.name, entry)
        self._manifest = manifest

    @cached_property
    def _live(self) -> pa.Table:
        return self._manifest.states().live

    @property
    def files(self) -> tuple[FileInfo, ...]:
        """Data files with at least one live row."""
        return tuple(self._live_files())

    @property
    def item_files(self) -> tuple[FileInfo, ...]:
        """Files with the row of at least one live item."""
        return tuple(self._manifest.items_files(set(pc.unique(self._live["version"]).to_pylist())).values())

    def items(self, columns: Sequence[str] = LIGHT) -> pa.Table:
        """Live item rows; `item` and `scene`, their JSON, only where asked for by name."""
        if set(columns) <= set(LIGHT):
            return self._live.select(list(columns))
        return self._manifest.rows_of(self._live, columns)

    def stored_items(self, keys: Collection[str]) -> list[StagedItem]:
        """Items as they were indexed, to index once more; where chip sizes hold an item in several forms, each form."""
        live = self._manifest.states(keys).live
        rows = self._manifest.rows_of(live, ["item", "base"])
        forms = dict.fromkeys(zip(rows["item"].to_pylist(), rows["base"].to_pylist(), strict=True))
        return [StagedItem(json.loads(item), base or "") for item, base in forms]

    @property
    def manifest(self) -> Manifest:
        """The log up to here."""
        return self._manifest

    def failures(self) -> pa.Table:
        """Item rows of last attempts that failed, by cause and item; a later success takes one off the list.

        `stage`, `reason` and `cause` say why, `attempts`, `first_failed` and `last_failed` how often and since when.
        The item may be live nevertheless, with the rows of before.
        """
        return self._manifest.states().failed.sort_by([(name, "ascending") for name in ("cause", *IDENTITY)])

    def _scene_rows(self, keys: Collection[str], spec: GridSpec) -> pa.Table:
        live = self._manifest.states(keys).live
        return self._manifest.rows_of(at_spec(live, spec), ["key", "scene"])

    def _live_files(self) -> Mapping[FileInfo, RowGroups]:
        known = self._manifest.data_files()
        placed = self._live.filter(pc.is_valid(self._live["file"]))
        by_file = placed.group_by("file").aggregate([("row_group", "list"), ("rows", "sum")]).sort_by("file")
        found: dict[FileInfo, RowGroups] = {}
        for row in by_file.to_pylist():
            if row["file"] not in known:
                raise CorruptWarehouseError(f"items of collection {self.name!r} name {row['file']!r}, the log does not")
            info = known[row["file"]]
            found[info] = None if row["rows_sum"] == info.rows else tuple(sorted(row["row_group_list"]))
        return found


class CombinedVersion(IndexVersion):
    """A combined index at one version: all its files are listed, and all their rows are live."""

    @property
    def files(self) -> tuple[FileInfo, ...]:
        """All data files of the version."""
        return self.entry.files("data")

    @property
    def item_files(self) -> tuple[FileInfo, ...]:
        """All files of items of the version."""
        return self.entry.files("items")

    def items(self, columns: Sequence[str] = LIGHT) -> pa.Table:
        """Item rows; `scene` only where asked for by name, and no `item`: the files hold items as stac-geoparquet.

        Raises:
            InputError: `item` is asked for, or a column that items do not have.
        """
        wanted = list(dict.fromkeys([*columns, *IDENTITY]))
        tables = [read_part_items(self.store, info, wanted) for info in self.item_files]
        rows = pa.concat_tables([empty_rows(wanted), *tables])
        return rows.sort_by([(name, "ascending") for name in IDENTITY]).select(list(columns))

    def _scene_rows(self, keys: Collection[str], spec: GridSpec) -> pa.Table:
        wanted = [*IDENTITY, "scene"]
        tables = [
            read_part_items(self.store, info, wanted, own)
            for info in self.item_files
            if str(spec) in info.grids and (own := [key for key in keys if key.startswith(f"{info.collection_id}/")])
        ]
        return at_spec(pa.concat_tables([empty_rows(wanted), *tables]), spec).select(["key", "scene"])

    def grids(self) -> dict[str, frozenset[GridSpec]]:
        """How the items of each collection id have been cut, from the log alone."""
        return _by_collection(
            (info.collection_id, GridSpec.parse(text)) for info in self.item_files for text in info.grids
        )

    def _live_files(self) -> Mapping[FileInfo, RowGroups]:
        return dict.fromkeys(self.files)


def _by_collection(found: Iterable[tuple[str, GridSpec]]) -> dict[str, frozenset[GridSpec]]:
    grids: dict[str, set[GridSpec]] = {}
    for collection, spec in found:
        grids.setdefault(collection, set()).add(spec)
    return {collection: frozenset(grids[collection]) for collection in sorted(grids)}
