"""Causes: one stable word for each kind of failure, from the errors that our doors really raise."""

from __future__ import annotations

import re
import urllib.error
from pathlib import Path

import pytest

from stacchip_core.errors import (
    HrefRefusedError,
    InvalidItemError,
    ReadError,
    StacchipError,
    TransientReadError,
    UnsupportedGridError,
)
from stacchip_core.index.indexer import Indexer
from stacchip_core.sources.cause import CAUSES, PASSING, cause_of, cause_of_words
from stacchip_core.sources.item import read_json
from tests.broken import WAYS, Folder
from tests.data import REPO


def caught(path: Path) -> StacchipError:
    """What indexing the item in a file raises."""
    with pytest.raises(StacchipError) as error:
        Indexer(path, chip_size=16).create_index()
    return error.value


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_be_broken_has_its_word(way: str, tmp_path: Path) -> None:
    folder = Folder.made(tmp_path, 1, {0: way})
    assert cause_of(caught(folder.item_path(0))) == way


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
def test_a_raster_cut_anywhere_is_truncated_or_none(share: float, tmp_path: Path) -> None:
    folder = Folder.made(tmp_path, 1, {0: "truncated"})
    whole = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "own-0.tif").write_bytes(whole[: int(len(whole) * share)])
    assert cause_of(caught(folder.item_path(0))) in ("truncated", "not-a-raster")


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        *((403, "forbidden"), (401, "forbidden"), (404, "not-found"), (410, "not-found"), (429, "unavailable")),
        *((503, "unavailable"), (504, "timeout"), (418, "other")),
    ],
)
def test_a_servers_answer_comes_first(status: int, cause: str) -> None:
    error = ReadError("x.json: no")
    error.__cause__ = urllib.error.HTTPError("http://127.0.0.1/x.json", status, "oh", {}, None)  # type: ignore[arg-type]
    assert cause_of(error) == cause
    assert cause_of_words(f"http://127.0.0.1/x.json: HTTP {status}") == cause
    assert cause_of_words(f"http://127.0.0.1/x.json: the server answered {status} oh") == cause


def test_an_address_is_no_answer() -> None:
    assert cause_of_words("http://127.0.0.1:4040/404.tif: no answer (ConnectionError)") == "other"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (HrefRefusedError("item a: asset 'b': href 'ftp://x' has scheme 'ftp'"), "refused"),
        (UnsupportedGridError("item a: no grid"), "grid"),
        (InvalidItemError("item a: geometry is null"), "item"),
        (TransientReadError("item a: no answer"), "unavailable"),
        (TransientReadError("item a: read timed out"), "timeout"),
        (PermissionError(13, "Permission denied"), "forbidden"),
        (ReadError("item a: oh"), "other"),
        (ZeroDivisionError("oh"), "other"),
    ],
)
def test_else_the_class_and_the_words_tell(error: BaseException, cause: str) -> None:
    assert cause_of(error) == cause


def test_all_causes_are_described() -> None:
    assert CAUSES.keys() > PASSING
    assert all(cause == cause.lower() and meaning for cause, meaning in CAUSES.items())


def test_a_missing_file_and_a_refused_connection_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text("{")
    found = {}
    for name in (str(tmp_path / "gone.json"), str(tmp_path / "half.json"), "http://127.0.0.1:9/x.json"):
        with pytest.raises(StacchipError) as error:
            read_json(name)
        found[name.rpartition("/")[2]] = cause_of(error.value)
    assert found == {"gone.json": "not-found", "half.json": "bad-json", "x.json": "unavailable"}


def test_the_page_lists_the_causes_as_they_are() -> None:
    page = (REPO / "docs" / "failures.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", page, re.MULTILINE)) == CAUSES
