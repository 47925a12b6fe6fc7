"""Static catalogs, on disk and over HTTP: everything reachable once, nothing outside, broken files one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stacchip_core.errors import InputError, ReadError
from stacchip_core.sources.crawl import Disk, Web, crawl
from stacchip_core.sources.source import Source
from tests.catalogs import catalog_of, found, ids, item, small_tree, write
from tests.stac_server import serving_files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return small_tree(tmp_path / "stac")


@pytest.fixture
def web(tree: Path) -> Iterator[str]:
    """The tree's root URL, served by this process."""
    with serving_files(tree.parent) as url:
        yield url


def test_a_static_catalog_gives_every_item_in_the_order_of_its_links(tree: Path) -> None:
    assert ids(Source(url=str(tree))) == ["a", "b", "c"]
    assert ids(Source(url=str(tree.parent))) == ["a", "b", "c"]
    assert ids(Source(url=tree.as_uri())) == ["a", "b", "c"]


def test_the_base_of_a_local_item_is_its_folder_below_the_catalog(tree: Path) -> None:
    source = Source(url=str(tree))
    assert [staged.base for staged in found(source)] == ["s2/a", "s2", "naip"]
    assert source.roots == (str(tree.parent.resolve()),)
    wider = Source(url=str(tree), local_roots=(str(tree.parent.parent),))
    assert [staged.base for staged in found(wider)] == ["stac/s2/a", "stac/s2", "stac/naip"]
    assert wider.roots == (str(tree.parent.parent.resolve()),)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"collections": ("naip",)}, ["c"]),
        ({"datetime": "2024-05"}, ["a", "c"]),
        ({"datetime": "2024-05-02/.."}, ["b"]),
        ({"datetime": "../2024-05-01T10:00:00Z"}, ["a", "c"]),
        ({"bbox": (15.0, 40.0, 25.0, 50.0)}, ["b"]),
        ({"bbox": (170.0, 40.0, 20.0, 50.0)}, ["a", "b", "c"]),
        ({"bbox": (170.0, 40.0, -170.0, 50.0)}, []),
        ({"max_items": 2}, ["a", "b"]),
    ],
)
def test_filters_keep_what_they_say(tree: Path, filters: dict[str, Any], expected: list[str]) -> None:
    assert ids(Source(url=str(tree), **filters)) == expected


def test_items_of_other_collections_are_not_even_read(tree: Path) -> None:
    (tree.parent / "s2" / "b.json").unlink()
    assert [staged.error for staged in found(Source(url=str(tree), collections=("naip",)))] == [None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{half an item", "not JSON"),
        ("[1, 2]", "JSON object"),
        ({"type": "Catalog", "id": "x"}, "type Feature"),
        ({"type": "Feature", "properties": {}}, "id"),
        (None, "b.json"),
    ],
)
def test_a_broken_item_is_a_failure_and_the_others_are_found(tree: Path, content: object, message: str) -> None:
    broken = tree.parent / "s2" / "b.json"
    broken.unlink()
    if content is not None:
        write(broken, content)
    staged = found(Source(url=str(tree)))
    assert [s.item["id"] for s in staged if s.error is None] == ["a", "c"]
    [failure] = [s for s in staged if s.error is not None]
    assert failure.item["id"].endswith("b.json")
    assert message in str(failure.error)


def test_a_broken_child_catalog_is_a_failure_and_its_siblings_are_crawled(tree: Path) -> None:
    write(tree.parent / "s2" / "collection.json", "<html>")
    staged = found(Source(url=str(tree)))
    assert [(s.item["id"].rpartition("/")[2], s.error is None) for s in staged] == [
        ("collection.json", False),
        ("c", True),
    ]


def test_links_in_a_circle_end_and_an_item_linked_twice_comes_once(tree: Path) -> None:
    catalog_of(
        tree.parent / "naip",
        [("child", "../catalog.json"), ("item", "c.json"), ("item", "../naip/c.json")],
        "collection.json",
    )
    assert ids(Source(url=str(tree))) == ["a", "b", "c"]


