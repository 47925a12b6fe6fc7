"""Filters: what they choose is what plain Python chooses, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.dataset as ds
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core import ChipSpec
from stacchip_core.chips.conditions import boxes, conditions
from stacchip_core.chips.drawing import draw
from stacchip_core.chips.selection import null_fractions
from stacchip_core.sources.interval import parse_interval
from tests.chip_rows import COLLECTIONS, ROWS, TABLE, Row, drawn, outline, spec, table_of


def meets(row: Row, wanted: ChipSpec) -> bool:
    """The oracle: one row, plain Python."""
    if wanted.collections and row["collection"] not in wanted.collections:
        return False
    if f"/{wanted.grid}/" not in row["chip_id"]:
        return False
    if wanted.datetime:
        start, end = parse_interval(wanted.datetime)
        first, last = row["start_datetime"] or row["datetime"], row["end_datetime"] or row["datetime"]
        if (start and last < start) or (end and first > end):
            return False
    for name in ("nodata", "cloud", "shadow", "snow", "water"):
        limit, value = getattr(wanted, f"max_{name}"), row[f"{name}_fraction"]
        if limit is not None and value is not None and np.float32(value) > np.float32(limit):
            return False
    return wanted.bbox is None or any(shapely.box(*box).intersects(row["shape"]) for box in boxes(wanted.bbox))


LIMITS = st.none() | st.sampled_from([0.0, 0.2, 1.0]) | st.floats(0, 1)


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "size": st.sampled_from([256, 512]),
            "edge": st.sampled_from(["drop", "pad"]),
            "collections": st.lists(st.sampled_from(COLLECTIONS), unique=True, max_size=2),
            "datetime": st.sampled_from(
                [None, "2024-03", "2024-05-05/..", "../2024-02-01T12:00:00Z", "2024-07-01/2024-07-09"]
            ),
            "bbox": st.sampled_from(
                [
                    None,
                    (-20, -30, 60, 50),
                    (170, -90, -170, 90),
                    (179.5, -60, -100, 60),
                    (-180, -10, 180, 10),
                    (0, 0, 1, 1),
                ]
            ),
            **{f"max_{name}": LIMITS for name in ("nodata", "cloud", "shadow", "snow", "water")},
        }
    )
)
def test_filters_choose_what_brute_force_chooses(values: dict[str, Any]) -> None:
    wanted = spec(**values)
    assert set(drawn(TABLE, wanted)) == {row["chip_id"] for row in ROWS if meets(row, wanted)}


def test_zero_cloud_means_none_and_null_passes() -> None:
    found = draw(ds.dataset(TABLE), conditions(spec(max_cloud=0), COLLECTIONS), spec(max_cloud=0))
    values = found["cloud_fraction"].to_pylist()
    assert set(values) == {0.0, None}
    assert null_fractions(found, spec(max_cloud=0)) == {"cloud_fraction": values.count(None)}
    assert null_fractions(found, spec(max_nodata=0)) == {}


def test_a_threshold_includes_the_fraction_that_equals_it() -> None:
    rows = [{**ROWS[0], "cloud_fraction": float(np.float32(0.2))}]  # as float64, above 0.2
    assert drawn(
        table_of(rows),
        spec(size=rows[0]["size_px"], max_cloud=0.2, edge=rows[0]["chip_id"].split("-")[-2].split("/")[0]),
    )


def test_a_chip_across_the_antimeridian_is_found_from_both_sides() -> None:
    shape = outline(179.0, 10.0)
    rows = [{**ROWS[0], "chip_id": "c/i/256-256-drop/0-0", "size_px": 256, "stride_px": 256, "shape": shape}]
    table = table_of(rows)
    for bbox, is_found in {
        (179.2, 10, 179.9, 12): True,
        (-179.9, 10, -179.5, 12): True,
        (179, 9, -179, 13): True,
        (-10, 10, 10, 12): False,  # its box, -180..180, is there
        (20, 10, 30, 12): False,
    }.items():
        assert bool(drawn(table, spec(bbox=bbox))) == is_found, bbox
