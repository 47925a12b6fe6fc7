"""The state of a collection: which items are indexed at which size, from which form of the item, and where."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import pyarrow as pa
import pyarrow.compute as pc

from stacchip_core.errors import InputError, StacchipError, VersionNotFoundError
from stacchip_core.index.indexer import IndexSettings
from stacchip_core.sources.item import StagedItem, fingerprint, updated
from stacchip_core.warehouse.entry import FileInfo, LogEntry
from stacchip_core.warehouse.items import (
    IDENTITY,
    LIGHT,
    Identity,
    ItemState,
    States,
    empty_rows,
    fold,
    read_items,
    rows_in,
    stamped,
    states_of,
)
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.store import Store

# What asking for the profile of an item that is no proper STAC item may raise.
_BROKEN = (StacchipError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Manifest:
    """One collection at one version: its log up to there, folded on demand.

    Attributes:
        name: of the collection in the warehouse.
        entries: proven log entries, oldest first; none where nothing was committed.
    """

    log: Log
    name: str
    entries: tuple[LogEntry, ...]

    @classmethod
    def load(cls, store: Store, name: str, version: int | None = None) -> Manifest:
        """The manifest at `version`, or at the newest.

        Raises:
            VersionNotFoundError: no such version.
            CorruptWarehouseError: the log can't be trusted.
        """
        log = Log(store, f"collections/{name}")
        entries = log.entries()
        if version is not None and not 0 <= version <= len(entries):
            raise VersionNotFoundError(f"collection {name!r} has no version {version}; it has 1 to {len(entries)}")
        return cls(log, name, entries[:version])

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
        return len(self.entries)

    @property
    def sha256(self) -> str:
        """Identity of this version; "" before the first commit."""
        return self.head.sha256 if self.head else ""

    @property
    def collection(self) -> str:
        """STAC collection id of its items; "" while that is not known."""
        return next((entry.collection for entry in reversed(self.entries) if entry.collection), "")

    def newest(self) -> Manifest:
        """The manifest as it is by now."""
        return Manifest(self.log, self.name, self.log.entries())

    def data_files(self) -> dict[str, FileInfo]:
        """All data files by path, also those without a live row."""
        return {info.path: info for entry in self.entries for info in entry.files("data")}

    def changes(self, since: int, keys: Collection[str] | None = None) -> list[pa.Table]:
        """Light item rows, with `version`, of the entries after `since`, oldest first; with `keys`, of these items."""
        return [
            stamped(read_items(self.store, info, LIGHT, keys), entry.version)
            for entry in self.entries[since:]
            for info in entry.files("items")
        ]

    def states(self, keys: Collection[str] | None = None) -> States:
        """Live and failed items; with `keys`, of these items."""
        return fold(self.changes(0, keys))

    def rows_of(self, live: pa.Table, columns: Sequence[str]) -> pa.Table:
        """What light rows (with `version`) stand for: any columns of `ITEM_SCHEMA`, sorted by identity."""
        wanted = list(dict.fromkeys([*IDENTITY, "op", *columns]))
        found = [empty_rows(wanted)]
        for version in pc.unique(live["version"]).to_pylist():
            own = live.filter(pc.equal(live["version"], version)).select(list(IDENTITY))
            for info in self.entries[version - 1].files("items"):
                rows = read_items(self.store, info, wanted, own["key"].to_pylist())
                rows = rows.filter(pc.not_equal(rows["op"], "failed"))
                found.append(rows_in(rows, own))
        ordered = pa.concat_tables(found).sort_by([(name, "ascending") for name in IDENTITY])
        return ordered.select(list(columns))


class Verdict(Enum):
    """What an item that was found means for the index."""

    NEW = "new"
    UPDATED = "updated"
    SAME = "same"
    OLDER = "older"  # the index holds a later form of it


@dataclass(frozen=True, slots=True)
class Classified:
    """Items that were found, by what they mean for a collection.

    Attributes:
        name: of the collection.
        version: of the manifest that they were compared with; a commit names it as its `read_version`.
        new, updated: items to index. New are also those that failed before.
        same: number of items that are live as they are.
        older: number of items of which the index holds a later form.
        stale: keys among `same` that were indexed under another recipe; they are rebuilt only when asked.
    """

    name: str
    version: int
    new: tuple[StagedItem, ...]
    updated: tuple[StagedItem, ...]
    same: int
    older: int
    stale: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item that was found, with what decides whether it is to be indexed."""

    staged: StagedItem
    state: ItemState


