"""Tags: names for versions, which also hold them back from being removed."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stacchip_core.errors import (
    CorruptWarehouseError,
    InputError,
    ObjectExistsError,
    ObjectNotFoundError,
    VersionNotFoundError,
)
from stacchip_core.warehouse.entry import KINDS, NAME, sealed
from stacchip_core.warehouse.store import Listed, Store

TAGS = "tags"
DELETED = f"{TAGS}/deleted"  # what tags named that were deleted: vacuum honours it for its grace period
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TRACE = re.compile(rf"{DELETED}/({NAME.pattern})\.({_UUID})\.json")


@dataclass(frozen=True, slots=True)
class Tag:
    """A name for one version of one index.

    Attributes:
        index: "combined/<name>" or "collections/<name>".
        version: its number.
        sha256: of its log entry.
    """

    name: str
    index: str
    version: int
    sha256: str

    def __str__(self) -> str:
        """As people write it."""
        return f"{self.name} ({self.index}@{self.version})"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def key_of(name: str) -> str:
    """Key of a tag.

    Raises:
        InputError: not a name for a tag; a number alone would be taken for a version.
    """
    if not NAME.fullmatch(name) or name.isdigit():
        raise InputError(f"{name!r} is no name for a tag: use a-z, 0-9 and '-', at most 63, not digits alone")
    return f"{TAGS}/{name}.json"


def put_tag(store: Store, tag: Tag) -> Tag:
    """Create a tag; the same one again is harmless.

    Raises:
        InputError: the name is taken by another version.
        TransientStoreError: nobody knows whether it was created: do it again.
    """
    try:
        store.create(key_of(tag.name), sealed(_fields(tag)))
    except ObjectExistsError as err:  # ours, where an answer was lost on the way
        there = read_tag(store, tag.name)
        if there != tag:
            raise InputError(
                f"tag {tag.name!r} names {there.index} version {there.version}, not {tag.index} version "
                f"{tag.version}: choose another name, or delete the tag first"
            ) from err
    return tag


def drop_tag(store: Store, name: str) -> bool:
    """Delete a tag, whatever is in it; its version stays for as long as anything else holds it.

    What it named is written down first, below `DELETED`, so that vacuum leaves its version to whoever reads by it for
    the grace period; and the name is free at once, for whoever creates it first.

    Returns:
        False where there is no such tag.
    """
    try:
        tag = read_tag(store, name)
    except VersionNotFoundError:
        return False
    except CorruptWarehouseError:  # nobody knows what it held
        tag = None
    if tag is not None:
        store.write(f"{DELETED}/{name}.{uuid.uuid4()}.json", sealed({**_fields(tag), "deleted": True}))
    store.delete(key_of(name))
    return True


def deleted_tags(store: Store, is_over: Callable[[Listed], bool]) -> dict[str, Tag]:
    """Tags that were deleted, by key of what they left behind, but for those that `is_over`.

    Raises:
        CorruptWarehouseError: one is not as it was written.
    """
    found: dict[str, Tag] = {}
    for key, listed in store.listing(DELETED).items():
        match = TRACE.fullmatch(key)
        if match is None or is_over(listed):
            continue
        try:
            found[key] = parse_tag(match[1], store.read(key), f"{store.root}/{key}")
        except ObjectNotFoundError:  # another vacuum was here
            continue
    return found


def read_tag(store: Store, name: str) -> Tag:
    """A tag by its name.

    Raises:
        VersionNotFoundError: lists the tags there are.
        CorruptWarehouseError: it is not as it was written.
    """
    try:
        body = store.read(key_of(name))
    except ObjectNotFoundError as err:
        there = ", ".join(tag_names(store)) or "none yet"
        raise VersionNotFoundError(f"{store.root}: no tag {name!r}; there are {there}") from err
    return parse_tag(name, body, f"{store.root}/{key_of(name)}")


def _fields(tag: Tag) -> dict[str, Any]:
    return {"index": tag.index, "version": tag.version, "sha256": tag.sha256}


def parse_tag(name: str, body: bytes, where: str) -> Tag:
    """A tag from its bytes; `where` is for messages."""
    try:
        data = json.loads(body)
        is_whole = isinstance(data, Mapping) and sealed(data) == body
    except (ValueError, RecursionError):
        is_whole = False
    if not is_whole:
        raise CorruptWarehouseError(f"tag {where} was changed: it does not agree with its own checksum")
    kind, _, index = str(data.get("index")).partition("/")
    version, sha256 = data.get("version"), data.get("sha256")
    if kind not in KINDS or not NAME.fullmatch(index) or not isinstance(version, int) or not isinstance(sha256, str):
        raise CorruptWarehouseError(f"tag {where} is damaged: it names no version of an index")
    return Tag(name, f"{kind}/{index}", version, sha256)


def tag_names(store: Store) -> list[str]:
    """Names of all tags, sorted."""
    keys = [key.removeprefix(f"{TAGS}/") for key in store.list(TAGS)]
    names = [key.removesuffix(".json") for key in keys if key.endswith(".json")]
    return sorted(name for name in names if NAME.fullmatch(name) and not name.isdigit())


def all_tags(store: Store) -> list[Tag]:
    """All tags, by name; one that is deleted meanwhile is left out.

    Raises:
        CorruptWarehouseError: one is not as it was written.
    """
    found = []
    for name in tag_names(store):
        try:
            body = store.read(key_of(name))
        except ObjectNotFoundError:
            continue
        found.append(parse_tag(name, body, f"{store.root}/{key_of(name)}"))
    return found
