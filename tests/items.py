"""STAC items for synthetic scenes: grids, footprints, projection fields, static catalogs on disk."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from stacchip_core.sources.raster import Grid
from tests.rasters import Layout, patches, ramp, wedge, write_cog

Item = dict[str, Any]
Pixels = Mapping[str, NDArray[Any]]
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


@dataclass(frozen=True, slots=True)
class Raster:
    """One asset: its key, its pixels (bands, height, width), where they lie, what the item says of them."""

    key: str
    pixels: NDArray[Any]
    grid: Grid
    layout: Layout = field(default_factory=Layout)
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Header:
    """An item without its assets."""

    item_id: str
    collection: str
    grid: Grid
    properties: Mapping[str, Any]


def utm_grid(size: int, gsd: float = 10.0, *, width: int | None = None, epsg: int = 32632) -> Grid:
    """Grid of `size` rows and `width` columns (the same unless given) near 9° E, 47° N in UTM zone 32 N."""
    return Grid(f"EPSG:{epsg}", (gsd, 0.0, 500_040.0, 0.0, -gsd, 5_200_020.0), size, width or size)


def coarser(grid: Grid, ratio: int) -> Grid:
    """Grid of a band whose pixels cover `ratio` x `ratio` of `grid`, the last reaching over its edges."""
    a, b, c, d, e, f = grid.transform
    transform = (a * ratio, b * ratio, c, d * ratio, e * ratio, f)
    return Grid(grid.crs, transform, -(-grid.height // ratio), -(-grid.width // ratio))


def shape_and_transform(grid: Grid) -> dict[str, Any]:
    """`proj:shape` and `proj:transform`."""
    return {"proj:shape": list(grid.shape), "proj:transform": list(grid.transform)}


def footprint(grid: Grid) -> tuple[dict[str, Any], list[float]]:
    """GeoJSON polygon and bbox of a grid's corners in WGS 84."""
    cols, rows = np.array([0, 0, grid.width, grid.width, 0]), np.array([0, grid.height, grid.height, 0, 0])
    to_wgs84 = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    lon, lat = to_wgs84.transform(*grid.xy(cols, rows))
    ring = [[round(float(x), 7), round(float(y), 7)] for x, y in zip(lon, lat, strict=True)]
    bbox = [float(v) for v in (min(lon), min(lat), max(lon), max(lat))]
    return {"type": "Polygon", "coordinates": [ring]}, bbox


def band(key: str, grid: Grid, seed: int, nodata_share: float, fields: Mapping[str, Any]) -> Raster:
    """A uint16 band of a pattern, 0 where nothing was measured."""
    values = np.where(wedge(grid.shape, nodata_share), 0, ramp(grid.shape, seed=seed)).astype(np.uint16)
    return Raster(key, values, grid, Layout(nodata=0.0), fields)


def qa_patches(grid: Grid, values: list[int], fill: int, seed: int, nodata_share: float) -> NDArray[np.int64]:
    """Patches of QA values, `fill` where nothing was measured; shape (height, width)."""
    return np.where(wedge(grid.shape, nodata_share), fill, patches(grid.shape, values, seed=seed))


def raster_bands(data_type: str, nodata: int | None, gsd: int, **more: float) -> dict[str, Any]:
    """The raster extension's `raster:bands` of a single band."""
    said = {} if nodata is None else {"nodata": nodata}
    return {"raster:bands": [{**said, "data_type": data_type, "spatial_resolution": gsd, **more}]}


def on_asset(raster: Raster) -> Raster:
    """The same raster with its shape and transform in the asset's fields."""
    fields = {**raster.fields, **shape_and_transform(raster.grid)}
    return Raster(raster.key, raster.pixels, raster.grid, raster.layout, fields)


def replaced(rasters: list[Raster], pixels: Pixels | None) -> list[Raster]:
    """The rasters with the pixels of some of them given by the test."""
    given = pixels or {}
    assert set(given) <= {r.key for r in rasters}, f"no such asset: {set(given) - {r.key for r in rasters}}"
    return [Raster(r.key, given.get(r.key, r.pixels), r.grid, r.layout, r.fields) for r in rasters]


def write_scene(folder: Path, header: Header, rasters: Sequence[Raster]) -> Item:
    """Write rasters to `folder/<item id>/<key>.tif` and return the item, hrefs absolute.

    A thumbnail and a metadata asset without a file belong to every item: nothing may try to read them.
    """
    home = folder / header.item_id
    assets: dict[str, Any] = {
        "thumbnail": {"href": str(home / "thumbnail.jpg"), "type": "image/jpeg", "roles": ["thumbnail"]},
        "metadata": {"href": str(home / "metadata.xml"), "type": "application/xml", "roles": ["metadata"]},
    }
    for raster in rasters:
        path = write_cog(home / f"{raster.key}.tif", raster.pixels, raster.grid, layout=raster.layout)
        assets[raster.key] = {"href": str(path), "type": COG, "roles": ["data"], **raster.fields}
    geometry, bbox = footprint(header.grid)
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
        "id": header.item_id,
        "collection": header.collection,
        "geometry": geometry,
        "bbox": bbox,
        "properties": dict(header.properties),
        "assets": assets,
        "links": [],
    }


def write_item(folder: Path, item: Item) -> Path:
    """Write `folder/<id>.json`, its asset hrefs relative to that file; returns the path."""
    relative = copy.deepcopy(item)
    for asset in relative["assets"].values():
        asset["href"] = os.path.relpath(asset["href"], folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{item['id']}.json"
    path.write_text(json.dumps(relative), encoding="utf-8")
    return path


def write_catalog(folder: Path, items: Sequence[Item]) -> Path:
    """Write a static catalog of `items`, a folder per collection id; returns the path of catalog.json."""
    collections = sorted({item["collection"] for item in items})
    for name in collections:
        members = [item for item in items if item["collection"] == name]
        paths = [write_item(folder / name, item) for item in members]
        _write_json(folder / name / "collection.json", _collection(name, members, paths))
    links = [_link("child", f"./{name}/collection.json") for name in collections]
    catalog = {"type": "Catalog", "stac_version": "1.1.0", "id": "test", "description": "Synthetic scenes"}
    return _write_json(folder / "catalog.json", {**catalog, "links": [_link("root", "./catalog.json"), *links]})


def _collection(name: str, items: Sequence[Item], paths: Sequence[Path]) -> dict[str, Any]:
    west, south, east, north = np.array([item["bbox"] for item in items]).T
    times = [t for item in items for key in ("datetime", "start_datetime", "end_datetime")
             if (t := item["properties"].get(key))]  # fmt: skip
    bbox = [float(west.min()), float(south.min()), float(east.max()), float(north.max())]
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": name,
        "description": f"Synthetic {name}",
        "license": "other",
        "extent": {"spatial": {"bbox": [bbox]}, "temporal": {"interval": [[min(times), max(times)]]}},
        "links": [_link("root", "../catalog.json"), *(_link("item", f"./{path.name}") for path in paths)],
    }


def _link(rel: str, href: str) -> dict[str, str]:
    return {"rel": rel, "href": href, "type": "application/json"}


def _write_json(path: Path, value: dict[str, Any]) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path
