"""Static catalogs and item files: reading plain JSON along `child` and `item` links, on disk or over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urldefrag, urljoin

from stacchip_core.errors import HrefRefusedError, InputError, InvalidItemError, ReadError, StacchipError
from stacchip_core.sources.access import is_remote, unsigned_href
from stacchip_core.sources.cause import cause_of
from stacchip_core.sources.gate import host_of
from stacchip_core.sources.item import StagedItem, checked, is_name, read_json
from stacchip_core.sources.source import local_path
from stacchip_core.sources.transport import Document, is_same_host


class Place(Protocol):
    """Where documents lie, and which of their links may be followed."""

    def read(self, href: str) -> Document:
        """The JSON object at `href`; raises ReadError."""
        ...

    def follow(self, link: str, parent: str) -> str:
        """Full href of a link found in the document `parent`; raises HrefRefusedError where it leads away."""
        ...

    def base(self, href: str) -> str:
        """What the relative hrefs of an item read at `href` are relative to."""
        ...

    def name(self, href: str) -> str:
        """How messages and failures call `href`: no signature, no path of this machine."""
        ...


@dataclass(frozen=True, slots=True)
class Disk:
    """Files below `roots`; an href is an absolute path."""

    roots: tuple[str, ...]

    def read(self, href: str) -> Document:
        """The JSON object in a file."""
        return read_json(href)

    def follow(self, link: str, parent: str) -> str:
        """Absolute path of `link`, relative to the folder of `parent`; symbolic links are resolved first."""
        path = local_path(link) if link.startswith("file://") else None
        if path is None and "://" in link:
            where = unsigned_href(link)
            raise HrefRefusedError(f"{self.name(parent)} links to {where}: a local catalog may not lead to a network")
        try:
            path = path or (Path(parent).parent / unquote(link)).resolve()
        except (ValueError, OSError, RuntimeError) as err:  # a NUL, too long a name, a ring of links
            raise HrefRefusedError(f"{self.name(parent)} links to {link[:200]!r}, which is no path") from err
        if not any(path.is_relative_to(root) for root in self.roots):
            raise HrefRefusedError(
                f"{self.name(parent)} links to {link!r}, outside the folders that may be read; add its folder to "
                "local_roots"
            )
        return str(path)

    def name(self, href: str) -> str:
        """Path of `href` below the root that holds it."""
        root = next((root for root in self.roots if Path(href).is_relative_to(root)), None)
        return Path(href).relative_to(root).as_posix() if root else Path(href).name

    def base(self, href: str) -> str:
        """Folder of `href` relative to the first root that holds it; "" is the root itself."""
        folder = Path(href).parent
        root = next(root for root in self.roots if folder.is_relative_to(root))
        relative = folder.relative_to(root).as_posix()
        return "" if relative == "." else relative


@dataclass(frozen=True, slots=True)
class Web:
    """Documents of one host; an href is a URL."""

    origin: str
    fetch: Callable[[str], Document]

    def read(self, href: str) -> Document:
        """The JSON object a URL answers with."""
        return self.fetch(href)

    def follow(self, link: str, parent: str) -> str:
        """URL of `link`, relative to the URL `parent`."""
        try:
            url = urldefrag(urljoin(parent, link)).url
        except ValueError as err:
            raise HrefRefusedError(f"{unsigned_href(parent)} links to {link[:200]!r}, which is no URL") from err
        if not is_same_host(self.origin, url):
            raise HrefRefusedError(
                f"{unsigned_href(parent)} links to {unsigned_href(url)}: another host than {self.origin}; "
                "give that catalog as a source of its own"
            )
        return url

    def base(self, href: str) -> str:
        """The item's own URL."""
        return href

    def name(self, href: str) -> str:
        """The URL without a signature."""
        return unsigned_href(href)