def collection_of(item: Mapping[str, object], settings: IndexSettings) -> str:
    """The collection id that an item's scene will have; "" where it is too broken to have one."""
    named = item.get("collection")
    if isinstance(named, str) and named:
        return named
    try:
        return settings.profile_of(item).name
    except _BROKEN:
        return ""


def candidate(staged: StagedItem, settings: IndexSettings) -> Candidate:
    """What is known of an item before it is indexed; `recipe` is "" where the item is too broken to have one."""
    item, spec = staged.item, settings.spec
    try:
        recipe = settings.recipe(settings.profile_of(item))
    except _BROKEN:
        recipe = ""
    item_id = str(item.get("id") or "")
    return Candidate(
        staged,
        ItemState(
            key=f"{collection_of(item, settings)}/{item_id}",
            item_id=item_id,
            fingerprint=fingerprint(item),
            updated=_updated(item),
            recipe=recipe,
            size_px=spec.size,
            stride_px=spec.stride,
            edge=spec.edge,
            op="failed" if staged.error else "add",
            stage=None,
            reason=staged.error,
            is_transient=None,
            file=None,
            row_group=None,
            rows=0,
        ),
    )


def classify(manifest: Manifest, items: Iterable[StagedItem], settings: IndexSettings) -> Classified:
    """Compare items with a collection.

    Raises:
        InputError: the collection holds another collection id's items.
    """
    found = newest_of_each([candidate(staged, settings) for staged in items])
    for key in sorted({one.state.key.removesuffix(f"/{one.state.item_id}") for one in found.values()}):
        check_collection(manifest, key)
    live = {state.identity: state for state in states_of(manifest.states({i.key for i in found}).live)}
    verdicts = {identity: compare(one.state, live.get(identity)) for identity, one in found.items()}
    by_verdict = {
        verdict: tuple(found[identity].staged for identity, given in verdicts.items() if given is verdict)
        for verdict in Verdict
    }
    return Classified(
        name=manifest.name,
        version=manifest.version,
        new=by_verdict[Verdict.NEW],
        updated=by_verdict[Verdict.UPDATED],
        same=len(by_verdict[Verdict.SAME]),
        older=len(by_verdict[Verdict.OLDER]),
        stale=tuple(
            identity.key
            for identity, verdict in verdicts.items()
            if verdict is Verdict.SAME and found[identity].state.recipe not in ("", live[identity].recipe)
        ),
    )


def newest_of_each(found: Iterable[Candidate]) -> Mapping[Identity, Candidate]:
    """Each item once: of several forms the one with the latest `updated`, then the greatest fingerprint."""
    chosen: dict[Identity, Candidate] = {}
    for one in found:
        before = chosen.get(one.state.identity)
        if before is None or rank(one.state) > rank(before.state):
            chosen[one.state.identity] = one
    return chosen


def compare(found: ItemState, live: ItemState | None) -> Verdict:
    """What an item means, given what is live; the source's `updated` and the fingerprint decide, never our clock."""
    if live is None:
        return Verdict.NEW
    if found.fingerprint == live.fingerprint:
        return Verdict.SAME
    return Verdict.OLDER if is_older(found, live) else Verdict.UPDATED


def is_older(one: ItemState, other: ItemState) -> bool:
    """Whether the source dates `one` before `other`; unknown where one of them has no `updated`."""
    return one.updated is not None and other.updated is not None and one.updated < other.updated


def check_collection(manifest: Manifest, collection: str) -> None:
    """Refuse the items of a second collection id under one name.

    Raises:
        InputError: names both ids.
    """
    if manifest.collection and collection and collection != manifest.collection:
        raise InputError(
            f"collection {manifest.name!r} of the warehouse holds items of {manifest.collection!r}; those of "
            f"{collection!r} need another name: pass name="
        )


def rank(state: ItemState) -> tuple[bool, float, str]:
    """Orders several forms of one item in one run; the greatest is taken."""
    return state.op != "failed", state.updated.timestamp() if state.updated else float("-inf"), state.fingerprint


def _updated(item: Mapping[str, object]) -> datetime | None:
    return updated(item) if isinstance(item.get("properties"), Mapping) else None
