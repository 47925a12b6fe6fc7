"""The only door to rasterio: open a raster safely, read its header, pixels and mask."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlsplit

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from stacchip_core.errors import HrefRefusedError, InputError, ReadError, TransientReadError
from stacchip_core.sources.access import DEFAULT_STORAGE, Storage, is_remote, locate, unsigned_href
from stacchip_core.sources.raster import Grid, Window, canonical_crs

# A raster without georeferencing is told by its header (grid None), not by a warning per file.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

# One block is decoded whole, whatever window is asked for: a 29 984 px deflate tile cost 947 MiB for 10 x 40 pixels.
MAX_BLOCK_BYTES = 256 * 2**20

# GDAL configuration for cloud optimized files: no directory listing, no sidecar files, the header in one request,
# bounded waits. Sources: GDAL "Configuration options", cogeo.org developers guide.
_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif,.tiff,.TIF,.TIFF,.jp2,.JP2",
}

# What GDAL says when the network or the server, not the file, was at fault.
_TRANSIENT = re.compile(
    r"(?:response_code|HTTP response code)\D{0,5}(?:408|429|5\d\d)|timed? ?out|Couldn't connect|Could not connect"
    r"|Could not resolve|Connection (?:reset|refused)|Recv failure|Empty reply",
    re.IGNORECASE,
)

RESAMPLINGS = tuple(method.name for method in Resampling if method.name != "gauss")


@dataclass(frozen=True, slots=True)
class RasterRef:
    """A raster to open, and whose it is (for messages)."""

    href: str
    item_id: str
    asset: str
    media_type: str | None = None
    storage: Storage = DEFAULT_STORAGE
    local_roots: tuple[str, ...] = ()

    def __str__(self) -> str:
        """How messages name it; never with a signature."""
        return f"item {self.item_id}: asset {self.asset!r} ({unsigned_href(self.href)})"


@dataclass(frozen=True, slots=True)
class Header:
    """What a raster says of itself; `grid` is None where it has no CRS or transform."""

    grid: Grid | None
    height: int
    width: int
    layers: int
    dtype: str
    nodata: float | None
    block_shape: tuple[int, int]


class Raster:
    """An open raster. Not for use by two threads at once."""

    def __init__(self, ref: RasterRef, dataset: Any) -> None:
        """Take over an open dataset; use `open_raster`."""
        self.ref = ref
        self.header = _header(dataset)
        self._dataset = dataset
        self._warped: dict[tuple[Grid, str], Any] = {}
        self._options = {**_OPTIONS, **ref.storage.gdal_options()}

    def __enter__(self) -> Raster:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file; reading afterwards fails."""
        for warped in self._warped.values():
            warped.close()
        self._dataset.close()

    def read(self, window: Window, layers: Sequence[int] | None = None) -> NDArray[Any]:
        """Pixels of a window that lies inside the raster, shape (layers, height, width); layers count from 1."""
        with self._translated():
            return cast(NDArray[Any], self._dataset.read(layers, window=_window(window)))

    def read_valid(self, window: Window) -> NDArray[np.bool_]:
        """Where GDAL's dataset mask (nodata, alpha, mask band) says measured; shape (height, width)."""
        with self._translated():
            return cast(NDArray[np.bool_], self._dataset.dataset_mask(window=_window(window)) != 0)

    def read_on(self, grid: Grid, window: Window, resampling: str, layers: Sequence[int] | None = None) -> NDArray[Any]:
        """Pixels resampled to a window of another grid, shape (layers, height, width); outside: nodata or 0."""
        with self._translated():
            return cast(NDArray[Any], self._on(grid, resampling).read(layers, window=_window(window)))

    def read_valid_on(self, grid: Grid, window: Window, resampling: str) -> NDArray[np.bool_]:
        """The mask that goes with `read_on`, shape (height, width)."""
        with self._translated():
            return cast(NDArray[np.bool_], self._on(grid, resampling).dataset_mask(window=_window(window)) != 0)

    def _on(self, grid: Grid, resampling: str) -> Any:
        key = (grid, resampling)
        if key not in self._warped:
            self._warped[key] = WarpedVRT(
                self._dataset,
                crs=grid.crs,
                transform=rasterio.Affine(*grid.transform),
                width=grid.width,
                height=grid.height,
                resampling=Resampling[resampling],
                tolerance=0,
                add_alpha=self.header.nodata is None and not _has_alpha(self._dataset),
            )
        return self._warped[key]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with rasterio.Env(**self._options), _errors_of(self.ref):
            yield


