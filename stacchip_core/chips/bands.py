"""Which bands are cut from which collection, and whether that can be done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from stacchip_core.chips.labels import grid_of
from stacchip_core.chips.radiometry import MASK
from stacchip_core.chips.spec import LARGEST_PX, ChipSpec
from stacchip_core.chips.ways import ratio_on, scale_to, scaled
from stacchip_core.errors import SpecError
from stacchip_core.sources.scene import Scene


def resolve_bands(scenes: Iterable[Scene], spec: ChipSpec) -> dict[str, tuple[str, ...]]:
    """Bands to cut, per collection: those asked for, or else all that every chosen scene has.

    Raises:
        SpecError: none were asked for, and the scenes have none in common.
    """
    common: dict[str, list[str]] = {}
    for scene in scenes:
        names = [asset.band for asset in scene.assets]
        known = common.setdefault(scene.collection, names)
        common[scene.collection] = [name for name in known if name in names]
    resolved = {name: spec.bands_of(name) or tuple(bands) for name, bands in sorted(common.items())}
    for name, bands in resolved.items():
        if spec.mask and MASK in bands:
            raise SpecError(
                f"chip spec {spec.name!r}: mask: {name} has a band of that name; name the bands you want, without it"
            )
        if not bands:
            raise SpecError(
                f"chip spec {spec.name!r}: the chosen scenes of {name} have no band in common; "
                "name the bands you want, and scenes that lack one become failures"
            )
    return resolved


def check_native(scenes: Iterable[Scene], bands: Mapping[str, tuple[str, ...]], spec: ChipSpec) -> None:
    """Refuse native pixels where chips don't start and end on whole pixels of a band, as far as items tell.

    Raises:
        SpecError: names the band and the nearest chip sizes; or the format holds bands of one size only.
    """
    for scene in scenes if spec.native else ():
        downs = {band: _pixels_below(scene, band) for band in bands[scene.collection]}
        step = math.lcm(*downs.values())
        for band, down in downs.items():
            if spec.grid.size % down or spec.grid.stride % down:
                near = {spec.size // step * step, -(-spec.size // step) * step} - {0}
                raise SpecError(
                    f"chip spec {spec.name!r}: native pixels need chip size and stride to be whole pixels of every "
                    f"band; {scene.collection} has {band!r} with {down} pixels of the grid in one of its own, and "
                    f"size {spec.grid.size}, stride {spec.grid.stride} are asked for: "
                    f"take {' or '.join(map(str, sorted(near)))}, or leave native out"
                )
        _check_form(scene.collection, downs, spec)


def check_gsd(scenes: Iterable[Scene], bands: Mapping[str, tuple[str, ...]], spec: ChipSpec) -> None:
    """Refuse a pixel size of which chips would not be whole numbers, or that nobody said how to resample to.

    Raises:
        SpecError: names the item, its pixels and what would do.
    """
    for scene in scenes if spec.gsd is not None else ():
        grid, gsd = grid_of(scene), spec.gsd or 1.0
        scale = scale_to(grid, gsd)
        if (spec.grid.size * scale).denominator > 1 or (spec.grid.stride * scale).denominator > 1:
            raise SpecError(
                f"chip spec {spec.name!r}: gsd {gsd:g} m: chips of {spec.grid.size} pixels of {grid.gsd_m:g} m, "
                f"{spec.grid.stride} apart (item {scene.item_id}), are no whole numbers of such pixels; take a gsd "
                "that divides them, or leave it out"
            )
        if (side := spec.grid.size * scale) > LARGEST_PX:
            raise SpecError(
                f"chip spec {spec.name!r}: gsd {gsd:g} m makes chips of {side} pixels a side; {LARGEST_PX} are the most"
            )
        for band in (name for name in bands[scene.collection] if name in scene.band_names):
            asset = scene.asset(band)
            is_exact = spec.resampling_of(asset.kind) is None
            if is_exact and asset.grid and ratio_on(scaled(grid, scale), scene, asset, asset.grid) is None:
                raise SpecError(
                    f"chip spec {spec.name!r}: gsd {gsd:g} m: pixels of {asset.grid.gsd_m:g} m of band {band!r} (item "
                    f"{scene.item_id}) don't line up with it by a whole ratio, so nearest could not be exact; name "
                    "another resampling (resampling_classes for masks), or take another gsd"
                )


def scenes_lacking(scenes: Mapping[str, Scene], bands: tuple[str, ...]) -> dict[str, str]:
    """Scene key -> which of the bands it has not."""
    lacking = {}
    for key, scene in scenes.items():
        missing = [band for band in bands if band not in scene.band_names]
        if missing:
            lacking[key] = (
                f"item {scene.item_id}: no band {', '.join(map(repr, missing))}; it has {', '.join(scene.band_names)}"
            )
    return lacking


def _check_form(collection: str, downs: Mapping[str, int], spec: ChipSpec) -> None:
    if spec.format in ("npz", "geotiff") and len(set(downs.values())) > 1:
        raise SpecError(
            f"chip spec {spec.name!r}: format {spec.format!r} holds all bands of a chip in one array, and the native "
            f"pixels of {collection} differ in size ({', '.join(downs)}); leave native out, or take another format"
        )


def _pixels_below(scene: Scene, band: str) -> int:
    """Pixels of the reference grid along one pixel of a band; 1 where the item does not tell."""
    grid = scene.asset(band).grid if band in scene.band_names else None
    ratio = scene.grid.ratio_of(grid) if scene.grid is not None and grid is not None else None
    return ratio.down if ratio is not None else 1
