"""Pages of a STAC API's search, guarded: empty ones are followed, circles and other hosts refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

from stacchip_core.errors import ReadError
from stacchip_core.sources.access import unsigned_href
from stacchip_core.sources.crawl import Document, origin_of

EMPTY_PAGES_MAX = 100  # in a row, each naming a next page: servers skip a few, none skips this many


@dataclass(frozen=True, slots=True)
class Query:
    """One request to a STAC API; `body` is the JSON of a POST, or the query parameters of a GET."""

    href: str
    method: str = "GET"
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] | None = None


def read_pages(first: Query, fetch: Callable[[Query], Document]) -> Iterator[tuple[Query, Document]]:
    """Each page with the query that gave it, until one names no next page.

    pystac-client ends silently at an empty page that has a next one, and follows a circle for ever.

    Raises:
        ReadError: a page without a list of features, a page seen before, or a next page on another host.
    """
    query: Query | None = first
    seen: set[str] = set()
    empty = count = 0
    while query is not None:
        page = fetch(query)
        count += 1
        features = page.get("features")
        name = unsigned_href(query.href)
        if not isinstance(features, list):
            raise ReadError(f"{name}: expected a page of items, found no list of features")
        marks = _marks(query, features)
        if marks & seen:
            raise ReadError(
                f"{name}: paging goes in a circle, page {count} came before, so what follows can't be found; "
                "narrow time or area, and tell the server's operators"
            )
        seen |= marks
        empty = 0 if features else empty + 1
        if empty > EMPTY_PAGES_MAX:
            raise ReadError(f"{name}: {empty} empty pages in a row, each naming a next one")
        yield query, page
        query = _next_query(query, page)


def _marks(query: Query, features: list[object]) -> set[str]:
    """What tells a page from all others: how it was asked for, and which items it holds."""
    ids = [[f.get("collection"), f.get("id")] if isinstance(f, dict) else None for f in features]
    asked = _digest([query.href, query.method, query.body])
    return {asked, _digest(ids)} if ids else {asked}


def _next_query(query: Query, page: Document) -> Query | None:
    links = page.get("links")
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("rel") == "next" and isinstance(link.get("href"), str):
            return _follow(query, link)
    return None


def _follow(query: Query, link: dict[str, Any]) -> Query:
    """The request that a `next` link describes (STAC API, "Paging": method, body, headers, merge)."""
    try:
        href = urljoin(query.href, link["href"])
    except ValueError as err:
        raise ReadError(f"{unsigned_href(query.href)}: its next page is no URL: {link['href'][:200]!r}") from err
    if origin_of(href) != origin_of(query.href):
        raise ReadError(
            f"{unsigned_href(query.href)}: the next page is on another host, {unsigned_href(href)}; "
            "it is not followed, because what is sent along (a token, say) is not meant for that host"
        )
    method = str(link.get("method") or "GET").upper()
    given = link.get("body")
    body: dict[str, Any] = given if isinstance(given, dict) else {}
    if link.get("merge"):
        body = {**query.body, **body}
    headers = link.get("headers")
    return Query(href, method, body if method == "POST" else {}, headers if isinstance(headers, dict) else None)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