def crawl(href: str, document: Document, place: Place, collections: tuple[str, ...] = ()) -> Iterator[StagedItem]:
    """Every item reachable from the catalog or collection `document`, depth first in the order of its links.

    What can't be read, or may not be followed, comes as a StagedItem with `error` set: one broken file never
    hides the others. No document is read twice, so links in a circle end. Items linked from collections other
    than `collections` (where given) are not read.

    Raises:
        InputError: at the end, where all could be read and one of `collections` was not there; lists those that were.
    """
    pending = [_Visit(href, _collection_id(document), document)]
    seen, there, is_whole = {href}, set[str](), True
    while pending:
        for found in _visit(pending.pop(), place, collections, (seen, there)):
            if isinstance(found, _Visit):
                pending.append(found)
                continue
            is_whole &= found.error is None
            there.add(_text(found.item.get("collection")) or "")
            yield found
    if is_whole and (missing := [name for name in collections if name not in there]):
        have = ", ".join(sorted(there - {""})) or "none"
        raise InputError(f"collection {missing[0]!r} is not in {place.name(href)}; it has: {have}")


def _visit(
    visit: _Visit, place: Place, collections: tuple[str, ...], known: tuple[set[str], set[str]]
) -> Iterator[StagedItem | _Visit]:
    """The items that a document is, or links to, then the catalogs below it, the last one first.

    `known`: addresses that were seen, ids of collections that are there; both grow.
    """
    seen, there = known
    try:
        current = visit.document or place.read(visit.href)
        if current.get("type") == "Feature":
            yield from items_of(visit.href, current, place)
            return
    except StacchipError as err:
        yield unreadable(place.name(visit.href), err, visit.collection)
        return
    collection = _collection_id(current) or visit.collection
    there.add(collection or "")
    wanted = not collections or collection is None or collection in collections
    children: list[_Visit] = []
    for link in _links(current, ("child", "item") if wanted else ("child",)):
        target = link["href"]
        try:
            target = place.follow(link["href"], visit.href)
            if target in seen:
                continue
            seen.add(target)
            if link["rel"] == "child":
                children.append(_Visit(target, collection))
            else:
                yield from items_of(target, place.read(target), place)
        except StacchipError as err:
            yield unreadable(place.name(target), err, collection)
    yield from reversed(children)


@dataclass(frozen=True, slots=True)
class _Visit:
    """A catalog or collection to read; of those that wait, only the address is kept."""

    href: str
    collection: str | None
    document: Document | None = None


def items_of(href: str, document: Document, place: Place) -> Iterator[StagedItem]:
    """The item, or the items of the item collection, in a document.

    Raises:
        ReadError: the document is neither.
    """
    features = document.get("features") if document.get("type") == "FeatureCollection" else [document]
    if not isinstance(features, list):
        raise ReadError(f"{unsigned_href(href)}: a FeatureCollection without a list of features")
    for feature in features:
        yield checked_item(feature, place.name(href), place.base(href))


def checked_item(feature: object, name: str, base: str) -> StagedItem:
    """`feature`, read at `name`, as an item to stage; with `error` set where it has not the form of a STAC item."""
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        found = feature.get("type") if isinstance(feature, dict) else type(feature).__name__
        return unreadable(name, ReadError(f"{name}: expected a STAC item (type Feature), found {found!r}"))
    try:
        return StagedItem(
            checked(feature, name), base, host=host_of(base), found_as=unsigned_href(base) if is_remote(base) else name
        )
    except InvalidItemError as err:
        failed = unreadable(name, err, _text(feature.get("collection")))
        own = feature.get("id")  # where that much is sound, the failure is the item's own
        is_told = isinstance(own, str) and is_name(own)
        return replace(failed, item={**failed.item, "type": "Feature", "id": own}) if is_told else failed


def unreadable(name: str, error: StacchipError, collection: str | None = None) -> StagedItem:
    """The failure of one item, as data: named by where it should have been read."""
    known = {"collection": collection} if collection else {}
    return StagedItem({"id": name, **known}, error=str(error), cause=cause_of(error), found_as=name)


def _links(document: Document, relations: tuple[str, ...]) -> list[dict[str, str]]:
    links = document.get("links")
    return [
        {"rel": link["rel"], "href": link["href"]}
        for link in (links if isinstance(links, list) else [])
        if isinstance(link, dict) and link.get("rel") in relations and isinstance(link.get("href"), str)
    ]


def _collection_id(document: Document) -> str | None:
    return _text(document.get("id")) if document.get("type") == "Collection" else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
