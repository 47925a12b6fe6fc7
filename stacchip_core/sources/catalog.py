"""Discovery: the items of a STAC API, a static catalog or a list of files, page by page."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from itertools import islice
from urllib.parse import urljoin, urlsplit

from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3 import Retry

from stacchip_core.errors import InputError, ReadError, StacchipError, TransientReadError
from stacchip_core.sources.access import unsigned_href
from stacchip_core.sources.crawl import (
    Disk,
    Document,
    Place,
    Web,
    checked_item,
    crawl,
    items_of,
    origin_of,
    parse_document,
    unreadable,
)
from stacchip_core.sources.interval import format_interval, parse_interval
from stacchip_core.sources.item import StagedItem, updated
from stacchip_core.sources.paging import Query, read_pages
from stacchip_core.sources.source import Source, local_path

logger = logging.getLogger(__name__)

PAGE_ITEMS = 2000  # items handed over at a time: what one commit holds
TIMEOUT_SECONDS = (5.0, 60.0)  # to connect, and between two reads; without, a silent server hangs us
RETRY_STATUSES = (408, 429, 500, 502, 503, 504)
RETRIES = 6
CONNECT_RETRIES = 3  # of them at most, where nobody answers at all: a wrong address should not take a minute
BACKOFF_SECONDS = 0.5
RETRY_AFTER_MAX_SECONDS = 300


class _NotFoundError(ReadError):
    """The server answered 404."""


def discover(source: Source) -> Iterator[list[StagedItem]]:
    """The items of `source`, in pages of at most `PAGE_ITEMS`; an item that can't be read has `error` set.

    An item found twice in a page is kept once, in the form with the later `updated`.

    Raises:
        InputError: the source is no catalog, or names a collection that is not there.
        TransientReadError: the network or the server failed, after retries.
        ReadError: the server answered with an error or with something that is not STAC, or its pages go in a
            circle.
    """
    found = _found(source)
    if source.max_items is not None:
        found = islice(found, source.max_items)
    while page := list(islice(found, PAGE_ITEMS)):
        yield _newest_each(page)


def _found(source: Source) -> Iterator[StagedItem]:
    io = _transport()
    items: Iterator[StagedItem]
    if source.url is None:
        items = (item for href in source.items for item in _file_items(href, source, io))
    else:
        items = _catalog_items(source.url, source, io)
    return (item for item in items if item.error is not None or source.matches(item.item))


def _file_items(href: str, source: Source, io: StacApiIO) -> Iterator[StagedItem]:
    """Items of one file of a list; a file that can't be read is one failure."""
    try:
        place, name = _place(href, source, io)
        yield from items_of(name, place.read(name), place)
    except InputError:
        raise
    except StacchipError as err:
        path = local_path(href)
        yield unreadable(Disk(source.roots).name(str(path)) if path else unsigned_href(href), err)


def _catalog_items(url: str, source: Source, io: StacApiIO) -> Iterator[StagedItem]:
    place, name = _place(url, source, io)
    document = place.read(name)
    links = {link.get("rel") for link in document.get("links") or [] if isinstance(link, dict)}
    if document.get("type") in ("Feature", "FeatureCollection"):
        return items_of(name, document, place)
    if isinstance(place, Web) and ("conformsTo" in document or "search" in links):
        return _search_items(name, source, io)
    if isinstance(place, Web) and "items" in links and not links & {"child", "item"}:
        raise InputError(
            f"{unsigned_href(url)} is a collection of a STAC API: give the API's root as url, "
            f"and collections: [{document.get('id')}]"
        )
    if document.get("type") not in ("Catalog", "Collection") and not links & {"child", "item"}:
        raise InputError(
            f"{unsigned_href(url)} is not a STAC API, catalog, collection or item: its type is {document.get('type')!r}"
        )
    return crawl(name, document, place, source.collections)


def _place(href: str, source: Source, io: StacApiIO) -> tuple[Place, str]:
    """Who reads `href`, and its full name there."""
    path = local_path(href)
    if path is not None:
        named = next((path / n for n in ("catalog.json", "collection.json") if (path / n).is_file()), path)
        return Disk(source.roots), str(named)
    if urlsplit(href).scheme not in ("http", "https") or not urlsplit(href).hostname:
        raise InputError(f"{unsigned_href(href)}: catalogs and items are read from http(s) URLs or local paths")
    return Web(origin_of(href), lambda url: _request(io, Query(url))), href


