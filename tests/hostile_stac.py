"""A STAC API that knows the truth and is scripted to tell it badly: each behaviour has a name, and scripts mix them.

The server holds items and answers searches rightly (collections, ids, datetime, `query` on `updated`, limit, paging by
offset, numberMatched). A behaviour changes what goes out: always, or for some of the requests. It may lie in every way
that a client can find out; what no client could know (an item that is never mentioned anywhere, a count that leaves it
out as well) is no behaviour.
"""

from __future__ import annotations

import datetime as dt
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

JSON = dict[str, Any]
COLLECTION = "tiny"


@dataclass(slots=True)
class Reply:
    """What goes out: status, body, headers; `drop`: after so many bytes; `drip`: seconds between pieces."""

    status: int = 200
    body: JSON | list[Any] | bytes = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    drop: int | None = None
    drip: float = 0.0


@dataclass(slots=True)
class Ask:
    """A search as it came in: its parameters, the offset its token says, and which search of the server it is."""

    parameters: JSON
    offset: int
    number: int

    @property
    def limit(self) -> int:
        return int(self.parameters.get("limit", 10))


Change = Callable[["Hostile", Ask, Reply], Reply]


@dataclass(slots=True)
class Hostile:
    """The server's truth, and the behaviours of its script.

    Attributes:
        items: the truth, by id.
        script: names of behaviours.
        counts: whether numberMatched is given.
        cap: most items of a page, whatever is asked.
        url: root of the API.
        searches: how many came.
        seen_headers: of each request to any path.
        on_search: is called before each search: a place for items that change meanwhile.
    """

    items: dict[str, JSON] = field(default_factory=dict)
    script: tuple[str, ...] = ()
    counts: bool = True
    cap: int = 1000
    seed: int = 0
    url: str = ""
    searches: int = 0
    foreign: str = "http://127.0.0.2:9/"
    seen_headers: list[dict[str, str]] = field(default_factory=list)
    on_search: Callable[[int], None] | None = None
    faults_left: dict[str, int] = field(default_factory=dict)
    rng: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        for name in self.script:
            BEHAVIOURS[name].prepare(self)

    def answer(self, method: str, path: str, parameters: JSON) -> Reply:
        """What goes out for a request."""
        if path == "/":
            reply = Reply(body=self._landing())
        elif path == "/collections":
            reply = Reply(body={"collections": [{"id": COLLECTION}]})
        elif path == f"/collections/{COLLECTION}":
            reply = Reply(body={"type": "Collection", "id": COLLECTION})
        elif path.startswith(f"/collections/{COLLECTION}/items/"):
            found = self.items.get(unquote(path.rpartition("/")[2]))
            reply = Reply(body=found) if found else Reply(404, {"code": "NotFound"})
        elif path == "/search":
            return self._search(parameters)
        else:
            reply = Reply(404, {"code": "NotFound"})
        for name in self.script:
            reply = BEHAVIOURS[name].elsewhere(self, path, reply)
        return reply

    def _search(self, parameters: JSON) -> Reply:
        if self.on_search:
            self.on_search(self.searches)
        self.searches += 1
        ask = Ask(parameters, int(parameters.get("token") or 0), self.searches)
        reply = Reply(body=self.page(ask))
        for name in self.script:
            reply = BEHAVIOURS[name].change(self, ask, reply)
        return reply

    def matching(self, parameters: JSON) -> list[JSON]:
        """What the truth has for a search, the latest first."""
        ignored = {BEHAVIOURS[name].ignores for name in self.script}
        kept = [item for item in self.items.values() if _matches(item, parameters, ignored)]
        return sorted(kept, key=lambda item: (item["properties"]["datetime"], item["id"]), reverse=True)

    def page(self, ask: Ask) -> JSON:
        """The right page."""
        found, size = self.matching(ask.parameters), min(ask.limit, self.cap)
        features = found[ask.offset : ask.offset + size]
        following = ask.offset + len(features)
        links = [self.next_link(following)] if following < len(found) else []
        page: JSON = {"type": "FeatureCollection", "features": features, "links": links}
        return {**page, "numberMatched": len(found)} if self.counts else page

    def next_link(self, token: int, **more: Any) -> JSON:
        return {
            "rel": "next",
            "href": f"{self.url}search",
            "method": "POST",
            "body": {"token": token},
            "merge": True,
            **more,
        }

    def spend(self, name: str, chance: float = 1.0) -> bool:
        """Whether a behaviour that happens only so often happens now."""
        left = self.faults_left.setdefault(name, 2)
        if left and self.rng.random() < chance:
            self.faults_left[name] = left - 1
            return True
        return False

    def _landing(self) -> JSON:
        search = {"rel": "search", "href": f"{self.url}search", "method": "POST", "type": "application/geo+json"}
        links = [{"rel": "self", "href": self.url}, {"rel": "data", "href": f"{self.url}collections"}, search]
        conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
        return {"type": "Catalog", "id": "hostile", "stac_version": "1.0.0", "conformsTo": conforms, "links": links}


