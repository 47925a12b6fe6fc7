"""Small warehouses of synthetic scenes, indexed and merged, to make datasets from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stacchip_core import Chipper, ChipSpec, Storage, Warehouse, select
from tests.scenes import Item, naip_scene, sentinel1_scene, sentinel2_scene, utm_grid

SIZE = 96
SPEC = {"name": "fields", "index": "global", "size": SIZE, "shard_size": 7, "seed": 5}
RGBN = [{"collection": "sentinel-2-l2a", "bands": ["red", "nir", "swir16", "coastal", "scl"]}]


def spec(**values: Any) -> ChipSpec:
    return ChipSpec.load({**SPEC, **values})


def scenes(folder: Path) -> list[Item]:
    """Two Sentinel-2 items (25 chips each), a radar item and an aerial one."""
    return [
        sentinel2_scene(folder),
        sentinel2_scene(folder, item_id="S2A_32TMT_20240620_0_L2A", when="2024-06-20T10:30:31Z", seed=9),
        sentinel1_scene(folder, grid=utm_grid(200)),
        naip_scene(folder, grid=utm_grid(200, 1.0, epsg=26914)),
    ]


def made(folder: Path, root: Path | str, items: list[Item] | None = None, storage: Storage | None = None) -> Warehouse:
    """A warehouse with all items indexed and merged."""
    warehouse = Warehouse(root, create=True, local_roots=[str(folder)], storage=storage)
    warehouse.index_items(scenes(folder) if items is None else items, chip_size=SIZE)
    warehouse.merge("global", collections=warehouse.collections())
    return warehouse


def listing(folder: Path | str) -> dict[str, tuple[int, int]]:
    """Every file, with its size and time."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def cut(warehouse: Warehouse, wanted: ChipSpec) -> dict[str, dict[str, Any]]:
    """The oracle: each chosen chip as the Chipper cuts it, by id."""
    index = select(warehouse, wanted)
    found = {}
    for row, chip in Chipper(index, native=wanted.native, resampling=wanted.resampling):
        bands = wanted.bands_of(row["collection"])
        found[row["chip_id"]] = {band: chip[band] for band in (bands or chip)}
    return found


def grow(warehouse: Warehouse, pixels: Path) -> None:
    """Add a third Sentinel-2 item, which makes the next version of the combined index."""
    item = sentinel2_scene(pixels, item_id="S2A_32TMT_20240625_0_L2A", when="2024-06-25T10:30:31Z", seed=11)
    warehouse.index_items([item], chip_size=SIZE)
    warehouse.merge("global", collections=warehouse.collections())
