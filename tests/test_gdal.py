"""GDAL opens a written index: by its ADBC driver and DuckDB's library, as wheels of GDAL carry no Parquet driver."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import geopandas
import pyogrio
import pytest

from stacchip_core import Indexer
from tests import scenes

needs_adbc = pytest.mark.skipif("ADBC" not in pyogrio.list_drivers(), reason="this GDAL was built without ADBC")


@needs_adbc
def test_gdal_opens_an_index_with_crs_and_geometry(tmp_path: Path) -> None:
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(600))
    index = Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index()
    index.write(tmp_path / "index.parquet")
    spec = importlib.util.find_spec("_duckdb")
    assert spec is not None
    pyogrio.set_gdal_config_options({"OGR_ADBC_AUTO_LOAD_DUCKDB_SPATIAL": "NO"})  # it would be looked for elsewhere
    frame = pyogrio.read_dataframe(f"ADBC:{tmp_path / 'index.parquet'}", ADBC_DRIVER=spec.origin)
    assert frame.crs.to_authority() == ("OGC", "CRS84")
    expected = geopandas.read_parquet(tmp_path / "index.parquet").set_index("chip_id")
    found = frame.set_index("chip_id").loc[expected.index]
    assert len(found) == 36
    assert found.geometry.geom_equals(expected.geometry).all()
    assert found["cloud_fraction"].fillna(-1).equals(expected["cloud_fraction"].fillna(-1))
