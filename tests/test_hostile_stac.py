"""A STAC API that lies, loses, loops and stalls: the index equals the truth, or the run says INCOMPLETE."""

from __future__ import annotations

from contextlib import suppress

import pytest

from stacchip_core.errors import IncompleteError, StacchipError
from stacchip_core.sources import paging, transport
from stacchip_core.sources.source import Source
from tests.catalogs import ids
from tests.hostile_runs import impatient, random_script, run_script
from tests.hostile_stac import BEHAVIOURS, COLLECTION, Hostile, serving
from tests.tiny import tiny_item

SCRIPTS = 200


def test_there_are_at_least_forty_behaviours() -> None:
    assert len(BEHAVIOURS) >= 40


def test_what_a_server_refuses_of_a_query_is_checked_here_alone() -> None:
    """Pgstac's `query` has no `in`: it answers 400, to parts of the time too."""
    items = {f"i{n}": tiny_item(f"i{n}", when=f"2024-05-0{n + 1}T00:00:00Z", platform=f"tiny-{n}") for n in range(9)}
    with serving(Hostile(items, ("refuses 'in'",))) as server, impatient():
        source = Source(
            url=server.url, collections=(COLLECTION,), query=("platform in tiny-1, tiny-2", "platform != x")
        )
        assert ids(source) == ["i2", "i1"]
        assert server.searches < 12


def test_a_search_that_is_refused_from_its_first_page_is_not_asked_for_in_parts() -> None:
    with serving(Hostile({"a": tiny_item("a")}, ("refuses bbox",))) as server, impatient():
        with pytest.raises(IncompleteError, match=r"INCOMPLETE.*all times.*answered 400"):
            ids(Source(url=server.url, collections=(COLLECTION,), bbox=(0.0, 40.0, 20.0, 50.0)))
        assert server.searches < 12


@pytest.mark.parametrize("is_guarded", [True, False], ids=["", "and is where the guard is off"])
@pytest.mark.parametrize("behaviour", ["next on another host", "redirect to another host"])
def test_another_host_is_not_asked(behaviour: str, is_guarded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_guarded:
        for module in (transport, paging):
            monkeypatch.setattr(module, "is_same_host", lambda *_: True)
    items = {f"i{n}": tiny_item(f"i{n}", when=f"2024-05-0{n + 1}T00:00:00Z") for n in range(9)}
    with serving(Hostile()) as elsewhere, serving(Hostile(items, (behaviour,))) as server:
        server.foreign = elsewhere.url
        with impatient(), suppress(StacchipError):
            ids(Source(url=server.url, collections=(COLLECTION,), page_size=4))
        assert server.searches
        assert bool(elsewhere.seen_headers) is not is_guarded


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SCRIPTS))
def test_nothing_is_lost_in_silence(seed: int) -> None:
    report = run_script(random_script(seed), seed)
    assert not report.wrong, str(report)


@pytest.mark.parametrize(
    ("script", "seed"),
    [(("empty page without a next one", "numberMatched of the page", "numberMatched is a text"), 142)],
)
def test_scripts_that_once_lost_items_do_so_no_more(script: tuple[str, ...], seed: int) -> None:
    report = run_script(script, seed)
    assert not report.wrong, str(report)
