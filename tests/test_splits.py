"""Splits: by ground alone, close to their shares, never moved by growth, never overlapping."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity

from stacchip_core import SpecError
from stacchip_core.chips.choices import SPLITS, SplitSpec
from stacchip_core.chips.conditions import conditions
from stacchip_core.chips.drawing import draw
from stacchip_core.chips.splits import blocks_of, check_split, empty_splits, splits_of, with_split
from stacchip_core.index.cells import grid_cells, parse_cells
from tests.chip_rows import START, Row, spec, table_of

KM = 111.19492664455873  # a degree of latitude, on a sphere of 6371 km


def squares(
    count: int, *, seed: int, span: float = 3.0, side_km: float = 2.56, lon: float = 8, lat: float = 47
) -> pa.Table:
    """Chips as squares at random places around a point, so that many overlap and some straddle blocks."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    lons, lats = lon + rng.uniform(-span, span, count), lat + rng.uniform(-span, span, count) / 2
    half = side_km / KM / 2
    for n, (x, y) in enumerate(zip(lons, lats, strict=True)):
        wide = half / math.cos(math.radians(y))
        rows.append(
            {
                "chip_id": f"sentinel-2-l2a/item-{seed}-{n % 40}/256-256-drop/{n}-0",
                "collection": "sentinel-2-l2a",
                "item_id": f"item-{seed}-{n % 40}",
                "datetime": START,
                "size_px": 256,
                "stride_px": 256,
                "gsd_m": 10.0,
                "grid_cell": grid_cells(np.array([(x + 180) % 360 - 180]), np.array([y]))[0],
                "shape": across(shapely.box(x - wide, y - half, x + wide, y + half)),
            }
        )
    return table_of(rows)


def across(shape: shapely.Geometry) -> shapely.Geometry:
    """In two parts where it crosses the antimeridian."""
    whole = shapely.box(-180, -90, 180, 90)
    parts = [shapely.intersection(shape, whole)]
    for turn in (-360, 360):
        moved = affinity.translate(shape, turn)
        parts.append(shapely.intersection(moved, whole))
    return shapely.union_all([part for part in parts if shapely.area(part) > 0])


def taken(table: pa.Table, **values: Any) -> dict[str, str]:
    wanted = spec(**values)
    found = draw(ds.dataset(table), conditions(wanted, ("sentinel-2-l2a",)), wanted)
    return dict(zip(found["chip_id"].to_pylist(), found["split"].to_pylist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([20, 50, 100]),
    st.sampled_from([(8, 47), (180, 10), (-180, -60), (0, 0), (20, 80), (100, -85)]),
)
def test_half_as_many_items_again_move_no_chip_and_drop_none(seed: int, split_km: int, place: tuple[int, int]) -> None:
    lon, lat = place
    first = squares(200, seed=1, lon=lon, lat=lat)
    more = pa.concat_tables([squares(100, seed=2, lon=lon, lat=lat), first])
    split = {"split_km": split_km, "seed": seed}
    before, after = taken(first, split=split), taken(more, split=split)
    assert before == {chip: name for chip, name in after.items() if chip in set(first["chip_id"].to_pylist())}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([20, 50]), st.sampled_from([(8, 47), (180, 10), (-180, -60), (20, 80)]))
def test_with_the_buffer_no_two_chips_of_different_splits_overlap(
    seed: int, split_km: int, place: tuple[int, int]
) -> None:
    lon, lat = place
    table = squares(300, seed=3, span=0.8, lon=lon, lat=lat)
    wanted = spec(split={"split_km": split_km, "seed": seed, "train": 1, "validation": 1, "test": 1})
    found = with_split(table, wanted)
    outlines, names = shapely.from_wkb(found["geometry"].to_numpy()), np.array(found["split"].to_pylist())
    left, right = shapely.STRtree(outlines).query(outlines, predicate="intersects")
    assert (names[left] == names[right]).all()
    bare = with_split(table, spec(split={**wanted.model_dump()["split"], "buffer": False}))
    assert bare.num_rows == table.num_rows
    by_id = dict(zip(bare["chip_id"].to_pylist(), bare["split"].to_pylist(), strict=True))
    assert all(by_id[chip] == name for chip, name in zip(found["chip_id"].to_pylist(), names, strict=True))


def test_the_buffer_costs_little() -> None:
    table = squares(3000, seed=5)
    kept = with_split(table, spec(split={})).num_rows
    assert 0.95 * 3000 < kept < 3000


