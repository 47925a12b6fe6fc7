"""Paging's tests' test: guards of pages and requests are off, one at a time, and a test fails each time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stacchip_core.errors import ReadError, TransientReadError
from stacchip_core.sources import paging, transport
from stacchip_core.sources.paging import Walk
from stacchip_core.sources.transport import Query, Transport
from stacchip_core.sources.windows import Coverage
from tests import test_catalog, test_hostile_stac, test_paging
from tests.catalogs import item
from tests.guards import Check, Notice, Patch, constant
from tests.hostile_stac import Hostile, Reply, serving
from tests.stac_server import Answer, StacServer
from tests.stac_server import serving as serving_pages

JSON = dict[str, Any]


# --- what is switched off


def empty_pages(patch: Patch) -> None:
    """Paging ends at an empty page, as pystac-client's does."""
    following = paging._next_query
    patch.setattr(paging, "_next_query", lambda query, page: following(query, page) if page["features"] else None)


def disbelief(patch: Patch) -> None:
    """A page that names no next one is the last."""
    patch.setattr(
        Coverage, "_whole_of", lambda _, walk: frozenset(walk.keys) if walk.has_ended and not walk.error else None
    )


def no_retries(patch: Patch) -> None:
    """The first failure is the last."""
    patch.setattr(transport, "RETRIES", 0)


def total_time(patch: Patch) -> None:
    """Each answer has its time, all together have no end."""
    patch.setattr(Transport, "_timed", lambda _, work, href: work())


def patience_of_a_pause(patch: Patch) -> None:
    """A server is waited for as long as it says."""
    pause = Transport._pause

    def waiting(self: Transport, attempt: int, retry_after: float | None, href: str) -> None:
        seconds, self.seconds = self.seconds, float("inf")
        pause(self, attempt, retry_after, href)
        self.seconds = seconds

    patch.setattr(Transport, "_pause", waiting)


# --- what notices


def with_pages(test: Callable[[StacServer], object], *pages: list[JSON]) -> Check:
    """A test of a server that has three items."""

    def check(patch: Patch, _: Path) -> None:
        patch.setattr(transport, "BACKOFF_SECONDS", 0.0)
        three = [[item("a"), item("b")], [item("c")]]
        with serving_pages(StacServer(pages=list(pages) or three)) as server:
            test(server)

    return check


def a_circle_is_left_at_its_first_turn(_: Patch, __: Path) -> None:
    """Guards behind this one would end it as well, some pages later."""
    asked: list[Query] = []

    def fetch(query: Query) -> JSON:
        asked.append(query)
        return {"features": [], "links": [{"rel": "next", "href": "http://127.0.0.1/search"}]}

    with pytest.raises(ReadError, match="circle"):
        list(paging.read_pages(Query("http://127.0.0.1/search"), fetch, Walk()))
    assert len(asked) == 1


def two_failures_are_not_seen(api: StacServer) -> None:
    api.faults = [Answer({}, 503), Answer({}, 429, {"Retry-After": "0"})]
    assert Transport().document(Query(f"{api.url}search", "POST"))["features"]


@dataclass(slots=True)
class Fixed(Hostile):
    """Answers whatever it is asked with one reply."""

    reply: Reply = field(default_factory=Reply)

    def answer(self, method: str, path: str, parameters: JSON) -> Reply:
        return self.reply


def answered(reply: Reply, message: str, *, seconds: float = 60.0) -> Check:
    """A catalog's document that is answered so ends in this error, without anybody having slept."""

    def check(patch: Patch, _: Path) -> None:
        slept: list[float] = []
        patch.setattr(transport, "time", SimpleNamespace(monotonic=time.monotonic, sleep=slept.append))
        patch.setattr(transport, "RESPONSE_SECONDS", min(transport.RESPONSE_SECONDS, 0.3))
        with serving(Fixed(reply=reply)) as server, pytest.raises(ReadError, match=message):
            Transport(seconds).document(Query(server.url), retries=1)
        assert sum(slept) < 60

    return check


def nothing_is_asked_when_time_is_over(_: Patch, __: Path) -> None:
    with serving(Hostile()) as server:
        with pytest.raises(TransientReadError, match="took the 0 seconds"):
            Transport(0.0).document(Query(server.url))
        assert server.seen_headers == []


def another_host(behaviour: str) -> Check:
    return lambda patch, _: test_hostile_stac.test_another_host_is_not_asked(behaviour, True, patch)


_HOUR = Reply(429, {}, {"Retry-After": "3600"})
_LARGE = Reply(body=b" " * (transport.RESPONSE_BYTES_MAX + 1))
NOTICES: Mapping[str, Notice] = {
    "circles": Notice(constant(paging, digest=lambda _: os.urandom(16)), a_circle_is_left_at_its_first_turn),
    "repeated pages": Notice(
        constant(paging, STALE_PAGES_MAX=10**9),
        with_pages(test_paging.test_the_same_page_behind_ever_new_tokens_is_an_error),
    ),
    "empty pages for ever": Notice(
        constant(paging, EMPTY_PAGES_MAX=10**9), with_pages(test_paging.test_empty_pages_without_end_are_an_error)
    ),
    "an empty page with a next one": Notice(
        empty_pages, with_pages(test_paging.test_an_empty_page_with_a_next_link_does_not_end_the_search)
    ),
    "next on another host": Notice(
        constant(paging, is_same_host=lambda *_: True), another_host("next on another host")
    ),
    "redirect to another host": Notice(
        constant(transport, is_same_host=lambda *_: True), another_host("redirect to another host")
    ),
    "numberMatched": Notice(
        constant(paging, announced=lambda _: None),
        with_pages(test_catalog.test_fewer_items_than_announced_are_said_after_those_that_came),
    ),
    "a lost token": Notice(
        disbelief, with_pages(test_catalog.test_a_page_without_a_next_one_is_not_believed_to_be_the_last)
    ),
    "a window that failed": Notice(
        constant(Coverage, _split=lambda *_: iter(())),
        with_pages(test_catalog.test_of_a_server_that_keeps_failing_it_is_said_what_is_missing),
    ),
    "retries": Notice(no_retries, with_pages(two_failures_are_not_seen)),
    "time of a response": Notice(
        constant(transport, _within=lambda _, work, __: work()),
        answered(Reply(body=b"{}" * 60, drip=0.02), "was not there after"),
    ),
    "size of a response": Notice(
        constant(transport, _bounded=lambda response, _: response.content), answered(_LARGE, "MiB; ask for smaller")
    ),
    "a pause beyond the deadline": Notice(
        patience_of_a_pause, answered(_HOUR, "more than finding items may take", seconds=5)
    ),
    "deadline": Notice(total_time, nothing_is_asked_when_time_is_over),
}


@pytest.mark.parametrize("what", list(NOTICES))
def test_what_keeps_paging_right_is_missed_by_a_test(what: str, tmp_path: Path) -> None:
    NOTICES[what].is_noticed(tmp_path)
