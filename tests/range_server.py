"""One file behind HTTP, answered as a script says: right, late, short, elsewhere, or about another file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What to answer: `body` as it is sent, `length` what Content-Length claims, `drip_s` seconds between bytes."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    drip_s: float = 0
    hang_up: bool = False


@dataclass
class Asked:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    connection: int

    @property
    def span(self) -> tuple[int, int] | None:
        """The range asked for, half open."""
        text = self.headers.get("Range")
        if text is None:
            return None
        first, _, last = text.removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1


def part(content: bytes, asked: Asked, **more: Any) -> Reply:
    """The right answer to a range request."""
    start, stop = asked.span or (0, len(content))
    if start >= len(content):
        return Reply(416, headers={"Content-Range": f"bytes */{len(content)}"})
    body = content[start:stop]
    return Reply(206, body, {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{len(content)}"}, **more)


class RangeServer:
    """A server on 127.0.0.1; `answer` may be replaced at any time, `asked` lists the requests so far."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.url = ""


@contextmanager
def serving(answer: Callable[[Asked], Reply], host: str = "127.0.0.1") -> Iterator[RangeServer]:
    """Serve while in the block."""
    state = RangeServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def parse_request(self) -> bool:
            """Other methods are answered 501, and seen all the same."""
            is_whole = super().parse_request()
            if is_whole and self.command != "GET":
                state.asked.append(Asked(self.path, dict(self.headers), self.client_address[1]))
            return is_whole

        def do_GET(self) -> None:
            asked = Asked(self.path, dict(self.headers), self.client_address[1])
            state.asked.append(asked)
            reply = state.answer(asked)
            if reply.hang_up:
                self.close_connection = True
                return
            self.send_response(reply.status)
            length = len(reply.body) if reply.length is None else reply.length
            for name, value in {**reply.headers, "Content-Length": str(length)}.items():
                self.send_header(name, value)
            self.end_headers()
            self._send(reply)
            if length != len(reply.body):
                self.close_connection = True

        def _send(self, reply: Reply) -> None:
            if not reply.drip_s:
                self.wfile.write(reply.body)
                return
            try:
                for byte in reply.body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(reply.drip_s)
            except OSError:  # it hung up, as it should
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that hangs up is nothing to report."""

    server = Server((host, 0), Handler)
    state.url = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
