"""What is said of chips beside their pixels: where and when each was taken, and what its layers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
from pyproj import Transformer

from stacchip_core.chips.shards import Pixels, ShardLabels
from stacchip_core.errors import InvalidItemError
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.sources.raster import Grid
from stacchip_core.sources.scene import Scene, SceneAsset

Nodata = Mapping[str, float | None]  # by band


def scene_key_of_rows(table: pa.Table) -> list[str]:
    """`<collection>/<item_id>` of each row."""
    pairs = zip(table["collection"].to_pylist(), table["item_id"].to_pylist(), strict=True)
    return [f"{collection}/{item_id}" for collection, item_id in pairs]


def labels_of(
    index: ChipIndex, arrays: Mapping[str, Pixels], nodata: Sequence[Nodata], *, split: str | None = None
) -> ShardLabels:
    """Labels of a shard.

    Args:
        index: its chips, in their order, all of one collection.
        arrays: their pixels, by band.
        nodata: per chip.
        split: of all of them.
    """
    table = index.table
    scenes = [index.scenes[key] for key in scene_key_of_rows(table)]
    cols, rows = (table[name].to_numpy().astype(np.float64) for name in ("col_off", "row_off"))
    size = table["size_px"][0].as_py()
    moments = table["datetime"].to_pylist()
    return ShardLabels(
        collection=scenes[0].collection,
        chip_ids=tuple(table["chip_id"].to_pylist()),
        crs=tuple(grid_of(scene).crs for scene in scenes),
        transforms=tuple(
            _moved(grid_of(scene), col, row)
            for scene, col, row in zip(scenes, cols.tolist(), rows.tolist(), strict=True)
        ),
        size_px=size,
        layers={band: _layer_names(scenes[0], band, pixels.shape[1]) for band, pixels in arrays.items()},
        nodata={band: tuple(of_chip.get(band) for of_chip in nodata) for band in arrays},
        datetimes=tuple(moment.isoformat(timespec="microseconds") for moment in moments),
        centres=_centres(scenes, cols + size / 2, rows + size / 2),
        split=split,
    )


def grid_of(scene: Scene) -> Grid:
    """The grid of an indexed scene."""
    if scene.grid is None:
        raise InvalidItemError(f"item {scene.item_id}: its scene in the index has no grid; index it again")
    return scene.grid


def _centres(scenes: Sequence[Scene], cols: Pixels, rows: Pixels) -> tuple[tuple[float, float], ...]:
    """Longitude and latitude of pixel corners, each of its own scene's grid; right across the antimeridian too."""
    found = np.empty((len(scenes), 2))
    numbers: dict[str, list[int]] = {}
    for number, scene in enumerate(scenes):
        numbers.setdefault(scene.key, []).append(number)
    for own in numbers.values():
        grid = grid_of(scenes[own[0]])
        x, y = grid.xy(cols[own], rows[own])
        found[own] = np.stack(_to_degrees(grid.crs).transform(x, y), axis=1)
    return tuple((lon, lat) for lon, lat in found.round(7).tolist())  # a centimetre


@lru_cache(maxsize=64)
def _to_degrees(crs: str) -> Transformer:
    return Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)


def _moved(grid: Grid, col: float, row: float) -> tuple[float, float, float, float, float, float]:
    """The transform of the part of a raster that starts at a pixel."""
    a, b, c, d, e, f = grid.transform
    return (a, b, float(a * col + b * row + c), d, e, float(d * col + e * row + f))


def _layer_names(scene: Scene, band: str, count: int) -> tuple[str, ...]:
    """Names of a band's layers: its own where there is one, else the asset's, else numbered."""
    asset: SceneAsset | None = scene.asset(band) if band in scene.band_names else None
    if count == 1:
        return (band,)
    if asset is not None and len(asset.layers) == count:
        return asset.layers
    return tuple(f"{band}-{number}" for number in range(1, count + 1))
