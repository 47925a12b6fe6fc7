"""Following a source: new, updated, the same, deleted; what is remembered, and what is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stacchip_core import Warehouse
from stacchip_core.sources.source import Source
from stacchip_core.warehouse.memory import Following
from tests.catalogs import catalog_of, write
from tests.tiny import tiny_item, tiny_profile, tiny_raster

JSON = dict[str, Any]
AT_ONCE = Following(confirm_hours=0, sweep_hours=0)


class Place:
    """A static catalog of tiny items, a warehouse, and runs of the one into the other."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "stac"
        tiny_raster(self.folder)
        self.profile = tiny_profile(root)
        self.warehouse = Warehouse(root / "warehouse", create=True)
        self.items: dict[str, JSON] = {}

    def put(self, *names: str, **more: Any) -> None:
        for name in names:
            self.items[name] = tiny_item(name, **more)

    def run(self, rules: Following = AT_ONCE, **more: Any) -> Any:
        for name, item in self.items.items():
            write(self.folder / f"{name}.json", item)
        links = [("item", f"./{name}.json") for name in self.items]
        url = str(catalog_of(self.folder, links, "collection.json", type="Collection", id="tiny"))
        return self.warehouse.follow(Source(url=url, **more), rules=rules, profile=str(self.profile), chip_size=16)

    @property
    def live(self) -> set[str]:
        return set(self.warehouse.collection("tiny").items(["item_id"])["item_id"].to_pylist())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def counts(done: Any) -> tuple[int, int, int, int]:
    return done.total.new, done.total.updated, done.total.deleted, done.total.failed


def test_new_then_the_same_then_updated(place: Place) -> None:
    place.put("a", "b")
    assert counts(place.run()) == (2, 0, 0, 0)
    version = place.warehouse.collection("tiny").version
    assert counts(place.run()) == (0, 0, 0, 0)
    assert place.warehouse.collection("tiny").version == version, "nothing new: nothing is written"
    place.put("b", updated="2024-07-01T00:00:00Z")
    assert counts(place.run()) == (0, 1, 0, 0)


def test_an_item_is_deleted_when_two_sweeps_did_not_have_it(place: Place) -> None:
    place.put("a", "b")
    place.run()
    del place.items["b"]
    assert counts(place.run()) == (0, 0, 0, 0)
    assert place.live == {"a", "b"}
    done = place.run()
    assert counts(done) == (0, 0, 1, 0)
    assert done.is_complete
    assert place.live == {"a"}


def test_a_failure_whose_item_is_gone_goes_off_the_list_as_an_item_does(place: Place) -> None:
    place.put("a")
    place.put("b", href="ftp://example.com/b.tif")
    assert counts(place.run())[3] == 1
    version = place.warehouse.collection("tiny")
    assert version.failures()["item_id"].to_pylist() == ["b"]
    del place.items["b"]
    place.run()
    assert place.warehouse.collection("tiny").failures().num_rows == 1, "one sweep is not enough"
    place.run()
    assert place.warehouse.collection("tiny").failures().num_rows == 0
    assert place.live == {"a"}


def test_a_file_that_could_not_be_read_and_is_gone_goes_off_the_list(place: Place) -> None:
    place.put("a", "b")
    place.run()
    place.put("c")
    for name, item in place.items.items():
        write(place.folder / f"{name}.json", item)
    (place.folder / "c.json").write_text("{half")
    links = [("item", f"./{name}.json") for name in place.items]
    url = str(catalog_of(place.folder, links, "collection.json", type="Collection", id="tiny"))
    place.warehouse.follow(Source(url=url), rules=AT_ONCE, profile=str(place.profile), chip_size=16)
    assert place.warehouse.collection("tiny").failures()["cause"].to_pylist() == ["bad-json"]
    del place.items["c"]
    (place.folder / "c.json").unlink()
    for _ in range(2):
        place.run()
    assert place.warehouse.collection("tiny").failures().num_rows == 0
    assert place.live == {"a", "b"}
