"""Items of stac-geoparquet files: a row is an item, with its properties as columns, its geometry as WKB."""

from __future__ import annotations

import datetime as dt
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely.geometry import mapping

from stacchip_core.errors import ReadError

JSON = dict[str, Any]
SUFFIXES = (".parquet", ".geoparquet", ".gpq")
_ROWS = 500  # decoded at a time: some 15 MB of JSON
# The members of an item that are no properties (stac-geoparquet specification 1.1, "STAC GeoParquet Specification").
_MEMBERS = ("type", "stac_version", "stac_extensions", "id", "collection", "bbox", "geometry", "links", "assets")
_SIDES = ("xmin", "ymin", "zmin", "xmax", "ymax", "zmax")


def is_parquet(href: str) -> bool:
    """Whether an href names a Parquet file."""
    return href.partition("?")[0].lower().endswith(SUFFIXES)


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files in a folder and below it, in order; hidden ones and those of writers (_…) left out."""
    found = (path for path in folder.rglob("*") if is_parquet(path.name) and path.is_file())
    return sorted(path for path in found if not any(p.startswith((".", "_")) for p in path.relative_to(folder).parts))


def read_rows(file: str | bytes, name: str) -> Iterator[JSON]:
    """Items of a file, given by its path or its bytes.

    Raises:
        ReadError: no Parquet, or without the columns of items.
    """
    try:
        with pq.ParquetFile(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
            missing = [column for column in ("id", "geometry") if column not in opened.schema_arrow.names]
            if missing:
                raise ReadError(f"{name}: expected stac-geoparquet, found no column {missing[0]!r}")
            for batch in opened.iter_batches(_ROWS):
                yield from map(item_of, batch.to_pylist())
    except (pa.ArrowException, OSError) as err:
        raise ReadError(f"{name}: no readable Parquet file: {' '.join(str(err).split())[:200]}") from err


def item_of(row: Mapping[str, Any]) -> JSON:
    """The item in a row: null is what an item does not have, times are texts again."""
    item = {name: _plain(row[name]) for name in _MEMBERS if row.get(name) is not None and name != "geometry"}
    properties = {name: _plain(value) for name, value in row.items() if name not in _MEMBERS and value is not None}
    properties |= properties.pop("properties", {})
    item |= {"type": "Feature", "geometry": _geometry(row.get("geometry"))}
    item["properties"] = {"datetime": None, **properties}
    if isinstance(item.get("bbox"), dict):
        item["bbox"] = [item["bbox"][side] for side in _SIDES if side in item["bbox"]]
    return {"links": [], "assets": {}, **item}


def _geometry(wkb: object) -> JSON | None:
    try:
        return _plain(mapping(shapely.from_wkb(wkb))) if isinstance(wkb, bytes) else None
    except shapely.errors.ShapelyError:
        return None


def _plain(value: Any) -> Any:
    """JSON of a value; bytes are WKB, as of `proj:geometry`."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dt.date):
        return _time(value)
    is_no_number = isinstance(value, float) and not math.isfinite(value)
    return None if is_no_number else _geometry(value) if isinstance(value, bytes) else value


def _time(value: dt.date) -> str:
    if not isinstance(value, dt.datetime):
        return value.isoformat()
    moment = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
    return moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
