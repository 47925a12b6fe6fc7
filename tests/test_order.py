"""How items lie in a file: a Hilbert curve, and even row groups of whole items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core.warehouse import order
from stacchip_core.warehouse.order import hilbert_order, row_groups


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


@given(st.lists(st.one_of(st.integers(0, 5000), st.just(400_000)), max_size=200))
def test_row_groups_hold_whole_items_and_their_share(lengths: list[int]) -> None:
    rows = np.array(lengths, np.int64)
    groups, with_rows = row_groups(rows, 95_000), rows > 0
    totals = np.bincount(groups[with_rows], weights=rows[with_rows]).astype(int)
    assert (np.diff(groups, prepend=0) >= 0).all()
    assert (totals > 0).all(), "every number is a group that is written"
    if (rows <= 5000).all():
        assert (totals <= 100_000).all()
        assert len(totals) <= 1 or (totals >= 42_500).all()
