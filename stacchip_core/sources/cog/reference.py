"""A raster to open, and what its header says."""

from __future__ import annotations

import os
from dataclasses import dataclass

from stacchip_core.sources.access import DEFAULT_STORAGE, Storage, unsigned_href
from stacchip_core.sources.gate import Gate
from stacchip_core.sources.identity import UNKNOWN, FileIdentity
from stacchip_core.sources.raster import Grid

# No listing, no sidecars, bounded waits. Sources: GDAL's "Configuration options", cogeo.org's developers guide.
_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    # Forget answers with the file: GDAL else repeats an old 503, or a replaced file's pixels; one HEAD more per open.
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/",
}

# Decoded blocks that GDAL keeps while we read: a row of 1024 px blocks of four Sentinel-2 scenes. Its own default is a
# twentieth of the machine's memory, in each process; the environment variable GDAL_CACHEMAX goes first.
_CACHE_BYTES = 512 * 2**20
# The same where a file is read by strips of its blocks: no block is asked for again, but for its mask.
_CACHE_BYTES_BY_BLOCKS = 64 * 2**20


@dataclass(frozen=True, slots=True)
class RasterRef:
    """A raster to open, and whose it is (for messages).

    `nodata` is the value that its profile gives for "no measurement"; None: the header's. `layers` is how many layers
    its profile names: an alpha layer among these is a measurement (near infrared in a file written as RGBA). `host` is
    the `host:port` that its item was read from, if any: it may be read too, whatever its address.
    `by_blocks` says that it will be read from top to bottom, in strips of whole blocks. `indexed` is what was known of
    the file when its item was indexed: one that is otherwise now is not opened.
    """

    href: str
    item_id: str
    asset: str
    media_type: str | None = None
    storage: Storage = DEFAULT_STORAGE
    local_roots: tuple[str, ...] = ()
    nodata: float | None = None
    layers: int = 0
    host: str = ""
    by_blocks: bool = False
    indexed: FileIdentity = UNKNOWN

    def __str__(self) -> str:
        """How messages name it; never with a signature."""
        return f"item {self.item_id}: asset {self.asset!r} ({unsigned_href(self.href)})"

    @property
    def gate(self) -> Gate:
        """The hosts that may be asked for it."""
        return self.storage.gate(self.host)

    def gdal_options(self) -> dict[str, str | int]:
        """GDAL's configuration while it is open."""
        size = _CACHE_BYTES_BY_BLOCKS if self.by_blocks else _CACHE_BYTES
        cache = {} if "GDAL_CACHEMAX" in os.environ else {"GDAL_CACHEMAX": size}
        return {**_OPTIONS, **cache, **self.storage.gdal_options()}


@dataclass(frozen=True, slots=True)
class Header:
    """What a raster says of itself; `grid` is None where it has no transform, or no CRS that lies on the Earth."""

    grid: Grid | None
    height: int
    width: int
    layers: int
    dtype: str
    nodata: float | None
    block_shape: tuple[int, int]
