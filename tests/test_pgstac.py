"""A real STAC API: what it gains and changes is in the index after the next run, what it loses after two sweeps."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from stacchip_core import Warehouse
from stacchip_core.sources.source import Source
from stacchip_core.sources.transport import Query, Transport
from stacchip_core.warehouse.followed import Followed
from stacchip_core.warehouse.memory import Following
from tests.catalogs import found
from tests.pgstac import Api, pgstac
from tests.tiny import TINY, tiny_item

JSON = dict[str, Any]
pytestmark = [pytest.mark.server, pytest.mark.slow]
INCREMENT = Following()  # as it is by default: a sweep once a week
SWEEP = Following(sweep_hours=0, confirm_hours=0)
CHIPS = 4  # of an item
PAGE = 100


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    home = tmp_path_factory.mktemp("pgstac")
    with pgstac(home) as running:
        yield running


@dataclass
class World:
    """A collection of the server, and a warehouse that follows it."""

    api: Api
    name: str
    warehouse: Warehouse
    changed: int = 0

    @property
    def truth(self) -> dict[str, JSON]:
        return self.api.truth[self.name]

    def item(self, number: int, **more: Any) -> JSON:
        """One of made-up items: a new moment every 7 hours, clouds and places in turn."""
        when = dt.datetime(2020, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=7 * number)
        given = {
            "when": text_of(when),
            "updated": text_of(when + dt.timedelta(hours=2)),
            "platform": f"tiny-{number % 3}",
            "eo:cloud_cover": float(number * 37 % 100),
            "href": "https://example.invalid/data.tif",
            **more,
        }
        return moved({**tiny_item(f"item-{number:04d}", **given), "collection": self.name}, number % 40 * 1.0)

    def again(self, number: int, **more: Any) -> JSON:
        """An item that there is, in another form, with the present for its time of change."""
        self.changed += 1
        item = self.truth[f"item-{number:04d}"]
        properties = {**item["properties"], "updated": text_of(dt.datetime.now(dt.UTC)), "note": self.changed, **more}
        return {**item, "properties": properties}

    def run(self, rules: Following, **more: Any) -> Followed:
        source = Source(
            url=self.api.url, collections=(self.name,), page_size=PAGE if len(self.truth) > 1000 else 20, **more
        )
        return self.warehouse.follow(source, rules=rules, profile=TINY, chip_size=16)

    def check(self, truth: dict[str, JSON] | None = None) -> None:
        """Items in their form, and the chips of each, are those of the truth: no more, no less."""
        truth = self.truth if truth is None else truth
        version = self.warehouse.collection(self.name)
        rows = version.items(["item_id", "item"]).to_pylist()
        live = {row["item_id"]: json.loads(row["item"]) for row in rows}
        assert len(rows) == len(live), "none is there twice"
        assert live.keys() == truth.keys()
        for name, item in truth.items():
            assert {key: live[name][key] for key in ("properties", "geometry", "bbox")} == {
                key: item[key] for key in ("properties", "geometry", "bbox")
            }
        ids = version.dataset().to_table(["item_id"])["item_id"].to_numpy(zero_copy_only=False)
        names, counts = np.unique(ids, return_counts=True)
        assert set(names) == truth.keys()
        assert set(counts.tolist()) == {CHIPS}


def text_of(when: dt.datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def moved(item: JSON, degrees: float) -> JSON:
    """An item so far to the east, as far as its footprint tells."""
    ring = [[x + degrees, y] for x, y in item["geometry"]["coordinates"][0]]
    west, south, east, north = item["bbox"]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {**item, "geometry": geometry, "bbox": [west + degrees, south, east + degrees, north]}


@pytest.fixture
def world(api: Api, request: pytest.FixtureRequest) -> World:
    """A collection of 160 items that has been indexed once."""
    name = f"tiny-{len(api.truth)}"
    api.make(name)
    made = World(api, name, Warehouse(f"memory://pgstac/{name}", create=True))
    api.put(made.item(number) for number in range(getattr(request, "param", 160)))
    assert made.run(INCREMENT).is_complete
    made.check()
    return made


@pytest.mark.parametrize("world", [2000], indirect=True)
def test_2000_items_and_what_becomes_of_them(world: World) -> None:
    """Inserts with old datetimes and updates by the next run, deletes by the second sweep."""
    known = world.warehouse.collection(world.name).sources[0]["memory"]["known"]  # type: ignore[index]
    assert known["updated"], "what changed is asked for, not everything"
    now = text_of(dt.datetime.now(dt.UTC))
    world.api.put(world.item(number, updated=now) for number in range(2000, 2060))
    old = {number: f"2015-01-{number % 28 + 1:02d}T00:00:00Z" for number in range(2060, 2100)}
    world.api.put(world.item(number, when=when, updated=now) for number, when in old.items())
    world.api.put(world.again(number) for number in range(0, 200, 2))
    world.api.replace(world.again(301, platform="tiny-9"))
    kept = dict(world.truth)
    world.api.delete(world.name, [f"item-{number:04d}" for number in range(1000, 1015)])
    done = world.run(INCREMENT)
    assert done.is_complete
    assert (done.total.new, done.total.updated, done.total.deleted) == (100, 101, 0)
    world.check(kept)

    assert world.run(SWEEP).total.deleted == 0
    world.check(kept)
    done = world.run(SWEEP)
    assert done.is_complete
    assert (done.total.new, done.total.updated, done.total.deleted) == (0, 0, 15)
    world.check()
    version = world.warehouse.collection(world.name).version
    assert world.run(SWEEP).total.deleted == 0
    assert world.warehouse.collection(world.name).version == version, "nothing changed: nothing is written"


def test_what_changes_between_two_pages_is_exact_after_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages go from the latest datetime down: what is dated back comes twice, what is dated on is passed over."""
    kept = dict(world.truth)
    now, seen = text_of(dt.datetime.now(dt.UTC)), list[str]()
    changes: list[Callable[[], None]] = [
        lambda: world.api.put(world.again(number, datetime="2019-05-01T00:00:00Z") for number in range(145, 155)),
        lambda: world.api.put(world.again(number, datetime="2031-05-01T00:00:00Z") for number in range(20, 30)),
        lambda: world.api.put(world.item(number, updated=now) for number in range(160, 190)),
        lambda: world.api.delete(world.name, [f"item-{number:04d}" for number in (0, 1, 156, 157)]),
    ]
    plain = Transport.content

    def content(self: Transport, query: Query, retries: int | None = None) -> bytes:
        answer = plain(self, query, retries)
        if features := json.loads(answer).get("features"):
            seen.extend(item["id"] for item in features)
            if len(features) > 1 and changes:
                changes.pop(0)()
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Transport, "content", content)
        world.run(Following(sweep_hours=0, confirm_hours=0))
    assert not changes
    assert {f"item-{number:04d}" for number in range(145, 155)} <= {name for name in seen if seen.count(name) > 1}
    assert world.run(INCREMENT).is_complete
    world.check({**kept, **world.truth})
    for _ in range(2):
        world.run(SWEEP)
    world.check()


