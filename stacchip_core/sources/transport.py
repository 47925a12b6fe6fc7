"""HTTP for catalogs: every request is bounded in time and size, retried where that may help, and leaves its host never.

`requests` bounds the wait between two bytes, so a server that sends one now and then is waited for without end; it
follows redirects anywhere; and it takes whatever length it is given. None of the three holds here.
"""

from __future__ import annotations

import datetime as dt
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urljoin

import requests

from stacchip_core.errors import HrefRefusedError, ReadError, TransientReadError
from stacchip_core.sources.access import unsigned_href
from stacchip_core.sources.gate import origin_of

Document = dict[str, Any]
T = TypeVar("T")

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 60.0  # between two reads
RESPONSE_SECONDS = 180.0  # for a whole response, however steadily it drips
RESPONSE_BYTES_MAX = 64 * 2**20  # of one page or document: the largest real pages hold some 10 MB
RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
RETRIES = 6
CONNECT_RETRIES = 3  # of them at most, where nobody answers at all: a wrong address should not take a minute
BACKOFF_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 60.0
RETRY_AFTER_MAX_SECONDS = 300.0
REDIRECTS_MAX = 5
_REDIRECTS = (301, 302, 303, 307, 308)


class RefusedError(ReadError):
    """The server answered 4xx: asked again, it will do so again."""


class NotFoundError(RefusedError):
    """The server answered 404 or 410."""


class _OutOfTimeError(TransientReadError):
    """The time that finding items may take in a run is over."""


class _NoConnectionError(TransientReadError):
    """Nobody answered at all."""


class _BusyError(TransientReadError):
    """The server says "later"; `wait`: in how many seconds, if it told."""

    def __init__(self, message: str, wait: float | None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Query:
    """One request to a STAC API; `body` is the JSON of a POST, or the query parameters of a GET."""

    href: str
    method: str = "GET"
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] | None = None


@dataclass(slots=True)
class Transport:
    """Requests of one run to one catalog.

    Attributes:
        seconds: what all its requests and pauses may take together; indexing what was found does not count.
        spent: seconds so far.
        date: the server's clock at its first answer, if it told.
        sent: how many requests, retries included.
    """

    seconds: float = float("inf")
    spent: float = 0.0
    date: dt.datetime | None = None
    sent: int = 0
    _session: requests.Session = field(default_factory=requests.Session)

    @property
    def is_out_of_time(self) -> bool:
        """Whether no request may be sent any more."""
        return self.spent >= self.seconds

    def document(self, query: Query, retries: int | None = None) -> Document:
        """The JSON object a request is answered with; `retries` None: as many as usual.

        Raises:
            RefusedError: 4xx; NotFoundError for 404 and 410.
            ReadError: a redirect to another host, too long an answer, or no JSON object.
            TransientReadError: no usable answer after all retries; at once where time is over.
        """
        return parse_document(self.content(query, retries), query.href)

    def content(self, query: Query, retries: int | None = None) -> bytes:
        """The bytes a request is answered with; raises as `document`."""
        most, attempt = RETRIES if retries is None else min(retries, RETRIES), 0
        while True:
            try:
                return self._followed(query)
            except _OutOfTimeError:
                raise
            except TransientReadError as err:
                attempt += 1
                if attempt > (min(most, CONNECT_RETRIES) if isinstance(err, _NoConnectionError) else most):
                    raise TransientReadError(str(err)) from err  # under the name that people find in the docs
                self._pause(attempt, err.wait if isinstance(err, _BusyError) else None, query.href)

    def _followed(self, query: Query) -> bytes:
        """The answer, after redirects on the same host."""
        for _ in range(REDIRECTS_MAX):
            answer = self._timed(lambda asked=query: self._send(asked), query.href)  # type: ignore[misc]
            if isinstance(answer, bytes):
                return answer
            href = urljoin(query.href, answer)
            if not is_same_host(query.href, href):
                raise ReadError(
                    f"{unsigned_href(query.href)}: redirects to another host, {unsigned_href(href)}; it is not "
                    "followed: give that address as the source if it is the right one"
                )
            query = Query(href, query.method, query.body, query.headers)
        raise ReadError(f"{unsigned_href(query.href)}: more than {REDIRECTS_MAX} redirects")

    def _send(self, query: Query) -> bytes | str:
        """The body of an answer, or where it redirects to."""
        self.sent += 1
        is_post = query.method == "POST"
        name = unsigned_href(query.href)
        try:
            with self._session.request(
                query.method,
                query.href,
                params=None if is_post else query.body,
                json=query.body if is_post else None,
                headers=query.headers,
                timeout=(CONNECT_SECONDS, SILENCE_SECONDS),
                allow_redirects=False,
                stream=True,
            ) as response:
                self.date = self.date or _date_of(response)
                if response.status_code in _REDIRECTS and "Location" in response.headers:
                    return str(response.headers["Location"])
                body = _bounded(response, name)
                if response.ok:
                    return body
                raise _refusal(response, body, name)
        except (requests.ConnectionError, requests.Timeout) as err:
            is_unanswered = isinstance(err, requests.ConnectTimeout) or "refused" in str(err)
            kind = _NoConnectionError if is_unanswered else TransientReadError
            raise kind(f"{name}: no answer ({type(err).__name__}); is the address right?") from err
        except requests.exceptions.ChunkedEncodingError as err:
            raise TransientReadError(f"{name}: the answer broke off") from err
        except (requests.RequestException, ValueError, UnicodeError) as err:  # no URL, or bytes that are no text
            raise ReadError(f"{name}: {type(err).__name__}: {' '.join(str(err).split())[:200]}") from err

    def _timed(self, work: Callable[[], T], href: str) -> T:
        """`work`, given up after the time for one response, or the rest of all; both count as spent."""
        limit = min(RESPONSE_SECONDS, self.seconds - self.spent)
        if limit <= 0:
            raise _OutOfTimeError(f"{unsigned_href(href)}: finding items took the {self.seconds:g} seconds it may")
        started = time.monotonic()
        try:
            return _within(limit, work, unsigned_href(href))
        finally:
            self.spent += time.monotonic() - started

    def _pause(self, attempt: int, retry_after: float | None, href: str) -> None:
        """Wait before another attempt: as long as the server asks, else twice as long each time, with jitter."""
        backoff = min(BACKOFF_SECONDS * 2 ** (attempt - 1), BACKOFF_MAX_SECONDS)
        wait = min(retry_after, RETRY_AFTER_MAX_SECONDS) if retry_after is not None else backoff
        wait += random.uniform(0, BACKOFF_SECONDS)
        if self.spent + wait >= self.seconds:
            self.spent = self.seconds
            raise _OutOfTimeError(
                f"{unsigned_href(href)}: the server asks for {wait:.0f} seconds more than finding items may take"
            )
        time.sleep(wait)
        self.spent += wait


