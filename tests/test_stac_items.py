"""Items as stac-geoparquet: the spec's own reader gives them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import stac_geoparquet.arrow
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core.sources.item import parse_time
from stacchip_core.warehouse.combined.stac_items import OWN, stac_schema, stac_table, with_schema, with_stac_footer
from tests.data import needs_shared_data
from tests.item_table import item_paths
from tests.test_json_columns import keys, values

Item = dict[str, Any]
TIMES = ("datetime", "start_datetime", "end_datetime", "created", "updated", "published", "expires")
MEMBERS = ("type", "stac_version", "stac_extensions", "id", "geometry", "bbox", "links", "assets", "collection")


def items_of(paths: list[Path]) -> list[Item]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def file_of(path: Path, items: list[Item]) -> Path:
    table = stac_table(items)
    schema = with_stac_footer(stac_schema([table.schema]))
    pq.write_table(with_schema(table, schema), path)
    return path


def without_nulls(value: Any) -> Any:
    """A value as a table keeps it: what is null or empty is not there."""
    if isinstance(value, dict):
        members = {key: without_nulls(inner) for key, inner in value.items()}
        return {key: inner for key, inner in members.items() if inner not in (None, {}, [])}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def expected(item: Item) -> Item:
    """An item less what is documented to be left out: members and names of its own, and how times are written."""
    properties = {
        name: value for name, value in item["properties"].items() if name not in (*MEMBERS, *TIMES) and value != {}
    }
    top = {name: item[name] for name in MEMBERS if name in item and name != "geometry"}
    whole: Item = without_nulls({"links": [], "stac_extensions": [], "assets": {}, **top})
    return {**whole, "assets": whole.get("assets", {}), "properties": without_nulls(properties)}


def given_back(item: Item) -> Item:
    properties = {n: v for n, v in item["properties"].items() if not n.startswith(OWN) and n not in TIMES}
    whole: Item = without_nulls({**{name: item[name] for name in MEMBERS if name in item and name != "geometry"}})
    return {**whole, "assets": whole.get("assets", {}), "properties": without_nulls(properties)}


READABLE = [
    path for path in item_paths() if path.stem not in ("bad_geometry_antimeridian_epsg3261", "nullgeometry_72360")
]


@needs_shared_data
@pytest.mark.parametrize("path", READABLE, ids=lambda path: path.stem)
def test_the_readers_of_the_spec_give_every_real_item_back(path: Path, tmp_path: Path) -> None:
    (item,) = items_of([path])
    table = pq.read_table(file_of(tmp_path / "items.parquet", [item]))
    (again,) = stac_geoparquet.arrow.stac_table_to_items(table)
    assert given_back(again) == expected(item)
    assert shapely.geometry.shape(again["geometry"]).equals_exact(shapely.geometry.shape(item["geometry"]))
    for name in TIMES:
        if item["properties"].get(name) is not None:
            assert parse_time(again["properties"][name], name) == parse_time(item["properties"][name], name)


@needs_shared_data
def test_items_of_all_kinds_stand_in_one_file(tmp_path: Path) -> None:
    items = items_of(item_paths())
    tables = [stac_table(items[start : start + 7]) for start in range(0, len(items), 7)]
    schema = stac_schema(table.schema for table in tables)
    whole = pa.concat_tables([with_schema(table, schema) for table in tables])
    pq.write_table(whole.replace_schema_metadata(with_stac_footer(schema).metadata), tmp_path / "items.parquet")
    frame = geopandas.read_parquet(tmp_path / "items.parquet", columns=["id", "geometry", "datetime"])
    assert frame["id"].tolist() == [item["id"] for item in items]
    assert frame.crs.to_authority() == ("OGC", "CRS84")
    assert stac_schema([schema, pq.read_schema(tmp_path / "items.parquet")]).equals(schema)


@needs_shared_data
def test_a_box_finds_each_item_whose_geometry_it_meets(tmp_path: Path) -> None:
    items = items_of(item_paths())
    path = file_of(tmp_path / "items.parquet", items)
    shapes = geopandas.read_parquet(path, columns=["id", "geometry"]).geometry
    for west, south in ((-180.0, -90.0), (170.0, -50.0), (-130.0, 30.0), (-180.0, 60.0), (5.0, 40.0)):
        box = (west, south, west + 10, south + 15)
        found = geopandas.read_parquet(path, columns=["id", "geometry"], bbox=box)
        bounds = shapely.bounds(shapes.to_numpy())
        meets = (
            (bounds[:, 0] <= box[2]) & (bounds[:, 2] >= box[0]) & (bounds[:, 1] <= box[3]) & (bounds[:, 3] >= box[1])
        )
        assert set(np.asarray(shapes.index)[meets]) <= set(range(len(items)))
        assert sorted(found["id"]) == sorted(item["id"] for item, is_met in zip(items, meets, strict=True) if is_met)


BARE: Item = {"type": "Feature", "id": "x", "properties": {}}
ODD: list[Item] = [
    {**BARE, "geometry": None, "properties": {"datetime": None, "start_datetime": "2024-01-01", "end_datetime": "x"}},
    {**BARE, "geometry": {"type": "Polygon", "coordinates": "none"}, "bbox": [1, 2, 3]},
    {**BARE, "geometry": {"type": "Point", "coordinates": [1, 2, 3]}, "bbox": [0, 0, -5, 2, 2, 5]},
    {**BARE, "properties": {"gsd": 1}, "links": None, "assets": []},
    {**BARE, "properties": {"gsd": "10 m", "proj:geometry": {"type": "Point", "coordinates": [7, 8]}}, "links": [{}]},
    {**BARE, "properties": {"gsd": [1, "x", {"a": None}], "": 1, "id": 7, "stacchip:key": "mine", "a\0b": 1}},
    {**BARE, "properties": {"created": 5, "huge": 2**80, "\ud800": 1, "nan": float("nan")}, "stac_extensions": "none"},
    {**BARE, "assets": {"a": None, "b": {"href": 1, "proj:geometry": {"type": "Point", "coordinates": [1, 2]}}}},
]


def test_odd_items_get_a_row_and_keep_what_can_be_kept(tmp_path: Path) -> None:
    table = pq.read_table(file_of(tmp_path / "items.parquet", ODD))
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["x"] * len(ODD)
    assert [row["gsd"] for row in rows] == [None, None, None, "1", "10 m", '[1, "x", {"a": null}]', None, None]
    assert [row["geometry"] is None for row in rows] == [True, True, False, *[True] * 5]
    assert rows[2]["bbox"] == {"xmin": 0, "ymin": 0, "xmax": 2, "ymax": 2}
    assert (rows[0]["datetime"], rows[0]["end_datetime"], rows[6]["created"]) == (None, None, None)
    assert shapely.from_wkb(rows[4]["proj:geometry"]).equals(shapely.Point(7, 8))
    assert shapely.from_wkb(rows[7]["assets"]["b"]["proj:geometry"]).equals(shapely.Point(1, 2))
    assert not {"", "stacchip:key", "a\0b", "\ud800"} & set(table.schema.names)


odd = st.fixed_dictionaries({"properties": st.dictionaries(keys, values, max_size=3), "assets": values})


@given(st.lists(odd, max_size=4))
def test_no_item_is_too_odd(items: list[Item]) -> None:
    table = stac_table([{**BARE, **item} for item in items])
    assert len(table) == len(items)
    assert with_schema(table, stac_schema([table.schema])).num_rows == len(items)


def test_the_footer_says_stac_geoparquet_and_the_covering(tmp_path: Path) -> None:
    outline = {"proj:geometry": {"type": "Point", "coordinates": [1, 2]}}
    path = file_of(tmp_path / "items.parquet", [{**BARE, "properties": outline}])
    footer = pq.read_metadata(path).metadata
    assert json.loads(footer[b"stac-geoparquet"]) == {"version": "1.0.0"}
    geo = json.loads(footer[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    assert geo["columns"]["geometry"]["covering"]["bbox"]["xmin"] == ["stacchip:covering", "xmin"]
    assert geo["columns"]["proj:geometry"]["crs"] is None
