"""Area files: chips that meet their shapes, whatever form and CRS; what is no area is refused by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow.dataset as ds
import pytest
import shapely

from stacchip_core import SpecError, materialize
from stacchip_core.chips.area import load_area
from stacchip_core.chips.conditions import conditions
from stacchip_core.chips.drawing import draw
from tests.chip_rows import COLLECTIONS, ROWS, TABLE, spec
from tests.warehouses import made, scenes
from tests.warehouses import spec as warehouse_spec

SHAPES = [shapely.Point(10, 45).buffer(20), shapely.box(170, -20, 180, 20), shapely.Point(-60, 0).buffer(15)]


def written(path: Path, crs: str = "OGC:CRS84") -> str:
    frame = gpd.GeoDataFrame(geometry=SHAPES, crs="OGC:CRS84").to_crs(crs)
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_file(path)
    return str(path)


@pytest.mark.parametrize("name", ["a.geojson", "a.gpkg", "a.shp", "a.fgb", "a.parquet"])
def test_chips_are_those_that_geopandas_finds(tmp_path: Path, name: str) -> None:
    wanted = spec(area=written(tmp_path / name))
    area = load_area(wanted.area or "")
    found = draw(ds.dataset(TABLE), conditions(wanted, COLLECTIONS, TABLE.schema, area), wanted, area)
    chips = gpd.GeoDataFrame(
        {"chip_id": [row["chip_id"] for row in ROWS]}, geometry=[row["shape"] for row in ROWS], crs="OGC:CRS84"
    )
    shapes = gpd.GeoDataFrame(geometry=SHAPES, crs="OGC:CRS84")
    meeting = set(gpd.sjoin(chips, shapes, predicate="intersects")["chip_id"])
    expected = {chip for chip in meeting if f"/{wanted.grid}/" in chip}
    assert set(found["chip_id"].to_pylist()) == expected
    assert len(expected) > 10


def test_shapes_come_to_degrees_and_the_file_is_pinned(tmp_path: Path) -> None:
    path = Path(written(tmp_path / "a.gpkg", "EPSG:3857"))
    area = load_area(str(path))
    assert shapely.hausdorff_distance(area.shape, shapely.union_all(SHAPES)) < 1e-6
    assert area.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_points_and_lines_are_areas_too(tmp_path: Path) -> None:
    path = tmp_path / "points.geojson"
    gpd.GeoDataFrame(geometry=[shapely.centroid(ROWS[0]["shape"])], crs="OGC:CRS84").to_file(path)
    assert shapely.intersects(load_area(str(path)).shape, ROWS[0]["shape"])


def refused(path: Path, content: str | bytes, message: str) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SpecError, match=f"area: .*{message}"):
        load_area(str(path))


def test_what_is_no_area_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"area: there is no file 'none.geojson'; a relative path starts in"):
        load_area("none.geojson")
    for url in ("http://example.com/a.geojson", "/vsicurl/http://example.com/a.geojson", str(tmp_path)):
        with pytest.raises(SpecError, match="area: there is no file"):
            load_area(url)
    refused(tmp_path / "a.geojson", "no shapes", "a.geojson holds no shapes that geopandas opens")
    refused(tmp_path / "b.parquet", b"PAR1", "b.parquet holds no shapes that geopandas opens")
    refused(
        tmp_path / "c.geojson", json.dumps({"type": "FeatureCollection", "features": []}), "c.geojson holds no shapes"
    )
    vrt = (
        "<OGRVRTDataSource><OGRVRTLayer name='a'><SrcDataSource>/etc/x</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>"
    )
    refused(tmp_path / "d.geojson", f"\n {vrt}", "d.geojson is XML; take GeoJSON")
    refused(tmp_path / "d2.geojson", b"\xef\xbb\xbf" + vrt.encode(), "is XML")
    far = {"type": "Polygon", "coordinates": [[[200, 0], [210, 0], [210, 9], [200, 0]]]}
    refused(tmp_path / "e.geojson", json.dumps(far), r"reach from 200, 0 to 210, 9; expected degrees")


def test_a_file_without_a_crs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.shp"
    with pytest.warns(UserWarning, match="crs"):
        gpd.GeoDataFrame(geometry=SHAPES[:1]).to_file(path)
    with pytest.raises(SpecError, match=r"a.shp does not say its CRS; write it with one"):
        load_area(str(path))


def test_a_dataset_knows_the_area_file_that_it_was_made_by(tmp_path: Path) -> None:
    warehouse = made(tmp_path / "pixels", tmp_path / "warehouse", scenes(tmp_path / "pixels")[:1])
    path = tmp_path / "area.geojson"
    west, south, east, north = warehouse.combined("global").items(["bbox"])["bbox"][0].as_py().values()
    wanted = warehouse_spec(name="fields", area=str(path))
    gpd.GeoDataFrame(geometry=[shapely.box(west, south, east, north)], crs="OGC:CRS84").to_file(path)
    lock = materialize(warehouse, wanted).lock
    assert lock.area_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert materialize(warehouse, wanted).lock == lock
    gpd.GeoDataFrame(geometry=[shapely.box(west, south, west + 0.01, north)], crs="OGC:CRS84").to_file(path)
    with pytest.raises(SpecError, match=r"the area file '.*area.geojson' has changed since the dataset of that name"):
        materialize(warehouse, wanted)
    path.unlink()
    assert materialize(warehouse, wanted).lock == lock, "the dataset itself is there"


def test_coordinates_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    gpd.GeoDataFrame(geometry=[shapely.Point(np.nan, 1), shapely.Point(1, 1)], crs="OGC:CRS84").to_parquet(path)
    with pytest.raises(SpecError, match=r"area: a\.parquet has coordinates that are no numbers"):
        load_area(str(path))
