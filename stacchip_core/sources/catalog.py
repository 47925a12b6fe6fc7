"""Discovery: the items of a STAC API, a static catalog, stac-geoparquet or a list of files, by one interface.

A source that is open gives findings: items, page by page; `Covered` for what is known to be whole; and a `Gap` for what
is not. What is missing is always said, and what was found is never held back for it.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from stacchip_core.errors import IncompleteError, InputError, ReadError, StacchipError
from stacchip_core.sources.access import unsigned_href
from stacchip_core.sources.api import Api, open_api
from stacchip_core.sources.crawl import Disk, Place, Web, checked_item, crawl, items_of, unreadable
from stacchip_core.sources.gate import origin_of
from stacchip_core.sources.geoparquet import is_parquet, parquet_files, read_rows
from stacchip_core.sources.interval import parse_interval
from stacchip_core.sources.item import StagedItem, updated
from stacchip_core.sources.paging import key_of
from stacchip_core.sources.source import Source, local_path
from stacchip_core.sources.transport import Document, Query, Transport, is_same_host
from stacchip_core.sources.windows import Coverage, Covered, Gap, Page, Window

logger = logging.getLogger(__name__)

PAGE_ITEMS = 2000  # items handed over at a time: what one commit holds


@dataclass(frozen=True, slots=True)
class Items:
    """Items that were found; one that can't be read has `error` set."""

    items: list[StagedItem]


Finding = Items | Covered | Gap


@dataclass(slots=True)
class OpenSource:
    """A source that was opened: what its items are, in windows where it is an API.

    Attributes:
        source: what is asked for.
        transport: how its documents are fetched, and how long that may take.
        api: where the source is a STAC API.
    """

    source: Source
    transport: Transport
    api: Api | None = None
    _coverage: Coverage | None = None
    _landing: tuple[Place, str, Document] | None = None

    @property
    def known(self) -> Mapping[str, Any]:
        """What was found out about the server, to be remembered."""
        return dict(self.api.known) if self.api else {}

    @property
    def clock(self) -> dt.datetime:
        """The source's time when it was opened; never later than ours, should its clock be wrong."""
        now = dt.datetime.now(dt.UTC)
        return min(self.transport.date or now, now)

    @property
    def has_updates(self) -> bool:
        """Whether what changed can be asked for."""
        return self.api is not None and self.api.updated_by() is not None

    @property
    def has_windows(self) -> bool:
        """Whether parts of its time can be asked for."""
        return self.api is not None and self.api.can_split(Window())

    def whole(self, start: dt.datetime | None = None) -> Iterator[Finding]:
        """All items of the source; of an API that keeps to times, from a moment on."""
        if self.api is None:
            yield from self._listed()
            return
        first, last = parse_interval(self.source.datetime) if self.source.datetime else (None, None)
        yield from self.window(Window(max(filter(None, (first, start)), default=None), last))

    def window(self, window: Window) -> Iterator[Finding]:
        """Items of a window of an API; those of other times than the source's are left out."""
        if self.api is None:
            raise InputError("only a STAC API can be asked for a window of time")
        self._coverage = self._coverage or Coverage(self.api)
        for found in self._coverage.cover(window):
            if isinstance(found, Page):
                items = (_staged(feature, found.href) for feature in found.features)
                yield Items([one for one in items if self._is_asked(one)])
            else:
                yield found

    def look_up(self, collection: str, item_id: str) -> StagedItem | None:
        """An item by itself; None where the source says it has none. Only APIs can be asked.

        Raises:
            ReadError, TransientReadError: the source says neither.
        """
        found = self.api.look_up(collection, item_id) if self.api else None
        if found is None:
            return None
        if found.get("id") != item_id:
            where = unsigned_href(str(self.source.url))
            raise ReadError(f"{where}: asked for item {item_id!r}, got {str(found.get('id'))[:80]!r}")
        return _staged(found, self.api.search if self.api else "")

    def _listed(self) -> Iterator[Finding]:
        """Items of a source that is read from end to end; whole, unless a file of it is a failure."""
        keys, failed = set[str](), 0
        items = self._list_items()
        try:
            while page := list(islice(items, PAGE_ITEMS)):
                keys |= {key_of(one.item) for one in page if one.error is None}
                failed += sum(one.error is not None for one in page)
                yield Items([one for one in page if self._is_asked(one)])
        except ReadError as err:
            if not keys and not failed:
                raise
            yield Gap(unsigned_href(str(self.source.url or "the list of files")), str(err))
            return
        if not failed:
            yield Covered(Window(), frozenset(keys))

    def _list_items(self) -> Iterator[StagedItem]:
        if self._landing is None:
            return (item for href in self.source.items for item in _file_items(href, self.source, self.transport))
        place, name, document = self._landing
        if not document:
            return _parquet_items(name, place, self.source, self.transport)
        if document.get("type") in ("Feature", "FeatureCollection"):
            return items_of(name, document, place)
        return crawl(name, document, place, self.source.collections)

    def _is_asked(self, staged: StagedItem) -> bool:
        return staged.error is not None or self.source.matches(staged.item)