def test_links_out_of_a_local_catalog_are_refused_one_by_one(tree: Path, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.json", item("secret"))
    (tree.parent / "link.json").symlink_to(secret)
    links = ["../secret.json", str(secret), "http://127.0.0.1:1/x.json", "link.json", "s2/b.json"]
    catalog_of(tree.parent, [("item", href) for href in links])
    staged = found(Source(url=str(tree)))
    assert [s.item["id"] for s in staged if s.error is None] == ["b"]
    errors = [str(s.error) for s in staged if s.error is not None]
    assert len(errors) == 4
    assert sum("local_roots" in error for error in errors) == 3
    assert sum("network" in error for error in errors) == 1


def test_a_static_catalog_over_http_gives_the_same_items_with_their_urls(web: str) -> None:
    staged = found(Source(url=f"{web}catalog.json"))
    assert [s.item["id"] for s in staged] == ["a", "b", "c"]
    assert [s.base for s in staged] == [f"{web}s2/a/a.json", f"{web}s2/b.json", f"{web}naip/c.json"]


def test_a_static_catalog_does_not_lead_to_another_host(web: str, tree: Path) -> None:
    catalog_of(tree.parent, [("item", "http://localhost:1/x.json"), ("item", "gone.json"), ("item", "s2/b.json")])
    staged = found(Source(url=f"{web}catalog.json"))
    assert [s.error is None for s in staged] == [False, False, True]
    assert "another host" in str(staged[0].error)
    assert "404" in str(staged[1].error)


def test_a_root_that_is_not_there_is_an_error(web: str, tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="404"):
        ids(Source(url=f"{web}nothing.json"))
    with pytest.raises(ReadError, match=r"nothing\.json"):
        ids(Source(url=str(tmp_path / "nothing.json")))


@pytest.mark.parametrize("href", ["a%00.json", "ring.json", "x" * 5000 + ".json"])
def test_a_link_that_is_no_path_is_a_failure_and_the_others_are_found(tree: Path, href: str) -> None:
    (tree.parent / "ring.json").symlink_to(tree.parent / "ring.json")
    odd = catalog_of(tree.parent, [("item", href), ("item", "s2/b.json")], name="odd.json")
    broken, whole = found(Source(url=str(odd)))
    assert broken.error
    assert whole.item["id"] == "b"


def test_a_link_that_is_no_url_is_a_failure() -> None:
    catalog = {"type": "Catalog", "links": [{"rel": "item", "href": "http://[x"}]}
    (broken,) = crawl("https://h/c.json", catalog, Web("https://h:443", lambda url: {}))
    assert "no URL" in (broken.error or "")


def test_of_children_that_wait_nothing_is_read(tree: Path) -> None:
    """A catalog of a thousand collections is not a thousand documents in memory."""
    read: list[str] = []

    class Counting(Disk):
        def read(self, href: str) -> dict[str, Any]:
            read.append(Path(href).name)
            return super().read(href)

    place = Counting((str(tree.parent),))
    items = crawl(str(tree), place.read(str(tree)), place)
    next(items)
    assert len([name for name in read if name == "collection.json"]) == 1


def test_a_collection_that_is_not_there_is_an_error_that_lists_what_is(tree: Path) -> None:
    with pytest.raises(InputError, match=r"'sentinel-2-l2' is not in catalog\.json; it has: naip, sentinel-2-l2a"):
        found(Source(url=str(tree), collections=("sentinel-2-l2",)))


def test_failures_name_no_path_of_the_machine(tree: Path) -> None:
    (tree.parent / "s2" / "b.json").write_text("{")
    broken = [staged for staged in found(Source(url=str(tree))) if staged.error]
    assert [staged.item["id"] for staged in broken] == ["s2/b.json"]
    assert str(tree.parent) not in str(broken)
    assert Source(url=str(tree)).summary()["url"] == "stac/catalog.json"
