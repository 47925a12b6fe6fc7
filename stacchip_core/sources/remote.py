"""A file on an http(s) server, read by ranges: signed, followed, retried, and checked to be the bytes asked for."""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

from stacchip_core.errors import ReadError, TransientReadError
from stacchip_core.sources.connections import Answer, Deadline, Patience, Request, ask
from stacchip_core.sources.gate import Gate
from stacchip_core.sources.identity import FileIdentity

logger = logging.getLogger(__name__)

PATIENCE = Patience()
MAX_HOPS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_NO_RANGE = re.compile(r"bytes \*/(\d+)")


@dataclass(frozen=True, slots=True)
class Signed:
    """A URL ready to be asked for, and headers that go with it; never stored, logged or shown."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


# Signs a URL just before it is asked for; given a signature that was refused, it makes another.
Sign = Callable[[str, Signed | None], Signed]


def unsigned(url: str, _refused: Signed | None = None) -> Signed:
    """The URL as it is."""
    return Signed(url)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests sent, and bytes of body received."""

    requests: int = 0
    received: int = 0


class _BusyError(TransientReadError):
    """The server says when to come back."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class RemoteFile:
    """One file on one server; any number of threads may read it at once.

    All its bytes are of one version of the file: its length and ETag are remembered from the first answer.
    """

    def __init__(self, href: str, gate: Gate, sign: Sign = unsigned) -> None:
        """Say what will be read; nothing is asked yet.

        Raises:
            HrefRefusedError: the gate refuses its host.
        """
        self._href = href
        self._gate = gate
        self._sign = sign
        self._origin = gate.check(href)
        self._lock = threading.Lock()
        self._version: tuple[int, str | None] | None = None
        self._traffic = Traffic()
        self._is_sent_on = False

    @property
    def length(self) -> int | None:
        """Bytes of the file; None before the first answer."""
        return self._version[0] if self._version else None

    @property
    def etag(self) -> str | None:
        """Its version, as the server names it, without quotes; None before the first answer, or without a name."""
        etag = self._version[1] if self._version else None
        return etag.removeprefix("W/").strip('"') if etag else None

    @property
    def identity(self) -> FileIdentity:
        """What tells this state of the file from another, as far as it is known by now."""
        length, etag = self._version or (None, None)
        is_strong = etag is not None and not etag.startswith("W/") and not self._is_sent_on
        return FileIdentity(length, etag if is_strong else None)

    @property
    def traffic(self) -> Traffic:
        """Requests and bytes so far."""
        return self._traffic

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), or fewer where the file ends; 4xx and 5xx are told apart by what may help.

        Raises:
            HrefRefusedError: a redirect or an address that may not be followed.
            TransientReadError: the network or the server failed, after retries.
            ReadError: not there, forbidden, empty, no range requests, or replaced since the first answer.
        """
        return _patiently(lambda deadline: self._checked(self._answer(start, stop, deadline), start, stop))

    def _answer(self, start: int, stop: int, deadline: Deadline) -> Answer:
        answer, signed = self._follow(start, stop, deadline, None)
        if answer.status in (401, 403) and self._sign is not unsigned:  # a token may end before its time
            answer, _ = self._follow(start, stop, deadline, signed)
        return answer

    def _follow(self, start: int, stop: int, deadline: Deadline, refused: Signed | None) -> tuple[Answer, Signed]:
        """Ask, and go where the server points to, hop by hop; each is signed, if at all, for itself."""
        url, origin = self._href, self._origin
        for _ in range(MAX_HOPS):
            signed = self._sign(url, refused)
            if signed.url != url:  # signing adds to a URL; it may lead to another host only where that is named
                origin = self._gate.check_redirect(origin, signed.url)
            headers = {**signed.headers, "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
            answer = ask(Request(signed.url, origin, headers, stop - start + 1), self._gate, deadline)
            self._count(answer)
            if answer.status not in _REDIRECTS:
                self._is_sent_on |= origin != self._origin
                return answer, signed
            url = urljoin(url, answer.headers.get("location", ""))
            origin = self._gate.check_redirect(origin, url)
        raise ReadError(f"host {self._origin.host} redirects more than {MAX_HOPS} times")

    def _checked(self, answer: Answer, start: int, stop: int) -> bytes:
        """The body, if it is the bytes asked for."""
        if answer.status == 416 and (found := _NO_RANGE.fullmatch(answer.headers.get("content-range", ""))):
            self._remember(int(found[1]), answer)
            return b""
        if answer.status != 206:
            raise _problem(answer)
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise ReadError(f"the server packed the bytes ({answer.headers['content-encoding'][:20]!r}) unasked")
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        if found is None:
            raise ReadError("the server does not say which bytes of how many it sends (Content-Range)")
        first, last, length = (int(number) for number in found.groups())
        self._remember(length, answer)
        wanted = min(stop, length) - start
        if (first, last + 1 - first) != (start, wanted):
            raise TransientReadError(
                f"asked for {wanted} bytes from {start}, the server says {last + 1 - first} from {first}"
            )
        if len(answer.body) != wanted:
            raise TransientReadError(f"got {len(answer.body)} bytes, expected {wanted}")
        return answer.body

    def _remember(self, length: int, answer: Answer) -> None:
        etag = answer.headers.get("etag")
        with self._lock:
            if self._version is None:
                self._version = (length, etag)
            elif self._version != (length, etag):
                raise ReadError("the file was replaced on the server while it was being read; read it again")

    def _count(self, answer: Answer) -> None:
        with self._lock:
            self._traffic = Traffic(self._traffic.requests + 1, self._traffic.received + len(answer.body))


def fetch(url: str, gate: Gate, *, limit: int, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole small document; redirects are followed only to its own host, or to named ones.

    Raises:
        HrefRefusedError, ReadError, TransientReadError: as `RemoteFile.read`; or it is larger than `limit` bytes.
    """

    def once(deadline: Deadline) -> bytes:
        place, origin = url, gate.check(url)
        for _ in range(MAX_HOPS):
            own = headers if origin == gate.check(url) else None
            asked = Request(place, origin, {**(own or {}), "Accept-Encoding": "identity"}, limit + 1)
            answer = ask(asked, gate, deadline)
            if answer.status not in _REDIRECTS:
                return _whole(answer, limit)
            place = urljoin(place, answer.headers.get("location", ""))
            origin = gate.check_redirect(origin, place)
        raise ReadError(f"host {origin.host} redirects more than {MAX_HOPS} times")

    return _patiently(once)


def _whole(answer: Answer, limit: int) -> bytes:
    if answer.status != 200:
        raise _problem(answer)
    if len(answer.body) > limit:
        raise ReadError(f"larger than the {limit} bytes allowed")
    if (length := answer.headers.get("content-length", "")).isdigit() and int(length) != len(answer.body):
        raise TransientReadError(f"got {len(answer.body)} bytes, expected {length}")
    return answer.body


def _patiently(task: Callable[[Deadline], bytes]) -> bytes:
    """Do something again while the network or the server is at fault, and while there is time."""
    deadline = Deadline(PATIENCE)
    for wait in _waits(PATIENCE):
        try:
            return task(deadline)
        except TransientReadError as err:
            pause = max(wait, err.wait_s) if isinstance(err, _BusyError) else wait
            if wait < 0 or pause >= _left(deadline):
                raise
            logger.debug("%s; again in %.1f s", err, pause)
            time.sleep(pause)
    raise TransientReadError("no answer")


def _problem(answer: Answer) -> ReadError:
    """What an answer without the bytes means."""
    if answer.status in _TRANSIENT or answer.status >= 500:
        return _BusyError(f"HTTP {answer.status}", _retry_after(answer.headers.get("retry-after", "")))
    if answer.status == 200:
        return ReadError(
            "HTTP 200 to a range request: the server sends whole files only, or a page in the file's place"
        )
    return ReadError(f"HTTP {answer.status}")


def _retry_after(text: str) -> float:
    """Seconds to wait, of a number of them or a date; 0 where it is neither. Source: RFC 9110, 10.2.3."""
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _waits(patience: Patience) -> Iterator[float]:
    """Seconds to wait after each failure: doubled, with jitter, as many readers may have failed; -1: give up."""
    for attempt in range(patience.retries):
        yield patience.backoff_s * 2**attempt * random.uniform(0.5, 1)
    yield -1


def _left(deadline: Deadline) -> float:
    try:
        return deadline.left()
    except TimeoutError:
        return 0.0
