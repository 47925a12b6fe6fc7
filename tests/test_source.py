"""What may be asked of a catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stacchip_core.sources.source import Source


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "either url"),
        ({"url": "x", "items": ("y",)}, "either url"),
        ({"url": "x", "bbox": (0, 50, 10, 40)}, "south <= north"),
        ({"url": "x", "bbox": (0, 0, 200, 40)}, "longitudes"),
        ({"url": "x", "datetime": "yesterday"}, "is no time"),
        ({"url": "x", "datetime": "2024-06/2024-05"}, "ends before"),
        ({"url": "x", "datetime": "../.."}, "open at both"),
        ({"url": "x", "datetimes": "2024"}, "Extra inputs"),
        ({"url": "x", "max_items": 0}, "greater than"),
    ],
)
def test_wrong_sources_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Source(**wrong)


@pytest.mark.parametrize("box", [None, [], ["a", None, 1, 2], [0, 0, 1], {"west": 0}, [True, 0, 1, 1], "0,0,1,1"])
def test_a_box_that_says_nothing_matches(box: object) -> None:
    assert Source(items=("a",), bbox=(50, 50, 60, 60)).matches({"bbox": box, "properties": {}})


def test_items_of_several_local_roots_open_no_other_folder(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    roots = tuple(str(tmp_path / name) for name in ("a", "b"))
    items = tuple(str(tmp_path / name / "item.json") for name in ("a", "b"))
    assert Source(items=items, local_roots=roots).roots == roots
    more = Source(items=(*items, str(tmp_path / "c" / "item.json")), local_roots=roots)
    assert more.roots == (*roots, str(tmp_path / "c"))
