"""How stored values of an asset become physical ones, and who says so: the item, its profile, or nobody."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stacchip_core.sources.item import JSON
from stacchip_core.sources.profiles import Band, CollectionProfile

# From processing baseline 04.00 on (25 January 2022), Sentinel-2 adds 1000 to every digital number (a BOA_ADD_OFFSET of
# -1000 takes it off again), so that dark pixels are not cut off at 0. Source: Sentinel-2 Products Specification
# Document (S2-PDGS-TAS-DI-PSD) 14.9, "Radiometric offset".
_BASELINE_WITH_OFFSET = 4.0
_ADDED_BY_BASELINE = 1000

UNKNOWN = "unknown"
AS_STORED = "as stored"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Physical value = stored value x scale + offset, and the rule that gave the two.

    Attributes:
        rule: what decided, as the lock tells it; starts with "unknown" where nothing tells the offset.
    """

    scale: float
    offset: float
    rule: str


def calibration_of(item: JSON, asset: JSON, band: Band, profile: CollectionProfile) -> Calibration:
    """Scale and offset of a band of an item.

    What the item says of the asset (`raster:bands`, or `raster:scale` and `raster:offset`) goes before what the profile
    says. Sentinel-2's offset has a rule of its own: see `_sentinel2`.

    Args:
        item: the STAC item.
        asset: one of its assets.
        band: the profile's entry for it.
        profile: of the item's collection.
    """
    if band.kind == "categorical":
        return Calibration(1.0, 0.0, f"{AS_STORED}: classes")
    scale, offset = _stated(asset, "scale"), _stated(asset, "offset")
    if profile.offset_rule == "sentinel-2":
        return _sentinel2(item, band.scale if scale is None else scale, offset)
    if scale is not None or offset is not None:
        scale, offset = 1.0 if scale is None else scale, 0.0 if offset is None else offset
        return Calibration(scale, offset, f"item's raster fields: scale {scale:g}, offset {offset:g}")
    if (band.scale, band.offset) == (1.0, 0.0):
        return Calibration(1.0, 0.0, f"{AS_STORED}: neither item nor profile gives scale or offset")
    return Calibration(band.scale, band.offset, f"profile {profile.name}: scale {band.scale:g}, offset {band.offset:g}")


def _sentinel2(item: JSON, scale: float, stated: float | None) -> Calibration:
    """Sentinel-2's offset, by the first that is there.

    1. `earthsearch:boa_offset_applied: true`: Earth Search took the offset out of the pixels, though its `raster:bands`
       go on to say -0.1.
    2. The offset that the item gives for the asset.
    3. The processing baseline.
    """
    properties = item["properties"]
    if properties.get("earthsearch:boa_offset_applied") is True:
        return Calibration(scale, 0.0, f"earthsearch:boa_offset_applied: scale {scale:g}, offset 0")
    if stated is not None:
        return Calibration(scale, stated, f"item's raster fields: scale {scale:g}, offset {stated:g}")
    text = properties.get("s2:processing_baseline") or properties.get("processing:version")
    baseline = _number(text)
    if baseline is None:
        return Calibration(scale, 0.0, f"{UNKNOWN}: no boa_offset_applied, raster:bands or processing baseline")
    offset = -_ADDED_BY_BASELINE * scale if baseline >= _BASELINE_WITH_OFFSET else 0.0
    return Calibration(scale, offset, f"processing baseline {text}: scale {scale:g}, offset {offset:g}")


def _stated(asset: JSON, name: str) -> float | None:
    """Scale or offset as the asset gives it for all its layers alike; None where it doesn't."""
    found = set(_values(asset, name))
    value = found.pop() if len(found) == 1 else None
    return None if name == "scale" and value == 0 else value  # 0 would flatten the picture: nobody's scale


def _values(asset: JSON, name: str) -> Iterator[float | None]:
    if f"raster:{name}" in asset:  # STAC 1.1, version 2 of the raster extension
        yield _number(asset[f"raster:{name}"])
        return
    for key, field in (("raster:bands", name), ("bands", f"raster:{name}")):
        bands = asset.get(key)
        for band in bands if isinstance(bands, list) else ():
            yield _number(band.get(field)) if isinstance(band, dict) else None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None
