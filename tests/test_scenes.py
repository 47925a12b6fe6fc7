"""The synthetic scenes say what they hold: other tests take them for the truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio

from tests import scenes

BUILDERS: list[Callable[[Path], scenes.Item]] = [
    scenes.sentinel2_scene,
    scenes.landsat_l2_scene,
    scenes.landsat_l1_scene,
    scenes.sentinel1_scene,
    scenes.naip_scene,
    scenes.modis_scene,
    scenes.hls_scene,
    scenes.linz_scene,
]


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.__name__)
def test_headers_are_what_the_item_says(builder: Callable[[Path], scenes.Item], tmp_path: Path) -> None:
    item = builder(tmp_path)
    for key, asset in item["assets"].items():
        if not asset["href"].endswith(".tif"):
            continue
        fields = item["properties"] | asset
        with rasterio.open(asset["href"]) as raster:
            assert raster.block_shapes[0] == (256, 256)
            if "proj:shape" in fields:
                assert list(raster.shape) == fields["proj:shape"], key
                assert list(raster.transform)[:6] == pytest.approx(fields["proj:transform"])
            if "proj:code" in fields:
                assert raster.crs.to_string() == fields["proj:code"]


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.__name__)
def test_same_arguments_same_bytes(builder: Callable[[Path], scenes.Item], tmp_path: Path) -> None:
    one, two = builder(tmp_path / "one"), builder(tmp_path / "two")
    for asset, twin in zip(one["assets"].values(), two["assets"].values(), strict=True):
        if asset["href"].endswith(".tif"):
            assert Path(asset["href"]).read_bytes() == Path(twin["href"]).read_bytes()


def test_pan_lies_half_a_pan_pixel_inside(tmp_path: Path) -> None:
    item = scenes.landsat_l1_scene(tmp_path, grid=scenes.utm_grid(100, 30.0))
    with (
        rasterio.open(item["assets"]["red"]["href"]) as red,
        rasterio.open(item["assets"]["pan"]["href"]) as pan,
    ):
        assert pan.shape == (199, 199)
        assert np.subtract(pan.bounds, red.bounds) == pytest.approx([7.5, 7.5, -7.5, -7.5])


def test_catalog_can_be_walked_by_pystac(tmp_path: Path) -> None:
    items = [scenes.sentinel2_scene(tmp_path / "pixels"), scenes.naip_scene(tmp_path / "pixels")]
    catalog = pystac.Catalog.from_file(str(scenes.write_catalog(tmp_path / "catalog", items)))
    found = list(catalog.get_items(recursive=True))
    assert {item.id for item in found} == {item["id"] for item in items}
    for item in found:
        for asset in item.get_assets(media_type=pystac.MediaType.COG).values():
            assert Path(asset.get_absolute_href() or "").is_file()


def test_items_are_plain_json(tmp_path: Path) -> None:
    item = scenes.modis_scene(tmp_path)
    assert json.loads(json.dumps(item)) == item
