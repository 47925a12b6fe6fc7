"""Failures on record, as they bear on items that were found: how often one was tried, and when its next try is due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from stacchip_core.sources.item import StagedItem
from stacchip_core.warehouse.backoff import Backoff
from stacchip_core.warehouse.items import Identity, ItemState
from stacchip_core.warehouse.store import Store


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item that was found, with what decides whether it is to be indexed."""

    staged: StagedItem
    state: ItemState

    @property
    def path_keys(self) -> tuple[str, ...]:
        """Keys that a failure of its file would have: with its collection, and without where that was not known."""
        if self.staged.error is not None or not self.staged.found_as:
            return ()
        collection = self.state.key.removesuffix(f"/{self.state.item_id}")
        return f"{collection}/{self.staged.found_as}", f"/{self.staged.found_as}"


def path_keys(found: Iterable[Candidate]) -> set[str]:
    """Keys that failures of the items' files would have."""
    return {key for one in found for key in one.path_keys}


def with_failures(
    found: Mapping[Identity, Candidate], failed: Mapping[Identity, ItemState]
) -> dict[Identity, Candidate]:
    """The items with how often they were tried before, and with the failures of their files that are over.

    A file that could not be read is listed by its path: no item of it was known. It goes off the list with the first
    item that it yields, unless another part of it has failed again.
    """
    if not failed:
        return dict(found)
    return {identity: replace(one, staged=_known(one, identity, found, failed)) for identity, one in found.items()}


def _known(
    one: Candidate, identity: Identity, found: Mapping[Identity, Candidate], failed: Mapping[Identity, ItemState]
) -> StagedItem:
    before = failed.get(identity)
    places = [identity._replace(key=key) for key in one.path_keys]
    mends = tuple(place.key for place in places if place in failed and place not in found)
    attempts = max(before.attempts or 1, 1) if before else 0
    return replace(one.staged, attempts=attempts, mends=mends)


def waiting_of(
    found: Mapping[Identity, Candidate], failed: Mapping[Identity, ItemState], store: Store, backoff: Backoff
) -> set[Identity]:
    """Items that failed in the form and recipe they are found in, and are not due: by the store's clock alone.

    The clock costs an object in the staging area, so it is asked only where an item has to wait for it.
    """
    due = {
        identity: when
        for identity, one in found.items()
        if (before := failed.get(identity)) and is_same_try(one, before) and (when := backoff.due(before))
    }
    if not due:
        return set()
    now = store.now()
    return {identity for identity, when in due.items() if now < when}


def is_same_try(found: Candidate, failed: ItemState) -> bool:
    """Whether another try would be of the form and recipe that failed, and nothing tells that it was mended."""
    is_same = (found.state.fingerprint, found.state.recipe) == (failed.fingerprint, failed.recipe)
    return is_same and not found.staged.mends