def test_deletes_wait_for_a_day_between_two_sweeps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = Following(sweep_hours=0)
    assert rules.confirm_hours == 24, "the default"
    kept = dict(world.truth)
    world.api.delete(world.name, ["item-0003", "item-0100"])
    now = world.warehouse.store.now()
    for hours, gone in ((0.0, 0), (1.0, 0), (23.9, 0), (24.1, 2)):
        monkeypatch.setattr(type(world.warehouse.store), "now", lambda _, after=hours: now + dt.timedelta(hours=after))
        assert world.run(rules).total.deleted == gone
        world.check(world.truth if gone else kept)


def test_an_item_that_comes_back_is_not_deleted(world: World) -> None:
    item = world.truth["item-0007"]
    world.api.delete(world.name, ["item-0007"])
    world.run(SWEEP)
    world.api.put([item])
    for _ in range(3):
        assert world.run(SWEEP).total.deleted == 0
    world.check()


def test_most_of_a_collection_is_not_deleted_unasked(world: World) -> None:
    kept = dict(world.truth)
    world.api.delete(world.name, [f"item-{number:04d}" for number in range(80)])
    for _ in range(3):
        done = world.run(SWEEP)
        assert done.total.deleted == 0
    assert "80 of 160 items are gone from the source in two sweeps" in done.notices[0]
    world.check(kept)
    world.run(Following(sweep_hours=0, confirm_hours=0, max_deleted=80, max_deleted_share=0.51))
    world.check()


def test_a_change_without_a_new_time_of_change_is_found_by_the_sweep(world: World) -> None:
    was = world.truth["item-0011"]["properties"]["updated"]
    before = dict(world.truth)
    world.api.replace(world.again(11, updated=was, platform="tiny-7"))
    assert world.run(INCREMENT).total.updated == 0
    world.check(before)
    assert world.run(SWEEP).total.updated == 1
    world.check()


@pytest.mark.parametrize(
    ("asked", "holds"),
    [
        ({"bbox": (12.5, 40.0, 20.5, 50.0)}, lambda item: item["bbox"][2] >= 12.5 and item["bbox"][0] <= 20.5),
        ({"datetime": "2020-01"}, lambda item: item["properties"]["datetime"] < "2020-02"),
        ({"query": ("eo:cloud_cover < 20",)}, lambda item: item["properties"]["eo:cloud_cover"] < 20),
        (
            {"query": ("platform in tiny-1, tiny-2", "eo:cloud_cover >= 50")},
            lambda item: item["properties"]["platform"] != "tiny-0" and item["properties"]["eo:cloud_cover"] >= 50,
        ),
        ({"filter": "\"eo:cloud_cover\" < 20 AND platform = 'tiny-1'"}, lambda item: (
            item["properties"]["eo:cloud_cover"] < 20 and item["properties"]["platform"] == "tiny-1"
        )),
        ({"filter": json.dumps({"op": ">=", "args": [{"property": "updated"}, {"timestamp": "2020-02-01T00:00:00Z"}]})},
         lambda item: item["properties"]["updated"] >= "2020-02-01T00:00:00Z"),
        ({"ids": ("item-0001", "item-0150", "none")}, lambda item: item["id"] in ("item-0001", "item-0150")),
    ],
    ids=["bbox", "datetime", "query", "two-conditions", "cql2-text", "cql2-json", "ids"],
)  # fmt: skip
def test_what_is_asked_for_is_what_comes(world_once: World, asked: JSON, holds: Callable[[JSON], bool]) -> None:
    source = Source(url=world_once.api.url, collections=(world_once.name,), page_size=PAGE, **asked)
    names = [staged.item["id"] for staged in found(source)]
    assert 0 < len(names) < 160
    assert sorted(names) == sorted(name for name, item in world_once.truth.items() if holds(item))


@pytest.fixture(scope="module")
def world_once(api: Api) -> World:
    """A collection that nobody changes."""
    api.make("still")
    world = World(api, "still", Warehouse("memory://pgstac/still", create=True))
    api.put(world.item(number) for number in range(160))
    return world