def open_source(
    source: Source, known: Mapping[str, Any] | None = None, transport: Transport | None = None
) -> OpenSource:
    """Open a source: its landing page is read, and what it can be relied on for is tried, unless `known` says.

    Sources that share a transport share the time that finding items may take.

    Raises:
        InputError: it is no catalog, lacks a collection, or can't do what is asked.
        ReadError, TransientReadError: it can't be read at all.
    """
    opened = OpenSource(source, transport or Transport(seconds=60 * source.deadline_minutes))
    if source.url is not None:
        place, name = _place(source.url, source, opened.transport)
        is_table = is_parquet(name) or (isinstance(place, Disk) and Path(name).is_dir())
        document = {} if is_table else place.read(name)
        opened._landing = (place, name, document)
        if isinstance(place, Web) and _is_api(document, source):
            opened.api = open_api(name, document, source, opened.transport, known or {})
        elif not is_table:
            _check_catalog(document, source)
    if source.filter is not None and opened.api is None:
        raise InputError("filter= is for STAC APIs; use query= for catalogs and files")
    return opened


def discover(source: Source) -> Iterator[list[StagedItem]]:
    """All items of `source`, in pages of at most `PAGE_ITEMS`; an item that can't be read has `error` set.

    An item found twice in a page is kept once, in the form with the later `updated`.

    Raises:
        InputError: the source is no catalog, or names a collection that is not there.
        ReadError, TransientReadError: it can't be read at all.
        IncompleteError: after the last page, where something is missing; says what.
    """
    opened, gaps = open_source(source), list[Gap]()
    items = chosen(opened.whole(), source, gaps)
    while page := list(islice(items, PAGE_ITEMS)):
        yield newest_each(page)
    check_whole(source, gaps)


def chosen(findings: Iterable[Finding], source: Source, gaps: list[Gap]) -> Iterator[StagedItem]:
    """The items of some findings that a source takes; gaps are put down. Of what is not whole nothing is chosen."""
    found = _items_of(findings, gaps)
    if source.choose is not None:
        best = source.choose.choose(found, source.shape)
        found = iter(best if not gaps else [one for one in best if one.error is not None])
    return islice(found, source.max_items)


def check_whole(source: Source, gaps: list[Gap]) -> None:
    """Raise where something is missing.

    Raises:
        IncompleteError: says what.
    """
    if gaps:
        name = unsigned_href(source.url) if source.url else "the list of files"
        more = f"; and {len(gaps) - 3} more" if len(gaps) > 3 else ""
        raise IncompleteError(f"INCOMPLETE: {name}: {'; '.join(map(str, gaps[:3]))}{more}")


def newest_each(page: list[StagedItem]) -> list[StagedItem]:
    """`page` with each item once, at its first place: its latest `updated`, the later one where equal."""
    best: dict[str, StagedItem] = {}
    for number, staged in enumerate(page):
        key = f"{staged.item.get('collection')}/{staged.item['id']}" if staged.error is None else f"#{number}"
        if key not in best or _updated(staged) >= _updated(best[key]):
            best[key] = staged
    return list(best.values())


