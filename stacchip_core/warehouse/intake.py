"""Items as users have them: read one by one, and grouped by the collection of the warehouse that they go to."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stacchip_core.errors import InputError, StacchipError
from stacchip_core.index.indexer import IndexSettings
from stacchip_core.sources.access import unsigned_href
from stacchip_core.sources.cause import cause_of
from stacchip_core.sources.item import StacObject, StagedItem, read_item
from stacchip_core.sources.source import Source, local_path
from stacchip_core.warehouse.classify import collection_of

logger = logging.getLogger(__name__)

Item = StacObject | Mapping[str, Any] | str | Path


@dataclass(frozen=True, slots=True)
class Found:
    """An item as it was read, or why it could not be, and the local folders that it may read from."""

    staged: StagedItem
    roots: tuple[str, ...]


@dataclass(slots=True)
class Grouping:
    """Puts items into groups, page by page.

    Attributes:
        name: collection of the warehouse that all items go to; None: one made from each item's collection id.
        known: names that items have gone to so far.
        homeless: why items could not be put anywhere: nothing tells their collection, and there is not just one.
    """

    name: str | None
    settings: IndexSettings
    known: set[str] = field(default_factory=set)
    homeless: list[str] = field(default_factory=list)

    def groups(self, page: Sequence[Found]) -> dict[tuple[str, tuple[str, ...]], list[StagedItem]]:
        """Items by the name they go to and the folders they may read: one folder's paths mean nothing in another."""
        named = [(self.name or _name_of(found.staged, self.settings), found) for found in page]
        self.known |= {one for one, _ in named if one}
        groups: dict[tuple[str, tuple[str, ...]], list[StagedItem]] = {}
        for one, found in sorted(named, key=lambda pair: pair[1].staged.error is not None):  # failures read nothing
            if not one and len(self.known) != 1:
                self.homeless.append(found.staged.error or f"item {found.staged.item.get('id')}")
                continue
            place = (one or min(self.known), found.roots)
            if found.staged.error is not None:
                place = next((key for key in groups if key[0] == place[0]), place)
            groups.setdefault(place, []).append(found.staged)
        return groups

    def check(self) -> None:
        """Raise for the items that could not be put anywhere.

        Raises:
            InputError: names the first of them.
        """
        if self.homeless:
            raise InputError(
                f"{self.homeless[0]}; its collection is not known either: pass name= to record the failure "
                f"({len(self.homeless)} such; all other items are committed)"
            )


def read_items(items: Iterable[Item], roots: tuple[str, ...]) -> Iterator[Found]:
    """Read items one by one; from the first local path on, those that follow are taken in before they are read.

    Items given as local paths outside `roots` may read from the folder that all of them have in common, and are
    relative to it: one relative path then means one file.

    Raises:
        InputError: local paths without a folder in common but the root of the disk.
    """
    stream = iter(items)
    for item in stream:
        if _path_of(item) is None:
            yield _read(item, roots)
            continue
        rest = [item, *stream]
        own = _roots_of([path for path in map(_path_of, rest) if path], roots)
        yield from (_read(one, own if _path_of(one) else roots) for one in rest)


def safe_name(collection_id: str) -> str:
    """The name a collection id gets in a warehouse: [a-z0-9-], at most 63 characters.

    Raises:
        InputError: nothing is left of it.
    """
    name = re.sub(r"[^a-z0-9]+", "-", collection_id.lower()).strip("-")[:63].rstrip("-")
    if not name:
        raise InputError(f"collection id {collection_id!r} holds no letter or digit to name it by: pass name=")
    return name


def _path_of(item: Item) -> Path | None:
    if isinstance(item, str):
        return local_path(item)
    return item.resolve() if isinstance(item, Path) else None


def _roots_of(paths: Sequence[Path], roots: tuple[str, ...]) -> tuple[str, ...]:
    """The folders that items given by these paths may read from: those given, and the one that the others share."""
    return Source(items=tuple(map(str, paths)), local_roots=roots).roots if paths else roots


def _read(item: Item, roots: tuple[str, ...]) -> Found:
    """Read an item; one that can't be has `error` set."""
    name = _name_at(item, roots)
    try:
        source = read_item(item, roots)
    except StacchipError as err:
        kept = {"id": name} if name else _remains_of(item)
        return Found(StagedItem(kept, error=str(err), cause=cause_of(err), found_as=name), roots)
    except Exception as err:  # what an object of another library raises when it is asked for its JSON
        logger.exception("an item could not be read")
        return Found(StagedItem(_remains_of(item), error=f"{type(err).__name__}: {err}", cause="item"), roots)
    return Found(StagedItem(source.item, source.base, host=source.host, found_as=name), source.local_roots)


def _name_at(item: Item, roots: tuple[str, ...]) -> str:
    """What an item's file is called: its URL without signature, or its path below a local root; "" for no file."""
    path = _path_of(item)
    if path is None:
        return unsigned_href(item) if isinstance(item, str) else ""
    root = next((root for root in roots if path.is_relative_to(Path(root).resolve())), None)
    return path.relative_to(Path(root).resolve()).as_posix() if root else path.name


def _remains_of(item: object) -> dict[str, Any]:
    """What is kept of an item that is none: enough to tell it by."""
    given = item if isinstance(item, Mapping) else None
    collection = given.get("collection") if given is not None else getattr(item, "collection_id", None)
    item_id = given.get("id") if given is not None else getattr(item, "id", None)
    kept = {"type": "Feature", "id": str(item_id)[:512].encode("utf-8", "replace").decode()}
    return {**kept, "collection": collection} if isinstance(collection, str) else kept


def _name_of(staged: StagedItem, settings: IndexSettings) -> str:
    """The name that an item's collection id gives; "" where there is none to be made."""
    try:
        return safe_name(collection_of(staged.item, settings)) if "type" in staged.item else ""
    except InputError:
        return ""
