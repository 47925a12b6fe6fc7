"""The demo's scenes on disk: Cloud Optimized GeoTIFFs, their STAC items, and the static catalog around them.

<folder>/catalog.json
<folder>/<collection>/collection.json
<folder>/<collection>/<item id>/<item id>.json, <asset>.tif
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer

from stacchip_core.sources.raster import Grid

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
EXTENSIONS = "https://stac-extensions.github.io"
LICENCES = "The pixels are made up; do with them what you like."


@dataclass(frozen=True, slots=True)
class Asset:
    """One raster of a scene.

    Attributes:
        key: its name in the item, and its file's.
        pixels: (height, width) or (bands, height, width).
        grid: where they lie.
        nodata: value of the header, None for none.
        block: side of a tile.
        fields: what the item says of it besides href, type and roles.
    """

    key: str
    pixels: NDArray[Any]
    grid: Grid
    nodata: float | None = None
    block: int = 512
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Draft:
    """A scene before it is written; `grid` is what the footprint is drawn from."""

    item_id: str
    collection: str
    grid: Grid
    properties: Mapping[str, Any]
    assets: Sequence[Asset]


def shape_and_transform(grid: Grid) -> dict[str, Any]:
    """`proj:shape` and `proj:transform`."""
    return {"proj:shape": list(grid.shape), "proj:transform": list(grid.transform)}


def is_written(folder: Path, collection: str, item_id: str) -> bool:
    """Whether the scene is there, complete: its item is written last."""
    return _item_path(folder, collection, item_id).is_file()


def write_scene(folder: Path, draft: Draft) -> str:
    """Write a scene's rasters, then its item; returns the item's id."""
    path = _item_path(folder, draft.collection, draft.item_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    assets = {}
    for asset in draft.assets:
        _write_cog(path.parent / f"{asset.key}.tif", asset)
        assets[asset.key] = {"href": f"./{asset.key}.tif", "type": COG, "roles": ["data"], **asset.fields}
    geometry, bbox = _footprint(draft.grid)
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [f"{EXTENSIONS}/projection/v2.0.0/schema.json"],
        "id": draft.item_id,
        "collection": draft.collection,
        "geometry": geometry,
        "bbox": bbox,
        "properties": dict(draft.properties),
        "assets": assets,
        "links": [
            _link("root", "../../catalog.json"),
            _link("parent", "../collection.json"),
            _link("collection", "../collection.json"),
        ],
    }
    _write_json(path, item)
    return draft.item_id


def publish(folder: Path) -> Path:
    """Write the collections of all items in `folder` and the catalog above; returns catalog.json's path."""
    names = sorted({path.parent.parent.name for path in folder.glob("*/*/*.json")})
    for name in names:
        paths = sorted((folder / name).glob("*/*.json"))
        items = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        _write_json(folder / name / "collection.json", _collection(name, items))
    catalog = {
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": "stacchip-demo",
        "description": "Made-up scenes of four sensors over two places.",
        "links": [
            _link("root", "./catalog.json"),
            *(_link("child", f"./{name}/collection.json") for name in names),
        ],
    }
    return _write_json(folder / "catalog.json", catalog)


def _item_path(folder: Path, collection: str, item_id: str) -> Path:
    return folder / collection / item_id / f"{item_id}.json"


def _write_cog(path: Path, asset: Asset) -> None:
    """Write a Cloud Optimized GeoTIFF: deflate with predictor, overviews down to one tile."""
    bands = asset.pixels if asset.pixels.ndim == 3 else asset.pixels[np.newaxis]
    options = {
        "driver": "COG",
        "count": len(bands),
        "height": asset.grid.height,
        "width": asset.grid.width,
        "dtype": bands.dtype,
        "crs": asset.grid.crs,
        "transform": rasterio.Affine(*asset.grid.transform),
        "nodata": asset.nodata,
        "compress": "deflate",
        "level": 4,
        "predictor": "yes",
        "blocksize": asset.block,
        "overview_resampling": "nearest",
        "num_threads": 2,
    }
    with rasterio.open(path, "w", **options) as raster:
        raster.write(bands)


def _footprint(grid: Grid) -> tuple[dict[str, Any], list[float]]:
    """GeoJSON polygon and bbox of a grid's corners in WGS 84."""
    cols, rows = np.array([0, 0, grid.width, grid.width, 0]), np.array([0, grid.height, grid.height, 0, 0])
    to_wgs84 = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    lon, lat = (np.round(axis, 6) for axis in to_wgs84.transform(*grid.xy(cols, rows)))
    polygon = {"type": "Polygon", "coordinates": [np.stack([lon, lat], axis=1).tolist()]}
    return polygon, [float(edge) for edge in (lon.min(), lat.min(), lon.max(), lat.max())]


def _collection(name: str, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    boxes = np.array([item["bbox"] for item in items])
    bbox = [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
    times = sorted(item["properties"]["datetime"] for item in items)
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": name,
        "title": f"Demo {name}",
        "description": LICENCES,
        "license": "CC0-1.0",
        "extent": {"spatial": {"bbox": [bbox]}, "temporal": {"interval": [[times[0], times[-1]]]}},
        "links": [
            _link("root", "../catalog.json"),
            _link("parent", "../catalog.json"),
            *(_link("item", f"./{item['id']}/{item['id']}.json") for item in items),
        ],
    }


def _link(rel: str, href: str) -> dict[str, str]:
    kind = "application/geo+json" if rel == "item" else "application/json"
    return {"rel": rel, "href": href, "type": kind}


def _write_json(path: Path, value: Mapping[str, Any]) -> Path:
    """Write JSON so that nobody reads half of it."""
    draft = path.with_suffix(".json.new")
    draft.write_text(json.dumps(value, indent=1), encoding="utf-8")
    draft.replace(path)
    return path