def test_without_the_buffer_chips_do_overlap() -> None:
    """So the property above is not empty."""
    found = with_split(squares(300, seed=3, span=0.8), spec(split={"split_km": 20, "buffer": False, "test": 1}))
    outlines, names = shapely.from_wkb(found["geometry"].to_numpy()), np.array(found["split"].to_pylist())
    left, right = shapely.STRtree(outlines).query(outlines, predicate="intersects")
    assert (names[left] != names[right]).any()


@pytest.mark.parametrize("by", ["block", "chip"])
def test_shares_are_close_to_the_weights_where_there_are_many(by: str) -> None:
    rng = np.random.default_rng(0)
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, 40_000)))
    cells = grid_cells(rng.uniform(-180, 180, 40_000), lat)
    split = SplitSpec(train=6, validation=3, test=1, split_km=100)
    if by == "block":
        names = splits_of(cells.tolist(), split)
    else:
        ids = pa.array([f"c/i/256-256-drop/{n}-0" for n in range(40_000)])
        whole = with_split(
            pa.table({"chip_id": ids}), spec(split={"train": 6, "validation": 3, "test": 1, "by": "chip"})
        )
        names = np.array(whole["split"].to_pylist(), dtype=object)
    for name, share in zip(SPLITS, (0.6, 0.3, 0.1), strict=True):
        assert (names == name).mean() == pytest.approx(share, abs=0.015)


def test_a_share_of_nothing_gets_nothing() -> None:
    cells = grid_cells(np.linspace(-179, 179, 2000), np.zeros(2000)).tolist()
    assert set(splits_of(cells, SplitSpec(train=1, validation=0, test=0))) == {"train"}
    assert set(splits_of(cells, SplitSpec(train=0, validation=1, test=1))) == {"validation", "test"}


def test_other_seeds_share_out_otherwise_and_the_draws_seed_does_not() -> None:
    table = squares(400, seed=6)
    names = [
        taken(table, split={"seed": seed, "buffer": False}, seed=other) for seed, other in ((0, 0), (0, 9), (1, 0))
    ]
    assert names[0] == names[1] != names[2]


def test_splits_are_those_that_were_always_given() -> None:
    """A change here moves chips of every dataset between splits."""
    cells = ["525U_0R", "525U_60R", "0U_0R", "1D_400L", "300D_100R", "800U_3L", None]
    names = splits_of(cells, SplitSpec(train=1, validation=1, test=1))
    assert names.tolist() == ["validation", "train", "validation", "test", "validation", "test", None]


@given(st.floats(-180, 180), st.floats(-89.9, 89.9), st.sampled_from([20, 100, 500]))
@settings(max_examples=200)
def test_a_block_is_about_as_large_as_asked(lon: float, lat: float, split_km: int) -> None:
    rows, cols = parse_cells(grid_cells(np.array([lon]), np.array([lat])).tolist())
    block = blocks_of(rows, cols, split_km)[0]
    near = grid_cells(np.full(9, lon), np.clip(lat + np.linspace(-1, 1, 9) * split_km / KM / 2, -90, 90))
    same = [name == block for name in blocks_of(*parse_cells(near.tolist()), split_km)]
    assert same[4]
    far = grid_cells(np.array([lon]), np.array([lat + (-1.2 if lat > 0 else 1.2) * split_km / KM]))
    assert blocks_of(*parse_cells(far.tolist()), split_km)[0] != block


def test_blocks_that_are_too_small_for_the_chips_are_refused() -> None:
    table = squares(10, seed=7)
    check_split(table, spec(split={"split_km": 20}))
    with pytest.raises(
        SpecError,
        match=r"split_km 10 is less than 4 times the chips of sentinel-2-l2a, which are 2.56 km wide; take 20 or more",
    ):
        check_split(table, spec(split={"split_km": 10}))
    wide = table.set_column(table.schema.get_field_index("gsd_m"), "gsd_m", pa.array([463.3127] * 10, pa.float32()))
    few = r"split_km 10 is less than 4 times the chips of sentinel-2-l2a, which are 2.56 km wide; take 20 or more"
    with pytest.raises(SpecError, match=few):
        check_split(table, spec(split={"split_km": 10}))
    wide = table.set_column(table.schema.get_field_index("gsd_m"), "gsd_m", pa.array([463.3127] * 10, pa.float32()))
    with pytest.raises(SpecError, match=r"split_km 100 is less than .* 118.6 km wide; take 480 or more"):
        check_split(wide, spec(split={}))
    check_split(wide, spec(split={"by": "chip"}))


def test_a_split_that_got_nothing_is_told() -> None:
    wanted = spec(split={"split_km": 2000})
    found = with_split(squares(50, seed=8, span=0.1), wanted)
    assert len(empty_splits(found, wanted)) == 2
    assert empty_splits(found, spec()) == []
