"""Combined indexes: collections merged into versions that list all their files and hold no dead row."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow.compute as pc

from stacchip_core.errors import CommitConflictError, CorruptWarehouseError, InputError
from stacchip_core.index.schema import SCHEMA_VERSION
from stacchip_core.warehouse.combined.changed import Changed, changed_since, everything
from stacchip_core.warehouse.combined.compaction import SETTLED_PER_MERGE
from stacchip_core.warehouse.combined.month import Month, StrayItemsError, settling
from stacchip_core.warehouse.combined.parts import Part, parts_of
from stacchip_core.warehouse.commit import MAX_AGE, writer
from stacchip_core.warehouse.data import Columns, clash, retyped, union
from stacchip_core.warehouse.entry import Counts, FileInfo, LogEntry, Totals
from stacchip_core.warehouse.files import iso
from stacchip_core.warehouse.log import Log, Patience
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.version import CombinedVersion

_ATTEMPTS = 100
_Made = dict[tuple[object, ...], tuple[Part, ...]]


def merge(
    store: Store,
    name: str,
    collections: Sequence[str],
    patience: Patience | None = None,
    damaged: Collection[str] = (),
) -> CombinedVersion:
    """Make the next version of a combined index; where nothing changed, the present one is returned.

    It costs what changed since the version before: months that nothing touches are not read. A lost race starts again
    from the winner's version; what was written is used again.

    Args:
        store: where the warehouse is.
        name: of the combined index.
        collections: of the warehouse; those that it is made of from now on.
        patience: between lost races.
        damaged: files of the present version that can't be used: their collections are merged as if for the first time.

    Raises:
        InputError: no collections, two of one collection id, a property of two types, or a merge of more than a day.
        CommitConflictError: lost too many races.
        CommitUnknownError: no answer from the store; nothing was removed.
    """
    names = tuple(sorted(set(collections)))
    if not names:
        raise InputError(f"combined index {name!r}: name at least one collection to merge")
    log, made, held = Log(store, f"combined/{name}"), _Made(), set[str]()
    for attempt in range(_ATTEMPTS):
        head = log.newest()  # before the collections: whoever commits after this makes us look at both again
        merging = _Merging.of(store, name, head, [Manifest.load(store, one) for one in names], damaged)
        if head is not None and merging.is_current:
            return CombinedVersion(store, name, head)
        parts = merging.parts(made)
        held |= {info.path for info in (*head.kept, *head.added)} if head else set()
        _refuse_old(store, name, [i for own in made.values() for part in own for i in part.files if i.path not in held])
        try:
            return CombinedVersion(store, name, log.append(_entry(store, head, merging, parts)))
        except CommitConflictError:
            (patience or Patience()).pause(min(attempt, 4))
    raise CommitConflictError(f"combined index {name!r}: lost {_ATTEMPTS} races for the next version; run again")


@dataclass(frozen=True)
class _Merging:
    """One attempt at the next version.

    Attributes:
        head: the present version.
        manifests: the collections, at the versions that are merged.
        changes: what each has changed, by name.
        held: the parts of the present version that belong to these collections.
        columns: carried properties of the next version.
    """

    store: Store
    name: str
    head: LogEntry | None
    manifests: tuple[Manifest, ...]
    changes: Mapping[str, Changed]
    held: tuple[Part, ...]
    columns: Columns

    @classmethod
    def of(
        cls,
        store: Store,
        name: str,
        head: LogEntry | None,
        manifests: Sequence[Manifest],
        damaged: Collection[str],
    ) -> _Merging:
        _check_distinct(name, manifests)
        lost = _collections_of(head, damaged)
        changes = {one.name: everything(one) if one.name in lost else _changed(head, one) for one in manifests}
        held = tuple(part for part in parts_of(head) if part.items.collection in changes) if head else ()
        columns = _columns(_present_columns(head), manifests, changes)
        return cls(store, name, head, tuple(manifests), changes, held, columns)

    @property
    def is_current(self) -> bool:
        """Whether the present version is already what would be made."""
        merged = [source["collection"] for source in self.head.sources] if self.head else []
        has_columns = all(part.data is None or part.data.columns == self.columns for part in self.held)
        is_same_set = merged == [manifest.name for manifest in self.manifests]
        return is_same_set and has_columns and all(changed.is_nothing for changed in self.changes.values())

    def parts(self, made: _Made) -> list[Part]:
        """All parts of the next version: those that stay, and new ones."""
        txn, parts = str(uuid.uuid4()), list[Part]()
        for manifest in self.manifests:
            changed = self.changes[manifest.name]
            try:
                parts.extend(self._parts_of(manifest, changed, made, txn))
            except StrayItemsError:  # the log and the index disagree about what was merged
                parts.extend(self._parts_of(manifest, everything(manifest), made, str(uuid.uuid4())))
        return parts

    def _parts_of(self, manifest: Manifest, changed: Changed, made: _Made, txn: str) -> list[Part]:
        months = self._months(manifest, changed)
        to_settle = set(settling(months, SETTLED_PER_MERGE))
        parts = list[Part]()
        for number, month in enumerate(months):
            if not month.is_written and month.month not in to_settle:
                parts.extend(month.parts)
                continue
            key = (manifest.sha256, self._pin(manifest.name), changed.gone is None, *month.key)
            if key not in made:
                made[key] = month.written(f"combined/{self.name}", f"{txn}/{manifest.name}-{number}")
            parts.extend(made[key])
        return parts

    def _months(self, manifest: Manifest, changed: Changed) -> list[Month]:
        held: dict[str, list[Part]] = {}
        for part in self.held if changed.gone is not None else ():
            if part.items.collection == manifest.name:
                held.setdefault(str(part.items.month), []).append(part)
        gone = changed.gone or {}
        return [
            Month(manifest, month, tuple(held.get(month, ())), changed.fresh.get(month), gone.get(month), self.columns)
            for month in sorted({*held, *changed.fresh, *gone})
        ]

    def _pin(self, name: str) -> object:
        return _pins(self.head).get(name)


def _pins(head: LogEntry | None) -> dict[str, tuple[int, str]]:
    """Version and hash of each collection that an entry was made of."""
    sources = head.sources if head else ()
    return {str(source["collection"]): (int(source["version"]), str(source["sha256"])) for source in sources}


def _collections_of(head: LogEntry | None, paths: Collection[str]) -> set[str]:
    """Collections with a part that some of these files belong to."""
    parts = parts_of(head) if head and paths else []
    return {part.items.collection for part in parts if any(info.path in paths for info in part.files)}


def _changed(head: LogEntry | None, manifest: Manifest) -> Changed:
    pin = _pins(head).get(manifest.name)
    return changed_since(manifest, *pin) if pin else everything(manifest)


def _refuse_old(store: Store, name: str, written: Sequence[FileInfo]) -> None:
    """Vacuum may take what nobody commits for a week; times are the store's, and files come in the order of writing."""
    if written and store.modified(written[-1].path) - store.modified(written[0].path) > MAX_AGE:
        raise InputError(
            f"combined index {name!r}: its files took more than {MAX_AGE.total_seconds() / 3600:.0f} hours to write: "
            "merge again, fewer collections at a time"
        )


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
    for one in by_id:
        if inner := next((other for other in by_id if other.startswith(f"{one}/")), None):
            raise InputError(
                f"combined index {name!r}: collection ids {one!r} and {inner!r} could give one key to two items: "
                "merge them into two indexes"
            )


