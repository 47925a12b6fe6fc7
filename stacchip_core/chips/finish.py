"""From bands as they are cut to bands as a spec wants them, and the mask that goes with them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stacchip_core.chips.files import BandFile
from stacchip_core.chips.radiometry import MASK, MASK_DTYPE, Radiometry
from stacchip_core.chips.shards import Pixels
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.sources.raster import Window
from stacchip_core.sources.scene import Scene


@dataclass(slots=True)
class Finish:
    """What becomes of the bands of one scene.

    Attributes:
        bands: how each is told.
        side: pixels of a side of the mask; None: there is none.
    """

    bands: Mapping[str, Radiometry]
    side: int | None
    _masks: dict[int, NDArray[np.uint8]] = field(default_factory=dict)  # packed, an eighth of the pixels
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, scene: Scene, files: Sequence[BandFile], spec: ChipSpec) -> Finish:
        """For the open files of a scene.

        Raises:
            InvalidItemError: reflectance is asked for, and nothing tells the item's offset.
            SpecError: the fill is no value of a band's type.
        """
        bands = {
            band: Radiometry.of(spec, scene, band, nodata=file.raster.nodata, dtype=pixel_type(file))
            for file in files
            for band in file.bands
        }
        return cls(bands, files[0].way.side(spec.size) if spec.mask else None)

    def validity(self, file: BandFile, inside: Window, shape: tuple[int, int], side: int) -> NDArray[np.bool_] | None:
        """What of a chip is measured, as far as its values don't tell: (side, side); None where they tell all.

        Pixels beyond the raster's edge are no measurements, nor what the file's own mask or alpha layer says is none.

        Args:
            file: that the chip was cut from.
            inside: its window, what of it is inside the raster.
            shape: of its pixels before they were padded.
            side: of the chip.
        """
        has_own = file.raster.has_own_mask
        if self._is_plain(file) or (shape == (side, side) and not has_own):
            return None
        valid = np.zeros((side, side), dtype=np.bool_)
        valid[: shape[0], : shape[1]] = True
        if has_own:
            own = file.way.read_valid(file.raster, file.way.source(inside))
            valid[: shape[0], : shape[1]] = file.way.take(own[None], inside)[0]
        return valid

    def apply(self, row: int, band: str, pixels: Pixels, valid: NDArray[np.bool_] | None) -> Pixels:
        """A band of the chip at a row as the spec wants it, from its pixels (layer, y, x) as stored.

        Raises:
            ReadError: the number type asked for can't hold a value.
        """
        radiometry = self.bands[band]
        if self.side is not None and (radiometry.is_measured or not self._has_measured):
            measured = np.logical_and.reduce(radiometry.is_valid(pixels), axis=0)
            self._add(row, np.asarray(measured if valid is None else measured & valid, np.bool_))
        return radiometry.apply(pixels, valid)

    def mask(self, row: int) -> Pixels | None:
        """The band "mask" of the chip at a row once all its bands were applied; None where the spec has none."""
        if self.side is None or row not in self._masks:
            return None
        bits = np.unpackbits(self._masks.pop(row), count=self.side**2)
        return bits.reshape(1, self.side, self.side).astype(MASK_DTYPE, copy=False)

    def _add(self, row: int, valid: NDArray[np.bool_]) -> None:
        packed = np.packbits(valid)
        with self._lock:  # files of a scene are read side by side
            known = self._masks.get(row)
            self._masks[row] = packed if known is None else known & packed

    @property
    def _has_measured(self) -> bool:
        return any(radiometry.is_measured for radiometry in self.bands.values())

    def _is_plain(self, file: BandFile) -> bool:
        return self.side is None and all(self.bands[band].is_plain for band in file.bands)


def pixel_type(file: BandFile) -> np.dtype[np.generic]:
    """Number type of a file's pixels once they are read."""
    name = file.raster.header.dtype
    return np.dtype("complex64" if "complex_" in name else name)


def bands_given(bands: Sequence[str], spec: ChipSpec) -> tuple[str, ...]:
    """Bands of a chip: those that are cut, and the mask."""
    return (*bands, MASK) if spec.mask else tuple(bands)
