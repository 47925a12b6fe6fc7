"""Discovery over STAC APIs and lists of files: nothing is missed silently, one broken item hides no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stacchip_core.errors import IncompleteError, InputError, ReadError, TransientReadError
from stacchip_core.sources import transport
from stacchip_core.sources.catalog import discover
from stacchip_core.sources.source import Source
from stacchip_core.sources.transport import Query, Transport
from tests.catalogs import catalog_of, found, ids, item, small_tree, write
from tests.stac_server import Answer, StacServer, serving, serving_files


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(transport, "RETRIES", 3)


@pytest.fixture
def api() -> Iterator[StacServer]:
    with serving(StacServer(pages=[[item("a"), item("b")], [item("c")]])) as server:
        yield server


def test_all_pages_of_a_search_are_read(api: StacServer) -> None:
    source = Source(url=api.url, collections=("sentinel-2-l2a",), datetime="2024-05", bbox=(0.0, 40.0, 15.0, 50.0))
    staged = found(source)
    assert [s.item["id"] for s in staged] == ["a", "b", "c"]
    searches = [body for method, path, body in api.requests if path == "/search"]
    assert searches[0] == {
        "collections": ["sentinel-2-l2a"],
        "datetime": "2024-05-01T00:00:00Z/2024-05-31T23:59:59.999999Z",
        "bbox": [0.0, 40.0, 15.0, 50.0],
        "limit": 100,
    }
    assert searches[1] == {**searches[0], "token": 1}


def test_a_server_without_post_is_searched_by_get(api: StacServer) -> None:
    api.methods = ("GET",)
    api.next_link = lambda n: {"rel": "next", "href": f"/search?token={n + 1}"}
    assert ids(Source(url=api.url)) == ["a", "b", "c"]
    assert {method for method, path, _ in api.requests} == {"GET"}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_failing_search_is_retried_though_it_is_a_post(api: StacServer, status: int) -> None:
    api.faults = [Answer({}, status), Answer({}, status, {"Retry-After": "0"})]
    assert ids(Source(url=api.url)) == ["a", "b", "c"]


def test_of_a_server_that_keeps_failing_it_is_said_what_is_missing(api: StacServer) -> None:
    api.faults = [Answer({"detail": "overloaded"}, 503) for _ in range(50)]
    with pytest.raises(IncompleteError, match=r"INCOMPLETE.*all times.*503.*overloaded"):
        ids(Source(url=api.url))


def test_a_request_is_repeated_so_often_and_no_more(api: StacServer) -> None:
    api.faults = [Answer({}, 503) for _ in range(50)]
    with pytest.raises(TransientReadError, match="503"):
        Transport().document(Query(f"{api.url}search", "POST"))
    assert len(api.requests) == 1 + transport.RETRIES


def test_a_refusal_is_not_retried(api: StacServer) -> None:
    api.faults = [Answer({"detail": "bad bbox"}, 400)]
    with pytest.raises(ReadError, match=r"400.*bad bbox") as caught:
        Transport().document(Query(f"{api.url}search", "POST"))
    assert not isinstance(caught.value, TransientReadError)
    assert len(api.requests) == 1


def test_a_search_that_is_refused_once_is_walked_again(api: StacServer) -> None:
    api.faults = [Answer({"detail": "token lost"}, 400)]
    assert ids(Source(url=api.url)) == ["a", "b", "c"]


def test_nobody_listening_is_a_transient_error() -> None:
    with pytest.raises(TransientReadError, match="no answer"):
        ids(Source(url="http://127.0.0.1:1/"))


def test_an_item_found_twice_in_a_page_comes_once_with_its_latest_update(api: StacServer) -> None:
    newer, older = ({"updated": f"2024-06-0{n}T00:00:00Z"} for n in (2, 1))
    api.pages = [[item("a", properties=newer)], [item("a", properties=older), item("b")]]
    [page] = list(discover(Source(url=api.url)))
    assert [(s.item["id"], s.item["properties"].get("updated")) for s in page] == [
        ("a", "2024-06-02T00:00:00Z"),
        ("b", None),
    ]


def test_broken_features_are_failures(api: StacServer) -> None:
    api.pages = [[item("a"), {"type": "Feature", "id": 7}, {"id": "b"}, item("c")]]
    api.matched = 4
    assert [s.error is None for s in found(Source(url=api.url))] == [True, False, False, True]


def test_a_misspelt_collection_is_an_error_that_lists_what_there_is(api: StacServer) -> None:
    with pytest.raises(InputError, match=r"'sentinel2' is not in .*; it has: sentinel-2-l2a"):
        ids(Source(url=api.url, collections=("sentinel2",)))


def test_fewer_items_than_announced_are_said_after_those_that_came(api: StacServer) -> None:
    api.matched = 4
    pages = discover(Source(url=api.url))
    assert [staged.item["id"] for staged in next(pages)] == ["a", "b", "c"]
    with pytest.raises(IncompleteError, match="announced 4 items and gave 3"):
        next(pages)


def test_a_page_without_a_next_one_is_not_believed_to_be_the_last(api: StacServer) -> None:
    """Nothing tells that there are no more: this server keeps neither to sizes nor to times, and does not count."""
    api.pages = [[item("a"), item("b")]]
    with pytest.raises(IncompleteError, match="without saying how many"):
        ids(Source(url=api.url))


def test_pages_hold_at_most_2000_items(tmp_path: Path) -> None:
    features = [item(f"i{n}") for n in range(4500)]
    source = Source(url=str(write(tmp_path / "all.json", {"type": "FeatureCollection", "features": features})))
    assert [len(page) for page in discover(source)] == [2000, 2000, 500]


def test_an_api_collection_is_pointed_to_its_root(tmp_path: Path) -> None:
    catalog_of(tmp_path, [("items", "items")], "api.json", type="Collection", id="naip")
    with serving_files(tmp_path) as url, pytest.raises(InputError, match=r"give the API's root.*\[naip\]"):
        ids(Source(url=f"{url}api.json"))


def test_a_list_of_files_gives_their_items_and_names_those_it_can_not_read(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "stac")
    many = write(tmp_path / "stac" / "many.json", {"type": "FeatureCollection", "features": [item("d"), {"type": "x"}]})
    files = (tree.parent / "s2" / "b.json", many, tree.parent / "gone.json", tree.parent / "naip" / "c.json")
    source = Source(items=tuple(map(str, files)))
    assert [(s.item["id"], s.base) for s in found(source) if s.error is None] == [
        ("b", "s2"),
        ("d", ""),
        ("c", "naip"),
    ]
    assert [bool(s.error) for s in found(source)] == [False, False, True, True, False]


def test_files_without_a_folder_in_common_need_local_roots(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="local_roots"):
        ids(Source(items=(str(write(tmp_path / "a.json", item("a"))), "/nowhere/b.json")))


def test_other_schemes_are_refused() -> None:
    with pytest.raises(InputError, match=r"http\(s\) URLs or local paths"):
        ids(Source(url="ftp://127.0.0.1/catalog.json"))


def test_a_file_that_is_no_catalog_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a STAC API"):
        ids(Source(url=str(write(tmp_path / "x.json", {"type": "Point"}))))
