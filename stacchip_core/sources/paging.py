"""Pages of a STAC API's search, guarded: empty ones are followed, circles and other hosts refused, ids counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

from stacchip_core.errors import ReadError
from stacchip_core.sources.access import unsigned_href
from stacchip_core.sources.transport import Document, Query, is_same_host

EMPTY_PAGES_MAX = 100  # in a row, each naming a next page: servers skip a few, none skips this many
STALE_PAGES_MAX = 3  # in a row, with items that all came before: a page may be repeated, a circle repeats for ever


@dataclass(slots=True)
class Walk:
    """What a search gave, page by page, and how far it can be believed.

    Attributes:
        keys: "collection/id" of the items that came.
        lengths: features of each page.
        announced: numbers of items that pages said there are.
        repeats: features that had come before.
        has_ended: whether a page without a next one was reached.
        error: what ended it before.
    """

    keys: set[str] = field(default_factory=set)
    lengths: list[int] = field(default_factory=list)
    announced: set[int] = field(default_factory=set)
    repeats: int = 0
    has_ended: bool = False
    error: ReadError | None = None

    @property
    def count(self) -> int | None:
        """How many items the server says there are; None where it doesn't, or not the same on each page."""
        return next(iter(self.announced)) if len(self.announced) == 1 else None

    @property
    def is_regular(self) -> bool:
        """Whether the pages themselves show their end: full ones, then one that is not, and nothing twice."""
        full, last = self.lengths[:-1], self.lengths[-1:]
        is_even = bool(full) and len(set(full)) == 1 and last[0] < full[0]
        return self.has_ended and is_even and not self.repeats

    def take(self, page: Document) -> int:
        """Count a page's features; returns how many are new."""
        before, features = len(self.keys), page["features"]
        self.keys |= {key_of(feature) for feature in features}
        fresh = len(self.keys) - before
        self.repeats += len(features) - fresh
        self.lengths.append(len(features))
        number = announced(page)
        if number is not None:
            self.announced.add(number)
        return fresh


def read_pages(first: Query, fetch: Callable[[Query], Document], walk: Walk) -> Iterator[tuple[Query, Document]]:
    """Each page with the query that gave it, until one names no next page; `walk` is kept up to date.

    pystac-client ends silently at an empty page that has a next one, and follows a circle for ever.

    Raises:
        ReadError: a page without a list of features, the same request again, pages that bring nothing new, or a next
            page on another host; TransientReadError as the request.
    """
    query: Query | None = first
    asked = set[bytes]()
    empty = stale = 0
    while query is not None:
        name = unsigned_href(query.href)
        mark = digest([query.href, query.method, query.body])
        if mark in asked:
            raise ReadError(f"{name}: paging goes in a circle, page {len(asked) + 1} was asked for before")
        asked.add(mark)
        page = fetch(query)
        if not isinstance(page.get("features"), list):
            raise ReadError(f"{name}: expected a page of items, found no list of features")
        fresh, given = walk.take(page), len(page["features"])
        empty = 0 if given else empty + 1
        stale = 0 if fresh else stale + bool(given)
        if empty > EMPTY_PAGES_MAX:
            raise ReadError(f"{name}: {empty} empty pages in a row, each naming a next one")
        if stale > STALE_PAGES_MAX:
            raise ReadError(f"{name}: paging goes in a circle, {stale} pages in a row held only items from before")
        yield query, page
        query = _next_query(query, page)
    walk.has_ended = True


def key_of(feature: object) -> str:
    """Collection and id of a feature, "collection/id"; of one without, what tells it from others."""
    if not isinstance(feature, dict) or not isinstance(feature.get("id"), str):
        return f"#{digest(feature).hex()}"
    return f"{feature.get('collection')}/{feature['id']}"


def announced(page: Document) -> int | None:
    """How many items a page says the whole search has: `numberMatched`, or `context.matched` of older servers."""
    context = page.get("context")
    found = page.get("numberMatched", context.get("matched") if isinstance(context, dict) else None)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


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
    if not is_same_host(query.href, href):
        raise ReadError(
            f"{unsigned_href(query.href)}: the next page is on another host, {unsigned_href(href)}; "
            "it is not followed, because what is sent along (a token, say) is not meant for that host"
        )
    method = str(link.get("method") or "GET").upper()
    if method not in ("GET", "POST"):
        raise ReadError(
            f"{unsigned_href(query.href)}: its next page asks for method {method[:20]!r}; GET or POST may be"
        )
    given = link.get("body")
    body: dict[str, Any] = given if isinstance(given, dict) else {}
    if link.get("merge"):
        body = {**query.body, **body}
    headers = link.get("headers")
    return Query(href, method, body if method == "POST" else {}, _texts(headers))


def _texts(headers: object) -> dict[str, str] | None:
    return {str(k): str(v) for k, v in headers.items()} if isinstance(headers, dict) else None


def digest(value: object) -> bytes:
    """16 bytes that tell a JSON value from all others."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).digest()[:16]
