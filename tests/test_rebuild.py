"""Rows that are made anew on purpose: the item is the same, and its chips are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stacchip_core import IndexSettings, Warehouse
from stacchip_core.sources.item import StagedItem
from stacchip_core.warehouse.backoff import AT_ONCE
from stacchip_core.warehouse.classify import Rebuild
from stacchip_core.warehouse.commit import Commit
from tests.scenes import sentinel2_scene

NAME = "sentinel-2-l2a"
IDS = ("S2A_1", "S2A_2")


def _scene(folder: Path, item_id: str, seed: int = 3) -> dict[str, Any]:
    return sentinel2_scene(folder, item_id=item_id, seed=seed)


def _settings(folder: Path, **more: Any) -> IndexSettings:
    return IndexSettings.of(chip_size=96, local_roots=(str(folder),), **more)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """Two items, indexed; then their pixels change on disk, behind the same items."""
    pixels = tmp_path / "pixels"
    made = Warehouse(tmp_path / "w", create=True)
    made.index_items([_scene(pixels, one) for one in IDS], chip_size=96, local_roots=[str(pixels)])
    for one in IDS:
        _scene(pixels, one, seed=77)
    return made


def _stored(warehouse: Warehouse, *ids: str) -> list[StagedItem]:
    return warehouse.collection(NAME).stored_items({f"{NAME}/{one}" for one in ids})


def _rebuild(
    warehouse: Warehouse, folder: Path, *ids: str, rebuild: Rebuild = "all", **more: Any
) -> tuple[Commit, dict[str, Any]]:
    """Rebuild items; the commit, and what it was called with."""
    settings = _settings(folder, **more)
    found = warehouse.classify(NAME, _stored(warehouse, *ids), settings, rebuild=rebuild)
    result = warehouse.index_batch(NAME, warehouse.stage(found.updated), settings)
    call: dict[str, Any] = {"parts": [result.part], "read_version": found.version, "is_rebuilt": True}
    return warehouse.commit(NAME, **call), call


def _rows(warehouse: Warehouse, version: int | None = None) -> dict[str, float]:
    table = warehouse.collection(NAME, version).dataset().to_table(columns=["chip_id", "cloud_fraction"])
    return dict(zip(table["chip_id"].to_pylist(), table["cloud_fraction"].to_pylist(), strict=True))


def test_items_come_back_as_they_were_given(warehouse: Warehouse, tmp_path: Path) -> None:
    given = _scene(tmp_path / "pixels", IDS[0])
    assert [one.item for one in _stored(warehouse, IDS[0])] == [json.loads(json.dumps(given))]
    assert len(_stored(warehouse, *IDS)) == 2


def test_a_rebuilt_item_has_the_rows_of_its_pixels_now_and_the_others_keep_theirs(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    before = _rows(warehouse)
    warehouse.merge("all", [NAME])
    commit, _ = _rebuild(warehouse, tmp_path / "pixels", IDS[0])
    assert (commit.version, commit.new, commit.updated) == (2, 0, 1)
    fresh = Warehouse(tmp_path / "fresh", create=True)
    fresh.index_items([_scene(tmp_path / "pixels", IDS[0], seed=77)], chip_size=96, local_roots=[tmp_path / "pixels"])
    now = _rows(warehouse)
    own = {chip: cloud for chip, cloud in now.items() if IDS[0] in chip}
    assert own == _rows(fresh)
    assert own != {chip: before[chip] for chip in own}
    others = now.keys() - own.keys()
    assert others
    assert all(now[chip] == before[chip] for chip in others)
    assert _rows(warehouse, 1) == before
    merged = warehouse.merge("all", [NAME])
    assert merged.version == 2
    table = merged.dataset().to_table(columns=["chip_id", "cloud_fraction"])
    assert dict(zip(table["chip_id"].to_pylist(), table["cloud_fraction"].to_pylist(), strict=True)) == now
    assert warehouse.verify(deep=True).is_clean


def test_without_a_rebuild_the_same_items_are_no_news(warehouse: Warehouse, tmp_path: Path) -> None:
    found = warehouse.classify(NAME, _stored(warehouse, *IDS), _settings(tmp_path / "pixels"))
    assert (found.same, found.updated) == (2, ())


def test_committing_a_rebuild_twice_is_harmless(warehouse: Warehouse, tmp_path: Path) -> None:
    done, call = _rebuild(warehouse, tmp_path / "pixels", *IDS)
    again = warehouse.commit(NAME, **call)
    assert (again.version, again.updated) == (done.version, 0)


def test_of_two_rebuilds_at_once_the_first_stays(warehouse: Warehouse, tmp_path: Path) -> None:
    settings = _settings(tmp_path / "pixels")
    found = warehouse.classify(NAME, _stored(warehouse, *IDS), settings, rebuild="all")
    slow = warehouse.index_batch(NAME, warehouse.stage(found.updated), settings)
    _rebuild(warehouse, tmp_path / "pixels", IDS[0])
    late = warehouse.commit(NAME, [slow.part], read_version=found.version, is_rebuilt=True)
    assert (late.version, late.updated) == (3, 1)  # the second item alone: of the first, the other run's rows stay
    assert warehouse.verify(deep=True).is_clean


def test_a_rebuild_that_fails_keeps_the_rows_of_before_and_is_tried_again(warehouse: Warehouse, tmp_path: Path) -> None:
    before = _rows(warehouse)
    (tmp_path / "pixels" / IDS[0] / "scl.tif").write_text("<html>gone</html>")
    commit, _ = _rebuild(warehouse, tmp_path / "pixels", IDS[0])
    assert (commit.updated, commit.failed) == (0, 1)
    assert _rows(warehouse) == before
    assert warehouse.collection(NAME).failures()["item_id"].to_pylist() == [IDS[0]]
    stored, settings = _stored(warehouse, *IDS), _settings(tmp_path / "pixels")
    assert not warehouse.classify(NAME, stored, settings).updated, "its next try is not due yet"
    due = warehouse.classify(NAME, stored, settings, backoff=AT_ONCE)
    assert [one.item["id"] for one in due.updated] == [IDS[0]]
    _scene(tmp_path / "pixels", IDS[0], seed=77)
    _rebuild(warehouse, tmp_path / "pixels", IDS[0])
    assert not len(warehouse.collection(NAME).failures())


def test_of_stale_rows_only_those_of_an_old_recipe_are_rebuilt(warehouse: Warehouse, tmp_path: Path) -> None:
    folder = tmp_path / "pixels"
    now = {"max_nodata": 0.9}  # part of the recipe: both items are stale under it
    commit, _ = _rebuild(warehouse, folder, IDS[0], rebuild="stale", **now)
    assert commit.updated == 1
    found = warehouse.classify(NAME, _stored(warehouse, *IDS), _settings(folder, **now), rebuild="stale")
    assert [one.item["id"] for one in found.updated] == [IDS[1]]
    assert (found.same, found.stale) == (1, ())
