"""The state of a collection: which items are indexed at which size, from which form of the item, and where."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from stacchip_core.warehouse import checkpoint as checkpoints
from stacchip_core.warehouse.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    files_known,
    read_hint,
    write_checkpoint,
)
from stacchip_core.warehouse.data import Columns
from stacchip_core.warehouse.entry import FileInfo, LogEntry, Role
from stacchip_core.warehouse.items import (
    IDENTITY,
    LIGHT,
    States,
    empty_rows,
    fold,
    read_items,
    rows_in,
    stamped,
)
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.store import Store

logger = logging.getLogger(__name__)

_READERS = 8  # items files fetched at a time


@dataclass(frozen=True)
class Manifest:
    """One collection at one version: a checkpoint and the log from there, folded on demand.

    Attributes:
        name: of the collection in the warehouse.
        entries: proven log entries, oldest first, up to this version: all that follow the checkpoint, and perhaps
            some before; none where nothing was committed.
        checkpoint: state that the entries after it build on; None: they begin with the first.
    """

    log: Log
    name: str
    entries: tuple[LogEntry, ...]
    checkpoint: Checkpoint | None = None

    @classmethod
    def load(cls, store: Store, name: str, version: int | None = None) -> Manifest:
        """The manifest at `version`, or at the newest.

        Raises:
            VersionNotFoundError: no such version.
            CorruptWarehouseError: the log can't be trusted.
        """
        log = Log(store, f"collections/{name}")
        if version is None:
            hint = read_hint(store, log.folder)
            entries = (log.since(hint) if hint else ()) or tuple(filter(None, [log.newest()]))
        elif version == 0:
            entries = ()
        else:
            entries = (log.read(version),)
        return cls._from(log, name, entries)

    @classmethod
    def _from(cls, log: Log, name: str, entries: tuple[LogEntry, ...]) -> Manifest:
        """The manifest at the last of some entries that follow each other; reads those before that it needs."""
        if not entries:
            return cls(log, name, ())
        named = entries[-1].checkpoint
        entries = _back_to(log, entries, named or 1)
        checkpoint = Checkpoint.of(log.store, entries[named - entries[0].version]) if named else None
        first = checkpoint.version + 1 if checkpoint else 1
        return cls(log, name, _back_to(log, entries, first), checkpoint)

    @property
    def store(self) -> Store:
        """Where it is."""
        return self.log.store

    @property
    def head(self) -> LogEntry | None:
        """The entry of this version."""
        return self.entries[-1] if self.entries else None

    @property
    def version(self) -> int:
        """Number of this version; 0 before the first commit."""
        return self.head.version if self.head else 0

    @property
    def sha256(self) -> str:
        """Identity of this version; "" before the first commit."""
        return self.head.sha256 if self.head else ""

    @property
    def collection(self) -> str:
        """STAC collection id of its items; "" while that is not known."""
        return self.head.collection if self.head else ""

    @property
    def sources(self) -> tuple[Mapping[str, object], ...]:
        """Where its items came from: of each source that was ever followed, how far."""
        return self.head.sources if self.head else ()

    @property
    def base(self) -> int:
        """Version of its checkpoint; 0 where it has none."""
        return self.checkpoint.version if self.checkpoint else 0

    def newest(self) -> Manifest:
        """The manifest as it is by now."""
        later = self.log.since(self.version + 1)
        return self._from(self.log, self.name, self.log.follow(self.entries, later))

    def data_files(self, paths: Collection[str] | None = None) -> dict[str, FileInfo]:
        """Data files by path, also those without a live row; with `paths`, only these."""
        return {info.path: info for _, info in self._files("data", "path", paths)}

    def items_files(self, versions: Collection[int]) -> dict[int, FileInfo]:
        """Items files that some versions added, by version."""
        return dict(self._files("items", "version", versions))

    def column_sets(self) -> list[Columns]:
        """Carried properties of data files, each combination once."""
        texts = pc.unique(self._listed.filter(pc.equal(self._listed["role"], "data"))["columns"]).to_pylist()
        return [tuple((name, kind) for name, kind in json.loads(text)) for text in texts]

    def changes_since(self, version: int, keys: Collection[str] | None = None) -> list[pa.Table]:
        """Light item rows, with `version`, of the entries after one, oldest first; with `keys`, of these items."""
        entries = _back_to(self.log, self.entries, version + 1) if version < self.version else ()
        wanted = [(e.version, info) for e in entries if e.version > version for info in e.files("items")]
        with ThreadPoolExecutor(_READERS) as pool:
            tables = pool.map(lambda pair: read_items(self.store, pair[1], LIGHT, keys), wanted)
            return [stamped(table, number) for table, (number, _) in zip(tables, wanted, strict=True)]

    def states(self, keys: Collection[str] | None = None) -> States:
        """Live, failed and deleted items; with `keys`, of these items."""
        try:
            before = [self.checkpoint.states(keys).rows()] if self.checkpoint else []
        except DamagedCheckpointError as err:
            return self._undamaged(err).states(keys)
        return fold([*before, *self.changes_since(self.base, keys)])

    def rows_of(self, light: pa.Table, columns: Sequence[str], *, has_failed: bool = False) -> pa.Table:
        """What light rows (with `version`) stand for: any columns of `ITEM_SCHEMA`, sorted by identity.

        Args:
            light: rows of `states()`: live or deleted ones, or failed ones.
            columns: wanted ones.
            has_failed: whether they are failed ones.
        """
        wanted = list(dict.fromkeys([*IDENTITY, "op", *columns]))
        found = [empty_rows(wanted)]
        files = self.items_files(set(pc.unique(light["version"]).to_pylist()))
        for version, info in files.items():
            own = light.filter(pc.equal(light["version"], version)).select(list(IDENTITY))
            rows = read_items(self.store, info, wanted, own["key"].to_pylist())
            rows = rows.filter(pc.equal(pc.equal(rows["op"], "failed"), has_failed))
            found.append(rows_in(rows, own))
        ordered = pa.concat_tables(found).sort_by([(name, "ascending") for name in IDENTITY])
        return ordered.select(list(columns))

    def with_checkpoint(self) -> Checkpoint | None:
        """Write a checkpoint of this version; None where the last one is recent enough.

        Nobody reads it until an entry of the log names its files.
        """
        if self.version - self.base < checkpoints.EVERY:
            return None
        changes = self.changes_since(self.base)
        try:
            return write_checkpoint(self.store, self.log.folder, self.checkpoint, self._later(), changes)
        except DamagedCheckpointError as err:
            return self._undamaged(err).with_checkpoint()

    @cached_property
    def _listed(self) -> pa.Table:
        """Data and items files, known to the checkpoint or added since."""
        try:
            return files_known(self.checkpoint, self._later())
        except DamagedCheckpointError as err:
            return self._undamaged(err)._listed

    def _files(self, role: Role, column: str, wanted: Collection[object] | None) -> Iterator[tuple[int, FileInfo]]:
        """Files of a role, with the version that added each; with `wanted`, those with such a value in `column`."""
        listed = self._listed.filter(pc.equal(self._listed["role"], role))
        if wanted is not None:
            listed = listed.filter(pc.is_in(listed[column], pa.array(list(wanted), listed[column].type)))
        for version, info in zip(listed["version"].to_pylist(), listed["info"].to_pylist(), strict=True):
            yield version, FileInfo.from_json(json.loads(info))

    def _later(self) -> tuple[LogEntry, ...]:
        """The entries after the checkpoint."""
        return tuple(entry for entry in self.entries if entry.version > self.base)

    def _undamaged(self, damage: DamagedCheckpointError) -> Manifest:
        """The same version, built on the checkpoint before the present one."""
        logger.warning("%s; reading on from the checkpoint before it: `stacchip repair` writes a new one", damage)
        number, before = self.head.checkpoint if self.head else 0, None
        while number and before is None:
            one = Checkpoint.of(self.store, self.log.read(number))
            before = one if one and one.version < self.base else None
            number = self.log.read(number - 1).checkpoint if number > 1 else 0
        first = before.version + 1 if before else 1
        return Manifest(self.log, self.name, _back_to(self.log, self.entries, first), before)


def _back_to(log: Log, entries: tuple[LogEntry, ...], first: int) -> tuple[LogEntry, ...]:
    """Entries that follow each other, with those before them from `first` on."""
    if not entries or entries[0].version <= first:
        return entries
    return log.follow(log.span(first, entries[0].version - 1), entries)
