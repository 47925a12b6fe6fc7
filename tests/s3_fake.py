"""An S3 server on 127.0.0.1 with a lock and with faults: what an emulator without them can't show.

It answers what s3fs, pyarrow and GDAL ask, as Amazon's API reference has it ("Conditional writes", "ListObjectsV2",
"Error responses"). Every change happens under one lock, so of any number of racing conditional requests one succeeds.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from stacchip_core.sources.access import Storage
from stacchip_core.warehouse.store import Store, open_store
from tests.s3_buckets import Buckets, Call, Dialect, Reply, refused

OWN_SERVER = os.environ.get("STACCHIP_TEST_S3")  # endpoint of an S3 server that the store's tests use too
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_ON_BUCKETS = {"GET": "LIST", "PUT": "MAKE", "HEAD": "LOOK", "POST": "DELETE_MANY"}


@dataclass
class Fault:
    """What becomes of the next requests of one kind.

    Attributes:
        operation: GET, HEAD, PUT, DELETE, LIST, START, PART, COMPLETE, ABORT, DELETE_MANY, or a pattern of them.
        key: pattern of the key, for LIST of the prefix.
        when: "before": nothing is done; "after": it is done; "half": it is done, and half of the body is sent.
        answer: status and error code given then; None: the connection is dropped.
        seconds: how long the server is silent before anything.
        times: how many requests meet it.
    """

    operation: str = "*"
    key: str = "*"
    when: Literal["before", "after", "half", "never"] = "before"
    answer: tuple[int, str] | None = None
    seconds: float = 0.0
    times: int = 1

    def meets(self, call: Call) -> bool:
        """Whether `call` is one of its requests."""
        return self.times > 0 and fnmatchcase(call.operation, self.operation) and fnmatchcase(call.key, self.key)


class S3Fake:
    """A server; a context manager, within which it runs. Its clients may be other processes.

    Attributes:
        buckets: what it keeps; its dialect, clock and lag may be set while it runs.
        faults: met in this order by the requests that they name.
        requests: (operation, key) of all requests so far.
        lost: how many requests succeeded without their clients being told so.
    """

    def __init__(self, dialect: Dialect = Dialect.AWS) -> None:
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.endpoint = ""
        self.clear(dialect)

    def clear(self, dialect: Dialect = Dialect.AWS) -> None:
        """Forget everything."""
        with self._lock:
            self.buckets = Buckets(dialect)
            self.faults: list[Fault] = []
            self.requests: list[tuple[str, str]] = []
            self.lost = 0

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def storage(self) -> Storage:
        """How to reach it; `CREDENTIALS` must be in the environment."""
        return Storage(endpoint=self.endpoint)

    def new_store(self) -> Store:
        """A store in a bucket of its own."""
        bucket = f"b{uuid.uuid4().hex}"
        self.buckets.make(bucket)
        return open_store(f"s3://{bucket}/some/prefix", self.storage)

    def count(self, operation: str = "*", key: str = "*") -> int:
        """How many requests there were so far."""
        with self._lock:
            return sum(fnmatchcase(done, operation) and fnmatchcase(at, key) for done, at in self.requests)

    def inject(self, fault: Fault) -> None:
        """Add a fault, while requests may be under way."""
        with self._lock:
            self.faults.append(fault)

    def answer(self, call: Call, fault: Fault) -> Reply:
        """Do what is asked; count it where nobody will be told."""
        reply = self.buckets.answer(call)
        with self._lock:
            self.lost += fault.when == "after" and reply.status < 300
        return reply

    def take_fault(self, call: Call) -> Fault | None:
        """Note a request, and find the fault that it meets."""
        with self._lock:
            self.requests.append((call.operation, call.key))
            fault = next((fault for fault in self.faults if fault.meets(call)), None)
            if fault is not None:
                fault.times -= 1
            self.faults = [fault for fault in self.faults if fault.times > 0]
            return fault


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave, and may be killed."""


class _Handler(BaseHTTPRequestHandler):
    """HTTP, and the faults on the way."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: S3Fake

    def _serve(self) -> None:
        call = self._understood()
        fault = self.fake.take_fault(call) or Fault(when="never")
        time.sleep(fault.seconds)
        if fault.when != "before":
            reply = self.fake.answer(call, fault)
        if fault.when in ("before", "after"):
            if fault.answer is None:
                return self._drop()
            reply = refused(fault.answer[0], "injected", fault.answer[1])
        self._send(reply, half=fault.when == "half")
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _understood(self) -> Call:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        bucket, _, path = unquote(parts.path).removeprefix("/").partition("/")
        operation = _operation(self.command, path, query)
        key = query.get("prefix", "") if operation == "LIST" else path
        return Call(operation, bucket, key, query, self.headers, body)

    def _send(self, reply: Reply, half: bool) -> None:
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        body = reply.body if self.command != "HEAD" else b""
        self.wfile.write(body[: len(body) // 2] if half else body)
        if half:
            self._drop()

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


def _operation(method: str, key: str, query: Mapping[str, str]) -> str:
    if not key:
        return _ON_BUCKETS.get(method, method)
    if "uploads" in query:
        return "START"
    if "uploadId" in query:
        return {"PUT": "PART", "POST": "COMPLETE", "DELETE": "ABORT"}.get(method, method)
    return method
