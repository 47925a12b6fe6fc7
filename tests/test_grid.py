"""The chip grid against a list of windows made one by one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core.errors import ChipNotFoundError, InputError
from stacchip_core.index.grid import MAX_CHIPS, ChipGrid, Edge, GridSpec
from stacchip_core.sources.raster import Window
from tests.items import utm_grid

SIDES = st.integers(1, 80)
SIZES = st.integers(1, 40)


def chips_of(height: int, width: int, size: int, stride: int, edge: Edge) -> ChipGrid:
    return ChipGrid(utm_grid(height, width=width), GridSpec(size, stride, edge))


def starts_by_hand(length: int, size: int, stride: int, edge: Edge) -> list[int]:
    """Walk along one side: whole chips, then with "pad" one more, unless the raster is covered or at its end."""
    starts = [start for start in range(0, length, stride) if start + size <= length]
    if edge == "pad":
        last = starts[-1] + stride if starts else 0
        is_covered = bool(starts) and starts[-1] + size >= length
        if not is_covered and last < length:
            starts.append(last)
    return starts


@given(height=SIDES, width=SIDES, size=SIZES, stride=SIZES, edge=st.sampled_from(["drop", "pad"]))
def test_chips_are_those_of_a_walk_along_the_sides(height: int, width: int, size: int, stride: int, edge: Edge) -> None:
    chips = chips_of(height, width, size, stride, edge)
    for axis, length in enumerate((height, width)):
        starts = starts_by_hand(length, size, stride, edge)
        assert chips.starts(axis).tolist() == starts
        assert chips.stops(axis).tolist() == [min(start + size, length) for start in starts]
    assert len(chips) == chips.shape[0] * chips.shape[1]


@given(height=SIDES, width=SIDES, size=SIZES, stride=SIZES, edge=st.sampled_from(["drop", "pad"]))
def test_every_chip_holds_pixels_of_the_raster(height: int, width: int, size: int, stride: int, edge: Edge) -> None:
    chips = chips_of(height, width, size, stride, edge)
    for axis in (0, 1):
        valid = chips.stops(axis) - chips.starts(axis)
        assert (valid > 0).all()
        assert (valid == size).all() or edge == "pad"


@given(height=SIDES, width=SIDES, size=SIZES, stride=SIZES)
def test_padded_chips_cover_the_raster_unless_the_stride_leaves_gaps(
    height: int, width: int, size: int, stride: int
) -> None:
    chips = chips_of(height, width, size, stride, "pad")
    for axis, length in enumerate((height, width)):
        covered = {p for a, b in zip(chips.starts(axis), chips.stops(axis), strict=True) for p in range(a, b)}
        assert covered == {p for p in range(length) if p % stride < size or stride <= size}


@given(height=SIDES, width=SIDES, size=SIZES, stride=SIZES, edge=st.sampled_from(["drop", "pad"]))
def test_positions_and_windows_agree_row_by_row(height: int, width: int, size: int, stride: int, edge: Edge) -> None:
    chips = chips_of(height, width, size, stride, edge)
    xs, ys = chips.positions()
    assert len(xs) == len(ys) == len(chips)
    ordered = [(y, x) for y in range(chips.shape[0]) for x in range(chips.shape[1])]
    assert list(zip(ys.tolist(), xs.tolist(), strict=True)) == ordered
    for y, x in ordered[:5]:
        assert chips.window(x, y) == Window(x * stride, y * stride, size, size)


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (0, -1), (2, 0), (0, 3), (99, 99)])
def test_windows_never_leave_the_grid(x: int, y: int) -> None:
    chips = chips_of(30, 20, 10, 10, "drop")
    with pytest.raises(ChipNotFoundError, match=r"chip_x runs from 0 to 1, chip_y from 0 to 2 \(size 10, stride 10\)"):
        chips.window(x, y)


def test_a_raster_smaller_than_a_chip_has_none_or_one_padded() -> None:
    assert len(chips_of(5, 7, 10, 10, "drop")) == 0
    with pytest.raises(ChipNotFoundError, match="the grid has no chips"):
        chips_of(5, 7, 10, 10, "drop").window(0, 0)
    padded = chips_of(5, 7, 10, 10, "pad")
    assert len(padded) == 1
    assert padded.window(0, 0) == Window(0, 0, 10, 10)


@pytest.mark.parametrize(
    "bad", [{"size": 0}, {"size": -1}, {"stride": 0}, {"size": 2.5}, {"size": True}, {"size": "9"}]
)
def test_sizes_are_whole_numbers_of_pixels(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"is not a whole number of pixels of at least 1"):
        GridSpec(**bad)


def test_edges_are_dropped_or_padded() -> None:
    with pytest.raises(InputError, match=r"edge 'keep' is neither 'drop' nor 'pad'"):
        GridSpec(edge="keep")  # type: ignore[arg-type]


@given(size=SIZES, stride=SIZES, edge=st.sampled_from(["drop", "pad"]))
def test_a_spec_is_read_back_from_its_text(size: int, stride: int, edge: Edge) -> None:
    spec = GridSpec(size, stride, edge)
    assert GridSpec.parse(str(spec)) == spec


def test_a_mistyped_stride_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(InputError, match=rf"the limit is {MAX_CHIPS:,}"):
        chips_of(10_980, 10_980, 256, 1, "drop")
