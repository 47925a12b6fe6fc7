"""Keys of a ChipSpec that don't go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stacchip_core.chips.where import check_where

if TYPE_CHECKING:
    from stacchip_core.chips.spec import ChipSpec


def first_disagreement(spec: ChipSpec) -> str | None:
    """The first problem among keys that are each well formed, in words; None where there is none."""
    return next(filter(None, (check(spec) for check in _CHECKS)), None)


def _mask_is_no_band(spec: ChipSpec) -> str | None:
    if spec.mask and any("mask" in choice.bands for choice in spec.bands):
        return "mask: a band of that name is asked for already; leave one of the two out"
    if spec.mask and spec.native:
        return "mask: needs all bands in pixels of one size; leave native out"
    return None


def _pixels_have_one_size(spec: ChipSpec) -> str | None:
    if spec.gsd is not None and spec.native:
        return "gsd: resamples every band to one pixel size, native leaves each its own; leave one of the two out"
    return None


def _type_holds_values(spec: ChipSpec) -> str | None:
    is_integer = spec.dtype is not None and not spec.dtype.startswith("float")
    if spec.radiometry == "reflectance" and is_integer:
        return f"dtype: {spec.dtype} can't hold reflectance, which runs from 0 to 1; take float32, or radiometry raw"
    if spec.fill is None or spec.dtype is None:
        return None
    if is_integer:
        limits = np.iinfo(spec.dtype)
        if not (spec.fill.is_integer() and limits.min <= spec.fill <= limits.max):
            return f"fill: {spec.fill:g} is no value of {spec.dtype}, which runs from {limits.min} to {limits.max}"
    elif abs(spec.fill) > float(np.finfo(spec.dtype).max):
        return f"fill: {spec.fill:g} is no value of {spec.dtype}"
    return None


def _swap_is_for_npz(spec: ChipSpec) -> str | None:
    if spec.clay_v1_swap and spec.format != "npz":
        return f"clay_v1_swap: is for format npz, found format {spec.format}"
    return None


def _random_chips_stand_apart(spec: ChipSpec) -> str | None:
    split = spec.split
    if split is not None and split.by == "chip" and spec.grid.stride < spec.size and not split.force:
        return (
            f"split: by 'chip' with stride {spec.grid.stride} under size {spec.size} puts halves of one picture into "
            "train and test; take by 'block', a stride of the chip size, or force: true"
        )
    return None


def _where_is_a_condition(spec: ChipSpec) -> str | None:
    if spec.where is not None:
        check_where(spec.where)
    return None


_CHECKS = (
    _random_chips_stand_apart,
    _where_is_a_condition,
    _mask_is_no_band,
    _pixels_have_one_size,
    _type_holds_values,
    _swap_is_for_npz,
)
