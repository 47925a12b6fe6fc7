"""The chip table: columns, GeoParquet metadata, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from stacchip_core.errors import ProfileError
from stacchip_core.sources.profiles import Property, PropertyType

SCHEMA_VERSION = 1

_TIME = pa.timestamp("us", tz="UTC")
_BBOX = pa.struct([(side, pa.float32()) for side in ("xmin", "ymin", "xmax", "ymax")])
_PROPERTY_TYPES: dict[PropertyType, pa.DataType] = {
    "text": pa.string(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}

FRACTIONS = ("nodata_fraction", "cloud_fraction", "shadow_fraction", "snow_fraction", "water_fraction")

_BEFORE = [
    ("chip_id", pa.string()),
    ("collection", pa.string()),
    ("item_id", pa.string()),
    ("datetime", _TIME),
    ("start_datetime", _TIME),
    ("end_datetime", _TIME),
    *((name, pa.int32()) for name in ("chip_x", "chip_y", "col_off", "row_off", "size_px", "stride_px")),
    ("gsd_m", pa.float32()),
    ("valid_width", pa.int32()),
    ("valid_height", pa.int32()),
    *((name, pa.float32()) for name in FRACTIONS),
    ("grid_cell", pa.string()),
]
_AFTER = [("geometry", pa.binary()), ("bbox", _BBOX)]
_OWN = {name for name, _ in (*_BEFORE, *_AFTER)}


def chip_schema(properties: Iterable[Property] = ()) -> pa.Schema:
    """Columns of the chip table, with a profile's properties before the geometry.

    Raises:
        ProfileError: a property has the name of a column.
    """
    properties = tuple(properties)
    if taken := {prop.name for prop in properties} & _OWN:
        raise ProfileError(f"property {min(taken)!r} has the name of a column of the chip table; leave it out")
    carried = [(prop.name, _PROPERTY_TYPES[prop.type]) for prop in properties]
    return pa.schema([pa.field(name, kind) for name, kind in (*_BEFORE, *carried, *_AFTER)])


def property_names(schema: pa.Schema) -> list[str]:
    """Names of the carried properties in a chip table's schema, in order."""
    return [name for name in schema.names if name not in _OWN]


def unify(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One schema for tables of several profiles: every property that any of them carries."""
    carried: dict[str, pa.DataType] = {}
    for schema in schemas:
        carried |= {name: schema.field(name).type for name in property_names(schema) if name not in carried}
    return pa.schema([pa.field(name, kind) for name, kind in (*_BEFORE, *carried.items(), *_AFTER)])


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of `schema`, in its order: null where it has none."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.schema.names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def bbox_column(geometries: NDArray[np.object_]) -> pa.StructArray:
    """Covering boxes, float32, rounded outward so that they never lose a part of their geometry."""
    sides = shapely.bounds(geometries)
    rounded = sides.astype(np.float32)
    low, high = rounded[:, :2], rounded[:, 2:]
    low = np.where(low > sides[:, :2], np.nextafter(low, np.float32(-np.inf)), low)
    high = np.where(high < sides[:, 2:], np.nextafter(high, np.float32(np.inf)), high)
    arrays = [pa.array(column) for column in (low[:, 0], low[:, 1], high[:, 0], high[:, 1])]
    return pa.StructArray.from_arrays(arrays, fields=list(_BBOX))


def geo_metadata(bounds: Sequence[float] | None = None) -> bytes:
    """The GeoParquet 1.1 footer entry "geo": WKB in longitude and latitude, with bbox as its covering."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["MultiPolygon", "Polygon"],
        "crs": CRS("OGC:CRS84").to_json_dict(),
        "covering": {"bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}},
    }
    if bounds is not None:
        column["bbox"] = [float(side) for side in bounds]
    return json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}).encode()


def table_bounds(tables: Iterable[pa.Table]) -> tuple[float, float, float, float] | None:
    """(xmin, ymin, xmax, ymax) over the bbox columns of tables; None where they have no rows."""
    boxes = [table["bbox"].combine_chunks() for table in tables if len(table)]
    if not boxes:
        return None
    sides = {side: np.concatenate([box.field(side).to_numpy() for box in boxes]) for side in _BBOX.names}
    return (
        float(sides["xmin"].min()),
        float(sides["ymin"].min()),
        float(sides["xmax"].max()),
        float(sides["ymax"].max()),
    )


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """Parquet settings for chip tables: zstd; floats byte-stream-split without dictionary (a third smaller)."""
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    texts = [field.name for field in schema if pa.types.is_string(field.type) and field.name != "chip_id"]
    return {
        "compression": "zstd",
        "use_byte_stream_split": [*floats, *(f"bbox.{side}" for side in _BBOX.names)],
        "use_dictionary": [*texts, "datetime", "start_datetime", "end_datetime", "size_px", "stride_px"],
        "store_schema": True,
    }


def with_footer(schema: pa.Schema, bounds: Sequence[float] | None, extra: Mapping[str, str] | None = None) -> pa.Schema:
    """The schema with GeoParquet metadata, the schema version and `extra` entries for the file's footer."""
    entries = {"geo": geo_metadata(bounds), "stacchip:schema_version": str(SCHEMA_VERSION), **(extra or {})}
    return schema.with_metadata(entries)


def write_chips(
    tables: Sequence[pa.Table], where: Any, filesystem: Any = None, extra: Mapping[str, str] | None = None
) -> None:
    """Write chip tables of one schema as one GeoParquet file, each table a row group of its own.

    Args:
        tables: at least one; an empty table makes no row group.
        where: path or file object.
        filesystem: pyarrow filesystem that `where` is a path of.
        extra: further footer entries.
    """
    schema = with_footer(tables[0].schema, table_bounds(tables), extra)
    with pq.ParquetWriter(where, schema, filesystem=filesystem, **writer_options(schema)) as writer:
        for table in tables:
            if len(table):
                writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=len(table))
