"""Diff: items and chips that came, went or changed, however the versions lie in files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core.errors import VersionNotFoundError
from stacchip_core.warehouse.combined.merge import merge
from stacchip_core.warehouse.diff import Diff, diff
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.version import CombinedVersion, IndexVersion
from stacchip_core.warehouse.warehouse import Warehouse
from tests.care import KINDS, filled, memory_warehouse, new_warehouse
from tests.faulty_store import FaultyStore
from tests.warehouse_rows import Piece, commit_pieces

Rows = Mapping[tuple[object, ...], tuple[Any, ...]]


def rows_of(version: IndexVersion) -> Rows:
    """The oracle: form, recipe and chips of each item of a version, read whole."""
    columns = ["key", "size_px", "stride_px", "edge", "fingerprint", "recipe", "rows"]
    found = version.items(columns).to_pylist()
    return {tuple(row[name] for name in columns[:4]): tuple(row[name] for name in columns[4:]) for row in found}


def by_hand(old: Rows, new: Rows) -> dict[str, dict[tuple[object, ...], object]]:
    return {
        "added": {place: new[place][2] for place in new.keys() - old.keys()},
        "removed": {place: old[place][2] for place in old.keys() - new.keys()},
        "changed": {p: (old[p][2], new[p][2]) for p in old.keys() & new.keys() if old[p][:2] != new[p][:2]},
    }


def told(found: Diff) -> dict[str, dict[tuple[object, ...], object]]:
    tables = {kind: getattr(found, kind).to_pylist() for kind in ("added", "removed", "changed")}
    return {
        kind: {
            (row["key"], row["size_px"], row["stride_px"], row["edge"]): (
                (row["rows_before"], row["rows"]) if kind == "changed" else row["rows"]
            )
            for row in rows
        }
        for kind, rows in tables.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_any_two_versions_differ_by_what_they_hold(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    warehouse = new_warehouse(kind, request, tmp_path)
    filled(warehouse.store)
    pairs = [("global", 1, 3), ("global", 3, 1), ("global", 2, 2), ("collections/s2", 2, 8), ("collections/s2", 8, 7)]
    for index, old, new in pairs:
        expected = by_hand(rows_of(warehouse.index(index, old)), rows_of(warehouse.index(index, new)))
        found = warehouse.diff(index, old, new)
        assert told(found) == expected
        assert found.is_empty == (old == new)
        assert (found.old, found.new) == (old, new)
        assert (found.index == index) == ("/" in index)


# How many chips an item has follows from its form and recipe.
ROWS = {("a", "r1"): 0, ("a", "r2"): 1, ("b", "r1"): 2, ("b", "r2"): 0, ("c", "r1"): 4, ("c", "r2"): 3}
PIECES = st.lists(
    st.builds(
        Piece,
        number=st.integers(0, 5),
        form=st.sampled_from("abc"),
        recipe=st.sampled_from(["r1", "r2"]),
        size=st.sampled_from([256, 512]),
        month=st.sampled_from([6, 7]),
        failure=st.sampled_from(["", "", "", "read"]),
    ).map(lambda piece: replace(piece, rows=ROWS[piece.form, piece.recipe])),
    max_size=5,
)


@pytest.mark.slow
@settings(max_examples=12)
@given(st.lists(PIECES, min_size=1, max_size=4), st.lists(PIECES, min_size=1, max_size=4))
def test_it_is_what_the_items_tell(first: Sequence[list[Piece]], then: Sequence[list[Piece]]) -> None:
    store = memory_warehouse().store
    warehouse = Warehouse(store.root)
    commit_pieces(store, "s2", [Piece(9)])
    ends = list[tuple[int, int]]()
    for commits in (first, then):
        for pieces in commits:
            commit_pieces(store, "s2", pieces)
        ends.append((warehouse.collection("s2").version, merge(store, "global", ["s2"]).version))
    for place, index in enumerate(("collections/s2", "combined/global")):
        old, new = (warehouse.index(index, end[place]) for end in ends)
        found = diff(old, new)
        assert told(found) == by_hand(rows_of(old), rows_of(new))
        counts = found.counts.get("s2", {})
        chips = sum(rows for _, _, rows in rows_of(new).values()) - sum(rows for _, _, rows in rows_of(old).values())
        if counts:
            before = sum(found.changed["rows_before"].to_pylist())
            assert counts["chips"]["added"] - counts["chips"]["removed"] + counts["chips"]["changed"] - before == chips
        json.dumps(found.to_json())


def combined(store: Store, version: int) -> CombinedVersion:
    return Warehouse(store.root).combined("global", version)


def test_files_that_both_versions_list_are_not_read() -> None:
    store = FaultyStore(memory_warehouse().store)
    commit_pieces(store, "s2", [Piece(1), Piece(2, month=7), Piece(3, month=8)])
    first = merge(store, "global", ["s2"])
    commit_pieces(store, "s2", [Piece(2, month=7, form="b")])
    second = merge(store, "global", ["s2"])
    shared = {i.path for i in first.entry.files("items")} & {i.path for i in second.entry.files("items")}
    assert len(shared) == 2
    store.operations.clear()
    found = diff(CombinedVersion(store, "global", first.entry), CombinedVersion(store, "global", second.entry))
    assert found.changed["item_id"].to_pylist() == ["item-0002"]
    assert not {key for _, key in store.operations} & shared


def test_collections_are_told_apart() -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    warehouse.merge("global", ["s2"])
    counts = warehouse.diff("global", 1, 4).counts
    assert list(counts) == ["naip", "s2"]
    assert counts["naip"] == {
        "items": {"added": 0, "removed": 3, "changed": 0},
        "chips": {"added": 0, "removed": 9, "changed": 0},
    }
    assert counts["s2"]["items"] == {"added": 3, "removed": 1, "changed": 2}
    assert counts["s2"]["chips"] == {"added": 9, "removed": 3, "changed": 8}


def test_tags_and_the_newest_may_be_named() -> None:
    warehouse = memory_warehouse()
    filled(warehouse.store)
    warehouse.tag("paper", "global", 1)
    assert told(warehouse.diff("global", "paper")) == told(warehouse.diff("global", 1, 3))
    with pytest.raises(VersionNotFoundError):
        warehouse.diff("global", 1, 99)
