"""From pixels as stored to pixels as a spec wants them: scaled, filled, of one number type, with a validity mask."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stacchip_core.chips.shards import Pixels
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.errors import InvalidItemError, ReadError, SpecError
from stacchip_core.sources.calibration import AS_STORED, UNKNOWN
from stacchip_core.sources.scene import Scene

MASK = "mask"  # name of the validity band
MASK_DTYPE = np.dtype(np.uint8)


@dataclass(frozen=True, slots=True)
class Radiometry:
    """What becomes of the stored values of one band of one scene.

    A value becomes value x scale + offset, computed in float64 and rounded once to `dtype`. Classes are never scaled
    nor filled.

    Attributes:
        name: of item and band, for messages.
        scale, offset: 1 and 0 leave values as stored.
        stored_nodata: what stands for "no measurement" in the file; None: nothing does. NaN always does in floats.
        nodata: what stands for it in the result.
        stored, dtype: number type of the file, and of the result.
        rule: what gave scale and offset, for the lock.
        is_measured: False for classes, which have no say in the mask.
        is_filled: whether the spec says what nodata becomes.
    """

    name: str
    scale: float
    offset: float
    stored_nodata: float | None
    nodata: float | None
    stored: np.dtype[np.generic]
    dtype: np.dtype[np.generic]
    rule: str
    is_measured: bool = True
    is_filled: bool = False

    @classmethod
    def of(
        cls, spec: ChipSpec, scene: Scene, band: str, *, nodata: float | None, dtype: np.dtype[np.generic]
    ) -> Radiometry:
        """How a spec wants a band of a scene.

        Args:
            spec: gives radiometry, dtype and fill.
            scene: gives scale and offset.
            band: of the scene.
            nodata: what stands for "no measurement" in the file, by its profile or its header.
            dtype: of the file.

        Raises:
            InvalidItemError: reflectance is asked for, and nothing tells the item's offset.
            SpecError: the fill is no value of the band's type.
        """
        asset = scene.asset(band)
        name = f"item {scene.item_id}, band {band!r}"
        is_measured = asset.kind == "continuous"
        is_physical = spec.radiometry == "reflectance" and is_measured
        scale, offset, rule = 1.0, 0.0, f"{AS_STORED}: radiometry raw"
        if is_physical:
            scale, offset, rule = asset.scale, asset.offset, _known_rule(asset.rule, name)
        wanted = np.dtype(spec.dtype or ("float32" if is_physical and dtype.kind in "iuf" else dtype))
        after = spec.fill if is_measured else None
        if after is None:
            after = math.nan if is_physical and wanted.kind == "f" else nodata
        if after is not None and after != nodata and not holds(wanted, after):
            raise SpecError(f"chip spec {spec.name!r}: fill {after:g} is no value of {name}: it is {wanted}")
        if after is not None and wanted != dtype and not holds(wanted, after):
            raise SpecError(
                f"chip spec {spec.name!r}: nodata {after:g} of {name} is no value of {wanted}; say another fill"
            )
        is_filled = is_physical or (is_measured and spec.fill is not None)
        return cls(name, scale, offset, nodata, after, dtype, wanted, rule, is_measured, is_filled)

    @property
    def is_plain(self) -> bool:
        """Whether pixels stay as they are stored."""
        return self.dtype == self.stored and (self.scale, self.offset) == (1.0, 0.0) and not self.is_filled

    def is_valid(self, pixels: Pixels) -> NDArray[np.bool_]:
        """Where stored pixels are measurements, in their shape."""
        valid = ~np.isnan(pixels) if pixels.dtype.kind in "fc" else np.ones(pixels.shape, dtype=bool)
        if (
            self.stored_nodata is not None
            and not math.isnan(self.stored_nodata)
            and holds(pixels.dtype, self.stored_nodata)
        ):
            valid &= pixels != pixels.dtype.type(self.stored_nodata)
        return valid

    def apply(self, pixels: Pixels, valid: NDArray[np.bool_] | None = None) -> Pixels:
        """Stored pixels, of any shape, as the spec wants them; themselves where nothing changes.

        Args:
            pixels: as stored, `stored_nodata` where nothing was measured.
            valid: False marks pixels that are no measurement whatever their value: by the file's own mask, or beyond
                its edge. Must broadcast to the shape of `pixels`.

        Raises:
            ReadError: the type asked for can't hold a value.
        """
        if self.is_plain:
            return pixels
        valid = self.is_valid(pixels) if valid is None else self.is_valid(pixels) & valid
        values = pixels
        if (self.scale, self.offset) != (1.0, 0.0):
            values = pixels.astype(np.float64) * self.scale + self.offset
        result = self._cast(values, valid)
        if self.nodata is not None and self.is_measured and not valid.all():
            result = np.where(valid, result, self.dtype.type(self.nodata))
        return result

    def _cast(self, values: Pixels, valid: NDArray[np.bool_]) -> Pixels:
        """Values in the type asked for; of those that are no measurement, only that they do no harm matters."""
        if values.dtype == self.dtype:
            return values
        is_checked = valid if self.is_measured else np.ones_like(valid)
        safe = np.where(is_checked, values, values.dtype.type(0))
        with np.errstate(all="ignore"):  # what does not fit is found below
            result: Pixels = safe.astype(self.dtype)
            fits = np.isfinite(result) | ~np.isfinite(safe) if self.dtype.kind == "f" else result == safe
        if not fits.all():
            raise ReadError(
                f"{self.name}: value {safe[~fits].flat[0]!s} is no value of {self.dtype}; ask for a wider dtype"
            )
        return result


def radiometry_rules(
    scenes: Iterable[Scene], bands: Mapping[str, tuple[str, ...]], spec: ChipSpec
) -> dict[str, tuple[str, ...]]:
    """By `<collection> <band>`, the distinct rules that give scale and offset of its items, for the lock."""
    found: dict[str, set[str]] = {}
    for scene in scenes if spec.radiometry != "raw" else ():
        for band in bands[scene.collection]:
            if band in scene.band_names:
                found.setdefault(f"{scene.collection} {band}", set()).add(scene.asset(band).rule)
    return {key: tuple(sorted(rules)) for key, rules in sorted(found.items())}


def check_radiometry(scenes: Iterable[Scene], bands: Mapping[str, tuple[str, ...]], spec: ChipSpec) -> None:
    """Refuse reflectance where no band of any scene can be told in physical units.

    Args:
        scenes: the chosen ones.
        bands: those to cut, by collection.
        spec: what is asked for.

    Raises:
        SpecError: no scale or offset is documented for any band.
    """
    if spec.radiometry == "raw":
        return
    named = {
        f"{scene.collection} {band}" for scene in scenes for band in bands[scene.collection] if _is_raw(scene, band)
    }
    others = {f"{scene.collection} {band}" for scene in scenes for band in bands[scene.collection]} - named
    if not others:
        raise SpecError(
            f"chip spec {spec.name!r}: radiometry reflectance, and neither items nor profiles say how "
            f"{', '.join(sorted(named))} is scaled; take radiometry raw, or a profile with scale and offset"
        )


def _is_raw(scene: Scene, band: str) -> bool:
    return band not in scene.band_names or scene.asset(band).rule.startswith(AS_STORED)


def _known_rule(rule: str, name: str) -> str:
    if not rule:
        raise InvalidItemError(f"{name}: indexed by a release that did not look for scale and offset; index it again")
    if rule.startswith(UNKNOWN):
        raise InvalidItemError(
            f"{name}: reflectance can't be told, its offset is {rule}; take radiometry raw, or a profile of your own "
            "with `offset_rule: stated`"
        )
    return rule


def holds(dtype: np.dtype[np.generic], value: float) -> bool:
    """Whether a type has a number, as near as floats have any."""
    if dtype.kind in "fc":
        return not math.isfinite(value) or abs(value) <= float(np.finfo(dtype.name).max)
    limits = np.iinfo(dtype.name)
    return math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max
