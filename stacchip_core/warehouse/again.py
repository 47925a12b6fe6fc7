"""Items that failed, as their sources have them by now: what another try is made of."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from stacchip_core.errors import StacchipError
from stacchip_core.index.grid import GridSpec
from stacchip_core.index.indexer import IndexSettings
from stacchip_core.sources.access import is_remote, locate, unsigned_href
from stacchip_core.sources.catalog import discover
from stacchip_core.sources.cause import cause_of
from stacchip_core.sources.item import StagedItem
from stacchip_core.sources.source import Source
from stacchip_core.sources.transport import is_same_host
from stacchip_core.warehouse.backoff import Backoff
from stacchip_core.warehouse.items import at_spec, grids_of, states_of
from stacchip_core.warehouse.manifest import Manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failed:
    """A failure on record.

    Attributes:
        kept: the item as it was found, without signatures; of a file that could not be read, what it was found as.
    """

    item_id: str
    collection: str
    kept: StagedItem

    @property
    def is_path(self) -> bool:
        """Whether no item of its file is known."""
        return self.item_id == self.kept.found_as


def failed_specs(manifest: Manifest) -> list[GridSpec]:
    """The chip sizes, strides and edges at which items have failed."""
    return sorted({spec for _, spec in grids_of(manifest.states().failed)}, key=str)


def failed_items(
    manifest: Manifest, settings: IndexSettings, backoff: Backoff, source: Source | None = None
) -> Iterator[StagedItem]:
    """The items whose next try is due, as they are by now; with `source`, those that could be of it.

    An item's file is read again where it is known; where it is not, or can't be read just now, the item is taken as it
    was kept.
    """
    due = _due(manifest, at_spec(manifest.states().failed, settings.spec), backoff)
    if source is not None:
        due = due.filter(pa.array([could_hold(source, name or "") for name in due["found_as"].to_pylist()], pa.bool_()))
    rows = manifest.rows_of(due, ["key", "item_id", "item", "base", "found_as"], has_failed=True)
    failed = [_failed(row) for row in rows.to_pylist()]
    fresh = _read_again(failed, settings.local_roots)
    for one in failed:
        found = fresh.get(one.kept.found_as, ())
        yield from _found_again(one, [staged for staged in found if _may_be_of(staged, manifest.collection)])


def could_hold(source: Source, name: str) -> bool:
    """Whether a file of that name, a URL or a path below a local root, may be of a source; one without a name may."""
    own = [source.url] if source.url else list(source.items)
    if not name:
        return True
    if not is_remote(name):
        return not any(is_remote(href) for href in own)
    return name in map(unsigned_href, own) or any(is_remote(href) and is_same_host(href, name) for href in own)


def _due(manifest: Manifest, failed: pa.Table, backoff: Backoff) -> pa.Table:
    """Failures that are due, by the store's clock; it is asked only where one has to wait for it."""
    times = [backoff.due(state) for state in states_of(failed)]
    if not any(times):
        return failed
    now = manifest.store.now()
    return failed.filter(pa.array([when is None or when <= now for when in times], pa.bool_()))


def _failed(row: Mapping[str, str]) -> Failed:
    kept = StagedItem(json.loads(row["item"]), row["base"] or "", found_as=row["found_as"] or "")
    return Failed(row["item_id"], row["key"].removesuffix(f"/{row['item_id']}"), kept)


def _found_again(failed: Failed, fresh: Sequence[StagedItem]) -> Iterator[StagedItem]:
    """What is to be tried for one failure, given what its file holds by now."""
    if failed.is_path:
        yield from (_in_collection(one, failed.collection) for one in fresh)
        return
    sound = [one for one in fresh if one.error is None and one.item.get("id") == failed.item_id]
    yield from sound or (failed.kept,)


def _may_be_of(staged: StagedItem, collection: str) -> bool:
    """Whether an item is none of another collection: a page of a search may hold items of several by now."""
    named = staged.item.get("collection")
    return staged.error is not None or not collection or not named or named == collection


def _in_collection(staged: StagedItem, collection: str) -> StagedItem:
    """A file that can't be read is listed under the collection that led to it."""
    if staged.error is None or not collection or staged.item.get("collection"):
        return staged
    return replace(staged, item={**staged.item, "collection": collection})


def _read_again(failed: Iterable[Failed], roots: tuple[str, ...]) -> dict[str, list[StagedItem]]:
    """What the files of failures hold by now, by their names."""
    found: dict[str, list[StagedItem]] = defaultdict(list)
    hrefs: list[str] = []
    for name in dict.fromkeys(one.kept.found_as for one in failed if one.kept.found_as):
        try:
            hrefs.append(name if is_remote(name) else locate(name, roots))
        except StacchipError as err:
            found[name].append(StagedItem({"id": name}, error=str(err), cause=cause_of(err), found_as=name))
    if hrefs:
        for page in discover(Source(items=tuple(hrefs), local_roots=roots)):
            for staged in page:
                found[staged.found_as].append(staged)
    return found
