"""Items that index in a millisecond: one small raster that all of them share, and a profile that reads no pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from affine import Affine

from stacchip_core.sources.profiles import CollectionProfile

JSON = dict[str, Any]
SIDE = 32
_PROFILE = """
name: tiny
collections: [tiny]
reference: data
bands:
  - {name: data, asset: data, kind: continuous, source: made up}
qa: {kind: none}
properties: [platform]
"""


TINY = CollectionProfile.model_validate(yaml.safe_load(_PROFILE))


def tiny_profile(folder: Path) -> Path:
    """A profile that serves the collection `tiny`."""
    path = folder / "tiny.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_PROFILE)
    return path


def tiny_raster(folder: Path) -> Path:
    """The raster that all items have in common."""
    path = folder / "data.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}
    shape: JSON = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", **shape, **place) as raster:
        raster.write(np.ones((1, SIDE, SIDE), np.uint8))
    return path


def tiny_item(name: str, *, when: str = "2024-05-01T10:00:00Z", href: str = "./data.tif", **properties: Any) -> JSON:
    """An item on the shared raster; what is None is left out of its properties."""
    given = {"datetime": when, "platform": "tiny-1", **properties}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": "tiny",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[9.0, 45.15], [9.005, 45.15], [9.005, 45.154], [9.0, 45.154], [9.0, 45.15]]],
        },
        "bbox": [9.0, 45.15, 9.005, 45.154],
        "properties": {
            **{key: value for key, value in given.items() if value is not None},
            "proj:epsg": 32632,
            "proj:shape": [SIDE, SIDE],
            "proj:transform": [10, 0, 500_000, 0, -10, 5_000_000],
        },
        "assets": {"data": {"href": href, "type": "image/tiff; application=geotiff", "roles": ["data"]}},
        "links": [],
    }
