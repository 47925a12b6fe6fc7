"""A STAC API in this process, scripted: what it answers is the test's to say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, JSON (or raw bytes) and headers of one response."""

    body: JSON | bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class StacServer:
    """Pages of items behind POST /search; `faults` are answered first, each once.

    Attributes:
        url: root of the API.
        pages: features of each page; page n is reached by the token n.
        faults: responses to give instead, in order.
        next_link: makes the `next` link of page n; None: the right one.
        requests: method and path of all requests, with the body of searches.
    """

    url: str = ""
    pages: list[list[JSON]] = field(default_factory=list)
    collections: tuple[str, ...] = ("sentinel-2-l2a",)
    methods: tuple[str, ...] = ("GET", "POST")
    faults: list[Answer] = field(default_factory=list)
    next_link: Callable[[int], JSON] | None = None
    matched: int | None = None
    requests: list[tuple[str, str, JSON]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: JSON) -> Answer:
        """What the API says to one request."""
        self.requests.append((method, path, body))
        if path.startswith("/search"):
            return self.faults.pop(0) if self.faults else Answer(self._page(int(body.get("token", 0))))
        if path == "/collections":
            return Answer({"collections": [{"id": name} for name in self.collections]})
        if path.startswith("/collections/"):
            is_there = path.rpartition("/")[2] in self.collections
            return Answer({"id": path.rpartition("/")[2]}) if is_there else Answer({}, 404)
        return Answer(self._landing()) if path == "/" else Answer({}, 404)

    def _landing(self) -> JSON:
        search = [
            {"rel": "search", "href": f"{self.url}search", "method": method, "type": "application/geo+json"}
            for method in self.methods
        ]
        links = [
            {"rel": "self", "href": self.url},
            {"rel": "data", "href": f"{self.url}collections"},
            *search,
        ]
        conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
        named = {"id": "scripted", "description": "scripted", "stac_version": "1.0.0"}
        return {"type": "Catalog", **named, "conformsTo": conforms, "links": links}

    def _page(self, number: int) -> JSON:
        has_next = number + 1 < len(self.pages)
        right = {
            "rel": "next",
            "href": f"{self.url}search",
            "method": "POST",
            "body": {"token": number + 1},
            "merge": True,
        }
        link = self.next_link(number) if self.next_link else right
        page = {
            "type": "FeatureCollection",
            "features": self.pages[number],
            "links": [link] if has_next else [],
        }
        return page if self.matched is None else {**page, "numberMatched": self.matched}


@contextmanager
def serving(server: StacServer) -> Iterator[StacServer]:
    """Serve on 127.0.0.1 while in the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet a response: two would wait for each other (Nagle)

        def _respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            path, _, query = self.path.partition("?")
            parameters = dict(pair.split("=", 1) for pair in query.split("&") if "=" in pair)
            answer = server.answer(self.command, path, {**parameters, **body})
            data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(data)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _respond

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the requests are kept in `server.requests`."""

    with _listening(Handler) as server.url:
        yield server


@contextmanager
def serving_files(folder: Path) -> Iterator[str]:
    """Serve a folder on 127.0.0.1 while in the block; gives its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with _listening(partial(Quiet, directory=str(folder))) as url:
        yield url


@contextmanager
def _listening(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}/"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
