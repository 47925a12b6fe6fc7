"""A profile for items of a collection that nobody described, made from the item itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stacchip_core.errors import InvalidItemError, UnsupportedGridError
from stacchip_core.sources.item import JSON, assets_of
from stacchip_core.sources.profiles import Band, CollectionProfile, profile_for
from stacchip_core.sources.projection import declared_grid

GENERIC = "generic"  # the name that such profiles go by

_RASTER_ENDINGS = (".tif", ".tiff", ".jp2")


def profile_of(item: JSON) -> CollectionProfile:
    """The built-in profile that serves an item's collection, else a generic one.

    Raises:
        InvalidItemError: the collection is unknown, and no asset can hold pixels.
    """
    collection = item.get("collection")
    known = profile_for(collection) if isinstance(collection, str) else None
    return known or generic_profile(item)


def generic_profile(item: JSON) -> CollectionProfile:
    """Profile for an item of a collection that nobody described: its data assets, nodata from the file's header.

    Raises:
        InvalidItemError: no asset can hold pixels.
    """
    roles_of = {key: _roles(asset) for key, asset in assets_of(item) if is_raster(asset)}
    rasters = {key: roles for key, roles in roles_of.items() if "virtual" not in roles}  # recipes, without a file
    by_merit = (
        [key for key, roles in rasters.items() if "data" in roles],
        [key for key, roles in rasters.items() if not roles & {"thumbnail", "overview", "metadata", "visual"}],
        [key for key, roles in rasters.items() if "visual" in roles],
    )
    keys = next((keys for keys in by_merit if keys), [])
    if not keys:
        types = sorted({str(asset.get("type") or "no media type") for _, asset in assets_of(item)})
        raise InvalidItemError(
            f"item {item['id']}: assets hold no GeoTIFF or JPEG 2000 with data; found {', '.join(types) or 'none'}"
        )
    finest = min(keys, key=lambda key: _pixel_size(item, key))
    bands = tuple(Band(name=key, asset=key) for key in keys)
    return CollectionProfile(name=GENERIC, reference=(finest,), bands=bands)


def _roles(asset: Mapping[str, Any]) -> set[str]:
    roles = asset.get("roles")
    return {role for role in roles if isinstance(role, str)} if isinstance(roles, list) else set()


def _pixel_size(item: JSON, key: str) -> float:
    try:
        grid = declared_grid(item["properties"], item["assets"][key])
    except UnsupportedGridError:
        return float("inf")
    return grid.gsd_m if grid else float("inf")


def is_raster(asset: Mapping[str, Any]) -> bool:
    """Whether an asset is a GeoTIFF or JPEG 2000, by its media type, else by its name."""
    media_type = str(asset.get("type") or "").lower()
    if media_type:
        return "tiff" in media_type or "jp2" in media_type
    path = re.split("[?#]", asset["href"], maxsplit=1)[0]
    return path.lower().endswith(_RASTER_ENDINGS)
