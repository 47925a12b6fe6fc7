"""Indexed items without rasters, made in bulk: Sentinel-2-sized ones, and small ones by the million."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.index.grid import GridSpec
from stacchip_core.index.schema import bbox_column, chip_schema, table_bounds
from stacchip_core.sources.profiles import Property
from stacchip_core.sources.scene import Scene
from stacchip_core.warehouse.batch import Indexed, write_batch
from stacchip_core.warehouse.combined.order import hilbert_order
from stacchip_core.warehouse.commit import commit
from stacchip_core.warehouse.data import columns_of, write_data
from stacchip_core.warehouse.entry import FileInfo, LogEntry, Totals
from stacchip_core.warehouse.items import ITEM_SCHEMA, ItemState, write_items
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.work import read_work

COLLECTION = "sentinel-2-l2a"
SIDE = 42  # chips along each side of a Sentinel-2 scene at 256 pixels
SMALL_ROWS = 20
_SCHEMA = chip_schema((Property(name="platform", type="text"), Property(name="eo:cloud_cover", type="number")))
_GROUP_ROWS = 50_000
Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]


def item_id(number: int) -> str:
    """Id of an item."""
    return f"S2B_{1 + number % 60:02d}TQM_{number:07d}_0_L2A"


def place(numbers: Numbers) -> tuple[Floats, Floats]:
    """Longitude and latitude of items, spread evenly over the globe between the polar circles."""
    lon = (numbers * 0.7548776662466927) % 1.0 * 358.0 - 179.0
    lat = np.degrees(np.arcsin(((numbers * 0.5698402909980532) % 1.0) * 1.8 - 0.9))
    return lon.astype(np.float64), lat.astype(np.float64)


def chips(numbers: Numbers, times: Sequence[datetime], side: tuple[int, int] = (SIDE, SIDE)) -> pa.Table:
    """Chip rows of items, `side[0] * side[1]` each, in the order of the items."""
    nx, ny = side
    count = nx * ny
    x, y = np.tile(np.tile(np.arange(nx), ny), len(numbers)), np.tile(np.repeat(np.arange(ny), nx), len(numbers))
    item = np.repeat(numbers, count)
    lon, lat = place(item)
    turn = np.radians(2.0 + item % 5)  # scenes are not parallel to the meridians: no two corners share a coordinate
    corners = np.stack(
        [_corner(lon, lat, x + dx, y + dy, turn) for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))], 1
    )
    shapes = np.asarray(shapely.polygons(corners), dtype=object)
    names = np.array([item_id(number) for number in numbers.tolist()], dtype=object)
    rng = np.random.default_rng(int(numbers[0]))
    cloud = np.where(rng.random(len(item)) < 0.5, 0.0, rng.random(len(item)))
    ids = [
        f"{COLLECTION}/{name}/256-256-drop/{a}-{b}"
        for name, a, b in zip(np.repeat(names, count).tolist(), x.tolist(), y.tolist(), strict=True)
    ]
    values: dict[str, Any] = {
        "chip_id": ids,
        "collection": [COLLECTION] * len(item),
        "item_id": np.repeat(names, count),
        "datetime": np.repeat(np.array([time.replace(tzinfo=None) for time in times], "datetime64[us]"), count),
        "chip_x": x,
        "chip_y": y,
        "col_off": x * 256,
        "row_off": y * 256,
        **{name: np.full(len(item), 256) for name in ("size_px", "stride_px", "valid_width", "valid_height")},
        "gsd_m": np.full(len(item), 10.0),
        "nodata_fraction": np.zeros(len(item)),
        "cloud_fraction": cloud,
        "shadow_fraction": cloud * 0.3,
        "water_fraction": 1 - cloud,
        "snow_fraction": np.zeros(len(item)),
        "grid_cell": [f"{a // 2}U{b // 2}R" for a, b in zip(x.tolist(), y.tolist(), strict=True)],
        "platform": ["sentinel-2b"] * len(item),
        "eo:cloud_cover": np.repeat(numbers % 100 * 1.0, count),
        "geometry": shapely.to_wkb(shapes),
    }
    columns = [_array(field, values, len(item)) for field in _SCHEMA if field.name != "bbox"]
    return pa.table([*columns, bbox_column(shapes)], schema=_SCHEMA)


def _corner(lon: Floats, lat: Floats, x: Numbers, y: Numbers, turn: Floats) -> Floats:
    east, south = x * 0.0234, y * 0.0234
    along, down = east * np.cos(turn) - south * np.sin(turn), east * np.sin(turn) + south * np.cos(turn)
    return np.stack([np.clip(lon + along / np.cos(np.radians(lat)), -180, 180), lat - down], -1)


def _array(field: pa.Field, values: dict[str, Any], rows: int) -> pa.Array:
    if field.name not in values:
        return pa.nulls(rows, field.type)
    array = pa.array(values[field.name])
    return array.cast(field.type) if pa.types.is_timestamp(field.type) else array.cast(field.type, safe=False)


def scene(number: int, time: datetime) -> Scene:
    """What is kept of an item."""
    return Scene(item_id(number), COLLECTION, time, None, None, "p", None, "red", (), None, {})


def item_json(number: int, time: datetime, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """A STAC item: a small one, or one with the assets and properties of a real one."""
    lon, lat = (float(one[0]) for one in place(np.array([number])))
    ring = [[lon, lat], [lon + 1, lat], [lon + 1, lat - 1], [lon, lat - 1], [lon, lat]]
    own = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": item_id(number),
        "collection": COLLECTION,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [lon, lat - 1, lon + 1, lat],
        "links": [],
    }
    small = {"properties": {}, "assets": {"red": {"href": f"{item_id(number)}/red.tif"}}}
    whole = {**(like or small), **own}
    return {**whole, "properties": {**whole["properties"], "datetime": time.isoformat()}}


def state(number: int, rows: int, form: str = "a") -> ItemState:
    """What a batch knows of an item that it has indexed."""
    return ItemState(
        key=f"{COLLECTION}/{item_id(number)}",
        item_id=item_id(number),
        fingerprint=form,
        updated=None,
        recipe="r",
        size_px=256,
        stride_px=256,
        edge="drop",
        op="add",
        stage=None,
        reason=None,
        is_transient=None,
        file=None,
        row_group=None,
        rows=rows,
    )


def index(
    store: Store,
    name: str,
    items: Sequence[tuple[int, datetime]],
    *,
    side: tuple[int, int] = (SIDE, SIDE),
    batch: int = 16,
    form: str = "a",
    like: dict[str, Any] | None = None,
) -> None:
    """Write items as runs do, in batches, a row group each, and commit them."""
    manifest, parts = Manifest.load(store, name), []
    for start in range(0, len(items), batch):
        done = []
        for number, time in items[start : start + batch]:
            table = chips(np.array([number]), [time], side)
            key = f"{COLLECTION}/{item_id(number)}"
            found = ChipIndex(table, {key: scene(number, time)}, (GridSpec(),))
            done.append(Indexed(state(number, len(table), form), item_json(number, time, like), found))
        parts.append(write_batch(store, name, done).part)
    commit(manifest, read_work(store, parts, read_version=manifest.version))


def index_in_bulk(store: Store, name: str, numbers: Numbers, month: datetime) -> None:
    """Write small items of a month, and commit them: like `index`, but many in a row group: minutes, not hours.

    The entry is made without the state of the collection, so no item may have been indexed before.
    """
    log = Log(store, f"collections/{name}")
    head = log.newest()
    numbers = numbers[np.argsort(hilbert_order(*place(numbers)))]  # else each row group would be read for each other
    times = [month + timedelta(hours=int(number) % 600) for number in numbers.tolist()]
    table = chips(numbers, times, (SMALL_ROWS // 4, 4))
    txn = str(uuid.uuid4())
    draft = FileInfo(
        f"collections/{name}/data/{txn}-0.parquet",
        "data",
        0,
        "",
        0,
        bbox=table_bounds([table]),
        collection=name,
        month=month.strftime("%Y-%m"),
        columns=columns_of(table.schema),
    )
    groups = (table.slice(start, _GROUP_ROWS) for start in range(0, len(table), _GROUP_ROWS))
    data = write_data(store, draft, groups)
    items = FileInfo(f"collections/{name}/items/{txn}.parquet", "items", 0, "", 0, collection=name)
    written = write_items(store, items, _item_rows(numbers, times, table, data.path))
    before = head.totals if head else Totals()
    log.append(
        LogEntry(
            version=head.version + 1 if head else 1,
            prev_sha256=head.sha256 if head else "",
            txn=txn,
            operation="append",
            read_version=head.version if head else 0,
            added=(data, written),
            collection=COLLECTION,
            totals=Totals(before.items + len(numbers), before.chips + len(table)),
        )
    )


def _item_rows(numbers: Numbers, times: Sequence[datetime], table: pa.Table, file: str) -> pa.Table:
    starts = np.arange(len(numbers)) * SMALL_ROWS
    boxes = table["bbox"].combine_chunks().flatten()
    low = [np.minimum.reduceat(side.to_numpy(), starts) for side in boxes[:2]]
    high = [np.maximum.reduceat(side.to_numpy(), starts) for side in boxes[2:]]
    box = ITEM_SCHEMA.field("bbox").type
    pairs = list(zip(numbers.tolist(), times, strict=True))
    ids = [item_id(number) for number in numbers.tolist()]
    values: dict[str, Any] = {
        "key": [f"{COLLECTION}/{one}" for one in ids],
        "item_id": ids,
        "item": [json.dumps(item_json(*pair)) for pair in pairs],
        "scene": [scene(*pair).to_json() for pair in pairs],
        "row_group": starts // _GROUP_ROWS,
        "offset": starts % _GROUP_ROWS,
        "datetime": times,
        "bbox": pa.StructArray.from_arrays(
            [pa.array(side).cast(pa.float64()) for side in (*low, *high)], fields=list(box)
        ),
    }
    one = {"fingerprint": "a", "recipe": "r", "size_px": 256, "stride_px": 256, "edge": "drop", "op": "add"}
    for name, value in {**one, "rows": SMALL_ROWS, "file": file, "profile": "p"}.items():
        values[name] = [value] * len(numbers)
    return pa.table(
        [
            pa.array(values[field.name], field.type) if field.name in values else pa.nulls(len(numbers), field.type)
            for field in ITEM_SCHEMA
        ],
        schema=ITEM_SCHEMA,
    )


def month_after(count: int) -> datetime:
    """The first of a month, `count` months after January 2022."""
    return datetime(2022 + count // 12, 1 + count % 12, 1, tzinfo=UTC)
