"""GDAL, DuckDB and geopandas open what is written: an index, and every file of a combined version.

GDAL by its ADBC driver and DuckDB's library, as its wheels carry no Parquet driver; and by `ogrinfo` where that has
one, which Debian's has not: the plugin can be built from GDAL's sources, and is found by GDAL_DRIVER_PATH.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import pyarrow.parquet as pq
import pyogrio
import pytest
import stac_geoparquet.arrow

from stacchip_core import Indexer
from stacchip_core.warehouse.combined.stac_items import OWN
from stacchip_core.warehouse.entry import FileInfo
from tests import scenes
from tests.warehouses import grow, made

needs_adbc = pytest.mark.skipif("ADBC" not in pyogrio.list_drivers(), reason="this GDAL was built without ADBC")


def ogrinfo(*arguments: str) -> str:
    done = subprocess.run(["ogrinfo", *arguments], capture_output=True, text=True, check=True)
    assert "ERROR" not in done.stderr, "it may tell that it has no lists of records, as `links` is"
    return done.stdout


def by_gdal(path: Path) -> geopandas.GeoDataFrame:
    spec = importlib.util.find_spec("_duckdb")
    assert spec is not None
    pyogrio.set_gdal_config_options({"OGR_ADBC_AUTO_LOAD_DUCKDB_SPATIAL": "NO"})  # it would be looked for elsewhere
    return pyogrio.read_dataframe(f"ADBC:{path}", ADBC_DRIVER=spec.origin)


@needs_adbc
def test_gdal_opens_an_index_with_crs_and_geometry(tmp_path: Path) -> None:
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(600))
    index = Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index()
    index.write(tmp_path / "index.parquet")
    frame = by_gdal(tmp_path / "index.parquet")
    assert frame.crs.to_authority() == ("OGC", "CRS84")
    expected = geopandas.read_parquet(tmp_path / "index.parquet").set_index("chip_id")
    found = frame.set_index("chip_id").loc[expected.index]
    assert len(found) == 36
    assert found.geometry.geom_equals(expected.geometry).all()
    assert found["cloud_fraction"].fillna(-1).equals(expected["cloud_fraction"].fillna(-1))


Listed = list[tuple[FileInfo, Path]]


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    """Data and items files of a combined index of three sensors, of which one was merged twice."""
    folder = tmp_path_factory.mktemp("combined")
    (folder / "pixels").mkdir()
    warehouse = made(folder / "pixels", folder / "warehouse")
    grow(warehouse, folder / "pixels")
    entry = warehouse.combined("global").entry
    assert entry.kept and {info.role for info in entry.added} == {"data", "items"}
    return [(info, folder / "warehouse" / info.path) for info in (*entry.kept, *entry.added)]


def test_every_file_of_a_combined_version_is_geoparquet_to_geopandas_and_duckdb(listed: Listed) -> None:
    for info, path in listed:
        frame = geopandas.read_parquet(path)
        assert len(frame) == info.rows
        assert frame.crs.to_authority() == ("OGC", "CRS84")
        assert frame.geometry.is_valid.all()
        west, south, east, north = frame.total_bounds
        half = geopandas.read_parquet(path, bbox=(west, south, (west + east) / 2, north))
        assert 0 < len(half) <= len(frame)
        covering = json.loads(pq.read_metadata(path).metadata[b"geo"])["columns"]["geometry"]["covering"]["bbox"]
        column = covering["xmin"][0]
        query = f'SELECT min("{column}".xmin), max("{column}".ymax), count(geometry) FROM read_parquet(?)'
        (row,) = duckdb.execute(query, [str(path)]).fetchall()
        assert row == (pytest.approx(west, abs=1e-4), pytest.approx(north, abs=1e-4), info.rows)
        boxes, bounds = pq.read_table(path, columns=[column])[column].combine_chunks(), frame.geometry.bounds
        assert (boxes.field("xmin").to_numpy() <= bounds["minx"]).all()
        assert (boxes.field("ymax").to_numpy() >= bounds["maxy"]).all()


@needs_adbc
def test_every_file_of_a_combined_version_is_a_layer_to_gdal(listed: Listed) -> None:
    for info, path in listed:
        frame = by_gdal(path)
        assert len(frame) == info.rows
        assert frame.crs.to_authority() == ("OGC", "CRS84")
        expected = geopandas.read_parquet(path, columns=["geometry"])
        assert sorted(frame.geometry.to_wkb()) == sorted(expected.geometry.to_wkb())


def test_every_file_of_a_combined_version_is_a_layer_to_ogrinfo(listed: Listed) -> None:
    if not shutil.which("ogrinfo") or "Parquet" not in ogrinfo("--formats"):
        pytest.skip("there is no ogrinfo with a Parquet driver")
    for info, path in listed:
        told = ogrinfo("-ro", "-al", str(path))
        assert f"Feature Count: {info.rows}\n" in told
        assert told.count("OGRFeature(") == told.count("POLYGON (") == info.rows
        assert 'ID["OGC","CRS84"]]' in told


def test_the_readers_of_stac_geoparquet_take_every_items_file_of_a_combined_version(listed: Listed) -> None:
    found = dict[str, Any]()
    for info, path in listed:
        if info.role == "items":
            items = list(stac_geoparquet.arrow.stac_table_to_items(pq.read_table(path)))
            assert len(items) == info.rows
            found |= {item["properties"][f"{OWN}key"]: item for item in items}
    assert len(found) == 5
    for key, item in found.items():
        assert key == f"{item['collection']}/{item['id']}"
        assert item["type"] == "Feature" and item["assets"] and item["geometry"]["type"] == "Polygon"
        assert all(asset["href"] for asset in item["assets"].values())
