"""Pages of a search: none skipped, no circle followed, no other host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from stacchip_core.errors import ReadError
from stacchip_core.sources.source import Source
from tests.catalogs import ids, item
from tests.stac_server import Answer, StacServer, serving


@pytest.fixture
def api() -> Iterator[StacServer]:
    with serving(StacServer(pages=[[item("a"), item("b")], [item("c")]])) as server:
        yield server


def test_an_empty_page_with_a_next_link_does_not_end_the_search(api: StacServer) -> None:
    api.pages = [[item("a")], [], [], [item("b")]]
    assert ids(Source(url=api.url)) == ["a", "b"]


def test_empty_pages_without_end_are_an_error(api: StacServer) -> None:
    api.pages = [[] for _ in range(200)]
    with pytest.raises(ReadError, match="empty pages in a row"):
        ids(Source(url=api.url))


@pytest.mark.parametrize("token", [lambda n: 0, lambda n: 1])
def test_next_links_in_a_circle_are_an_error(api: StacServer, token: Any) -> None:
    api.next_link = lambda n: {
        "rel": "next",
        "href": f"{api.url}search",
        "method": "POST",
        "body": {"token": token(n)},
        "merge": True,
    }
    api.pages.append([item("never reached")])
    with pytest.raises(ReadError, match="circle"):
        ids(Source(url=api.url))


def test_a_page_that_is_repeated_hides_no_other(api: StacServer) -> None:
    api.pages = [[item("a")], [item("a")], [item("b")]]
    api.matched = 2
    assert ids(Source(url=api.url)) == ["a", "b"]


def test_the_same_page_behind_ever_new_tokens_is_an_error(api: StacServer) -> None:
    api.pages = [[item("a")] for _ in range(20)]
    with pytest.raises(ReadError, match="circle"):
        ids(Source(url=api.url))


def test_a_next_page_on_another_host_is_refused(api: StacServer) -> None:
    api.next_link = lambda n: {"rel": "next", "href": "http://localhost:1/search?token=secret"}
    with pytest.raises(ReadError, match="another host") as caught:
        ids(Source(url=api.url))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("is_redirect", [False, True], ids=["next", "redirect"])
@pytest.mark.parametrize(
    "spelling", ["{evil}\\@{own}/search", "{evil}\\\\@{own}/search", "{evil}\\.{own}@{own}/search"]
)
def test_no_spelling_of_another_host_passes_for_the_own_one(api: StacServer, spelling: str, is_redirect: bool) -> None:
    """A backslash ends the host for what sends the request, and is a part of a user name for Python's urlsplit."""
    with serving(StacServer(pages=[[item("evil")]])) as canary:
        own, evil = (one.url.removeprefix("http://").rstrip("/") for one in (api, canary))
        href = f"http://{spelling.format(evil=evil, own=own)}"
        if is_redirect:
            api.faults = [Answer({}, 302, {"Location": href}) for _ in range(99)]
        else:
            api.next_link = lambda n: {"rel": "next", "href": href}
        with pytest.raises(ReadError):
            ids(Source(url=api.url))
        assert canary.requests == []


@pytest.mark.parametrize("body", [b"<html>busy</html>", b"[]", json.dumps({"features": None}).encode()])
def test_an_answer_that_is_no_page_is_an_error(api: StacServer, body: bytes) -> None:
    api.faults = [Answer(body) for _ in range(9)]
    with pytest.raises(ReadError, match="INCOMPLETE"):
        ids(Source(url=api.url))
