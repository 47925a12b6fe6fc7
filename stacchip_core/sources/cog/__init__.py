"""The only door to rasterio: open a raster safely, read its header, pixels and mask."""

from __future__ import annotations

import warnings

from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning

from stacchip_core.sources.cog.opening import gdal_version, open_raster, read_header, read_identity
from stacchip_core.sources.cog.pictures import encode_png
from stacchip_core.sources.cog.reading import CLASS_RESAMPLINGS, RESAMPLINGS, Raster, check_resampling
from stacchip_core.sources.cog.reference import Header, RasterRef
from stacchip_core.sources.ranges import HEADER_BYTES, Range
from stacchip_core.sources.remote import Traffic

# No warning per file: a missing grid is told by the header, and of nodata and alpha the former counts, here as in GDAL.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
warnings.filterwarnings("ignore", category=NodataShadowWarning)

__all__ = [
    "CLASS_RESAMPLINGS",
    "HEADER_BYTES",
    "RESAMPLINGS",
    "Header",
    "Range",
    "Raster",
    "RasterRef",
    "Traffic",
    "check_resampling",
    "encode_png",
    "gdal_version",
    "open_raster",
    "read_header",
    "read_identity",
]
