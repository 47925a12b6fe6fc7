"""A folder of many small items that share one raster, of which some are broken, each in its own way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stacchip_core.sources.profiles import parse_profile
from tests.items import Item, utm_grid
from tests.rasters import Layout, write_cog

SIDE = 16  # pixels of a scene, and of its one chip
GRID = utm_grid(SIDE)
# Cause -> what is done to the item's raster, or to the item's file.
WAYS = ("not-found", "truncated", "not-a-raster", "grid", "bad-json")


# Its pixels are read: the header's mask decides nodata. Given as a profile, it is not made anew for each item.
PROFILE = parse_profile(
    {
        "name": "tiny",
        "collections": ["tiny"],
        "bands": [{"name": "data", "asset": "data", "nodata": 0}],
        "reference": ["data"],
        "qa": {"kind": "nodata"},
    },
    "tiny",
)


def tiny_item(number: int, href: str = "whole.tif", **properties: Any) -> Item:
    """An item on `GRID`."""
    west, north = 9.0 + number % 100 / 1000, 46.0
    ring = [[west, north], [west + 0.01, north], [west + 0.01, north - 0.01], [west, north - 0.01], [west, north]]
    fields = {"proj:code": GRID.crs, "proj:shape": list(GRID.shape), "proj:transform": list(GRID.transform)}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"tiny-{number:05d}",
        "collection": "tiny",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, north - 0.01, west + 0.01, north],
        "links": [],
        "properties": {"datetime": f"2024-06-{1 + number % 28:02d}T10:00:00Z", **fields, **properties},
        "assets": {"data": {"href": href, "type": "image/tiff; application=geotiff", "roles": ["data"]}},
    }


@dataclass(frozen=True, slots=True)
class Folder:
    """Items and rasters in a folder; `broken` says which item is broken in which way."""

    path: Path
    broken: Mapping[int, str]

    @classmethod
    def made(cls, path: Path, count: int, broken: Mapping[int, str]) -> Folder:
        """`count` items, `broken` as told."""
        path.mkdir(parents=True, exist_ok=True)
        write_cog(path / "whole.tif", raster(), GRID, layout=Layout(nodata=0, block=16, has_overviews=False))
        folder = cls(path, dict(broken))
        for number in range(count):
            own = number in broken and broken[number] != "bad-json"
            folder.write(number, tiny_item(number, f"own-{number}.tif" if own else "whole.tif"))
        for number, way in broken.items():
            folder.break_(number, way)
        return folder

    @property
    def paths(self) -> list[Path]:
        """The items' files."""
        return sorted(self.path.glob("*.json"))

    def item_path(self, number: int) -> Path:
        """An item's file."""
        return self.path / f"tiny-{number:05d}.json"

    def write(self, number: int, item: Item) -> None:
        """Write an item's file."""
        self.item_path(number).write_text(json.dumps(item))

    def break_(self, number: int, way: str) -> None:
        """Break an item."""
        whole, own = (self.path / "whole.tif").read_bytes(), self.path / f"own-{number}.tif"
        match way:
            case "not-found":
                own.unlink(missing_ok=True)
            case "truncated":
                own.write_bytes(whole[: len(whole) - 40])
            case "not-a-raster":
                own.write_text("<html><body>Service unavailable</body></html>")
            case "grid":
                write_cog(own, raster(24), utm_grid(24), layout=Layout(nodata=0, block=16, has_overviews=False))
            case "bad-json":
                text = self.item_path(number).read_text()
                self.item_path(number).write_text(text[: len(text) // 2])

    def mend(self, number: int) -> None:
        """Mend an item, whatever its trouble."""
        if self.broken[number] == "bad-json":
            self.write(number, tiny_item(number))
        else:
            (self.path / f"own-{number}.tif").write_bytes((self.path / "whole.tif").read_bytes())


def raster(side: int = SIDE) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Pixels that don't compress, so that a file cut short lacks some."""
    pixels = np.random.default_rng(1).integers(1, 60_000, (side, side)).astype(np.uint16)
    pixels[0, 0] = 0
    return pixels