def open_raster(ref: RasterRef) -> Raster:
    """Open a GeoTIFF (or, by media type or name, a JPEG 2000).

    Only those two drivers are tried: others read local files or call other hosts for whoever names a file .tif.

    Raises:
        HrefRefusedError: the href may not be read.
        ReadError: missing, truncated, not a raster, or made of blocks too large to decode; TransientReadError where the
            network was at fault.
    """
    try:
        path = _gdal_path(locate(ref.href, ref.local_roots))
    except HrefRefusedError as err:
        raise HrefRefusedError(f"item {ref.item_id}: asset {ref.asset!r}: {err}") from err
    is_jp2 = "jp2" in (ref.media_type or "") or urlsplit(ref.href).path.lower().endswith(".jp2")
    with rasterio.Env(**_OPTIONS, **ref.storage.gdal_options()), _errors_of(ref):
        dataset = rasterio.open(path, driver="JP2OpenJPEG" if is_jp2 else "GTiff", sharing=False)
        raster = Raster(ref, dataset)
    _check_blocks(raster, dataset)
    return raster


def read_header(ref: RasterRef) -> Header:
    """Header of a raster."""
    with open_raster(ref) as raster:
        return raster.header


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG file of an image, shape (1, height, width) grey or (3, height, width) RGB."""
    count, height, width = image.shape
    with MemoryFile() as file:
        with file.open(driver="PNG", count=count, height=height, width=width, dtype="uint8") as dataset:
            dataset.write(image)
        return cast(bytes, file.read())


def check_resampling(name: str) -> str:
    """`name`, if GDAL resamples by it; else an InputError that lists the names."""
    if name not in RESAMPLINGS:
        raise InputError(f"unknown resampling {name!r}; there are {', '.join(RESAMPLINGS)}")
    return name


def _gdal_path(href: str) -> str:
    if not is_remote(href):
        return href
    parts = urlsplit(href)
    if parts.scheme in ("http", "https"):
        return f"/vsicurl/{href}"
    prefix = {"s3": "vsis3", "gs": "vsigs", "az": "vsiaz"}[parts.scheme]
    return (
        f"/{prefix}/{parts.netloc}{quote(parts.path, safe='/%')}"
        if "%" in parts.path
        else (f"/{prefix}/{parts.netloc}{parts.path}")
    )


def _window(window: Window) -> RasterioWindow:
    return RasterioWindow(window.col, window.row, window.width, window.height)


def _header(dataset: Any) -> Header:
    grid = None
    if dataset.crs and not dataset.gcps[0]:
        t = dataset.transform
        grid = Grid(canonical_crs(dataset.crs.to_wkt()), (t.a, t.b, t.c, t.d, t.e, t.f), dataset.height, dataset.width)
    return Header(
        grid=grid,
        height=dataset.height,
        width=dataset.width,
        layers=dataset.count,
        dtype=dataset.dtypes[0],
        nodata=dataset.nodata,
        block_shape=tuple(dataset.block_shapes[0]),
    )


def _has_alpha(dataset: Any) -> bool:
    return any("alpha" in str(interp).lower() for interp in dataset.colorinterp)


def _check_blocks(raster: Raster, dataset: Any) -> None:
    height, width = raster.header.block_shape
    layers = (
        dataset.count
        if str(dataset.interleaving) == "Interleaving.pixel" or "pixel" in str(dataset.interleaving).lower()
        else 1
    )
    size = height * width * layers * np.dtype(_numpy_dtype(raster.header.dtype)).itemsize
    if size > MAX_BLOCK_BYTES:
        raster.close()
        raise ReadError(
            f"{raster.ref}: one block of {height} x {width} pixels is {size / 2**20:.0f} MiB decoded, more than the "
            f"{MAX_BLOCK_BYTES // 2**20} MiB allowed; rewrite it as a Cloud Optimized GeoTIFF"
        )


def _numpy_dtype(name: str) -> str:
    return "complex64" if name.startswith("complex") else name


@contextmanager
def _errors_of(ref: RasterRef) -> Iterator[None]:
    try:
        yield
    except (RasterioError, OSError, ValueError, IndexError) as err:
        if isinstance(err, ReadError):
            raise
        text = _shown(err, ref)
        is_transient = is_remote(ref.href) and _TRANSIENT.search(text)
        kind = TransientReadError if is_transient else ReadError
        raise kind(f"{ref}: {text}") from err


def _shown(err: Exception, ref: RasterRef) -> str:
    """GDAL's reason with its cause, without the path it opened (a signed URL or a folder of this machine)."""
    parts = [str(err), str(err.__cause__ or "")]
    text = ": ".join(dict.fromkeys(part for part in parts if part))
    text = re.sub(r"/vsi\w+/\S+|'?(?:/[^\s'/]+){2,}'?", "the file", text)
    return text.replace(ref.href, "the file")
