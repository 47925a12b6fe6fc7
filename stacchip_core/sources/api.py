"""A STAC API: its searches, and what it can be relied on for, which is tried and never assumed."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urljoin

from stacchip_core.errors import InputError, ReadError, StacchipError, TransientReadError
from stacchip_core.sources.access import unsigned_href
from stacchip_core.sources.interval import format_interval, parse_span
from stacchip_core.sources.paging import Walk, announced, read_pages
from stacchip_core.sources.source import Source
from stacchip_core.sources.transport import Document, NotFoundError, Query, Transport, is_same_host
from stacchip_core.sources.windows import Window

logger = logging.getLogger(__name__)

JSON = dict[str, Any]
Condition = str | JSON  # of CQL2, as text or JSON
PROBE_RETRIES = 1  # some servers answer 500 to what they don't know: no reason to wait for them as for a busy one
_FAR = "2999-01-01T00:00:00Z"  # nothing is dated later: a server that gives items of then ignores the question
_TRIED = 9  # items of one page that are asked for again in three
_NOWHERE = "no-item-has-this-id"


@dataclass(slots=True)
class Api:
    """One STAC API, asked for what a source wants of it.

    Attributes:
        root: its URL.
        search: URL of its search.
        method: of its searches, POST where the server offers it.
        base: the parts of every search: collections, bbox, ids, query, filter.
        known: what is known of the server: "datetime", "updated", "query", "in" (a query's), "filter", "numberMatched",
            "paging".
        page_size: items asked for at a time.
    """

    root: str
    search: str
    method: str
    transport: Transport
    collections: tuple[str, ...] = ()
    page_size: int = 100
    base: JSON = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)
    has_collections: bool = False
    _sample: JSON | None = None

    @property
    def is_out_of_time(self) -> bool:
        """Whether no request may be sent any more."""
        return self.transport.is_out_of_time

    def query(self, window: Window, limit: int) -> Query:
        """The search for a window."""
        asked = {**self.base, "limit": limit}
        if window.start is not None or window.end is not None:
            asked = _with(asked, self._times(window))
        return self._query(asked)

    def fetch(self, query: Query) -> Document:
        """The page a query gives; raises as `Transport.document`."""
        return self.transport.document(query)

    def can_split(self, window: Window) -> bool:
        """Whether the server keeps to times."""
        return window.by == "updated" or self.is_reliable("datetime", self._try_datetime)

    def counts(self) -> bool:
        """Whether `numberMatched` is the number of items of a whole search: some give that of the page."""
        return self.is_reliable("numberMatched", self._try_counts)

    def pages(self) -> bool:
        """Whether small pages together hold what a large one holds: some servers skip an item at each turn."""
        return self.is_reliable("paging", self._try_paging)

    def updated_by(self) -> str | None:
        """What finds items by their `updated`: "query" or "filter"; None: nothing that could be relied on does."""
        if "updated" not in self.known:
            self.is_reliable("updated", self._try_updated)
        return self.known.get("updated") or None

    def rely_on(self, source: Source) -> None:
        """Add the conditions of a source to all searches where the server can be relied on for them.

        Those of `query` are checked again on each item, so a server that does not know them is asked without.

        Raises:
            InputError: a `filter`, and the server ignores or refuses it.
        """
        if source.query and self.is_reliable("query", self._try_query):
            is_less = source.conditions.has("in") and not self.is_reliable("in", lambda: self._try_query("in"))
            if query := source.conditions.as_query(without="in" if is_less else ""):
                self.base["query"] = query
        condition = source.filter_condition
        if condition is None:
            return
        self.base |= _filter(condition)
        if not self.is_reliable("filter", self._try_filter):
            raise InputError(
                f"{unsigned_href(self.root)}: the server ignores or refuses CQL2 filters, so nothing that filter= "
                "finds could be relied on; use query=, which is checked here as well"
            )

    def is_reliable(self, name: str, attempt: Callable[[], Any]) -> bool:
        """What is known of the server, found out on first use; what an error left open is asked again next time."""
        if name not in self.known:
            try:
                found = attempt()
            except TransientReadError as err:
                logger.warning("%s: could not find out about %r: %s", unsigned_href(self.root), name, err)
                return False
            except ReadError as err:
                logger.info("%s: no %r: %s", unsigned_href(self.root), name, err)
                found = False
            if found is None:
                return False
            self.known[name] = found
        return bool(self.known[name])

    def look_up(self, collection: str, item_id: str) -> JSON | None:
        """An item by itself; None where the server says that there is none.

        Raises:
            ReadError, TransientReadError: the server says neither.
        """
        where = f"{self.root.rstrip('/')}/collections/{quote(collection, safe='')}/items/{quote(item_id, safe='')}"
        try:
            return self.fetch(Query(where))
        except NotFoundError:
            return None

    def listed(self) -> list[str]:
        """Ids of its collections, in order."""
        found = self.fetch(Query(f"{self.root.rstrip('/')}/collections")).get("collections")
        ids = [one.get("id") for one in (found if isinstance(found, list) else []) if isinstance(one, dict)]
        return sorted(one for one in ids if isinstance(one, str))

    def check_collections(self) -> None:
        """Refuse collections the API does not have: a search for a misspelt one just finds nothing.

        Raises:
            InputError: lists those there are.
        """
        for name in self.collections if self.has_collections else ():
            try:
                self.fetch(Query(f"{self.root.rstrip('/')}/collections/{quote(name, safe='')}"))
            except NotFoundError as err:
                have = ", ".join(self.listed()) or "none"
                raise InputError(f"collection {name!r} is not in {unsigned_href(self.root)}; it has: {have}") from err

    def _query(self, asked: JSON) -> Query:
        return Query(self.search, self.method, asked if self.method == "POST" else _as_parameters(asked))

    def _times(self, window: Window) -> JSON:
        """What asks for the times of a window."""
        if window.by == "datetime":
            return {"datetime": format_interval(window.interval)}
        ends = {"gte": window.start, "lte": window.end}
        bounds = {op: _text(end) for op, end in ends.items() if end is not None}
        if self.known.get("updated") == "query":
            return {"query": {"updated": bounds}}
        symbols = {"gte": ">=", "lte": "<="}
        parts = [self._compare("updated", symbols[op], value) for op, value in bounds.items()]
        return _filter(parts[0] if len(parts) == 1 else _both(*parts))

    def _compare(self, name: str, symbol: str, value: str) -> Condition:
        """A CQL2 condition, as text for GET, where servers take no other."""
        if self.method == "GET":
            return f"{name} {symbol} '{value}'"
        return {"op": symbol, "args": [{"property": name}, value]}

    def _ask(self, more: JSON, limit: int = 2) -> list[JSON]:
        """Features of one page, for trying the server out."""
        asked = _with({"collections": list(self.collections)} if self.collections else {}, {**more, "limit": limit})
        features = self.transport.document(self._query(asked), PROBE_RETRIES).get("features")
        if not isinstance(features, list):
            raise ReadError(f"{unsigned_href(self.search)}: expected a page of items, found no list of features")
        return [one for one in features if isinstance(one, dict)]

    def _one(self) -> JSON | None:
        """Some item of the collections, to try the server out with; None where there is none."""
        if self._sample is None:
            self._sample = next(iter(self._ask({}, 1)), None)
        return self._sample

    def _property(self, *names: str) -> tuple[str, Any] | None:
        """The first of some properties that the sample has, with its value."""
        found = (self._one() or {}).get("properties")
        properties: Mapping[str, Any] = found if isinstance(found, dict) else {}
        return next(((name, properties[name]) for name in names if properties.get(name) is not None), None)

    def _try_datetime(self) -> bool | None:
        found = self._property("datetime", "start_datetime")
        if found is None:
            return None if self._one() is None else False
        moment = parse_span(str(found[1]))[0]
        around = Window(moment - dt.timedelta(seconds=1), moment + dt.timedelta(seconds=1))
        return not self._ask({"datetime": f"{_FAR}/.."}) and bool(self._ask(self._times(around)))

    def _try_counts(self) -> bool | None:
        few, more = (self.fetch(self._query({**self.base, "limit": limit})) for limit in (1, 2))
        numbers = {announced(few), announced(more)}
        if None in numbers or len(numbers) > 1:
            return False
        given = max(len(page.get("features") or ()) for page in (few, more))
        known = numbers.pop() or 0
        return None if known < 2 and given < 2 else known >= 2

    def _try_paging(self) -> bool | None:
        large = self._first_keys(_TRIED)
        if len(large) < 2:
            return None  # too few to tell
        small = self._first_keys(max(1, min(_TRIED, len(large)) // 3))
        return small <= large if len(small) <= len(large) else large <= small

    def _first_keys(self, limit: int) -> set[str]:
        """Keys of the first items, a handful of them, in pages of a size."""
        walk = Walk()
        for _ in read_pages(self._query({**self.base, "limit": limit}), self.fetch, walk):
            if len(walk.keys) >= _TRIED:
                break
        return walk.keys

    def _try_updated(self) -> str | None:
        found = self._property("updated")
        if found is None:
            return None if self._one() is None else ""
        is_mixed = self.method == "GET" and isinstance(self.base.get("filter"), dict)
        for way in ("query",) if is_mixed else ("query", "filter"):
            self.known["updated"] = way
            try:
                late = self._ask(self._times(Window(start=parse_span(_FAR)[0], by="updated")))
                since = Window(start=parse_span(str(found[1]))[0] - dt.timedelta(seconds=1), by="updated")
                if not late and any(one.get("id") for one in self._ask(self._times(since))):
                    return way
            except TransientReadError:
                raise
            except StacchipError as err:
                logger.info("%s: no %s by 'updated': %s", unsigned_href(self.root), way, err)
            finally:
                del self.known["updated"]
        return ""

    def _try_query(self, operator: str = "eq") -> bool | None:
        found = self._property("platform", "constellation", "datetime", "created")
        if found is None:
            return None if self._one() is None else False
        name, value = found
        nothing, itself = ([one] if operator == "in" else one for one in (_NOWHERE, value))
        if self._ask({"query": {name: {operator: nothing}}}):
            return False
        return bool(self._ask({"query": {name: {operator: itself}}}))

    def _try_filter(self) -> bool | None:
        one = self._one()
        if one is None:
            return None
        nothing, itself = (_filter(self._compare("id", "=", str(name))) for name in (_NOWHERE, one.get("id")))
        return not self._ask(nothing) and bool(self._ask(itself))


def open_api(url: str, landing: Document, source: Source, transport: Transport, known: Mapping[str, Any]) -> Api:
    """The API whose landing page was read at `url`, asked for what `source` wants.

    Raises:
        InputError: a collection that it does not have, or a filter that it does not know.
        ReadError: its search is on another host.
    """
    links = [link for link in landing.get("links") or [] if isinstance(link, dict)]
    searches = [link for link in links if link.get("rel") == "search" and isinstance(link.get("href"), str)]
    methods = {str(link.get("method") or "GET").upper() for link in searches}
    href = urljoin(url, searches[0]["href"]) if searches else f"{url.rstrip('/')}/search"
    if not is_same_host(url, href):
        raise ReadError(f"{unsigned_href(url)}: its search is on another host, {unsigned_href(href)}")
    is_text = isinstance(source.filter_condition, str)  # which servers take by GET alone
    api = Api(
        root=url,
        search=href,
        method="POST" if not is_text and ("POST" in methods or not methods) else "GET",
        transport=transport,
        collections=source.collections,
        page_size=source.page_size,
        base=_base(source),
        known=dict(known),
        has_collections=any(link.get("rel") == "data" for link in links),
    )
    api.check_collections()
    api.rely_on(source)
    return api


def _base(source: Source) -> JSON:
    asked: JSON = {}
    if source.collections:
        asked["collections"] = list(source.collections)
    if (box := source.box) is not None:
        asked["bbox"] = list(box)
    if source.ids:
        asked["ids"] = list(source.ids)
    return asked


def _with(one: JSON, other: JSON) -> JSON:
    """Two searches as one: what both ask for by query or filter, has to hold together."""
    both = {**one, **other}
    if "query" in one and "query" in other:
        both["query"] = {
            name: {**one["query"].get(name, {}), **other["query"].get(name, {})}
            for name in (*one["query"], *other["query"])
        }
    if "filter" in one and "filter" in other:
        both["filter"] = _both(one["filter"], other["filter"])
    return both


def _filter(condition: Condition) -> JSON:
    return {"filter": condition, "filter-lang": "cql2-text" if isinstance(condition, str) else "cql2-json"}


def _both(one: Condition, other: Condition) -> Condition:
    """Two CQL2 conditions of one form as one."""
    return f"({one}) AND ({other})" if isinstance(one, str) else {"op": "and", "args": [one, other]}


def _text(moment: dt.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _as_parameters(asked: JSON) -> JSON:
    """A search as the query parameters of a GET."""

    def text(name: str, value: Any) -> Any:
        if name in ("collections", "ids", "bbox"):
            return ",".join(map(str, value))
        return json.dumps(value, separators=(",", ":")) if isinstance(value, dict) else value

    return {name: text(name, value) for name, value in asked.items()}