def _items_of(findings: Iterable[Finding], gaps: list[Gap]) -> Iterator[StagedItem]:
    for found in findings:
        if isinstance(found, Items):
            yield from found.items
        elif isinstance(found, Gap):
            gaps.append(found)


def _is_api(document: Document, source: Source) -> bool:
    """Whether a document on the network is the landing page of a STAC API.

    Raises:
        InputError: it is a collection of one.
    """
    links = {link.get("rel") for link in document.get("links") or [] if isinstance(link, dict)}
    if "conformsTo" in document or "search" in links:
        return True
    if "items" in links and not links & {"child", "item"}:
        raise InputError(
            f"{unsigned_href(str(source.url))} is a collection of a STAC API: give the API's root as url, "
            f"and collections: [{document.get('id')}]"
        )
    return False


def _check_catalog(document: Document, source: Source) -> None:
    links = {link.get("rel") for link in document.get("links") or [] if isinstance(link, dict)}
    known = ("Catalog", "Collection", "Feature", "FeatureCollection")
    if document.get("type") not in known and not links & {"child", "item"}:
        raise InputError(
            f"{unsigned_href(str(source.url))} is not a STAC API, catalog, collection or item: its type is "
            f"{document.get('type')!r}"
        )


def _file_items(href: str, source: Source, transport: Transport) -> Iterator[StagedItem]:
    """Items of one file of a list; a file that can't be read is one failure."""
    try:
        place, name = _place(href, source, transport)
        if is_parquet(name):
            yield from _parquet_items(name, place, source, transport)
        else:
            yield from items_of(name, place.read(name), place)
    except InputError:
        raise
    except StacchipError as err:
        path = local_path(href)
        yield unreadable(Disk(source.roots).name(str(path)) if path else unsigned_href(href), err)


def _parquet_items(name: str, place: Place, source: Source, transport: Transport) -> Iterator[StagedItem]:
    """Items of a stac-geoparquet file, or of those in a folder; a file that can't be read is one failure."""
    path = Path(name) if isinstance(place, Disk) else None
    files = [str(one) for one in parquet_files(path)] if path and path.is_dir() else [name]
    if not files:
        raise InputError(
            f"{place.name(name)}: there is no catalog.json, collection.json or Parquet file in this folder"
        )
    for file in files:
        shown = place.name(file)
        try:
            content = file if path else transport.content(Query(file))
            for item in read_rows(content, shown):
                yield checked_item(item, shown, place.base(file))
        except StacchipError as err:
            yield unreadable(shown, err)


def _place(href: str, source: Source, transport: Transport) -> tuple[Place, str]:
    """Who reads `href`, and its full name there."""
    path = local_path(href)
    if path is not None:
        named = next((path / n for n in ("catalog.json", "collection.json") if (path / n).is_file()), path)
        return Disk(source.roots), str(named)
    if urlsplit(href).scheme not in ("http", "https") or not urlsplit(href).hostname:
        raise InputError(f"{unsigned_href(href)}: catalogs and items are read from http(s) URLs or local paths")
    return Web(str(origin_of(href, may_have_user=True)), lambda url: transport.document(Query(url))), href


def _staged(feature: object, page: str) -> StagedItem:
    """A feature of a page as an item, or as the failure of one."""
    return checked_item(feature, unsigned_href(page), _own_href(feature, page))


def _updated(staged: StagedItem) -> dt.datetime:
    is_whole = isinstance(staged.item.get("properties"), dict)
    return (updated(staged.item) if is_whole else None) or dt.datetime.min.replace(tzinfo=dt.UTC)


def _own_href(feature: object, page: str) -> str:
    """Where an item of a page stands by itself: its `self` link if on the same host, else the page."""
    links = feature.get("links") if isinstance(feature, dict) else None
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("rel") == "self" and isinstance(link.get("href"), str):
            try:
                href = urljoin(page, link["href"])
            except ValueError:  # no URL at all
                return page
            return href if is_same_host(page, href) else page
    return page
