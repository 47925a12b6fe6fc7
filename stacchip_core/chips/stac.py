"""A dataset as a STAC item, so that it can be catalogued like its sources."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import shapely
from shapely.geometry.base import BaseGeometry

from stacchip_core.chips.measure import sides_px

if TYPE_CHECKING:
    from stacchip_core.chips.dataset import Dataset
    from stacchip_core.chips.lock import DatasetLock

STAC_VERSION = "1.1.0"
_EXTENSIONS = (
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/table/v1.2.0/schema.json",
)
_SHA256 = "1220"  # multihash: function 0x12, 32 bytes; https://github.com/multiformats/multicodec
_MOST_POINTS = 1000  # of a footprint; beyond, each part gives way to its hull, and then to its box
_PARQUET = "application/vnd.apache.parquet"  # IANA; what GeoParquet 1.1 recommends

Item = dict[str, Any]


def stac_item(dataset: Dataset) -> Item:
    """The item: footprint, times, bands, what it was made from, and its table of chips as a GeoParquet asset.

    Hrefs are relative to the dataset's folder, where the item belongs.
    """
    lock = dataset.lock
    geometry = footprint(list(shapely.from_wkb(dataset.chips["geometry"].to_numpy())))
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": list(_EXTENSIONS),
        "id": lock.name,
        "geometry": json.loads(shapely.to_geojson(geometry)),
        "bbox": geojson_bbox(geometry),
        "properties": {
            **_times(dataset),
            "title": f"Chips {lock.name}",
            "description": f"{len(dataset)} chips of {sides_px(lock, dataset.chips)} px, cut from {lock.index}.",
            "bands": _bands(lock.bands),
            "stacchip:index": str(lock.index),
            "stacchip:index_sha256": lock.index.sha256,
            "stacchip:spec_sha256": lock.spec_sha256,
            "stacchip:spec": lock.spec.model_dump(mode="json", exclude_defaults=True),
            "stacchip:radiometry": lock.radiometry,
            "stacchip:collections": sorted(lock.bands),
            "stacchip:chips": lock.chips,
            "stacchip:failures": lock.failures,
            "stacchip:libraries": dict(sorted(lock.libraries.items())),
        },
        "links": [],
        "assets": _assets(dataset),
    }


def is_item_of(content: bytes, lock: DatasetLock) -> bool:
    """Whether a stored item is that of a lock: each revision has a table of chips of its own."""
    try:
        found = json.loads(content)["assets"]["chips"]["file:checksum"]
    except (ValueError, LookupError, TypeError):
        return False
    return bool(found == _SHA256 + lock.chips_sha256)


def footprint(outlines: Sequence[BaseGeometry]) -> BaseGeometry:
    """The ground under some outlines: their union, in fewer points where there would be very many."""
    whole = shapely.union_all(outlines)
    if shapely.get_num_coordinates(whole) <= _MOST_POINTS:
        return whole
    hulls = shapely.union_all(shapely.convex_hull(shapely.get_parts(whole)))
    if shapely.get_num_coordinates(hulls) <= _MOST_POINTS:
        return hulls
    west, south, east, north = geojson_bbox(whole)
    if west <= east:
        return shapely.box(west, south, east, north)
    return shapely.MultiPolygon([shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)])


def geojson_bbox(geometry: BaseGeometry) -> list[float]:
    """West, south, east, north; west > east where it lies across the antimeridian (RFC 7946, 5.2)."""
    west, south, east, north = shapely.bounds(geometry).tolist()
    if west > -180 or east < 180:
        return [west, south, east, north]
    spans = sorted((part.bounds[0], part.bounds[2]) for part in shapely.get_parts(geometry))
    reach, gap = spans[0][1], (0.0, west, east)
    for start, stop in spans[1:]:
        gap = max(gap, (start - reach, start, reach))
        reach = max(reach, stop)
    return [gap[1], south, gap[2], north]


def _times(dataset: Dataset) -> Mapping[str, str | None]:
    """One time as `datetime`, several as a range, which leaves that null."""
    chips = dataset.chips
    first = pc.min(pc.coalesce(chips["start_datetime"], chips["datetime"])).as_py()
    last = pc.max(pc.coalesce(chips["end_datetime"], chips["datetime"])).as_py()
    texts = [f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}" for moment in (first, last)]
    if first == last:
        return {"datetime": texts[0]}
    return {"datetime": None, "start_datetime": texts[0], "end_datetime": texts[1]}


def _bands(bands: Mapping[str, tuple[str, ...]]) -> list[Mapping[str, object]]:
    """Each band once, with the collections that have it."""
    owners: dict[str, list[str]] = {}
    for collection, names in sorted(bands.items()):
        for name in names:
            owners.setdefault(name, []).append(collection)
    return [{"name": name, "description": f"of {', '.join(own)}"} for name, own in owners.items()]


def _assets(dataset: Dataset) -> Mapping[str, Item]:
    lock = dataset.lock
    sizes = dataset.sizes([lock.chips_key, "dataset.json"])
    columns = dataset.chips.schema
    chips = {
        "href": f"./{lock.chips_key}",
        "type": _PARQUET,
        "title": "Table of chips, GeoParquet",
        "roles": ["data", "index"],
        "file:size": sizes[lock.chips_key],
        "file:checksum": _SHA256 + lock.chips_sha256,
        "table:row_count": len(dataset) + dataset.failures.num_rows,
        "table:primary_geometry": "geometry",
        "table:columns": [{"name": field.name, "type": str(field.type)} for field in columns],
    }
    written = [shard for shard in lock.shards if shard.key is not None]
    shards = {
        f"shard-{shard.number:05d}": {
            "href": f"./{shard.key}",
            "title": f"Shard {shard.number}: {shard.chips} chips of {shard.collection}, {lock.spec.format}",
            "roles": ["data"],
            "bands": [{"name": name} for name in lock.bands[shard.collection]],
            "file:size": shard.size,
            "stacchip:sha256": shard.sha256,  # of one file, or of the listing of several, which is no file:checksum
        }
        for shard in written
    }
    lock_asset = {
        "href": "./dataset.json",
        "type": "application/json",
        "title": "Lock: what the dataset was made from, exactly",
        "roles": ["metadata"],
        "file:size": sizes["dataset.json"],
    }
    return {"chips": chips, "lock": lock_asset, **shards}
