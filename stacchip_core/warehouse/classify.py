"""What found items mean for a collection: new, updated, the same, older; by the source's dates, never by our clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Literal

from stacchip_core.errors import StacchipError
from stacchip_core.index.indexer import IndexSettings
from stacchip_core.sources.item import StagedItem, fingerprint, is_name, updated
from stacchip_core.warehouse.backoff import DEFAULT_BACKOFF, Backoff
from stacchip_core.warehouse.items import Identity, ItemState, states_of
from stacchip_core.warehouse.known_failures import Candidate, path_keys, waiting_of, with_failures
from stacchip_core.warehouse.manifest import Manifest

# What asking for the profile of an item that is no proper STAC item may raise.
_BROKEN = (StacchipError, KeyError, TypeError, AttributeError)


# Which of the items that are live as they are count as updated: none, those of an old recipe, all.
Rebuild = Literal["none", "stale", "all"]


class Verdict(Enum):
    """What an item that was found means for the index."""

    NEW = "new"
    UPDATED = "updated"
    SAME = "same"
    OLDER = "older"  # the index holds a later form of it
    WAITING = "waiting"  # it failed as it is, and its next try is not due


@dataclass(frozen=True, slots=True)
class Classified:
    """Items that were found, by what they mean for a collection.

    Attributes:
        name: of the collection.
        version: of the manifest that they were compared with; a commit names it as its `read_version`.
        new, updated: items to index, each with a collection id. New are also those that failed before; updated those
            that are live as they are, and failed in a form that the source has taken back since; among both are items
            of another collection id, with `error` set, so that their failure goes on record.
        same: number of items that are live as they are.
        older: number of items of which the index holds a later form.
        waiting: number of items that failed as they are and are not due for another try.
        stale: keys among `same` that were indexed under another recipe; they are rebuilt only when asked.
    """

    name: str
    version: int
    new: tuple[StagedItem, ...]
    updated: tuple[StagedItem, ...]
    same: int
    older: int
    stale: tuple[str, ...]
    waiting: int = 0


def collection_of(item: Mapping[str, object], settings: IndexSettings) -> str:
    """The collection id that an item's scene will have; "" where it is too broken to have one."""
    named = item.get("collection")
    if isinstance(named, str) and named:
        return named
    try:
        return settings.profile_of(item).name
    except _BROKEN:
        return ""


def usual_collection(found: Iterable[object]) -> str:
    """The collection id that most items name, the first by name of several; "" where none names one."""
    counts = Counter(one for one in found if isinstance(one, str) and is_name(one))
    return min(counts, key=lambda one: (-counts[one], one), default="")


def in_collection(staged: StagedItem, collection: str, name: str) -> StagedItem:
    """An item as one of a collection: it takes the id if it has none, and has `error` set if it has another."""
    named = staged.item.get("collection")
    if staged.error is not None or not collection or named == collection:
        return staged
    if not named:
        return replace(staged, item={**staged.item, "collection": collection})
    error = f"item {staged.item.get('id')}: {other_collection(named, collection, name)}"
    return replace(staged, error=error, cause="collection")


def other_collection(found: object, collection: str, name: str) -> str:
    """Why an item can't go into a collection of the warehouse."""
    return (
        f"it belongs to collection {str(found)[:80]!r}, and {name!r} of the warehouse holds items of {collection!r}: "
        "index it under another name"
    )


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
            cause=staged.cause or None,
            found_as=staged.found_as or None,
        ),
    )


def classify(
    manifest: Manifest,
    items: Iterable[StagedItem],
    settings: IndexSettings,
    *,
    rebuild: Rebuild = "none",
    backoff: Backoff = DEFAULT_BACKOFF,
) -> Classified:
    """Compare items with a collection; what is to be rebuilt counts as updated.

    One that failed as it is waits until its next try is due, unless something is to be rebuilt.
    """
    given = list(items)
    sound = [staged.item for staged in given if staged.error is None]
    collection = (
        manifest.collection
        or usual_collection(item.get("collection") for item in sound)
        or usual_collection(collection_of(item, settings) for item in sound)
    )
    found = newest_of_each([candidate(in_collection(staged, collection, manifest.name), settings) for staged in given])
    states = manifest.states({*(identity.key for identity in found), *path_keys(found.values())})
    live = {state.identity: state for state in states_of(states.live)}
    failed = {state.identity: state for state in states_of(states.failed)}
    found = with_failures(found, failed)
    waiting = waiting_of(found, failed, manifest.store, backoff) if rebuild == "none" else set[Identity]()
    verdicts = {
        identity: Verdict.WAITING if identity in waiting else _verdict(one, live.get(identity), identity in failed)
        for identity, one in found.items()
    }
    same = {identity for identity, verdict in verdicts.items() if verdict is Verdict.SAME}
    stale = {one for one in same if found[one].state.recipe not in ("", live[one].recipe)}
    again = {"none": set[Identity](), "stale": stale, "all": same}[rebuild]
    verdicts |= dict.fromkeys(again, Verdict.UPDATED)
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
        stale=tuple(identity.key for identity in verdicts if identity in stale - again),
        waiting=len(by_verdict[Verdict.WAITING]),
    )


def _verdict(found: Candidate, live: ItemState | None, has_failed: bool) -> Verdict:
    """What an item means; one that mends the failure of its file is looked at again, so that this goes on record."""
    if found.staged.mends and live is not None:
        return Verdict.UPDATED
    return compare(found.state, live, has_failed=has_failed)


def newest_of_each(found: Iterable[Candidate]) -> Mapping[Identity, Candidate]:
    """Each item once: of several forms the one with the latest `updated`, then the greatest fingerprint."""
    chosen: dict[Identity, Candidate] = {}
    for one in found:
        before = chosen.get(one.state.identity)
        if before is None or rank(one.state) > rank(before.state):
            chosen[one.state.identity] = one
    return chosen


def compare(found: ItemState, live: ItemState | None, *, has_failed: bool = False) -> Verdict:
    """What an item means, given what is live; the source's `updated` and the fingerprint decide, never our clock.

    Args:
        found: the item.
        live: the form of it that the index holds.
        has_failed: a later form has failed, and is on record until the item is committed again.
    """
    if live is None:
        return Verdict.NEW
    if found.fingerprint == live.fingerprint:
        return Verdict.UPDATED if has_failed else Verdict.SAME
    return Verdict.OLDER if is_older(found, live) else Verdict.UPDATED


def is_older(one: ItemState, other: ItemState) -> bool:
    """Whether the source dates `one` before `other`; unknown where one of them has no `updated`."""
    return one.updated is not None and other.updated is not None and one.updated < other.updated


def rank(state: ItemState) -> tuple[int, float, str, str]:
    """Orders several forms of one item in one run; the greatest is taken: one that is there before a delete."""
    updated_at = state.updated.timestamp() if state.updated else float("-inf")
    return {"failed": 0, "delete": 1}.get(state.op, 2), updated_at, state.fingerprint, state.recipe


def _updated(item: Mapping[str, object]) -> datetime | None:
    return updated(item) if isinstance(item.get("properties"), Mapping) else None
