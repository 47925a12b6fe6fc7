"""Caps: what a plain walk over the rows in their order takes; growth brings no chip back."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core import ChipSpec
from stacchip_core.chips import drawing
from stacchip_core.chips.conditions import conditions
from stacchip_core.chips.drawing import draw, keyed_hashes
from tests.chip_rows import COLLECTIONS, TABLE, spec

CELLS = [None if n % 41 == 0 else f"{n % 5}U_{n // 3 % 3}R" for n in range(TABLE.num_rows)]
CELLED = TABLE.set_column(TABLE.schema.get_field_index("grid_cell"), "grid_cell", pa.array(CELLS, pa.string()))
CAPS = st.fixed_dictionaries(
    {
        "per_item": st.none() | st.integers(1, 12),
        "per_cell": st.none() | st.integers(1, 20),
        "limit": st.none() | st.integers(1, 200),
        "seed": st.integers(0, 5),
    }
)


def walked(table: pa.Table, wanted: ChipSpec) -> list[str]:
    """The oracle: chip by chip in the order of the hashes."""
    rows = [row for row in table.drop_columns(["geometry", "bbox"]).to_pylist() if f"/{wanted.grid}/" in row["chip_id"]]
    hashes = keyed_hashes([row["chip_id"] for row in rows], wanted.seed)
    rows = [rows[place] for place in np.argsort(hashes, kind="stable")]
    for cap, name in ((wanted.per_item, "item_id"), (wanted.per_cell, "grid_cell")):
        seen: Counter[Any] = Counter()
        left = []
        for row in rows:
            key = (row["collection"], row[name])
            if cap is None or seen[key] < cap:
                left.append(row)
            seen[key] += 1
        rows = left
    return [row["chip_id"] for row in rows][: wanted.limit]


def taken(table: pa.Table, wanted: ChipSpec, pieces: int = 1) -> list[str]:
    step = -(-table.num_rows // pieces)
    parts = [ds.dataset(table.slice(start, step)) for start in range(0, table.num_rows, step)]
    found = draw(ds.dataset(parts), conditions(wanted, COLLECTIONS), wanted)
    ids: list[str] = found["chip_id"].to_pylist()
    return ids


@settings(max_examples=60, deadline=None)
@given(CAPS, st.sampled_from([1, 7, 30]))
def test_caps_take_what_a_walk_takes_whatever_the_batches(values: dict[str, Any], pieces: int) -> None:
    wanted = spec(**values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_PRUNE_ROWS", 0)
        assert taken(CELLED, wanted, pieces) == walked(CELLED, wanted)


@settings(max_examples=40, deadline=None)
@given(CAPS, st.integers(1, 29))
def test_growth_brings_no_chip_back(values: dict[str, Any], items: int) -> None:
    wanted = spec(**values)
    old = CELLED.slice(0, items * 30)  # whole items
    before, after = taken(old, wanted), taken(CELLED, wanted)
    known = set(old["chip_id"].to_pylist())
    assert [chip for chip in after if chip in known] == [chip for chip in before if chip in set(after)]


def test_rows_that_no_cap_lets_in_are_let_go_while_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    whole = drawing._Gathered.add

    def watched(self: drawing._Gathered, rows: pa.Table) -> None:
        whole(self, rows)
        sizes.append(self.rows)

    monkeypatch.setattr(drawing, "_PRUNE_ROWS", 50)
    monkeypatch.setattr(drawing._Gathered, "add", watched)
    assert len(taken(CELLED, spec(per_cell=1), 30)) == 3 * 16
    assert max(sizes) <= 2 * 48 + 50 + 30