def _search_items(url: str, source: Source, io: StacApiIO) -> Iterator[StagedItem]:
    """Items of a search, in the server's order; warns where the server announced more than it gave."""
    ids: set[str] = set()
    matched: int | None = None
    for query, page in read_pages(_first_query(url, source, io), lambda query: _request(io, query)):
        announced = page.get("numberMatched") or (page.get("context") or {}).get("matched")
        matched = announced if isinstance(announced, int) and matched is None else matched
        for feature in page["features"]:
            staged = checked_item(feature, unsigned_href(query.href), _own_href(feature, query.href))
            ids.add(f"{staged.item.get('collection')}/{staged.item['id']}")
            yield staged
    if matched is not None and matched > len(ids):
        logger.warning("%s announced %d items and gave %d", unsigned_href(url), matched, len(ids))


def _first_query(url: str, source: Source, io: StacApiIO) -> Query:
    """The search for `source`: POST where the server offers it."""
    try:
        client = Client.open(url, stac_io=io, timeout=TIMEOUT_SECONDS)
        client.add_conforms_to("ITEM_SEARCH")  # a search link says so as well; some servers give only that
        links = [link for link in client.links if link.rel == "search"]
        methods = {(link.extra_fields.get("method") or "GET").upper() for link in links}
        search = client.search(
            method="POST" if "POST" in methods or not methods else "GET",
            collections=list(source.collections) or None,
            datetime=format_interval(parse_interval(source.datetime)) if source.datetime else None,
            bbox=source.bbox,
            limit=source.page_size,
        )
        query = Query(search.url, search.method or "GET", search.get_parameters())
        has_collections = any(link.rel == "data" for link in client.links)
    except APIError as err:
        raise _read_error(url, err) from err
    except (ValueError, KeyError, TypeError, NotImplementedError) as err:
        raise ReadError(f"{unsigned_href(url)}: not a usable STAC API ({err})") from err
    if origin_of(query.href) != origin_of(url):
        raise ReadError(f"{unsigned_href(url)}: its search is on another host, {unsigned_href(query.href)}")
    if has_collections:
        _check_collections(url, source, io)
    return query


def _check_collections(url: str, source: Source, io: StacApiIO) -> None:
    """Refuse collections the API does not have: a search for a misspelt one just finds nothing."""
    listing = url.rstrip("/") + "/collections"
    for name in source.collections:
        try:
            _request(io, Query(f"{listing}/{name}"))
        except _NotFoundError as err:
            found = _request(io, Query(listing)).get("collections") or []
            there = sorted(str(c.get("id")) for c in found if isinstance(c, dict))
            raise InputError(
                f"collection {name!r} is not in {unsigned_href(url)}; it has: {', '.join(there) or 'none'}"
            ) from err


def _transport() -> StacApiIO:
    """Requests with timeouts, and with retries that cover POST and honour Retry-After."""
    retry = Retry(
        total=RETRIES,
        connect=min(RETRIES, CONNECT_RETRIES),
        backoff_factor=BACKOFF_SECONDS,
        backoff_jitter=BACKOFF_SECONDS,
        status_forcelist=RETRY_STATUSES,
        allowed_methods=None,
        respect_retry_after_header=True,
        retry_after_max=RETRY_AFTER_MAX_SECONDS,
        raise_on_status=False,
    )
    return StacApiIO(timeout=TIMEOUT_SECONDS, max_retries=retry)


def _request(io: StacApiIO, query: Query) -> Document:
    """The JSON object a request is answered with.

    Raises:
        TransientReadError, ReadError: as `discover`; a 404 as `_NotFoundError`.
    """
    try:
        text = io.request(query.href, method=query.method, headers=query.headers, parameters=query.body)
    except APIError as err:
        raise _read_error(query.href, err) from err
    return parse_document(text, query.href)


def _read_error(href: str, error: APIError) -> StacchipError:
    """What a failed request means: pystac-client gives a status only where the server answered."""
    name = unsigned_href(href)
    status = getattr(error, "status_code", None)
    if status == 404:
        return _NotFoundError(f"{name}: not found (404)")
    if status is not None:
        text = " ".join(str(error).split())[:200]
        kind = TransientReadError if status in RETRY_STATUSES or status >= 500 else ReadError
        return kind(f"{name}: the server answered {status} {text}")
    cause = error.__context__
    if isinstance(cause, ValueError):  # a URL that can't be one, bytes that are no text
        return ReadError(f"{name}: {cause}")
    return TransientReadError(f"{name}: no answer ({type(cause or error).__name__}); is the address right?")


def _newest_each(page: list[StagedItem]) -> list[StagedItem]:
    """`page` with each item once, at its first place: its latest `updated`, the later one where equal."""
    chosen: dict[str, StagedItem] = {}
    for number, staged in enumerate(page):
        key = f"{staged.item.get('collection')}/{staged.item['id']}" if staged.error is None else f"#{number}"
        if key not in chosen or _updated(staged) >= _updated(chosen[key]):
            chosen[key] = staged
    return list(chosen.values())


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
                return href if origin_of(href) == origin_of(page) else page
            except (ValueError, InputError):  # no URL at all
                return page
    return page
