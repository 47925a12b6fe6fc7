"""Labels: the centre of a chip is where its pixels are, on both sides of the antimeridian."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stacchip_core import Indexer
from stacchip_core.chips.labels import labels_of
from stacchip_core.sources.raster import Grid
from tests.scenes import sentinel2_scene


def test_centres_lie_in_their_chips_also_across_the_antimeridian(tmp_path: Path) -> None:
    grid = Grid("EPSG:32601", (10.0, 0.0, 180_800.0, 0.0, -10.0, 2_000_000.0), 384, 384)  # 180 degrees runs through
    item = sentinel2_scene(tmp_path, grid=grid)
    index = Indexer(item, chip_size=96, local_roots=[tmp_path]).create_index()
    pixels = np.zeros((len(index), 1, 96, 96), np.uint16)
    found = labels_of(index, {"red": pixels}, [{"red": 0.0}] * len(index), split="train")
    boxes = index.to_geopandas().geometry
    assert len({np.sign(lon) for lon, _ in found.centres}) == 2
    for (lon, lat), area in zip(found.centres, boxes, strict=True):
        west, south, east, north = area.bounds
        assert south < lat < north
        assert west < lon < east if east - west < 180 else abs(lon) > 179.9
    assert found.split == "train"
    assert found.datetimes == ("2024-06-15T10:30:31.024000+00:00",) * len(index)


def test_nodata_is_told_chip_by_chip(tmp_path: Path) -> None:
    index = Indexer(sentinel2_scene(tmp_path), chip_size=96, local_roots=[tmp_path]).create_index()
    index = replace(index, table=index.table.slice(0, 2))
    found = labels_of(index, {"red": np.zeros((2, 1, 96, 96))}, [{"red": 0.0}, {"red": None}])
    assert found.nodata == {"red": (0.0, None)}
    assert found.transforms[1] == pytest.approx(
        (10.0, 0.0, found.transforms[0][2] + 960, 0.0, -10.0, 4_900_020.0), rel=1
    )
