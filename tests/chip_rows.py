"""Chip tables without pixels: random rows all over the world, for tests of filters and draws."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import shapely

from stacchip_core import ChipSpec
from stacchip_core.chips.conditions import conditions
from stacchip_core.chips.drawing import draw
from stacchip_core.index.schema import bbox_column, chip_schema

Row = dict[str, Any]
START = datetime(2024, 1, 1, tzinfo=UTC)
COLLECTIONS = ("sentinel-2-l2a", "sentinel-1-rtc", "modis-09a1")


def table_of(rows: list[Row]) -> pa.Table:
    """A chip table with the columns that selection looks at, and null in all others."""
    schema = chip_schema()
    shapes = np.array([row["shape"] for row in rows], dtype=object)
    columns = {
        "geometry": pa.array(shapely.to_wkb(shapes), pa.binary()),
        "bbox": bbox_column(shapes),
    }
    return pa.table(
        [columns.get(field.name, pa.array([row.get(field.name) for row in rows], field.type)) for field in schema],
        schema=schema,
    )


def random_rows(count: int, seed: int = 0) -> list[Row]:
    """Chips of three collections all over the world, some across the antimeridian, with and without fractions."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        collection = COLLECTIONS[n % 3]
        size = 256 if rng.random() < 0.8 else 512
        edge = "drop" if rng.random() < 0.9 else "pad"
        west, south = float(rng.uniform(-180, 180)), float(rng.uniform(-80, 79))
        moment = START + timedelta(hours=float(rng.uniform(0, 24 * 366)))
        is_radar, is_composite = collection == COLLECTIONS[1], collection == COLLECTIONS[2]
        fractions = [None if is_radar or rng.random() < 0.1 else float(np.float32(rng.choice([0, 0.2, rng.random()])))
                     for _ in range(4)]  # fmt: skip
        rows.append(
            {
                "chip_id": f"{collection}/item-{n // 30}/{size}-{size}-{edge}/{n}-0",
                "collection": collection,
                "item_id": f"item-{n // 30}",
                "datetime": moment,
                "start_datetime": moment - timedelta(days=4) if is_composite else None,
                "end_datetime": moment + timedelta(days=4) if is_composite else None,
                "size_px": size,
                "stride_px": size,
                "nodata_fraction": float(np.float32(rng.choice([0, rng.random()]))),
                **dict(
                    zip(
                        ("cloud_fraction", "shadow_fraction", "snow_fraction", "water_fraction"), fractions, strict=True
                    )
                ),
                "shape": outline(west, south),
            }
        )
    return rows


def outline(west: float, south: float) -> shapely.Geometry:
    """A diamond of 2 degrees, which fills half its box; in two parts where it crosses the antimeridian."""
    diamond = shapely.Polygon([(west + 1, south), (west + 2, south + 1), (west + 1, south + 2), (west, south + 1)])
    if west + 2 <= 180:
        return diamond
    east = shapely.intersection(diamond, shapely.box(180, -90, 360, 90))
    return shapely.union(
        shapely.intersection(diamond, shapely.box(-180, -90, 180, 90)),
        shapely.transform(east, lambda points: points - np.array([360.0, 0.0])),
    )


ROWS = random_rows(900)
TABLE = table_of(ROWS)


def spec(**values: Any) -> ChipSpec:
    return ChipSpec.load({"name": "fields", "index": "global", **values})


def drawn(table: pa.Table, wanted: ChipSpec) -> list[str]:
    found = draw(ds.dataset(table), conditions(wanted, wanted.collections or COLLECTIONS), wanted)
    assert found.schema == table.schema
    ids: list[str] = found["chip_id"].to_pylist()
    return ids
