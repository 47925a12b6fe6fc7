"""What holds versions from outside of their logs: tags, tags that were deleted just now, and datasets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from stacchip_core.errors import CorruptWarehouseError, ObjectNotFoundError
from stacchip_core.warehouse.entry import KINDS, NAME
from stacchip_core.warehouse.store import Listed, Store
from stacchip_core.warehouse.tags import DELETED, all_tags, deleted_tags, key_of

COLLECTIONS, COMBINED = KINDS
LOCK = "dataset.json"  # of a dataset: what it was made from


@dataclass(frozen=True, slots=True)
class Pin:
    """A version that something other than its log holds.

    Attributes:
        folder: "combined/<name>" or "collections/<name>".
        sha256: that the version is to have.
        key: of the tag or dataset that holds it, or the combined version, for people.
    """

    folder: str
    version: int
    sha256: str
    key: str

    @property
    def is_deleted(self) -> bool:
        """Whether it is of a tag that was deleted: nobody can open its version by it any more."""
        return self.key.startswith(f"{DELETED}/")


def pins(store: Store) -> list[Pin]:
    """What tags and datasets hold.

    Raises:
        CorruptWarehouseError: a tag or lock can't be read, so nobody knows what it holds.
    """
    tagged = [Pin(tag.index, tag.version, tag.sha256, key_of(tag.name)) for tag in all_tags(store)]
    keys = [key for name in store.folders("datasets") for key in lock_keys(store, name)]
    return [*tagged, *(pin for key in keys if (pin := dataset_pin(store, key)))]


def deleted_pins(store: Store, is_over: Callable[[Listed], bool]) -> list[Pin]:
    """What tags still hold though they were deleted, as that is not `is_over`; to be read after the tags.

    Raises:
        CorruptWarehouseError: one can't be read.
    """
    found = deleted_tags(store, is_over)
    return [Pin(tag.index, tag.version, tag.sha256, key) for key, tag in found.items()]


def lock_keys(store: Store, name: str) -> list[str]:
    """Keys of what holds the versions of a dataset: the plan of a revision that is being made, and the lock, if any."""
    folder = f"datasets/{name}"
    try:
        finished = int(json.loads(store.read(f"{folder}/{LOCK}"))["revision"])
    except (ObjectNotFoundError, CorruptWarehouseError, ValueError, KeyError, TypeError, RecursionError):
        finished = 0  # whoever reads the lock says what is wrong with it
    revisions = [one for one in store.folders(f"{folder}/work") if one.isdecimal() and int(one) > finished]
    return [*(f"{folder}/work/{one}/plan.json" for one in revisions), f"{folder}/{LOCK}"]


def dataset_pin(store: Store, key: str) -> Pin | None:
    """What a dataset's plan or lock holds; None where there is no such file."""
    try:
        body = store.read(key)
    except ObjectNotFoundError:
        return None
    try:
        index = json.loads(body)["index"]
        name, version, sha256 = index["name"], index["version"], index["sha256"]
        is_whole = isinstance(version, int) and bool(NAME.fullmatch(name)) and isinstance(sha256, str)
    except (ValueError, KeyError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise CorruptWarehouseError(f"{store.root}/{key} is damaged: it does not say which index version it holds")
    return Pin(f"{COMBINED}/{name}", version, sha256, key)
