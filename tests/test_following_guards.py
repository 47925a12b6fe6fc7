"""Following's tests' test: its guards are switched off, one at a time, and a test or a scenario fails each time."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from stacchip_core import Warehouse
from stacchip_core.sources.catalog import OpenSource
from stacchip_core.sources.source import Source
from stacchip_core.warehouse import absence, follow
from stacchip_core.warehouse.followed import Followed
from stacchip_core.warehouse.memory import Following, Memory, text_of
from tests import test_follow
from tests.guards import Check, Notice, Patch, constant
from tests.hostile_runs import INCREMENT, SWEEP, impatient
from tests.hostile_stac import COLLECTION, Hostile, serving
from tests.tiny import TINY, tiny_item

JSON = dict[str, Any]
_ROUND = follow._Round


# --- what is switched off


def watermark_of_an_increment(patch: Patch) -> None:
    """The watermark moves, whatever was missing."""
    changes = _ROUND._changes

    def always(self: Any) -> Iterator[follow.Step]:
        yield from changes(self)
        self._each(lambda memory: replace(memory, watermark=text_of(self.opened.clock)))

    patch.setattr(_ROUND, "_changes", always)


def holes(patch: Patch) -> None:
    """A sweep of which something could not be found out counts as a whole one."""
    finish = _ROUND._finish

    def whole(self: Any) -> Iterator[follow.Step]:
        self._each(lambda memory: replace(memory, holes=0))
        yield from finish(self)

    patch.setattr(_ROUND, "_finish", whole)


def rules(**values: float) -> Callable[[Patch], None]:
    """Runs follow by other rules than they were given."""

    def off(patch: Patch) -> None:
        started = _ROUND.__post_init__

        def begun(self: Any) -> None:
            self.run.rules = self.run.rules.model_copy(update=values)
            started(self)

        patch.setattr(_ROUND, "__post_init__", begun)

    return off


def second_sweep(patch: Patch) -> None:
    """What one sweep does not have has been missing for ever."""

    def hasty(stock: Any, memory: Memory, given: Following, now: dt.datetime) -> Any:
        long_ago = {text_of(now - dt.timedelta(days=3650)): memory.absent}
        return absence.judge(stock, replace(memory, missing=long_ago), given, now)

    patch.setattr(follow, "judge", hasty)


# --- what notices


def in_place(test: Callable[[test_follow.Place], object]) -> Check:
    """A test of a static catalog that is followed."""
    return lambda _, folder: test(test_follow.Place(folder))


@dataclass(slots=True)
class Forgetful(Hostile):
    """Its searches leave some items out, and do not count them."""

    unlisted: set[str] = field(default_factory=set)

    def matching(self, parameters: JSON) -> list[JSON]:
        return [one for one in Hostile.matching(self, parameters) if one["id"] not in self.unlisted]


@dataclass(slots=True)
class Api:
    """A STAC API of nine items, followed into a warehouse of its own."""

    server: Forgetful
    source: Source
    warehouse: Warehouse

    def run(self, given: Following) -> Followed:
        return self.warehouse.follow(self.source, rules=given, profile=TINY, chip_size=16)

    @property
    def memory(self) -> Memory:
        return Memory.of(self.warehouse.collection(COLLECTION).sources, self.source.summary())

    @property
    def live(self) -> set[str]:
        return set(self.warehouse.collection(COLLECTION).items(["item_id"])["item_id"].to_pylist())

    def put(self, name: str, updated: dt.datetime) -> None:
        given = {"href": "https://example.invalid/data.tif", "updated": text_of(updated)}
        self.server.items[name] = tiny_item(name, when="2023-05-01T00:00:00Z", **given)


@contextmanager
def followed() -> Iterator[Api]:
    """An API that has been swept once."""
    server = Forgetful()
    with serving(server), impatient():
        source = Source(url=server.url, collections=(COLLECTION,), page_size=4)
        api = Api(server, source, Warehouse(f"memory://guards/{uuid.uuid4()}", create=True))
        for number in range(9):
            api.put(f"item-{number}", dt.datetime(2024, 1, 1 + number, tzinfo=dt.UTC))
        assert api.run(SWEEP).is_complete
        yield api


def an_incomplete_run_leaves_the_watermark(patch: Patch, _: Path) -> None:
    with followed() as api:
        before, later = api.memory, dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
        patch.setattr(OpenSource, "clock", property(lambda _: later))
        api.server.script = ("403 on every search",)
        assert not api.run(INCREMENT).is_complete
        assert api.memory.watermark == before.watermark
        api.server.script = ()
        assert api.run(INCREMENT).is_complete
        assert api.memory.watermark > before.watermark


def an_incomplete_sweep_deletes_nothing(_: Patch, __: Path) -> None:
    with followed() as api:
        api.server.unlisted = {"item-3"}
        gone = api.server.items.pop("item-5")["id"]
        for _run in range(3):
            assert not api.run(SWEEP).is_complete
        assert gone in api.live
        api.server.unlisted = set()
        for _run in range(2):
            assert api.run(SWEEP).is_complete
        assert gone not in api.live


def what_is_published_late_is_found_by_the_overlap(_: Patch, __: Path) -> None:
    with followed() as api:
        api.put("late", dt.datetime.now(dt.UTC) - dt.timedelta(hours=20))
        assert api.run(INCREMENT).total.new == 1
        assert "late" in api.live


def an_item_that_searches_leave_out_is_not_gone(_: Patch, __: Path) -> None:
    with followed() as api:
        api.server.unlisted = {"item-3"}
        for _run in range(3):
            api.run(SWEEP)
        assert "item-3" in api.live


def deletes_wait_for_a_day_of_the_stores_clock(patch: Patch, folder: Path) -> None:
    given = Following(sweep_hours=0)
    assert given.confirm_hours == 24, "the default"
    place = test_follow.Place(folder)
    place.put("a", "b")
    place.run(given)
    del place.items["b"]
    store = place.warehouse.store
    now = store.now()
    for hours, gone in ((0.0, 0), (1.0, 0), (23.9, 0), (24.1, 1)):
        patch.setattr(type(store), "now", lambda _, after=hours: now + dt.timedelta(hours=after))
        assert place.run(given).total.deleted == gone
    assert place.live == {"a"}


def most_of_a_collection_stays(place: test_follow.Place) -> None:
    place.put(*(f"i{number:02d}" for number in range(14)))
    place.run()
    for number in range(11):
        del place.items[f"i{number:02d}"]
    place.run()
    done = place.run()
    assert len(place.live) == 14
    assert "11 of 14 items are gone" in done.notices[0]


NOTICES: Mapping[str, Notice] = {
    "watermark of an incomplete run": Notice(watermark_of_an_increment, an_incomplete_run_leaves_the_watermark),
    "holes of a sweep": Notice(holes, an_incomplete_sweep_deletes_nothing),
    "overlap": Notice(rules(overlap_hours=0), what_is_published_late_is_found_by_the_overlap),
    "an item asked for by itself": Notice(
        constant(OpenSource, look_up=lambda *_: None), an_item_that_searches_leave_out_is_not_gone
    ),
    "second sweep": Notice(second_sweep, in_place(test_follow.test_an_item_is_deleted_when_two_sweeps_did_not_have_it)),
    "a day between sweeps": Notice(rules(confirm_hours=0), deletes_wait_for_a_day_of_the_stores_clock),
    "mass deletion": Notice(constant(absence, _too_many=lambda *_: ""), in_place(most_of_a_collection_stays)),
}


@pytest.mark.parametrize("what", list(NOTICES))
def test_what_keeps_an_index_true_to_its_source_is_missed_by_a_test(what: str, tmp_path: Path) -> None:
    NOTICES[what].is_noticed(tmp_path)
