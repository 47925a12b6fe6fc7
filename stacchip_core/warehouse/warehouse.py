"""The warehouse: collections of indexed items and combined indexes, below one root on disk or in a bucket."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stacchip_core.errors import InputError, VersionNotFoundError
from stacchip_core.index.indexer import IndexSettings
from stacchip_core.sources.access import Storage, as_roots
from stacchip_core.sources.item import StagedItem
from stacchip_core.sources.source import Source
from stacchip_core.warehouse import batch
from stacchip_core.warehouse.again import failed_items
from stacchip_core.warehouse.backoff import AT_ONCE, DEFAULT_BACKOFF, Backoff
from stacchip_core.warehouse.batch import BatchResult
from stacchip_core.warehouse.budget import FailureBudget
from stacchip_core.warehouse.care.methods import InCare
from stacchip_core.warehouse.care.retention import asked_for, check_sha256, folder_of, indexes
from stacchip_core.warehouse.classify import Classified, Rebuild, classify
from stacchip_core.warehouse.combined.merge import merge
from stacchip_core.warehouse.commit import Commit, commit
from stacchip_core.warehouse.entry import NAME
from stacchip_core.warehouse.follow import Follower
from stacchip_core.warehouse.followed import Followed, carry_out
from stacchip_core.warehouse.format import FORMAT_KEY, check_format, make_format
from stacchip_core.warehouse.indexing import IndexRun, Patient
from stacchip_core.warehouse.intake import Grouping, Item, read_items, safe_name
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.memory import Following
from stacchip_core.warehouse.store import Store, open_store
from stacchip_core.warehouse.version import CollectionVersion, CombinedVersion, IndexVersion
from stacchip_core.warehouse.work import read_work, removal

__all__ = ["FORMAT_KEY", "Warehouse", "safe_name"]


class Warehouse(InCare):
    """Indexed collections and combined indexes.

    Any number of processes may use one warehouse at a time, on as many machines; the store is all they share.

    Attributes:
        root: local path or URL.
        store: where everything is kept.
        storage: endpoint, region and account of the store.
        local_roots: local folders that items may be read from.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        create: bool = False,
        storage: Storage | None = None,
        local_roots: str | Path | Iterable[str | Path] = (),
    ) -> None:
        """Open the warehouse at `root`, or make one there.

        Args:
            root: local path, or s3://bucket/prefix (gs:// and az:// through fsspec).
            create: make one where there is none; the store is first tried for what commits depend on.
            storage: endpoint, region and account of the store.
            local_roots: local folders that items may be read from.

        Raises:
            InputError: no warehouse there, or one that a later release made.
            UnsafeStoreError: the store can't hold a warehouse that several writers share.
        """
        self.storage = storage or Storage()
        self.store: Store = open_store(root, self.storage)
        self.root = self.store.root
        self.local_roots = as_roots(local_roots)
        if create:
            make_format(self.store)
        check_format(self.store)

    def __repr__(self) -> str:
        """Class and root."""
        return f"Warehouse({self.root!r})"

    def index_items(
        self,
        items: Iterable[Item],
        *,
        name: str | None = None,
        retry_failed: bool = False,
        budget: FailureBudget | None = None,
        **settings: Any,
    ) -> Commit | list[Commit]:
        """Index what is new or changed among items, and commit it.

        An item that can't be read or indexed, or belongs to another collection id than the rest of its collection, is
        a failure on record, and the others go on.

        Args:
            items: `pystac.Item`, plain JSON, or paths or URLs of item files. Those given as local paths may read from
                the folder that all of them have in common.
            name: collection of the warehouse; None: made from each item's collection id.
            retry_failed: try items that failed before at once; else each waits until its next try is due.
            budget: how many may fail; None: 10, or half of them.
            settings: as for `Indexer`: chip_size, stride, edge, profile, max_nodata, grid, local_roots, storage; and
                ask_files: ask each remote file for its size and ETag, so that one that changes later is noticed.

        Returns:
            A `Commit` where all items went to one collection, else a list of them, by name.

        Raises:
            InputError: a setting is out of bounds; local paths have no folder in common; or, once all others are
                committed, an item could not be read and nothing tells which collection its failure belongs to.
            FailureBudgetError: too many items failed; what was committed stays, and no further page was begun.
        """
        chosen = _settings(settings)
        patient = Patient(AT_ONCE if retry_failed else DEFAULT_BACKOFF, budget or FailureBudget())
        found = read_items(items, (*chosen.local_roots, *self.local_roots))
        done = IndexRun(self.store, chosen, patient).index_found(found, Grouping(name, chosen))
        return done[0] if len(done) == 1 else done

    def retry_failed(self, name: str, **settings: Any) -> Commit:
        """Try the failures of a collection once more, now, at the chip sizes they failed at.

        The file of each is read again where it is known; else the item is taken as it was found. Raises
        VersionNotFoundError where there is no such collection.

        Args:
            name: of the collection.
            settings: as its items are indexed with: profile, max_nodata, grid, local_roots, storage.
        """
        manifest, chosen = self.collection(name).manifest, _settings(settings)
        own = chosen.model_copy(update={"local_roots": (*chosen.local_roots, *self.local_roots)})
        return IndexRun(self.store, own, Patient(AT_ONCE)).retry(manifest)

    def failed_items(self, name: str, settings: IndexSettings, source: Source, backoff: Backoff) -> list[StagedItem]:
        """Items of a source that failed at the same size, stride and edge, and are due, as the source has them now."""
        own = settings.model_copy(update={"local_roots": (*settings.local_roots, *self.local_roots)})
        return list(failed_items(self._manifest(name), own, backoff, source))

    def classify(
        self,
        name: str,
        items: Iterable[StagedItem],
        settings: IndexSettings,
        *,
        rebuild: Rebuild = "none",
        backoff: Backoff = DEFAULT_BACKOFF,
    ) -> Classified:
        """Compare items with what is indexed at the same size, stride and edge; reads no pixels, commits nothing.

        An item without a collection id takes that of the collection; one with another is new, with `error` set. With
        `rebuild`, items that are indexed as they are count as updated: "all", or those of an old recipe ("stale"). One
        that failed as it is waits, by `backoff` and the store's clock, until its next try is due.
        """
        return classify(self._manifest(name), items, settings, rebuild=rebuild, backoff=backoff)

    def stage(self, items: Sequence[StagedItem]) -> str:
        """Write items down for `index_batch`, without signatures; returns the key, which is all that has to travel."""
        return batch.stage(self.store, items)

    def index_batch(self, name: str, staged_key: str, settings: IndexSettings) -> BatchResult:
        """Index the items of a staged file; those that fail are rows of the result's part. Nothing is committed yet.

        Raises:
            TransientStoreError, StoreError: the warehouse could not be read or written.
        """
        roots = tuple(dict.fromkeys((*settings.local_roots, *self.local_roots)))
        staged = batch.read_staged(self.store, staged_key)
        own = settings.model_copy(update={"local_roots": roots})
        return batch.index_batch(self.store, _checked_name(name), staged, own)

    def commit(
        self,
        name: str,
        parts: Sequence[str],
        *,
        read_version: int,
        sources: Iterable[Mapping[str, object]] = (),
        is_rebuilt: bool = False,
    ) -> Commit:
        """Make what batches have left the next version of a collection; nothing new, nothing is written.

        Committing the same parts again is harmless: what is there already is no news.

        Args:
            name: of the collection.
            parts: of the batches' results.
            read_version: `Classified.version`.
            sources: where the items came from, as JSON; kept in the log.
            is_rebuilt: items that are live as they are were made anew on purpose (`classify(rebuild=...)`), and count.

        Raises:
            InputError: parts of another collection or written too long ago, or a property of another type than before.
            CommitConflictError: lost too many races: run again.
            CommitUnknownError: nobody answered; the next run will see. Nothing is removed.
        """
        manifest = self._manifest(name)
        work = read_work(self.store, parts, read_version=read_version, sources=sources)
        return commit(manifest, replace(work, is_rebuilt=is_rebuilt))

    def follow(
        self, source: Source, *, name: str | None = None, rules: Following | None = None, **settings: Any
    ) -> Followed:
        """Index what is new or changed in a source, and remove what it has deleted; name and settings as `index_items`.

        Raises:
            InputError: the source is no catalog, lacks a collection, or can't do what is asked.
            ReadError, TransientReadError: it can't be read at all; what is missing else is part of the result.
        """
        roots = (*as_roots(settings.get("local_roots") or ()), *source.roots)
        chosen = _settings({**settings, "local_roots": roots})
        follower = Follower(self.store, source, name, chosen, rules or Following())
        return carry_out(IndexRun(self.store, chosen, Patient()), follower, self)

    def remove_items(
        self, name: str, item_ids: Collection[str], *, reason: str, sources: Iterable[Mapping[str, object]] = ()
    ) -> Commit:
        """Take items out of a collection, at every chip size that they have, and off its list of failures.

        A form of an item that another run commits meanwhile stays.

        Args:
            name: of the collection.
            item_ids: ids of its items.
            reason: kept in the log, for people.
            sources: where that was learned, as JSON; kept in the log.

        Raises:
            LookupFailedError: the collection knows no such item.
            CommitConflictError, CommitUnknownError: as for `commit`.
        """
        manifest = self._manifest(name)
        return commit(manifest, replace(removal(manifest, item_ids, reason), sources=tuple(sources)))

    def collections(self) -> list[str]:
        """Names of the collections that have a version, also of those whose log lacks entries."""
        return self._names("collections")

    def combined_names(self) -> list[str]:
        """Names of the combined indexes that have a version, also of those whose log lacks entries."""
        return self._names("combined")

    def collection(self, name: str, version: int | str | None = None) -> CollectionVersion:
        """A collection at a version, or at the one that a tag names; None: the newest.

        Raises:
            VersionNotFoundError: lists what there is; or the version has expired.
            CorruptWarehouseError: the log can't be trusted, or is not the one that was tagged.
        """
        number, sha256 = asked_for(self.store, f"collections/{_checked_name(name)}", version)
        manifest = Manifest.load(self.store, name, number)
        if manifest.head is None:
            raise self._no_such("collection", name, self.collections())
        check_sha256(version, sha256, manifest.sha256)
        return CollectionVersion(manifest, manifest.head)

    def combined(self, name: str, version: int | str | None = None) -> CombinedVersion:
        """A combined index at a version, or at the one that a tag names; None: the newest.

        Raises:
            VersionNotFoundError: lists what there is; or the version has expired.
            CorruptWarehouseError: the log can't be trusted, or is not the one that was tagged.
        """
        log = Log(self.store, f"combined/{_checked_name(name)}")
        number, sha256 = asked_for(self.store, log.folder, version)
        entry = log.newest() if number is None else log.read(number)
        if entry is None:
            raise self._no_such("combined index", name, self.combined_names())
        check_sha256(version, sha256, entry.sha256)
        return CombinedVersion(self.store, name, entry)

    def index(self, index: str, version: int | str | None = None) -> IndexVersion:
        """A version of "combined/<name>" or "collections/<name>", or of a name alone, combined indexes first."""
        kind, name = folder_of(self.store, index).split("/")
        return self.collection(name, version) if kind == "collections" else self.combined(name, version)

    def merge(self, name: str, collections: Sequence[str]) -> IndexVersion:
        """Bring a combined index up to date with collections; where nothing changed, its present version.

        Raises:
            VersionNotFoundError: no such collection; lists those there are.
            InputError: no collections, or ones that can't stand in one index.
        """
        known = set(self.collections())
        for collection in collections:
            if collection not in known:
                raise self._no_such("collection", collection, sorted(known))
        return merge(self.store, _checked_name(name), collections)

    def _manifest(self, name: str) -> Manifest:
        return Manifest.load(self.store, _checked_name(name))

    def _names(self, kind: str) -> list[str]:
        return [folder.rpartition("/")[2] for folder in indexes(self.store, (kind,))]

    def _no_such(self, kind: str, name: str, there: Sequence[str]) -> VersionNotFoundError:
        return VersionNotFoundError(f"{self.root}: no {kind} {name!r}; there are {', '.join(there) or 'none yet'}")


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is no name for a collection or index: use a-z, 0-9 and '-', at most 63, such as "
            f"{safe_name(name or 'my-collection')!r}"
        )
    return name


def _settings(given: Mapping[str, Any]) -> IndexSettings:
    roots = as_roots(given.get("local_roots") or ())
    return IndexSettings.of(**{**given, "local_roots": roots, "storage": given.get("storage") or Storage()})
