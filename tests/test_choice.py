"""Which items are taken: the best of each feature and period, as pandas and geopandas find them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core.sources.area import Area, read_area
from stacchip_core.sources.catalog import Items, chosen
from stacchip_core.sources.choice import Choice
from stacchip_core.sources.item import StagedItem
from stacchip_core.sources.source import Source
from stacchip_core.sources.windows import Gap
from tests.catalogs import ids, write
from tests.tiny import tiny_item

JSON = dict[str, Any]
FIELDS = [shapely.box(0, 0, 2, 2), shapely.box(1.5, 0, 4, 2), shapely.Point(9, 9)]  # the first two overlap
_PERIODS = {"year": "%Y", "month": "%Y-%m", "day": "%Y-%m-%d"}


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Area:
    path = tmp_path_factory.mktemp("area") / "fields.gpkg"
    gpd.GeoDataFrame(geometry=FIELDS, crs=4326).to_file(path)
    return read_area(path)


def scene(name: str, when: pd.Timestamp, cloud: object, west: float) -> JSON:
    """An item one degree wide, somewhere along the fields."""
    item = tiny_item(name, when=when.isoformat().replace("+00:00", "Z"))
    item["properties"] |= {} if cloud is None else {"eo:cloud_cover": cloud}
    outline = shapely.box(west, 0.5, west + 1, 1.5)
    return {**item, "geometry": shapely.geometry.mapping(outline), "bbox": list(outline.bounds)}


def staged(items: Sequence[JSON]) -> list[StagedItem]:
    return [StagedItem(item) for item in items]


def names(found: Sequence[StagedItem]) -> set[str]:
    return {one.item["id"] for one in found}


def cells(items: Sequence[JSON], period: str, area: Area | None) -> list[pd.DataFrame]:
    """Items of each period, and of each feature that geopandas joins them with."""
    rows = gpd.GeoDataFrame(
        {
            "id": [item["id"] for item in items],
            "when": pd.to_datetime([item["properties"]["datetime"] for item in items], format="ISO8601", utc=True),
            "cloud": [item["properties"].get("eo:cloud_cover", float("nan")) for item in items],
        },
        geometry=[shapely.geometry.shape(item["geometry"]) for item in items],
        crs=4326,
    )
    rows["cloud"] = pd.to_numeric(rows["cloud"], errors="coerce")
    if area is not None:
        rows = rows.sjoin(gpd.GeoDataFrame(geometry=list(area.features), crs=4326), predicate="intersects")
    else:
        rows["index_right"] = 0
    if period == "quarter":
        rows["period"] = rows["when"].dt.year * 10 + rows["when"].dt.quarter
    else:
        rows["period"] = rows["when"].dt.strftime(_PERIODS[period]) if period != "none" else ""
    return [cell for _, cell in rows.groupby(["period", "index_right"])]


ORDERS: dict[str, tuple[list[str], list[bool]]] = {
    "least_cloudy": (["cloud", "when", "id"], [True, False, True]),
    "latest": (["when", "id"], [False, True]),
    "earliest": (["when", "id"], [True, True]),
}
WHEN = st.datetimes(pd.Timestamp("2023-11-01"), pd.Timestamp("2024-08-31")).map(lambda at: pd.Timestamp(at, tz="UTC"))
HOURS = WHEN.map(lambda at: at.floor("12h"))  # so that some are of the same moment
CLOUDS = st.sampled_from([None, float("nan"), "much", 0, 0.5, 20, 100])
SCENES = st.lists(st.tuples(HOURS, CLOUDS, st.floats(-2, 9)), max_size=30)
PERIODS = st.sampled_from(["none", "year", "quarter", "month", "day"])


@settings(max_examples=120, deadline=None)
@given(made=SCENES, by=st.sampled_from(sorted(ORDERS)), period=PERIODS, number=st.integers(1, 3), mix=st.randoms())
@pytest.mark.parametrize("is_per_feature", [True, False])
def test_the_best_of_each_feature_and_period_are_taken_whatever_came_first(
    made: list[Any], by: Any, period: Any, number: int, mix: random.Random, is_per_feature: bool, fields: Area
) -> None:
    items = [scene(f"i{n:02d}", *one) for n, one in enumerate(made)]
    columns, ascending = ORDERS[by]
    best = {
        name
        for cell in cells(items, period, fields if is_per_feature else None)
        for name in cell.sort_values(columns, ascending=ascending).head(number)["id"]
    }
    mix.shuffle(items)
    choice = Choice(by=by, period=period, number=number, per_feature=is_per_feature)
    found = choice.choose(staged(items), fields)
    assert names(found) == best
    assert [one.item["id"] for one in found] == sorted(best)


@settings(max_examples=60, deadline=None)
@given(made=SCENES, period=PERIODS, number=st.integers(1, 4), seed=st.integers(0, 9), mix=st.randoms())
def test_a_random_sample_has_so_many_of_each_period_and_is_decided_by_the_seed(
    made: list[Any], period: Any, number: int, seed: int, mix: random.Random
) -> None:
    items = [scene(f"i{n:02d}", *one) for n, one in enumerate(made)]
    choice = Choice(by="random", period=period, number=number, seed=seed)
    taken = names(choice.choose(staged(items), None))
    for cell in cells(items, period, None):
        assert len(taken & set(cell["id"])) == min(number, len(cell))
    mix.shuffle(items)
    assert names(choice.choose(staged(items), None)) == taken
    fewer = choice.model_copy(update={"number": max(1, number - 1)})
    assert names(fewer.choose(staged(items), None)) <= taken


def test_every_item_is_as_likely_as_any_other_and_other_seeds_take_others() -> None:
    items = staged([scene(f"i{n:02d}", pd.Timestamp("2024-05-01", tz="UTC"), None, 0.0) for n in range(20)])
    drawn = [names(Choice(by="random", number=5, seed=seed).choose(items, None)) for seed in range(400)]
    often = pd.Series([name for one in drawn for name in sorted(one)]).value_counts()
    assert len(often) == 20
    assert 65 < often.min() <= often.max() < 135  # 100 expected, standard deviation 8.7
    assert len({tuple(sorted(one)) for one in drawn}) > 300


def test_platform_time_choice_and_most_items_work_together(tmp_path: Path) -> None:
    made = [scene(f"i{n}", pd.Timestamp(f"2024-0{1 + n % 3}-0{1 + n}", tz="UTC"), 10 * (n % 4), 0.0) for n in range(9)]
    for n, item in enumerate(made):
        item["properties"]["platform"] = f"tiny-{n % 2}"
        write(tmp_path / f"{n}.json", item)
    source = Source(
        items=tuple(str(path) for path in sorted(tmp_path.glob("*.json"))),
        query=("platform = tiny-0",),
        datetime="2024-01/2024-02",
        choose=Choice(period="month", number=2),
    )
    rows = pd.DataFrame(
        [{"id": one["id"], **one["properties"], "month": one["properties"]["datetime"][:7]} for one in made]
    )
    wanted = rows[(rows["platform"] == "tiny-0") & (rows["month"] < "2024-03")]
    wanted = wanted.sort_values(["eo:cloud_cover", "datetime"], ascending=[True, False]).groupby("month").head(2)
    expected = sorted(wanted["id"])
    assert 2 < len(expected) < 9
    assert ids(source) == expected
    assert ids(source.model_copy(update={"max_items": 2})) == expected[:2]


def test_failures_are_kept_and_of_what_is_not_whole_nothing_is_chosen() -> None:
    good, bad = staged([tiny_item("a")])[0], StagedItem({"id": "b"}, error="no JSON")
    source, gap = Source(items=("a.json",), choose=Choice()), Gap("2024", "not read")
    assert list(chosen([Items([good, bad])], source, [])) == [good, bad]
    gaps = list[Gap]()
    assert list(chosen([Items([good, bad]), gap], source, gaps)) == [bad]
    assert gaps == [gap]
