"""Real items with the real pixels that lie beside them put under their hrefs."""

from __future__ import annotations

import copy
import json
from pathlib import Path, PurePosixPath
from typing import Any

from tests.data import ITEMS, RASTERS
from tests.items import COG, Item

SENTINEL2_FOLDER = RASTERS / "sentinel-2-l2a" / "es-v1_S2A_29RKH_20200219"
LANDSAT = {
    "LC08_L2SP_005009_20150710_20200908_02_T2": "usgs_v070_LC08_L2SP_005009_20150710_SR",
    "LC08_L2SP_008059_20191201_20200825_02_T1": "usgs_v070_LC08_L2SP_008059_20191201_SR",
    "LC08_L2SR_099120_20191129_20201016_02_T2": "usgs_v070_LC08_L2SR_099120_20191129_SR_3031",
}


def load_item(name: str) -> Item:
    """An item's JSON, by its path below the items' folder, without ending."""
    item: Item = json.loads((ITEMS / f"{name}.json").read_text(encoding="utf-8"))
    return item


def with_files(item: Item, files: dict[str, Path]) -> Item:
    """Copy of an item whose assets of those keys are local files."""
    result = copy.deepcopy(item)
    for key, path in files.items():
        assert path.is_file(), path
        result["assets"][key]["href"] = str(path)
    return result


def sentinel2_scene() -> tuple[Item, dict[str, Path]]:
    """Earth Search's item of 29RKH and its files at a tenth of the size, by the item's keys: 10 bands and SCL."""
    item = load_item("sentinel-2-l2a/es-v1_S2A_29RKH_20200219")
    files = {
        key: SENTINEL2_FOLDER / name
        for key, asset in item["assets"].items()
        if (name := PurePosixPath(asset["href"]).name) and (SENTINEL2_FOLDER / name).is_file()
    }
    return with_files(item, files), files


def landsat_scene(product: str) -> tuple[Item, dict[str, Path]]:
    """A USGS item of STAC 0.7.0 and its files, by the item's keys."""
    item = load_item(f"landsat-c2-l2/{LANDSAT[product]}")
    folder = RASTERS / "landsat-c2-l2" / product
    files = {path.name: path for path in sorted(folder.iterdir()) if path.name in item["assets"]}
    return with_files(item, files), files


def item_of(files: dict[str, Path], **properties: Any) -> Item:
    """A minimal item of files that have none: no projection fields, a collection that nobody described."""
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": next(iter(files.values())).stem,
        "collection": "undescribed",
        "geometry": {"type": "Point", "coordinates": [0.0, 0.0]},
        "properties": {"datetime": "2020-01-01T00:00:00Z", **properties},
        "assets": {
            key: {"href": str(path), "type": "image/jp2" if path.suffix == ".jp2" else COG, "roles": ["data"]}
            for key, path in files.items()
        },
        "links": [],
    }