def _present_columns(head: LogEntry | None) -> Columns:
    return next((info.columns for info in head.files("data")), ()) if head else ()


def _columns(present: Columns, manifests: Iterable[Manifest], changes: Mapping[str, Changed]) -> Columns:
    """Carried properties of the next version: those of the present one, then what is new.

    They only grow, so that a collection that leaves costs nothing. Where one has got another type, the types are those
    of all live rows: files whose rows are all dead don't count.

    Raises:
        InputError: live rows of two types.
    """
    manifests = tuple(manifests)
    fresh = union(info.columns for one in manifests for info in _sources(one, changes[one.name]))
    if clash(present, fresh):
        fresh = union(info.columns for one in manifests for info in _sources(one, everything(one)))
    return retyped(present, fresh)


def _sources(manifest: Manifest, changed: Changed) -> list[FileInfo]:
    """Data files that fresh items point to, by path.

    Raises:
        CorruptWarehouseError: they name a file that the log does not.
    """
    paths = sorted({path for own in changed.fresh.values() for path in pc.unique(own["file"].drop_null()).to_pylist()})
    known = manifest.data_files(paths) if paths else {}
    for path in paths:
        if path not in known:
            raise CorruptWarehouseError(f"items of collection {manifest.name!r} name {path!r}, the log does not")
    return [known[path] for path in paths]


def _entry(store: Store, head: LogEntry | None, merging: _Merging, parts: Sequence[Part]) -> LogEntry:
    files = [info for part in parts for info in part.files]
    before = {info.path for info in (*head.kept, *head.added)} if head else set[str]()
    added = tuple(info for info in files if info.path not in before)
    written = [store.modified(info.path) for info in added[-1:]]
    return LogEntry(
        version=head.version + 1 if head else 1,
        prev_sha256=head.sha256 if head else "",
        txn=str(uuid.uuid4()),
        operation="merge",
        read_version=head.version if head else 0,
        added=added,
        kept=tuple(info for info in files if info.path in before),
        removed=tuple(sorted(before - {info.path for info in files})),
        sources=tuple({"collection": m.name, "version": m.version, "sha256": m.sha256} for m in merging.manifests),
        counts=_counts(merging.changes.values(), chips=_rows(added, "data")),
        totals=Totals(items=_rows(files, "items"), chips=_rows(files, "data")),
        schema_version=SCHEMA_VERSION,
        expired=head.expired if head else 0,
        stored_at=iso(written[0]) if written else "",
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        writer=writer(),
    )


def _counts(changes: Iterable[Changed], *, chips: int) -> Counts:
    each = [changed.counts() for changed in changes]
    sums = {name: sum(getattr(counts, name) for counts in each) for name in ("new", "updated", "deleted")}
    return Counts(**sums, chips=chips)


def _rows(files: Iterable[FileInfo], role: str) -> int:
    return sum(info.rows for info in files if info.role == role)
