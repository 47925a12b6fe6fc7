"""A folder behind HTTP, as an object store's public bucket: range requests, and faults on demand.

It runs in a process of its own: rasterio holds the interpreter's lock during some of GDAL's requests, so a server on a
thread of the same process may never get to answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_CONTROL = "/.control"


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes [start, start + size) of the file at `path`."""

    path: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class FileServer:
    """A running server: `url` is its root, without a slash at its end."""

    url: str

    def fault(self, path: str, status: int | None = None, *, delay_s: float = 0) -> None:
        """Answer `path` with a status from now on (0: hang up; None: what is there), after waiting."""
        self._control({"path": path, "status": status, "delay_s": delay_s})

    def requests(self) -> list[tuple[str, str]]:
        """Method and path (with query) of every request since the last call, in order."""
        return [(method, path) for method, path in self._control({})]

    def answers(self) -> list[Answer]:
        """What was sent for every GET since the last call, in order; `requests` forgets them too."""
        return [Answer(*one) for one in self._control({"answers": True})]

    def paths(self) -> list[str]:
        """Paths asked for since the last call, without queries, each once, in order."""
        return list(dict.fromkeys(urlsplit(path).path for _, path in self.requests()))

    def _control(self, order: dict[str, Any]) -> list[list[Any]]:
        request = urllib.request.Request(self.url + _CONTROL, json.dumps(order).encode())
        with urllib.request.urlopen(request, timeout=20) as response:
            answer: list[list[Any]] = json.load(response)
            return answer


@contextmanager
def serve(folder: Path) -> Iterator[FileServer]:
    """Serve `folder` on a free port of 127.0.0.1."""
    command = [sys.executable, "-S", str(Path(__file__)), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield FileServer(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


class _State:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: dict[str, tuple[int | None, float]] = {}
        self.requests: list[tuple[str, str]] = []
        self.answers: list[tuple[str, int, int]] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, state: _State, *args: Any) -> None:
        self.state = state
        super().__init__(*args)

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "path" in order:
            self.state.faults[order["path"]] = (order["status"], order["delay_s"])
            self._send(200, b"[]", {})
        else:
            found = self.state.answers if "answers" in order else self.state.requests
            self.state.requests, self.state.answers = [], []
            self._send(200, json.dumps(found).encode(), {})

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append((self.command, self.path))
        status, delay_s = self.state.faults.get(path, (None, 0))
        time.sleep(delay_s)
        file = self.state.folder / path.lstrip("/")
        if status == 0:
            self.close_connection = True
        elif status is not None or not file.is_file():
            self._send(status or 404, b"<html>no</html>", {})
        else:
            self._send_range(file.read_bytes())

    def _send_range(self, body: bytes) -> None:
        wanted = self.headers.get("Range")
        path = unquote(urlsplit(self.path).path)
        if wanted is None:
            self.state.answers.append((path, 0, len(body)))
            self._send(200, body, {"Accept-Ranges": "bytes"})
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1 if last else len(body), len(body))
        if start >= len(body):
            self._send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            return
        self.state.answers.append((path, start, stop - start))
        self._send(206, body[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up early, as GDAL does, is nothing to report."""


def main() -> None:
    """Serve the folder named on the command line until killed; the first line printed is the port."""
    server = _Server(("127.0.0.1", 0), partial(_Handler, _State(Path(sys.argv[1]))))
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
