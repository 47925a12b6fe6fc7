"""Pictures of pixels."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from rasterio.io import MemoryFile


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG file of an image, shape (1, height, width) grey or (3, height, width) RGB."""
    count, height, width = image.shape
    with MemoryFile() as file:
        with file.open(driver="PNG", count=count, height=height, width=width, dtype="uint8") as dataset:
            dataset.write(image)
        return cast(bytes, file.read())
