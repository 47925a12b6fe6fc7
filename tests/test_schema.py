"""The chip table's columns and its GeoParquet form, as other readers see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS

from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.index.indexer import Indexer
from stacchip_core.index.schema import (
    FRACTIONS,
    SCHEMA_VERSION,
    bbox_column,
    chip_schema,
    conform,
    geo_metadata,
    property_names,
    table_bounds,
    unify,
    write_chips,
)
from stacchip_core.sources.profiles import Property, load_profile
from stacchip_core.sources.raster import Grid
from tests import scenes
from tests.items import utm_grid

ANTIMERIDIAN = Grid("EPSG:32601", (60.0, 0.0, 300_000.0, 0.0, -60.0, 7_400_040.0), 1830, 1830)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ChipIndex:
    """A scene across the antimeridian, so that some geometries are split."""
    folder = tmp_path_factory.mktemp("scene")
    grid = Grid(ANTIMERIDIAN.crs, ANTIMERIDIAN.transform, 600, 1830)
    return Indexer(scenes.sentinel2_scene(folder, grid=grid), chip_size=100, local_roots=[folder]).create_index()


@pytest.fixture(scope="module")
def file(index: ChipIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "chips.parquet"
    write_chips([index.table], str(path))
    return path


def test_columns_are_those_of_schema_version_1(index: ChipIndex) -> None:
    assert SCHEMA_VERSION == 1
    times, floats = dict.fromkeys(("datetime", "start_datetime", "end_datetime"), "timestamp[us, tz=UTC]"), "float"
    box = "struct<xmin: float, ymin: float, xmax: float, ymax: float>"
    assert {field.name: str(field.type) for field in chip_schema()} == {
        **dict.fromkeys(("chip_id", "collection", "item_id"), "string"),
        **times,
        **dict.fromkeys(("chip_x", "chip_y", "col_off", "row_off", "size_px", "stride_px"), "int32"),
        "gsd_m": floats,
        **dict.fromkeys(("valid_width", "valid_height"), "int32"),
        **dict.fromkeys(FRACTIONS, floats),
        "grid_cell": "string",
        "geometry": "binary",
        "bbox": box,
    }
    names = index.table.schema.names
    assert names[-2:] == ["geometry", "bbox"], "properties stand before the geometry"
    assert property_names(index.table.schema) == [prop.name for prop in load_profile("sentinel-2-l2a").properties]


def test_footers_say_geoparquet_1_1_with_the_bbox_as_covering(file: Path, index: ChipIndex) -> None:
    metadata = pq.read_schema(file).metadata
    geo = json.loads(metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert (geo["version"], geo["primary_column"], column["encoding"]) == ("1.1.0", "geometry", "WKB")
    assert CRS.from_json_dict(column["crs"]) == CRS("OGC:CRS84")
    sides = {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}
    assert column["covering"] == {"bbox": sides}
    found = {shapely.from_wkb(wkb).geom_type for wkb in index.table["geometry"].to_pylist()}
    assert found == {"Polygon", "MultiPolygon"} == set(column["geometry_types"])
    total = shapely.total_bounds(shapely.from_wkb(index.table["geometry"].to_numpy()))
    assert column["bbox"] == pytest.approx(total, abs=1e-4)
    assert int(metadata[b"stacchip:schema_version"]) == SCHEMA_VERSION


def test_geopandas_reads_geometry_crs_and_the_bbox_filter(file: Path, index: ChipIndex) -> None:
    frame = gpd.read_parquet(file)
    assert len(frame) == len(index)
    assert frame.crs == CRS("OGC:CRS84")
    assert frame.geometry.is_valid.all()
    for box in [(179.0, -90, 180.0, 90), (-180.0, -90, -179.0, 90), (0.0, 0.0, 1.0, 1.0)]:
        wanted = set(frame.chip_id[frame.intersects(shapely.box(*box))])
        found = gpd.read_parquet(file, bbox=box)
        assert wanted <= set(found.chip_id), "the covering loses no chip"
        assert bool(len(found)) == bool(wanted)


def test_duckdb_reads_the_boxes_and_the_wkb(file: Path, index: ChipIndex) -> None:
    with duckdb.connect() as db:
        described = {row[0]: row[1] for row in db.execute(f"describe select * from read_parquet('{file}')").fetchall()}
        assert described["bbox"].startswith("STRUCT(xmin FLOAT")
        assert described["cloud_fraction"] == "FLOAT"
        count = db.execute(f"select count(*) from read_parquet('{file}') where bbox.xmin < 0").fetchone()
        assert count is not None
        assert count[0] == sum(box["xmin"] < 0 for box in index.table["bbox"].to_pylist())
        query = f"select * exclude (geometry), geometry::blob as wkb from read_parquet('{file}') order by chip_id"
        try:
            rows = db.execute(query).fetchall()
        except duckdb.Error:  # where DuckDB takes the column for bytes already
            rows = db.execute(query.replace("::blob", "")).fetchall()
        assert len(rows) == len(index)


@given(
    st.lists(
        st.tuples(st.floats(-180, 179), st.floats(-90, 89), st.floats(1e-7, 1), st.floats(1e-7, 1)),
        min_size=1,
        max_size=20,
    )
)
def test_boxes_hold_their_geometries_and_little_more(sides: list[tuple[float, float, float, float]]) -> None:
    shapes = np.array([shapely.box(x, y, x + w, y + h) for x, y, w, h in sides], dtype=object)
    boxes = bbox_column(shapes).to_pylist()
    for shape, box in zip(shapes, boxes, strict=True):
        west, south, east, north = shape.bounds
        assert box["xmin"] <= west
        assert box["ymin"] <= south
        assert box["xmax"] >= east
        assert box["ymax"] >= north
        assert max(west - box["xmin"], box["xmax"] - east, south - box["ymin"], box["ymax"] - north) < 2e-5


def encodings(path: Path) -> dict[str, set[str]]:
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(k) for k in range(group.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    return {column.path_in_schema: set(column.encodings) for column in columns}


def test_floats_are_byte_stream_split_and_texts_have_a_dictionary(file: Path) -> None:
    used = encodings(file)
    for name in (*FRACTIONS, "gsd_m", "bbox.xmin", "bbox.ymax", "eo:cloud_cover"):
        assert "BYTE_STREAM_SPLIT" in used[name], name
        assert not any("DICTIONARY" in encoding for encoding in used[name]), name
    for name in ("collection", "item_id", "datetime", "platform", "grid_cell", "size_px"):
        assert any("DICTIONARY" in encoding for encoding in used[name]), name


@pytest.mark.slow
def test_a_row_of_a_full_scene_takes_about_31_bytes(tmp_path: Path) -> None:
    grid = utm_grid(10_980)
    rng = np.random.default_rng(0)
    coarse = rng.choice(scenes.SCL_CLASSES, size=(183, 183))  # clouds of 600 m
    scl = np.kron(coarse, np.ones((30, 30), dtype=np.uint8)).astype(np.uint8)
    small: dict[str, Any] = {"red": np.ones(grid.shape, np.uint16), "scl": scl}
    item = scenes.sentinel2_scene(tmp_path, grid=utm_grid(60))
    for key, array in small.items():
        own = grid if key == "red" else Grid(grid.crs, (20, 0, 500_040, 0, -20, 5_200_020), 5490, 5490)
        scenes.write_cog(Path(item["assets"][key]["href"]), array, own, layout=scenes.Layout(block=512))
        item["assets"][key] |= {"proj:shape": list(own.shape), "proj:transform": list(own.transform)}
    index = Indexer(item, local_roots=[tmp_path]).create_index()
    assert len(index) == 1764
    write_chips([index.table], str(tmp_path / "x.parquet"))
    group = pq.ParquetFile(tmp_path / "x.parquet").metadata.row_group(0)
    data = sum(group.column(k).total_compressed_size for k in range(group.num_columns))
    assert data / len(index) < 45


def test_each_table_is_a_row_group_of_its_own(index: ChipIndex, tmp_path: Path) -> None:
    tables = [index.table.slice(0, 5), index.table.slice(5, 0), index.table.slice(5, 3)]
    write_chips(tables, str(tmp_path / "x.parquet"), extra={"mine": "yes"})
    written = pq.ParquetFile(tmp_path / "x.parquet")
    assert [written.metadata.row_group(k).num_rows for k in range(written.num_row_groups)] == [5, 3]
    assert written.schema_arrow.metadata[b"mine"] == b"yes"
    assert written.read().replace_schema_metadata(None).equals(index.table.slice(0, 8).replace_schema_metadata(None))


def test_a_table_without_rows_is_a_file_that_everybody_opens(tmp_path: Path) -> None:
    empty = chip_schema([Property(name="platform")]).empty_table()
    write_chips([empty], str(tmp_path / "x.parquet"))
    frame = gpd.read_parquet(tmp_path / "x.parquet")
    assert len(frame) == 0
    assert frame.crs == CRS("OGC:CRS84")
    assert table_bounds([empty]) is None
    assert "bbox" not in json.loads(geo_metadata())["columns"]["geometry"]


def test_tables_of_several_profiles_get_one_schema(index: ChipIndex) -> None:
    radar = chip_schema(load_profile("sentinel-1-rtc").properties)
    one = unify([index.table.schema, radar])
    assert unify([one, one]) == one
    assert set(property_names(one)) == {*property_names(index.table.schema), *property_names(radar)}
    table = conform(index.table, one)
    assert table.schema == one
    assert table["sat:orbit_state"].null_count == len(table)
    for name in index.table.schema.names:
        assert table[name].equals(index.table[name])


def test_properties_have_the_types_of_the_profile() -> None:
    kinds: list[Any] = [Property(name=kind, type=kind) for kind in ("text", "number", "boolean")]
    schema = chip_schema(kinds)
    assert [schema.field(name).type for name in ("text", "number", "boolean")] == [
        pa.string(),
        pa.float64(),
        pa.bool_(),
    ]
