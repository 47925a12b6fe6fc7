"""Small static catalogs and item lists on disk, and what discovery finds in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stacchip_core.sources.catalog import discover
from stacchip_core.sources.item import StagedItem
from stacchip_core.sources.source import Source

JSON = dict[str, Any]


def item(name: str, *, collection: str = "sentinel-2-l2a", day: str = "2024-05-01", **more: Any) -> JSON:
    properties = {"datetime": f"{day}T10:00:00Z", **more.pop("properties", {})}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "geometry": None,
        "bbox": [10, 45, 11, 46],
        "properties": properties,
        "assets": {},
        "links": [],
        **more,
    }


def found(source: Source) -> list[StagedItem]:
    return [staged for page in discover(source) for staged in page]


def ids(source: Source) -> list[str]:
    return [staged.item["id"] for staged in found(source)]


def write(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def catalog_of(folder: Path, links: list[tuple[str, str]], name: str = "catalog.json", **more: Any) -> Path:
    document = {"type": "Catalog", "id": folder.name, "stac_version": "1.0.0", "description": "test", **more}
    document["links"] = [{"rel": rel, "href": href} for rel, href in links]
    return write(folder / name, document)


def small_tree(root: Path) -> Path:
    """Two collections below a catalog: `s2` with two items, `naip` with one."""
    catalog_of(
        root / "s2",
        [("item", "./a/a.json"), ("item", "b.json")],
        "collection.json",
        type="Collection",
        id="sentinel-2-l2a",
    )
    catalog_of(root / "naip", [("item", "c.json")], "collection.json", type="Collection", id="naip")
    write(root / "s2" / "a" / "a.json", item("a"))
    write(root / "s2" / "b.json", item("b", day="2024-06-01", bbox=[20, 45, 21, 46]))
    write(root / "naip" / "c.json", item("c", collection="naip"))
    return catalog_of(
        root, [("child", "./s2/collection.json"), ("child", "naip/collection.json"), ("root", "catalog.json")]
    )
