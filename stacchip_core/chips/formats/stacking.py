"""Bands one upon the other, for forms that hold a chip as one array."""

from __future__ import annotations

import numpy as np

from stacchip_core.chips.shards import Pixels, Shard, in_memory
from stacchip_core.errors import SpecError


def stacked(shard: Shard, form: str) -> Pixels:
    """All layers of all bands in their order, (chip, layer, y, x), in the smallest type that holds them all.

    Raises:
        SpecError: bands are not all of one shape; or their common type would not give every value back.
    """
    shapes = {band: rows.shape[2:] for band, rows in shard.arrays.items()}
    if len(set(shapes.values())) > 1:
        sizes = ", ".join(f"{band} {height} x {width}" for band, (height, width) in shapes.items())
        raise SpecError(
            f"format {form!r} holds all bands in one array, and they differ in size ({sizes}): leave native out, "
            "or take another format"
        )
    arrays = [in_memory(rows) for rows in shard.arrays.values()]
    common = np.result_type(*(pixels.dtype for pixels in arrays))
    if lossy := {str(pixels.dtype) for pixels in arrays if not np.can_cast(pixels.dtype, common, "safe")}:
        raise SpecError(f"format {form!r} holds all bands in one type, and none holds {', '.join(sorted(lossy))}")
    return np.concatenate(arrays, axis=1, dtype=common)
