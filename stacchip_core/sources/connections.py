"""Requests over http(s): to hosts that the gate lets through, by connections that each thread keeps to itself.

Nothing is followed, retried or interpreted here; `remote.py` does that.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast
from urllib.parse import quote, urlsplit

import certifi

from stacchip_core.errors import ReadError, StacchipError, TransientReadError
from stacchip_core.sources.gate import Gate, Origin

# Reserved by RFC 3986, and the percent sign: all else in a URL is percent-encoded before it is asked for.
URL_CHARACTERS = "%:/?#[]@!$&'()*+,;=~"

_MAX_KEPT = 16  # connections per thread, the least recently used closed first
_PIECE_BYTES = 2**18  # read at a time, so that the deadline is looked at between


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait: to connect, between two pieces of an answer, and for all of it with its retries; seconds."""

    connect_s: float = 10.0
    silence_s: float = 20.0
    total_s: float = 60.0
    retries: int = 3
    backoff_s: float = 0.5


class Deadline:
    """A moment after which waiting is an error."""

    def __init__(self, patience: Patience) -> None:
        """Count from now."""
        self.patience = patience
        self._end = time.monotonic() + patience.total_s

    def left(self) -> float:
        """Seconds left.

        Raises:
            TransientReadError: none.
        """
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TransientReadError(f"timed out: not done within {self.patience.total_s:g} s")
        return seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; header names in lower case, and no more of the body than was allowed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask; `limit` is how many bytes of body are read at most. URL and headers may hold secrets."""

    url: str = field(repr=False)
    origin: Origin
    headers: Mapping[str, str] = field(repr=False)
    limit: int


def ask(request: Request, gate: Gate, deadline: Deadline) -> Answer:
    """Send one GET request.

    Raises:
        HrefRefusedError: an address of the host may not be read; nothing was sent.
        TransientReadError: no answer, a broken one, or none in time.
    """
    try:
        kept = _kept().pop((request.origin, gate), None)
        if kept is not None:
            try:
                return _exchange(kept, request, gate, deadline)
            except (http.client.RemoteDisconnected, ConnectionError):  # the server had closed it meanwhile
                pass
        return _exchange(_Connection(request.origin, gate), request, gate, deadline)
    except StacchipError:  # some of ours are ValueErrors, too
        raise
    except TimeoutError as err:
        raise TransientReadError("timed out") from err
    except ssl.SSLError as err:
        raise TransientReadError(f"no secure connection: {err.reason}") from err
    except OSError as err:
        raise TransientReadError(f"no connection: {err.strerror or type(err).__name__}") from err
    except http.client.InvalidURL as err:
        raise ReadError("no usable URL") from err
    except (http.client.HTTPException, ValueError) as err:
        raise TransientReadError(f"a broken answer ({type(err).__name__})") from err


def _exchange(connection: _Connection, request: Request, gate: Gate, deadline: Deadline) -> Answer:
    """Ask over a connection; keep it where the answer was read to its end, else close it."""
    connection.deadline = deadline
    is_whole = False
    try:
        response = _send(connection, request)
        body = _body(response, request.limit, deadline)
        is_whole = not response.will_close and (response.length == 0 or (response.isclosed() and not response.length))
        response.close()
    finally:
        if is_whole:
            _keep((request.origin, gate), connection)
        else:
            connection.close()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, body)


def _send(connection: _Connection, request: Request) -> http.client.HTTPResponse:
    parts = urlsplit(request.url)
    target = quote(parts.path or "/", safe=URL_CHARACTERS) + (
        f"?{quote(parts.query, safe=URL_CHARACTERS)}" if parts.query else ""
    )
    connection.request("GET", target, headers=dict(request.headers))
    return connection.getresponse()


def _body(response: http.client.HTTPResponse, limit: int, deadline: Deadline) -> bytes:
    """At most `limit` bytes; one that ends early is as short as it came, for the caller to see."""
    pieces, size = [], 0
    while size < limit:
        try:
            piece = response.read1(min(_PIECE_BYTES, limit - size))
        except (http.client.IncompleteRead, ConnectionError):
            break
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
        deadline.left()
    return b"".join(pieces)


class _Connection(http.client.HTTPConnection):
    """A connection to an address that the gate has looked at, whose waits end with the request's deadline."""

    deadline: Deadline  # of the request under way

    def __init__(self, origin: Origin, gate: Gate) -> None:
        super().__init__(origin.host, origin.port)
        self._origin = origin
        self._gate = gate

    def connect(self) -> None:
        """Connect to the first address that answers; none is tried unless all of them may be read."""
        found = self._gate.addresses(self._origin)
        problem = OSError("the host has no address")
        for address in found:
            wait = min(self.deadline.patience.connect_s, self.deadline.left())
            try:
                sock = socket.create_connection((address, self._origin.port), wait)
            except OSError as err:
                problem = err
                continue
            try:
                self._gate.check_peer(self._origin, str(sock.getpeername()[0]))
                self.sock = self._secured(sock)
            except BaseException:
                sock.close()
                raise
            return
        raise problem

    def _secured(self, sock: socket.socket) -> socket.socket:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._origin.scheme == "http":
            return sock
        return _tls().wrap_socket(sock, server_hostname=self._origin.host)

    def __del__(self) -> None:
        self.close()

    def response_class(  # type: ignore[override]
        self, sock: socket.socket, method: str | None = None
    ) -> http.client.HTTPResponse:
        """The answer, read with an eye on the deadline."""
        return http.client.HTTPResponse(cast(socket.socket, _Timed(sock, self)), method=method)


class _Timed(io.RawIOBase):
    """A socket's bytes, none of which is waited for past the deadline, however slowly they drip."""

    def __init__(self, sock: socket.socket, connection: _Connection) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._connection = connection

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What `HTTPResponse` asks a socket for."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        deadline = self._connection.deadline
        self._sock.settimeout(min(deadline.patience.silence_s, deadline.left()))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


_Kept = OrderedDict[tuple[Origin, Gate], _Connection]
_mine = threading.local()


def _kept() -> _Kept:
    """The calling thread's open connections; a process that was forked off begins anew."""
    if getattr(_mine, "pid", None) != os.getpid():
        _mine.pid, _mine.connections = os.getpid(), OrderedDict()
    return cast(_Kept, _mine.connections)


def _keep(place: tuple[Origin, Gate], connection: _Connection) -> None:
    kept = _kept()
    kept[place] = connection
    if len(kept) > _MAX_KEPT:
        kept.popitem(last=False)[1].close()


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """The machine's certificates (or those of SSL_CERT_FILE), and certifi's where an image has none."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
