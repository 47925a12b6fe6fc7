"""Sources with an area file: the items found are those that geopandas finds to meet its shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely

from stacchip_core.sources.source import Source
from tests.catalogs import ids, item, write

HOLE = shapely.Point(20, 40).buffer(8).difference(shapely.Point(20, 40).buffer(5))
SHAPES = [HOLE, shapely.box(-75, -10, -60, 5), shapely.LineString([(100, -30), (150, 20)]), shapely.Point(30.2, 41.1)]
FORMS = [
    ("a.geojson", "OGC:CRS84"),
    *((name, crs) for name in ("a.gpkg", "a.fgb", "a.parquet") for crs in ("OGC:CRS84", "EPSG:3857")),
]
ITEMS = 120


def footprints() -> list[Any]:
    """Turned squares of one to six degrees, many of them about the shapes."""
    chance, found = np.random.default_rng(7), []
    for number in range(ITEMS):
        near = SHAPES[number % len(SHAPES)].centroid
        x, y = chance.normal((near.x, near.y), 12) if number % 3 else chance.uniform((-170, -70), (170, 70))
        square = shapely.box(x, y, x + chance.uniform(1, 6), y + chance.uniform(1, 6))
        found.append(shapely.affinity.rotate(square, chance.uniform(0, 90)))
    return found


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, ...], gpd.GeoDataFrame]:
    """Item files, every tenth with a bbox alone, and what each covers."""
    folder, paths, covered = tmp_path_factory.mktemp("items"), [], []
    for number, shape in enumerate(footprints()):
        is_box = number % 10 == 0
        geometry = None if is_box else shapely.geometry.mapping(shape)
        whole = item(f"i{number:03d}", geometry=geometry, bbox=list(shape.bounds))
        paths.append(str(write(folder / f"{number:03d}.json", whole)))
        covered.append(shapely.box(*shape.bounds) if is_box else shape)
    frame = gpd.GeoDataFrame({"id": [f"i{n:03d}" for n in range(ITEMS)]}, geometry=covered, crs="OGC:CRS84")
    return tuple(paths), frame


@pytest.mark.parametrize(("name", "crs"), FORMS)
def test_the_items_are_those_that_geopandas_finds(
    tmp_path: Path, items: tuple[tuple[str, ...], gpd.GeoDataFrame], name: str, crs: str
) -> None:
    paths, covered = items
    area = gpd.GeoDataFrame(geometry=SHAPES, crs="OGC:CRS84").to_crs(crs)
    path = tmp_path / name
    area.to_parquet(path) if path.suffix == ".parquet" else area.to_file(path)
    expected = set(gpd.sjoin(covered, area.to_crs("OGC:CRS84"), predicate="intersects")["id"])
    assert set(ids(Source(items=paths, area=str(path)))) == expected
    assert ITEMS / 10 < len(expected) < ITEMS * 2 / 3
