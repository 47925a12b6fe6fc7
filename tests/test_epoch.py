"""Dealing: every chip once, as many for each rank, whole blocks together; checked by brute force over all ranks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core import InputError
from stacchip_core.chips.epoch import (
    Deal,
    Rows,
    Stretch,
    from_spans,
    part_of_worker,
    share_of_rank,
    spans,
    whole_epoch,
    windows_of,
)

GROUPS = st.lists(st.integers(0, 12), min_size=1, max_size=150).map(lambda groups: np.array(groups, np.int64))
DEALS: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict[str, Any],
    world_size=st.integers(1, 5),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 3),
    shuffle=st.booleans(),
    mix=st.integers(1, 60),
)


def dealt(groups: Rows, workers: int, epoch: int, **values: Any) -> list[list[Rows]]:
    """Rows by rank and worker."""
    everyones = []
    for rank in range(values.get("world_size", 1)):
        deal = Deal(rank=rank, **values)
        share = share_of_rank(whole_epoch(groups, deal, epoch), deal)
        places = np.arange(len(share))
        everyones.append([share.rows[part_of_worker(places, deal, n, workers)] for n in range(workers)])
    return everyones


@given(groups=GROUPS, values=DEALS, workers=st.integers(1, 4), epoch=st.integers(0, 3))
def test_each_chip_comes_once_but_for_fewer_than_the_ranks(
    groups: Rows, values: dict[str, Any], workers: int, epoch: int
) -> None:
    ranks = values["world_size"]
    if len(groups) < ranks:
        with pytest.raises(InputError, match=f"{len(groups)} chips for {ranks} ranks: each would get none"):
            dealt(groups, workers, epoch, **values)
        return
    for uneven, each in (("drop", len(groups) // ranks), ("pad", -(-len(groups) // ranks))):
        everyones = dealt(groups, workers, epoch, uneven=uneven, **values)
        assert [sum(map(len, own)) for own in everyones] == [each] * ranks
        counts = Counter(int(row) for own in everyones for part in own for row in part)
        assert set(counts.values()) <= ({1} if uneven == "drop" else {1, 2})
        assert sum(counts.values()) == each * ranks
        assert uneven == "drop" or len(counts) == len(groups)


@given(groups=GROUPS, values=DEALS, workers=st.integers(1, 4))
def test_workers_get_whole_batches_and_the_same_rows_however_many_they_are(
    groups: Rows, values: dict[str, Any], workers: int
) -> None:
    values = {**values, "uneven": "pad"}
    alone, together = dealt(groups, 1, 0, **values), dealt(groups, workers, 0, **values)
    for (whole,), parts in zip(alone, together, strict=True):
        assert np.array_equal(np.concatenate(parts), whole)
        assert sum(len(part) % values["batch_size"] != 0 for part in parts) <= 1
        batches = [-(-len(part) // values["batch_size"]) for part in parts]
        assert max(batches) - min(batches) <= 1
        assert sum(batches) == -(-len(whole) // values["batch_size"])


@given(groups=GROUPS, mix=st.integers(1, 60), shuffle=st.booleans())
def test_a_window_holds_few_groups_and_few_chips(groups: Rows, mix: int, shuffle: bool) -> None:
    epoch = whole_epoch(groups, Deal(mix=mix, shuffle=shuffle), 1)
    windows = [epoch[window] for window in windows_of(epoch)]
    assert sum(map(len, windows)) == len(groups)
    assert all(len(window) <= mix and len(set(window.windows)) == 1 for window in windows)
    assert len({int(window.windows[0]) for window in windows}) == len(windows)
    sizes = Counter(groups.tolist())
    touched = Counter(group for window in windows for group in set(groups[window.rows].tolist()))
    for group, times in touched.items():  # no group is scattered over more windows than its chips need, and one more
        assert times <= -(-sizes[group] // mix) + shuffle


def test_epochs_differ_by_number_and_seed_and_come_again() -> None:
    groups = np.repeat(np.arange(20), 10)
    orders = [whole_epoch(groups, Deal(seed=seed), epoch).rows for seed in (0, 1) for epoch in (0, 1)]
    assert len({order.tobytes() for order in orders}) == 4
    assert np.array_equal(orders[1], whole_epoch(groups, Deal(), 1).rows)
    assert np.array_equal(whole_epoch(groups, Deal(shuffle=False), 3).rows, np.arange(200))


def test_shuffled_chips_come_from_many_groups_and_unshuffled_ones_stay_together() -> None:
    groups = np.repeat(np.arange(100), 16)
    rows = whole_epoch(groups, Deal(mix=256), 0).rows
    assert len(set(groups[rows[:32]].tolist())) > 8
    plain = whole_epoch(groups[::-1].copy(), Deal(shuffle=False), 0)
    assert np.array_equal(groups[::-1][plain.rows], groups)


def test_what_is_dropped_is_another_chip_in_another_epoch() -> None:
    groups = np.zeros(101, np.int64)
    left_out = set()
    for epoch in range(8):
        seen = {int(row) for own in dealt(groups, 1, epoch, world_size=2) for row in own[0]}
        left_out |= set(range(101)) - seen
    assert len(left_out) > 4


@given(st.lists(st.booleans(), max_size=60))
def test_spans_are_read_back(bits: list[bool]) -> None:
    is_set = np.array(bits, np.bool_)
    assert np.array_equal(from_spans(spans(is_set), len(bits)), is_set)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 2, "world_size": 2}, r"rank 2: expected 0 to world_size - 1, of world_size 2"),
        ({"rank": -1}, r"rank -1: expected 0"),
        ({"uneven": "repeat"}, r"uneven='repeat': expected 'drop' or 'pad'"),
        ({"batch_size": 0}, r"batch_size=0: expected 1 or more"),
        ({"mix": 0}, r"mix=0: expected 1 or more"),
        ({"seed": -1}, r"seed=-1: expected 0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Deal(**values)


def test_an_empty_stretch_has_no_window() -> None:
    nothing = np.zeros(0, np.int64)
    assert windows_of(Stretch(nothing, nothing)) == []