def _matches(item: JSON, asked: JSON, ignored: set[str]) -> bool:
    properties = item["properties"]
    checks: dict[str, Callable[[], bool]] = {
        "ids": lambda: item["id"] in asked["ids"],
        "datetime": lambda: _is_during(properties["datetime"], asked["datetime"]),
        "bbox": lambda: asked["bbox"][0] <= item["bbox"][2] and asked["bbox"][2] >= item["bbox"][0],
        "query": lambda: all(_holds(properties.get(name), tests) for name, tests in asked["query"].items()),
    }
    is_right = all(check() for name, check in checks.items() if asked.get(name) and name not in ignored)
    return is_right and not ("query" in asked and "query-nothing" in ignored)


def _is_during(text: str, interval: str) -> bool:
    first, _, last = interval.partition("/")
    return (first == ".." or _key(text) >= _key(first)) and (last == ".." or _key(text) <= _key(last))


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "gte": lambda a, b: a >= b,
    "lte": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
    "in": lambda a, b: a in b,
}


def _holds(value: Any, tests: JSON) -> bool:
    """As a database compares: times as times, texts as texts."""
    return value is not None and all(_OPERATORS[op](_key(value), _key(bound)) for op, bound in tests.items())


def _key(value: Any) -> Any:
    if isinstance(value, list):
        return [_key(one) for one in value]
    try:
        return dt.datetime.fromisoformat(value.replace("Z", "+00:00")).isoformat()
    except (ValueError, AttributeError):
        return value


# --- behaviours


def _as_it_is(_server: Hostile, _ask: Ask, reply: Reply) -> Reply:
    return reply


def _nothing(_server: Hostile) -> None:
    return None


