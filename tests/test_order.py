"""How items lie in a file: a Hilbert curve, and even row groups of whole items."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core.warehouse.combined import order
from stacchip_core.warehouse.combined.order import hilbert_order, in_hilbert_order, row_groups


@pytest.mark.parametrize("bits", [1, 2, 3, 6])
def test_the_curve_visits_every_cell_once_and_only_steps_to_neighbours(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "BITS", bits)
    side = 2**bits
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(side), np.arange(side)))
    place = hilbert_order((x + 0.5) / side * 360 - 180, (y + 0.5) / side * 180 - 90)
    assert sorted(place) == list(range(side * side))
    walk = np.argsort(place)
    assert (np.abs(np.diff(x[walk])) + np.abs(np.diff(y[walk])) == 1).all()


def test_edges_of_the_globe_and_places_unknown_have_a_place() -> None:
    lon, lat = np.array([-180.0, 180.0, 0.0, np.nan]), np.array([-90.0, 90.0, 90.0, np.nan])
    place = hilbert_order(lon, lat)
    assert ((place >= 0) & (place < 4**order.BITS)).all()


lengths = st.one_of(
    st.lists(st.one_of(st.integers(0, 5000), st.just(400_000)), max_size=200),
    st.lists(st.integers(3000, 5000), min_size=10, max_size=200),
    st.integers(0, 500).map(lambda count: [1764] * count),
)


@given(lengths)
def test_row_groups_hold_whole_items_and_their_share(lengths: list[int]) -> None:
    rows = np.array(lengths, np.int64)
    groups, with_rows = row_groups(rows, 50_000), rows > 0
    totals = np.bincount(groups[with_rows], weights=rows[with_rows]).astype(int)
    assert (np.diff(groups, prepend=0) >= 0).all()
    assert (totals > 0).all(), "every number is a group that is written"
    if (rows <= 5000).all():
        assert (totals <= 105_000).all()
        assert len(totals) <= 1 or (totals >= 45_000).all()
        assert len(totals) == min(len(totals), max(1, rows.sum() // 50_000))


def test_items_are_ordered_along_the_curve_and_those_without_a_box_have_a_place() -> None:
    box = pa.struct([(side, pa.float64()) for side in ("xmin", "ymin", "xmax", "ymax")])
    corners = [(170.0, 80.0), (-179.0, -89.0), (-178.0, -89.0), (-179.0, -89.0)]
    boxes = [dict(zip(box.names, (x, y, x + 1, y + 1), strict=True)) for x, y in corners]
    items = pa.table({"key": ["far", "b", "next", "a", "none"], "bbox": pa.array([*boxes, None], box)})
    found = in_hilbert_order(items, ["key"])["key"].to_pylist()
    assert [key for key in found if key != "none"] == ["a", "b", "next", "far"]
    assert len(found) == 5
    assert items.schema.names == in_hilbert_order(items, ["key"]).schema.names
