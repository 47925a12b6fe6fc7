"""STAC items as stac-geoparquet: a row an item, its properties and assets as columns (version 1.0.0 of its spec)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from stacchip_core.errors import InvalidItemError
from stacchip_core.index.schema import bbox_column
from stacchip_core.sources.item import parse_time
from stacchip_core.warehouse.combined.json_columns import column, common, fitted, storable

OWN = "stacchip:"  # what our own columns begin with
_TOP = ("type", "stac_version", "stac_extensions", "id", "geometry", "bbox", "links", "assets", "collection")
_TIMES = (
    "datetime",
    "start_datetime",
    "end_datetime",
    "created",
    "updated",
    "expires",
    "published",
    "unpublished",
)
_TIME = pa.timestamp("us", tz="UTC")
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_BBOX = pa.struct([(side, pa.float64()) for side in _SIDES])
_LINKS = pa.list_(pa.struct([("href", pa.string()), ("rel", pa.string())]))
_OUTLINE = "proj:geometry"
# The bounds of each geometry, float32, rounded outward. The items' own boxes can't be the covering that GeoParquet
# knows: many are rounded inward, and those across the antimeridian have their west in the east.
_COVERING = f"{OWN}covering"
_JSON = dict[str, Any]


def stac_table(items: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Items as rows; whatever an item holds, it gets one.

    Left out are members that STAC does not name, properties with the name of one that it does, and what is no time in
    a property that is one. A box is that of the item without heights; where it has none, that of its geometry.
    """
    shapes = _shapes([item.get("geometry") for item in items])
    columns = {
        "type": pa.repeat(pa.scalar("Feature"), len(items)),
        "stac_version": _texts(items, "stac_version"),
        "stac_extensions": fitted(column([_listed(item, "stac_extensions") for item in items]), pa.list_(pa.string())),
        "id": _texts(items, "id"),
        "geometry": pa.array(shapely.to_wkb(shapes, flavor="iso"), pa.binary()),
        "bbox": _boxes(items, shapes),
        "links": _links(items),
        "assets": column([_assets(item) for item in items]),
        "collection": _texts(items, "collection"),
        **_properties([_members(item, "properties") for item in items]),
        _COVERING: _covering(shapes),
    }
    return pa.table(columns)


def stac_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """One schema for the tables of several files: every column that is not null throughout, our own last."""
    kinds: dict[str, pa.DataType] = {}
    for field in (field for schema in schemas for field in schema):
        kinds[field.name] = common(kinds[field.name], field.type) if field.name in kinds else field.type
    kinds = {name: storable(kind) for name, kind in kinds.items()}
    ordered = sorted(kinds, key=lambda name: (name.startswith(OWN), name not in _TOP))
    return pa.schema([(name, kinds[name]) for name in ordered if not pa.types.is_null(kinds[name])])


def with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in a schema of `stac_schema`: null where it has no such column."""
    columns = [
        pa.chunked_array([fitted(chunk, field.type) for chunk in table[field.name].chunks], field.type)
        if field.name in table.schema.names
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def with_stac_footer(schema: pa.Schema) -> pa.Schema:
    """The schema with the footer entries of GeoParquet 1.1 and of stac-geoparquet."""
    geometry: _JSON = {
        "encoding": "WKB",
        "geometry_types": [],
        "crs": CRS("OGC:CRS84").to_json_dict(),
        "covering": {"bbox": {side: [_COVERING, side] for side in _SIDES}},
    }
    columns: dict[str, _JSON] = {"geometry": geometry}
    if _OUTLINE in schema.names:
        columns[_OUTLINE] = {"encoding": "WKB", "geometry_types": [], "crs": None}  # each row in a CRS of its own
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": columns}
    return schema.with_metadata({"geo": json.dumps(geo), "stac-geoparquet": json.dumps({"version": "1.0.0"})})


def _properties(properties: Sequence[Mapping[str, Any]]) -> dict[str, pa.Array]:
    names = dict.fromkeys(["datetime", *(name for one in properties for name in one)])
    return {
        name: _property(name, [one.get(name) for one in properties])
        for name in names
        if name and name not in _TOP and not name.startswith(OWN) and name.isprintable()
    }


def _property(name: str, values: Sequence[Any]) -> pa.Array:
    if name in _TIMES:
        return pa.array([_time(value) for value in values], _TIME)
    if name == _OUTLINE:
        return pa.array(shapely.to_wkb(_shapes(values), flavor="iso"), pa.binary())
    return column(values)


def _time(value: object) -> object:
    try:
        return parse_time(value, "datetime")
    except InvalidItemError:
        return None


def _shapes(geometries: Iterable[Any]) -> NDArray[np.object_]:
    """GeoJSON as geometries; None for what is none."""
    texts = [json.dumps(one) if isinstance(one, Mapping) else None for one in geometries]
    return np.asarray(shapely.from_geojson(np.array(texts, dtype=object), on_invalid="ignore"), dtype=object)


def _boxes(items: Sequence[Mapping[str, Any]], shapes: NDArray[np.object_]) -> pa.Array:
    boxes = shapely.bounds(shapes)
    for place, item in enumerate(items):
        sides = item.get("bbox")
        if isinstance(sides, list) and len(sides) in (4, 6) and all(isinstance(side, int | float) for side in sides):
            boxes[place] = (*sides[:2], *sides[len(sides) // 2 :][:2])
    is_null = np.isnan(boxes).any(axis=1)
    return pa.StructArray.from_arrays([pa.array(side) for side in boxes.T], fields=list(_BBOX), mask=pa.array(is_null))


def _covering(shapes: NDArray[np.object_]) -> pa.Array:
    boxes = bbox_column(shapes)
    is_null = pa.array(np.isnan(shapely.bounds(shapes)).any(axis=1))
    return pa.StructArray.from_arrays(boxes.flatten(), fields=list(boxes.type), mask=is_null)


def _assets(item: Mapping[str, Any]) -> _JSON:
    """Assets by key, the outline of one in WKB as the spec has it."""
    return {key: _asset(asset) for key, asset in _members(item, "assets").items()}


def _asset(asset: Any) -> Any:
    if not isinstance(asset, Mapping) or _OUTLINE not in asset:
        return asset
    (outline,) = shapely.to_wkb(_shapes([asset[_OUTLINE]]), flavor="iso")
    return {**asset, _OUTLINE: outline}


def _links(items: Sequence[Mapping[str, Any]]) -> pa.Array:
    links = column([_listed(item, "links") for item in items])
    return fitted(links, storable(common(links.type, _LINKS))) if len(items) else links


def _texts(items: Sequence[Mapping[str, Any]], name: str) -> pa.Array:
    return fitted(column([item.get(name) for item in items]), pa.string())


def _members(item: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = item.get(name)
    return found if isinstance(found, Mapping) else {}


def _listed(item: Mapping[str, Any], name: str) -> list[Any]:
    found = item.get(name)
    return found if isinstance(found, list) else []
