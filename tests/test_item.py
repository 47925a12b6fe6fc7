"""Items as plain JSON: read in every form users have them in, cleaned, fingerprinted, never changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pystac
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stacchip_core.errors import InputError, InvalidItemError, ReadError, TransientReadError
from stacchip_core.sources import item as item_module
from stacchip_core.sources.item import assets_of, fingerprint, parse_time, read_item, read_json, unsigned, updated
from tests.file_server import FileServer, serve

ITEM: dict[str, Any] = {
    "type": "Feature",
    "stac_version": "1.1.0",
    "id": "scene-1",
    "collection": "mine",
    "geometry": {"type": "Point", "coordinates": [9.0, 47.0]},
    "bbox": [9.0, 47.0, 9.0, 47.0],
    "properties": {"datetime": "2024-06-15T10:30:31Z", "updated": "2024-06-16T00:00:00Z", "n": [1, {"a": None}]},
    "assets": {"red": {"href": "https://h/red.tif?v=1", "alternate": {"s3": {"href": "s3://b/red.tif"}}}},
    "links": [{"rel": "self", "href": "https://h/items/scene-1.json"}],
}
SIGNED = "sig=SECRET&se=2026-01-01T00%3A00%3A00Z"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "scene-1.json").write_text(json.dumps(ITEM))
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    with serve(folder) as running:
        yield running


def test_plain_json_is_taken_as_it_is_and_left_so() -> None:
    before = copy.deepcopy(ITEM)
    source = read_item(ITEM)
    assert source.item == before == ITEM
    assert (source.base, source.local_roots) == ("https://h/items/scene-1.json", ())


def test_pystac_items_are_taken_without_touching_them() -> None:
    item = pystac.Item.from_dict(copy.deepcopy(ITEM))
    before = copy.deepcopy(item.to_dict())
    source = read_item(item)
    assert source.item["assets"] == ITEM["assets"]
    assert source.item["properties"] == ITEM["properties"]
    assert source.base == "https://h/items/scene-1.json"
    assert item.to_dict() == before


@pytest.mark.parametrize("form", [str, Path])
def test_a_file_allows_its_own_folder_or_is_relative_to_a_root(form: Any, folder: Path) -> None:
    path = form(folder / "items" / "scene-1.json")
    alone = read_item(path)
    assert (alone.item, alone.base, alone.local_roots) == (ITEM, "", (str(folder / "items"),))
    below = read_item(path, (str(folder),))
    assert (below.item, below.base, below.local_roots) == (ITEM, "items", (str(folder),))
    beside = read_item(path, (str(folder / "other"),))
    assert (beside.base, beside.local_roots) == ("", (str(folder / "items"), str(folder / "other")))


def test_a_url_is_its_own_base(server: FileServer) -> None:
    source = read_item(f"{server.url}/items/scene-1.json?{SIGNED}")
    assert (source.item, source.base) == (ITEM, f"{server.url}/items/scene-1.json")


@pytest.mark.parametrize(
    ("status", "kind"), [(404, ReadError), (403, ReadError), (429, TransientReadError), (503, TransientReadError)]
)
def test_answers_of_servers_tell_whether_to_retry(status: int, kind: type[Exception], server: FileServer) -> None:
    server.fault("/items/scene-1.json", status)
    with pytest.raises(ReadError, match=rf"/items/scene-1\.json: HTTP {status}") as caught:
        read_item(f"{server.url}/items/scene-1.json?{SIGNED}")
    assert type(caught.value) is kind
    assert "SECRET" not in str(caught.value)


def test_servers_that_hang_up_or_are_gone_are_transient(server: FileServer) -> None:
    server.fault("/items/scene-1.json", 0)
    with pytest.raises(TransientReadError, match=r"scene-1\.json: "):
        read_item(f"{server.url}/items/scene-1.json")
    with pytest.raises(TransientReadError, match=r"http://127\.0\.0\.1:9/x\.json: "):
        read_item("http://127.0.0.1:9/x.json")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/a b.json", "http://127.0.0.1:port/a.json", "http://[::1/a.json", "http://", "http:///x"]
)
def test_urls_that_are_none_are_errors_of_ours(url: str) -> None:
    with pytest.raises((ReadError, InputError)):
        read_json(url)


def test_non_ascii_urls_are_asked_for_or_refused(server: FileServer, folder: Path) -> None:
    (folder / "ä.json").write_text(json.dumps(ITEM))
    try:
        assert read_json(f"{server.url}/ä.json") == ITEM
    except ReadError as err:
        assert "ä.json" in str(err)


@pytest.mark.parametrize("url", ["s3://b/x.json", "gs://b/x.json"])
def test_other_stores_are_refused_with_a_way_out(url: str) -> None:
    with pytest.raises(InputError, match="read it yourself and pass it on"):
        read_item(url)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b'"x"', "expected a JSON object, found str"),
    ],
)
def test_files_that_hold_no_json_object_are_named_without_their_folder(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ReadError, match=rf"^x\.json: {message}"):
        read_json(str(tmp_path / "x.json"))
    for gone in (tmp_path / "gone.json", tmp_path):
        with pytest.raises(ReadError) as caught:
            read_json(str(gone))
        assert str(tmp_path.parent) not in str(caught.value)


def test_huge_files_are_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_module, "MAX_JSON_BYTES", 2**20)
    (tmp_path / "x.json").write_bytes(b'{"a": "' + b"x" * 2**20 + b'"}')
    with pytest.raises(ReadError, match="more than 1 MiB of JSON"):
        read_json(str(tmp_path / "x.json"))


@pytest.mark.parametrize(
    "change",
    [
        {"type": "Collection"},
        {"type": None},
        {"properties": None},
        {"properties": []},
        {"id": None},
        {"id": ""},
        {"id": 5},
        {"id": "x" * 513},
        {"id": "\ud800"},
        {"id": "a\x00b"},
        {"id": "a\nb"},
    ],
)
def test_what_is_no_item_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidItemError, match=r"not a STAC item|an item's id is"):
        read_item({**ITEM, **change})


@pytest.mark.parametrize("thing", [5, None, ["x"], object()])
def test_other_things_are_refused_by_their_type(thing: Any) -> None:
    with pytest.raises(InvalidItemError, match=f"found {type(thing).__name__}"):
        read_item(thing)


@pytest.mark.parametrize(
    "links", [None, [], ["x"], {"rel": "self"}, 5, [{"rel": "self"}], [{"rel": "self", "href": 1}]]
)
def test_odd_links_are_no_base(links: Any) -> None:
    assert read_item({**ITEM, "links": links}).base == ""


def signed_item() -> dict[str, Any]:
    item = copy.deepcopy(ITEM)
    item["assets"]["red"]["href"] = f"https://u:SECRET@h/red.tif?v=1&{SIGNED}"
    item["assets"]["red"]["alternate"]["s3"]["href"] = f"s3://b/red.tif?{SIGNED}"
    item["links"][0]["href"] += f"?{SIGNED}"
    return item


def test_signatures_are_taken_from_every_href_of_a_copy() -> None:
    item = signed_item()
    before = copy.deepcopy(item)
    assert unsigned(item) == ITEM
    assert item == before


def test_fingerprints_ignore_links_signatures_and_the_order_of_keys() -> None:
    item = signed_item()
    item["links"] = [{"rel": "parent", "href": "x"}]
    shuffled = json.loads(json.dumps(dict(reversed(item.items()))))
    assert fingerprint(item) == fingerprint(shuffled) == fingerprint(ITEM)
    assert len(fingerprint(ITEM)) == 32
    int(fingerprint(ITEM), 16)


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list) and value:
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths_in(value[key], (*path, key))
    else:
        yield path


@pytest.mark.parametrize("path", [path for path in paths_in(ITEM) if path[0] != "links"], ids=str)
def test_fingerprints_change_with_everything_else(path: tuple[Any, ...]) -> None:
    changed = copy.deepcopy(ITEM)
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = "another"
    assert fingerprint(changed) != fingerprint(ITEM)


def test_fingerprints_do_not_fail_on_lone_surrogates() -> None:
    assert fingerprint({**ITEM, "note": "\ud800"}) != fingerprint(ITEM)


@given(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)), st.integers(-23 * 60, 23 * 60))
def test_times_come_back_from_rfc_3339_in_any_zone(moment: datetime, minutes: int) -> None:
    there = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    found = parse_time(there.isoformat(), "datetime")
    assert found == there
    assert found is not None
    assert found.tzinfo == UTC


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-06-15T10:30:31Z", datetime(2024, 6, 15, 10, 30, 31, tzinfo=UTC)),
        ("2024-06-15T10:30:31.024000Z", datetime(2024, 6, 15, 10, 30, 31, 24000, tzinfo=UTC)),
        ("2024-06-15T10:30:31.123456789Z", datetime(2024, 6, 15, 10, 30, 31, 123456, tzinfo=UTC)),
        ("2024-06-15T10:30:31.5+02:00", datetime(2024, 6, 15, 8, 30, 31, 500000, tzinfo=UTC)),
        ("2024-06-15t10:30:31z", datetime(2024, 6, 15, 10, 30, 31, tzinfo=UTC)),
        ("2024-06-15 10:30:31", datetime(2024, 6, 15, 10, 30, 31, tzinfo=UTC)),
        ("2024-06-15", datetime(2024, 6, 15, tzinfo=UTC)),
        (datetime(2024, 6, 15, 1), datetime(2024, 6, 15, 1, tzinfo=UTC)),
        (None, None),
    ],
)
def test_times_are_utc(text: Any, expected: datetime | None) -> None:
    assert parse_time(text, "datetime") == expected


@given(
    st.none() | st.text() | st.integers() | st.floats() | st.lists(st.text()) | st.dictionaries(st.text(), st.text())
)
@example("0001-01-01T00:00:00+23:00")
@example("9999-12-31T23:59:59-23:00")
@example("2024-02-30T00:00:00Z")
def test_what_is_no_time_is_refused_by_field(value: Any) -> None:
    try:
        assert parse_time(value, "created") is None or isinstance(parse_time(value, "created"), datetime)
    except InvalidItemError as err:
        assert "properties.created is no date and time" in str(err)


def test_the_time_of_the_last_change_may_be_missing_or_broken() -> None:
    assert updated(ITEM) == datetime(2024, 6, 16, tzinfo=UTC)
    for properties in (None, {}, {"updated": None}, {"updated": "yesterday"}):
        assert updated({**ITEM, "properties": properties}) is None


@pytest.mark.parametrize("assets", [None, [], "x", 5, {"a": None, "b": {}, "c": {"href": 1}, "d": ["x"]}])
def test_malformed_assets_are_none(assets: Any) -> None:
    assert list(assets_of({**ITEM, "assets": assets})) == []


def test_an_item_with_dates_as_objects_is_taken_as_text() -> None:
    given = {**ITEM, "properties": {**ITEM["properties"], "datetime": datetime(2024, 6, 15, tzinfo=UTC)}}
    assert read_item(given).item["properties"]["datetime"].startswith("2024-06-15")
    assert isinstance(given["properties"]["datetime"], datetime)


def test_an_item_that_is_nested_too_deep_is_refused() -> None:
    inner: Any = 1
    for _ in range(700):
        inner = [inner]
    with pytest.raises(InvalidItemError, match=r"scene-1.*levels deep|no plain JSON"):
        read_item({**ITEM, "properties": {**ITEM["properties"], "deep": inner}})


def test_hrefs_rewritten_to_local_files_are_not_looked_for_at_the_self_link(tmp_path: Path) -> None:
    local = {**ITEM, "assets": {"red": {"href": str(tmp_path / "red.tif")}}}
    assert read_item(local, (str(tmp_path),)).base == ""
    assert read_item(ITEM, (str(tmp_path),)).base == "https://h/items/scene-1.json"