def parse_document(text: bytes | str, href: str) -> Document:
    """The JSON object in `text`, read from `href`; raises ReadError naming it."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise ReadError(f"{unsigned_href(href)}: not JSON ({err})") from err
    if not isinstance(document, dict):
        raise ReadError(f"{unsigned_href(href)}: expected a JSON object, found {type(document).__name__}")
    return document


def is_same_host(one: str, other: str) -> bool:
    """Whether `other` may be followed from `one`: the same scheme, host and port, or the host's own https.

    A URL that programs read apart is of no host: a backslash ends the host for what sends the request, and is a part
    of a user's name for Python's urlsplit.
    """
    try:
        here, there = (origin_of(url, may_have_user=True) for url in (one, other))
    except HrefRefusedError:
        return False
    is_upgrade = (here.scheme, here.port, there.scheme, there.port) == ("http", 80, "https", 443)
    return here == there or (is_upgrade and here.host == there.host)


def _within(seconds: float, work: Callable[[], T], name: str) -> T:
    """`work`, done by a thread that is left alone after so many seconds."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as err:
            failed.append(err)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(min(seconds, threading.TIMEOUT_MAX))
    if failed:
        raise failed[0]
    if not done:
        raise TransientReadError(f"{name}: the answer was not there after {seconds:.0f} seconds")
    return done[0]


def _bounded(response: requests.Response, name: str) -> bytes:
    """The body, refused where it is longer than any page."""
    parts, size = list[bytes](), 0
    for part in response.iter_content(2**16):
        size += len(part)
        if size > RESPONSE_BYTES_MAX:
            raise ReadError(f"{name}: an answer of more than {RESPONSE_BYTES_MAX / 2**20:g} MiB; ask for smaller pages")
        parts.append(part)
    return b"".join(parts)


def _refusal(response: requests.Response, body: bytes, name: str) -> ReadError:
    """What a status that is no success means."""
    status, text = response.status_code, " ".join(body[:500].decode("utf-8", "replace").split())[:200]
    if status in (404, 410):
        return NotFoundError(f"{name}: not found ({status})")
    if status not in RETRY_STATUSES and status < 500:
        return RefusedError(f"{name}: the server answered {status} {text}")
    return _BusyError(f"{name}: the server answered {status} {text}", _retry_after(response))


def _retry_after(response: requests.Response) -> float | None:
    """Seconds to wait, of a header that says seconds or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    moment, now = _http_date(text), _date_of(response) or dt.datetime.now(dt.UTC)
    return max(0.0, (moment - now).total_seconds()) if moment else None


def _date_of(response: requests.Response) -> dt.datetime | None:
    return _http_date(response.headers.get("Date", ""))


def _http_date(text: str) -> dt.datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
