"""Selection: checked against the index, and drawn so that only seed and chip ids decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core import CorruptWarehouseError, SpecError, select
from stacchip_core.chips import drawing, selection
from stacchip_core.chips.conditions import conditions
from stacchip_core.chips.drawing import draw, keyed_hashes
from stacchip_core.chips.selection import check_bands, check_settings, scene_keys
from stacchip_core.index.grid import GridSpec
from stacchip_core.sources.scene import Scene, SceneAsset
from tests import warehouses
from tests.chip_rows import COLLECTIONS, ROWS, START, TABLE, drawn, outline, spec, table_of


@given(st.integers(0, 2**63 - 1), st.randoms(use_true_random=False), st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_a_draw_is_the_same_whatever_the_order_of_rows_and_files(seed: int, random: Any, limit: int) -> None:
    wanted = spec(seed=seed, limit=limit)
    order = list(range(len(ROWS)))
    random.shuffle(order)
    cut = random.randrange(len(ROWS))
    shuffled = TABLE.take(order)
    pieces = ds.dataset([ds.dataset(shuffled.slice(cut)), ds.dataset(shuffled.slice(0, cut))])
    found = draw(pieces, conditions(wanted, COLLECTIONS), wanted)
    assert found["chip_id"].to_pylist() == drawn(TABLE, wanted)


@given(st.integers(0, 1000), st.integers(1, 900))
@settings(max_examples=40, deadline=None)
def test_a_draw_has_no_chip_twice_and_is_a_prefix_of_larger_ones(seed: int, limit: int) -> None:
    everything = drawn(TABLE, spec(seed=seed))
    found = drawn(TABLE, spec(seed=seed, limit=limit))
    assert len(found) == len(set(found)) == min(limit, len(everything))
    assert found == everything[:limit]


@given(st.integers(0, 1000), st.integers(1, 600), st.integers(1, 899))
@settings(max_examples=40, deadline=None)
def test_growth_keeps_the_order_and_only_displaces(seed: int, limit: int, before: int) -> None:
    old = drawn(TABLE.slice(0, before), spec(seed=seed, limit=limit))
    new = drawn(TABLE, spec(seed=seed, limit=limit))
    survivors = [chip for chip in old if chip in set(new)]
    assert [chip for chip in new if chip in set(old)] == survivors
    assert survivors == old[: len(survivors)]  # those that left had the largest hashes


def test_other_seeds_draw_other_chips() -> None:
    draws = {tuple(drawn(TABLE, spec(seed=seed, limit=20))) for seed in range(50)}
    assert len(draws) == 50


def test_every_chip_is_as_likely_as_any_other() -> None:
    ids = [f"chip-{n}" for n in range(200)]
    first = np.zeros(200)
    for seed in range(2000):
        first[np.argsort(keyed_hashes(ids, seed))[:20]] += 1  # expected 200 times each, deviation 13.4
    assert abs(first - 200).max() < 5 * 13.4


def test_hashes_are_those_that_were_always_drawn() -> None:
    """A change here changes every dataset."""
    expected = [13330756157665817330, 16947329222218164863]
    assert keyed_hashes(["a/b/256-256-drop/0-0", "é"], 7).tolist() == expected


def test_surplus_rows_are_let_go_while_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = drawn(TABLE, spec(limit=10, seed=3))
    monkeypatch.setattr(drawing, "_PRUNE_ROWS", 0)
    pieces = ds.dataset([ds.dataset(TABLE.slice(start, 30)) for start in range(0, 900, 30)])
    found = draw(pieces, conditions(spec(limit=10, seed=3), COLLECTIONS), spec(limit=10, seed=3))
    assert found["chip_id"].to_pylist() == expected


# Checks against the index


PAD = GridSpec(256, 256, "pad")
HELD = {"sentinel-2-l2a": {GridSpec(256, 256), GridSpec(512, 256)}, "naip": {PAD}}


def test_collections_default_to_all_of_the_index() -> None:
    assert check_settings({"naip": {PAD}, "linz": {PAD}}, spec(edge="pad"), "global@3") == ("linz", "naip")
    assert check_settings(HELD, spec(collections=["sentinel-2-l2a"]), "global@3") == ("sentinel-2-l2a",)
    bands = [{"collection": "sentinel-2-l2a", "bands": ["red"]}]
    assert check_settings(HELD, spec(bands=bands), "global@3") == ("sentinel-2-l2a",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"collections": ["sentinel-2-l1c"]},
            r"chip spec 'fields': index global@3 holds no collection 'sentinel-2-l1c', did you mean "
            r"'sentinel-2-l2a'\? it holds naip, sentinel-2-l2a",
        ),
        ({"collections": ["zzz"]}, r"no collection 'zzz'; it holds naip, sentinel-2-l2a"),
        ({"bands": [{"collection": "zzz", "bands": ["x"]}]}, r"no collection 'zzz'"),
        (
            {"collections": ["sentinel-2-l2a"], "size": 300},
            r"sentinel-2-l2a is not indexed in global@3 with size 300, stride 300, edge drop; it is with "
            r"size 256, stride 256, edge drop or size 512, stride 256, edge drop",
        ),
        ({"collections": ["sentinel-2-l2a"], "size": 512}, r"with size 512, stride 512, edge drop; it is with"),
        (
            {},
            r"naip is not indexed in global@3 with size 256, stride 256, edge drop; "
            r"it is with size 256, stride 256, edge pad",
        ),
    ],
)
def test_what_the_index_does_not_hold_is_refused_with_what_it_holds(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_settings(HELD, spec(**values), "global@3")


def scene(item_id: str, *bands: str) -> Scene:
    assets = tuple(SceneAsset(band=band, key=band, href=f"{band}.tif") for band in bands)
    return Scene(item_id, "landsat", START, None, None, "landsat", None, bands[0], assets, None, {})


def test_bands_that_no_scene_has_are_refused_with_those_there_are() -> None:
    scenes = [scene("a", "red", "nir"), scene("b", "red", "coastal")]
    check_bands(scenes, spec(bands=[{"collection": "landsat", "bands": ["coastal", "nir"]}]))
    with pytest.raises(SpecError, match=r"landsat has no band 'nri', did you mean 'nir'\? it has red, nir, coastal"):
        check_bands(scenes, spec(bands=[{"collection": "landsat", "bands": ["red", "nri"]}]))


def test_bands_for_every_collection_are_refused_by_the_collection_that_lacks_them() -> None:
    with pytest.raises(SpecError, match=r"chip spec 'fields': landsat has no band 'vv'; it has red, nir"):
        check_bands([scene("a", "red", "nir")], spec(bands=[{"bands": ["vv"]}]))


def test_scene_keys_are_distinct_and_sorted() -> None:
    assert scene_keys(TABLE) == sorted({f"{row['collection']}/{row['item_id']}" for row in ROWS})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"datetime": "2031"},
            r"datetime 2031 leaves no chip "
            r"\(global@3 has 900 chips, collection .*: 900, chip size 256.*: \d+, datetime 2031: 0\)",
        ),
        ({"max_cloud": 0, "bbox": (10, 89, 11, 90)}, r"max_cloud 0: \d+, bbox 10, 89, 11, 90: 0\)"),
        ({"size": 1024}, r"chip size 1024, stride 1024, edge drop leaves no chip"),
    ],
)
def test_an_empty_selection_says_which_condition_emptied_it(values: dict[str, Any], message: str) -> None:
    wanted = spec(**values)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(
            selection._explain_empty(ds.dataset(TABLE), conditions(wanted, COLLECTIONS), wanted, "global@3")
        )


def test_an_area_between_outlines_says_so() -> None:
    shape = outline(10.0, 10.0)
    rows = [{**ROWS[0], "chip_id": "c/i/256-256-drop/0-0", "size_px": 256, "stride_px": 256, "shape": shape}]
    wanted = spec(bbox=(10, 10, 10.1, 10.1))  # a corner of the box that the diamond does not fill
    assert drawn(table_of(rows), wanted) == []
    text = selection._explain_empty(ds.dataset(table_of(rows)), conditions(wanted, COLLECTIONS), wanted, "global@3")
    assert "no chip's outline meets the area" in text


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_a_damaged_data_file_is_a_named_error_and_never_rows(tmp_path: Path, damage: str) -> None:
    warehouse = warehouses.made(tmp_path, tmp_path / "warehouse", [warehouses.scenes(tmp_path)[0]])
    path = tmp_path / "warehouse" / warehouse.combined("global").files[0].path
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-40] if damage == "cut" else content[:400] + bytes(40) + content[440:])
    with pytest.raises(CorruptWarehouseError, match=rf"{path.name} (was changed|is named by the log and is not there)"):
        select(warehouse, warehouses.spec())