def _elsewhere(_server: Hostile, _path: str, reply: Reply) -> Reply:
    return reply


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a server does wrong.

    Attributes:
        change: what becomes of a search's answer.
        prepare: what becomes of the server as it starts.
        elsewhere: what becomes of other answers.
        ignores: a condition that searches leave out, or "query-nothing": whatever is asked by query finds nothing.
    """

    change: Change = _as_it_is
    prepare: Callable[[Hostile], None] = _nothing
    elsewhere: Callable[[Hostile, str, Reply], Reply] = _elsewhere
    ignores: str = ""


def _status(status: int, **headers: str) -> Behaviour:
    """Twice, some searches are answered with a status."""

    def change(server: Hostile, ask: Ask, reply: Reply) -> Reply:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return Reply(status, {"detail": "no"}, given) if server.spend(f"status {status}", 0.5) else reply

    return Behaviour(change)


def _always(reply: Callable[[Hostile], Reply]) -> Behaviour:
    return Behaviour(lambda server, _ask, _reply: reply(server))


def _sometimes(name: str, change: Change, chance: float = 0.5) -> Behaviour:
    return Behaviour(lambda server, ask, reply: change(server, ask, reply) if server.spend(name, chance) else reply)


def _page(change: Callable[[Hostile, Ask, JSON], JSON]) -> Change:
    """A change of the JSON of a page."""

    def changed(server: Hostile, ask: Ask, reply: Reply) -> Reply:
        is_page = reply.status == 200 and isinstance(reply.body, dict) and "features" in reply.body
        return Reply(200, change(server, ask, dict(reply.body)), reply.headers) if is_page else reply  # type: ignore[arg-type]

    return changed


def _set(**fields: Any) -> Callable[[Hostile, Ask, JSON], JSON]:
    return lambda _server, _ask, page: {**page, **fields}


def _without(*names: str) -> Callable[[Hostile, Ask, JSON], JSON]:
    return lambda _server, _ask, page: {key: value for key, value in page.items() if key not in names}


def _empty_then_next(server: Hostile, ask: Ask, page: JSON) -> JSON:
    link = server.next_link(ask.offset, body={"token": ask.offset, "again": ask.number})
    return {**page, "features": [], "links": [link]}


def _repeated(server: Hostile, ask: Ask, page: JSON) -> JSON:
    link = server.next_link(ask.offset, body={"token": ask.offset, "again": ask.number})
    return {**page, "links": [link]}


def _loop(server: Hostile, ask: Ask, page: JSON) -> JSON:
    return {**page, "links": [server.next_link(ask.offset)] if page["links"] else []}


def _endless(server: Hostile, ask: Ask, page: JSON) -> JSON:
    return {**page, "links": [server.next_link(ask.offset, body={"token": ask.offset, "n": ask.number})]}


def _with_links(**fields: Any) -> Callable[[Hostile, Ask, JSON], JSON]:
    return lambda _server, _ask, page: {**page, "links": [{**link, **fields} for link in page["links"]]}


def _foreign(server: Hostile, ask: Ask, page: JSON) -> JSON:
    return {**page, "links": [server.next_link(ask.offset, href=f"{server.foreign}search")] if page["links"] else []}


def _skipping(server: Hostile, ask: Ask, page: JSON) -> JSON:
    """The next page begins one item too late."""
    following = ask.offset + len(page["features"]) + 1
    return {**page, "links": [server.next_link(following)] if page["links"] else []}


def _overlapping(server: Hostile, ask: Ask, page: JSON) -> JSON:
    following = max(ask.offset + len(page["features"]) - 2, ask.offset + 1)
    return {**page, "links": [server.next_link(following)] if page["links"] else []}


def _shuffled(server: Hostile, ask: Ask, reply: Reply) -> Reply:
    """Every page is cut from another order of all items."""
    found = server.matching(ask.parameters)
    server.rng.shuffle(found)
    size = min(ask.limit, server.cap)
    page = server.page(ask)
    return Reply(body={**page, "features": found[ask.offset : ask.offset + size]})


def _short(server: Hostile, ask: Ask, page: JSON) -> JSON:
    """Fewer items than there are, and the next page begins after them: lawful, and irregular."""
    kept = page["features"][: max(1, len(page["features"]) // 2)]
    following = ask.offset + len(kept)
    is_more = following < len(server.matching(ask.parameters))
    return {**page, "features": kept, "links": [server.next_link(following)] if is_more else []}


def _capped(cap: int) -> Callable[[Hostile], None]:
    def prepare(server: Hostile) -> None:
        server.cap = min(server.cap, cap)

    return prepare


def _uncounted(server: Hostile) -> None:
    server.counts = False


def _deep(server: Hostile, ask: Ask, reply: Reply) -> Reply:
    return Reply(400, {"detail": "Result window is too large"}) if ask.offset >= 20 else reply


def _big_pages_fail(server: Hostile, ask: Ask, reply: Reply) -> Reply:
    return Reply(504, {"detail": "timeout"}) if ask.limit > 10 else reply


def _no_feature(server: Hostile, ask: Ask, page: JSON) -> JSON:
    broken: list[Any] = [None, {"type": "Feature"}, {"type": "Feature", "id": 7, "properties": {}}]
    more = {"numberMatched": page["numberMatched"] + 3} if "numberMatched" in page else {}
    return {**page, **more, "features": [*page["features"], *broken]} if not page["links"] else {**page, **more}


def _moved(href: Callable[[Hostile], str], status: int = 307) -> Behaviour:
    def change(server: Hostile, ask: Ask, reply: Reply) -> Reply:
        if server.spend(f"moved {status}", 0.5):
            return Reply(status, {}, {"Location": href(server)})
        return reply

    return Behaviour(change)


def _old_form(server: Hostile, ask: Ask, page: JSON) -> JSON:
    """One item comes twice, first in a form from before."""
    if not page["features"]:
        return page
    first = page["features"][0]
    properties = {**first["properties"], "updated": "2000-01-01T00:00:00Z", "platform": "old"}
    return {**page, "features": [{**first, "properties": properties}, *page["features"]]}


def _late_date(server: Hostile, path: str, reply: Reply) -> Reply:
    when = dt.datetime.now(dt.UTC) + dt.timedelta(days=700)
    return Reply(reply.status, reply.body, {**reply.headers, "Date": format_datetime(when, usegmt=True)})


def _landing_busy(server: Hostile, path: str, reply: Reply) -> Reply:
    return Reply(503, {}) if path == "/" and server.spend("landing", 1.0) else reply


def _item_denied(server: Hostile, path: str, reply: Reply) -> Reply:
    return Reply(403, {"detail": "not yours"}) if "/items/" in path else reply


BEHAVIOURS: dict[str, Behaviour] = {
    # the request fails
    "429 with Retry-After": _status(429, Retry_After="0"),
    "429 without a word": _status(429),
    "500 now and then": _status(500),
    "502 now and then": _status(502),
    "503 with a date to retry after": _status(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "504 for big pages": Behaviour(_big_pages_fail),
    "408 now and then": _status(408),
    "400 now and then": _status(400),
    "404 on a search now and then": _status(404),
    "403 on every search": _always(lambda _: Reply(403, {"detail": "forbidden"})),
    "503 for ever": _always(lambda _: Reply(503, {"detail": "down"})),
    "connection dropped": _sometimes("drop", lambda _s, _a, r: Reply(r.status, r.body, r.headers, drop=0)),
    "answer cut short": _sometimes("cut", lambda _s, _a, r: Reply(r.status, r.body, r.headers, drop=200)),
    "answer drips for ever": _sometimes("drip", lambda _s, _a, r: Reply(r.status, r.body, r.headers, drip=0.05), 0.2),
    "answer too large": _sometimes("large", lambda _s, _a, _r: Reply(body=b" " * 3_000_000), 0.2),
    "asked to wait for an hour": _sometimes("hour", lambda _s, _a, _r: Reply(429, {}, {"Retry-After": "3600"}), 0.1),
    "landing page busy at first": Behaviour(elsewhere=_landing_busy),
    # the answer is no page
    "HTML for JSON": _sometimes("html", lambda _s, _a, _r: Reply(body=b"<html>please log in</html>")),
    "half of the JSON": _sometimes("half", lambda _s, _a, r: Reply(body=json.dumps(r.body).encode()[:-20])),
    "a list for an object": _sometimes("list", lambda _s, _a, _r: Reply(body=[])),
    "no features": _sometimes("none", _page(_without("features", "numberMatched"))),
    "features are null": _sometimes("null", _page(_set(features=None))),
    "an error with status 200": _sometimes("200", lambda _s, _a, _r: Reply(body={"code": "InternalError"})),
    "features that are none": Behaviour(_page(_no_feature)),
    # paging
    "empty page with a next one": _sometimes("empty", _page(_empty_then_next)),
    "empty page without a next one": _sometimes("blank", _page(_set(features=[], links=[]))),
    "page repeated": _sometimes("repeat", _page(_repeated)),
    "next is the page itself": Behaviour(_page(_loop)),
    "the same page for ever": Behaviour(_page(_endless)),
    "empty pages for ever": Behaviour(_page(_empty_then_next)),
    "next on another host": Behaviour(_page(_foreign)),
    "next is no URL": Behaviour(
        _page(lambda s, a, p: {**p, "links": [s.next_link(1, href="http://[")] if p["links"] else []})
    ),
    "next asks for DELETE": Behaviour(
        _page(lambda s, a, p: {**p, "links": [{**one, "method": "DELETE"} for one in p["links"]]})
    ),
    "next lost now and then": _sometimes("lost next", _page(_set(links=[]))),
    "next never given": Behaviour(_page(_set(links=[]))),
    "token lost now and then": _sometimes("token", lambda _s, a, r: Reply(400, {"detail": "token"}) if a.offset else r),
    "no page beyond 20 items": Behaviour(_deep),
    "pages skip an item": Behaviour(_page(_skipping)),
    "pages overlap": Behaviour(_page(_overlapping)),
    "pages in ever another order": Behaviour(_shuffled),
    "pages of every length": Behaviour(_page(_short)),
    "pages of 7 at most": Behaviour(prepare=_capped(7)),
    # counting
    "no numberMatched": Behaviour(prepare=_uncounted),
    "numberMatched of the page": Behaviour(_page(lambda _s, _a, p: {**p, "numberMatched": len(p["features"])})),
    "numberMatched one too many": Behaviour(
        _page(lambda _s, _a, p: {**p, "numberMatched": p["numberMatched"] + 1} if "numberMatched" in p else p)
    ),
    "numberMatched is a text": Behaviour(_page(lambda _s, _a, p: {**p, "numberMatched": "many"})),
    "numberMatched wavers": Behaviour(
        _page(lambda _s, a, p: {**p, "numberMatched": p["numberMatched"] + a.number % 2} if "numberMatched" in p else p)
    ),
    # questions ignored
    "ignores updated": Behaviour(ignores="query"),
    "finds nothing by query": Behaviour(ignores="query-nothing"),
    "refuses 'in'": Behaviour(lambda _s, a, r: Reply(400, {"code": "in"}) if '"in"' in json.dumps(a.parameters) else r),
    "ignores datetime": Behaviour(ignores="datetime"),
    "ignores bbox": Behaviour(ignores="bbox"),
    "refuses bbox": Behaviour(lambda _s, a, r: Reply(400, {"code": "bbox"}) if "bbox" in a.parameters else r),
    "ignores ids": Behaviour(ignores="ids"),
    # forms and places
    "an old form beside the new": Behaviour(_page(_old_form)),
    "redirect on the same host": _moved(lambda s: f"{s.url}search"),
    "redirect to another host": _moved(lambda s: f"{s.foreign}search", 302),
    "redirect for ever": Behaviour(lambda s, _a, _r: Reply(307, {}, {"Location": f"{s.url}search"})),
    "a clock two years ahead": Behaviour(lambda s, _a, r: _late_date(s, "", r), elsewhere=_late_date),
    "items can't be asked for one by one": Behaviour(elsewhere=_item_denied),
}


@contextmanager
def serving(server: Hostile) -> Iterator[Hostile]:
    """Serve on 127.0.0.1 while in the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def _respond(self) -> None:
            server.seen_headers.append(dict(self.headers))
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            body = json.loads(raw or b"{}")
            self._send(server.answer(self.command, parts.path, {**dict(parse_qsl(parts.query)), **body}))

        def _send(self, reply: Reply) -> None:
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            if reply.drop == 0:
                self.close_connection = True
                return
            self.send_response_only(reply.status)
            given = {"Date": self.date_time_string(), "Content-Length": str(len(data)), **reply.headers}
            for name, value in given.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self._write(reply, data)
            except OSError:  # the client has gone
                self.close_connection = True

        def _write(self, reply: Reply, data: bytes) -> None:
            if reply.drip:
                for start in range(60):  # then the connection ends: no thread of a test waits for longer
                    self.wfile.write(data[start : start + 1])
                    self.wfile.flush()
                    time.sleep(reply.drip)
                self.close_connection = True
                return
            self.wfile.write(data[: reply.drop])
            self.close_connection = self.close_connection or reply.drop is not None

        do_GET = do_POST = do_DELETE = _respond

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Clients that hang up are no news here."""

    httpd = Server(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    server.url = f"http://127.0.0.1:{httpd.server_address[1]}/"
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
