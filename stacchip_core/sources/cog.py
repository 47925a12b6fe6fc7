"""The only door to rasterio: open a raster safely, read its header, pixels and mask."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj.exceptions import CRSError
from rasterio._err import CPLE_BaseError  # raised bare by WarpedVRT; no public name
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from stacchip_core.errors import HrefRefusedError, InputError, ReadError, TransientReadError
from stacchip_core.sources.access import DEFAULT_STORAGE, Storage, is_remote, locate, unsigned_href
from stacchip_core.sources.raster import MAX_PIXELS, MAX_SIDE, Grid, Window, canonical_crs, is_on_earth

# No warning per file: a missing grid is told by the header, and of nodata and alpha the former counts, here as in GDAL.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
warnings.filterwarnings("ignore", category=NodataShadowWarning)

# One block is decoded whole, whatever window is asked for: a 29 984 px deflate tile cost 947 MiB for 10 x 40 pixels.
MAX_BLOCK_BYTES = 256 * 2**20

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

# What GDAL says when the network or the server, not the file, was at fault.
_TRANSIENT = re.compile(
    r"(?:response_code|HTTP response code)\D{0,5}(?:408|429|5\d\d)|timed? ?out|Couldn't connect|Could not connect"
    r"|Could not resolve|Connection (?:reset|refused)|Recv failure|Empty reply|got \d+ bytes, expected",
    re.IGNORECASE,
)

RESAMPLINGS = tuple(method.name for method in Resampling if method.name != "gauss")
# The methods that only ever give values which are in the source: others would make classes up.
CLASS_RESAMPLINGS = ("nearest", "mode", "max", "min", "med", "q1", "q3")
# How far GDAL may stray when it interpolates between transformed points; rasterio 1.4 fails on its documented 0.
_WARP_TOLERANCE_PX = 0.001


@dataclass(frozen=True, slots=True)
class RasterRef:
    """A raster to open, and whose it is (for messages).

    `nodata` is the value that its profile gives for "no measurement"; None: the header's. `layers` is how many layers
    its profile names: an alpha layer among these is a measurement (near infrared in a file written as RGBA).
    """

    href: str
    item_id: str
    asset: str
    media_type: str | None = None
    storage: Storage = DEFAULT_STORAGE
    local_roots: tuple[str, ...] = ()
    nodata: float | None = None
    layers: int = 0

    def __str__(self) -> str:
        """How messages name it; never with a signature."""
        return f"item {self.item_id}: asset {self.asset!r} ({unsigned_href(self.href)})"


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


class Raster:
    """An open raster. Not for use by two threads at once."""

    def __init__(self, ref: RasterRef, dataset: Any) -> None:
        """Take over an open dataset; use `open_raster`."""
        self.ref = ref
        self.header = _header(dataset)
        self._dataset = dataset
        self._warped: dict[tuple[Grid, str], Any] = {}
        self._options = _options_of(ref)

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

    @property
    def nodata(self) -> float | None:
        """The value that means "no measurement"; None where there is none, or the file's type can't hold it."""
        nodata = self.header.nodata if self.ref.nodata is None else self.ref.nodata
        return nodata if nodata is None or _holds(self.header.dtype, nodata) else None

    def read(self, window: Window, layers: Sequence[int] | None = None) -> NDArray[Any]:
        """Pixels of a window that lies inside the raster, shape (layers, height, width); layers count from 1."""
        with self._translated():
            return cast(NDArray[Any], self._dataset.read(layers, window=_window(window)))

    def read_valid(self, window: Window) -> NDArray[np.bool_]:
        """Where there are measurements, shape (height, width): by GDAL's dataset mask and the profile's nodata."""
        with self._translated():
            is_valid = self._read_mask(window)
            if self.nodata is None or _is_same(self.nodata, self.header.nodata):
                return is_valid
            layers = list(range(1, min(self.ref.layers or self.header.layers, self.header.layers) + 1))
            pixels = self._dataset.read(layers, window=_window(window))
            is_fill = np.isnan(pixels) if math.isnan(self.nodata) else pixels == self.nodata
            return cast(NDArray[np.bool_], is_valid & ~is_fill.all(axis=0))

    def _read_mask(self, window: Window) -> NDArray[np.bool_]:
        """GDAL's dataset mask (nodata, alpha, mask band), True = measured.

        Differs from GDAL's where that takes a layer which the profile names for alpha, and where it overlooks an alpha
        layer because more than three others come before it.
        """
        flags, alpha = self._dataset.mask_flag_enums[0], _alpha(self._dataset)
        if MaskFlags.alpha in flags and alpha <= self.ref.layers:
            return np.ones((window.height, window.width), dtype=np.bool_)
        if MaskFlags.all_valid in flags and alpha > self.ref.layers:
            return cast(NDArray[np.bool_], self._dataset.read(alpha, window=_window(window)) != 0)
        return cast(NDArray[np.bool_], self._dataset.dataset_mask(window=_window(window)) != 0)

    def read_on(self, grid: Grid, window: Window, resampling: str, layers: Sequence[int] | None = None) -> NDArray[Any]:
        """Pixels resampled to a window of another grid, shape (layers, height, width); outside: nodata or 0."""
        with self._translated():
            wanted = layers or range(1, self.header.layers + 1)  # a warped raster may have an alpha layer more
            return cast(NDArray[Any], self._on(grid, resampling).read(list(wanted), window=_window(window)))

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
                tolerance=_WARP_TOLERANCE_PX,
                src_nodata=self.nodata,
                nodata=self.nodata,
                add_alpha=self.nodata is None and not _alpha(self._dataset),
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
    except (HrefRefusedError, ReadError) as err:
        raise type(err)(f"item {ref.item_id}: asset {ref.asset!r}: {err}") from err
    is_jp2 = "jp2" in (ref.media_type or "") or urlsplit(ref.href).path.lower().endswith(".jp2")
    with rasterio.Env(**_options_of(ref)), _errors_of(ref):
        dataset = rasterio.open(path, driver="JP2OpenJPEG" if is_jp2 else "GTiff", sharing=False)
        raster = Raster(ref, dataset)
    if problem := _size_problem(raster.header, dataset.interleaving):
        raster.close()
        raise ReadError(f"{ref}: {problem}")
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


def gdal_version() -> str:
    """Version of the GDAL that rasterio was built with."""
    return str(rasterio.__gdal_version__)


def check_resampling(name: str) -> str:
    """`name`, if GDAL resamples by it; else an InputError that lists the names."""
    if name not in RESAMPLINGS:
        raise InputError(f"unknown resampling {name!r}; there are {', '.join(RESAMPLINGS)}")
    return name


def _options_of(ref: RasterRef) -> dict[str, str | int]:
    cache = {} if "GDAL_CACHEMAX" in os.environ else {"GDAL_CACHEMAX": _CACHE_BYTES}
    return {**_OPTIONS, **cache, **ref.storage.gdal_options()}


def _gdal_path(href: str) -> str:
    if not is_remote(href):
        return href
    parts = urlsplit(href)
    if parts.scheme in ("http", "https"):
        return f"/vsicurl/{href}"
    prefix = {"s3": "vsis3", "gs": "vsigs", "az": "vsiaz"}[parts.scheme]
    path = quote(parts.path, safe="/%") if "%" in parts.path else parts.path
    return f"/{prefix}/{parts.netloc}{path}"


def _window(window: Window) -> RasterioWindow:
    return RasterioWindow(window.col, window.row, window.width, window.height)


def _header(dataset: Any) -> Header:
    return Header(
        grid=_grid(dataset),
        height=dataset.height,
        width=dataset.width,
        layers=dataset.count,
        dtype=dataset.dtypes[0],
        nodata=dataset.nodata,
        block_shape=tuple(dataset.block_shapes[0]),
    )


def _grid(dataset: Any) -> Grid | None:
    t = dataset.transform
    if not dataset.crs or dataset.gcps[0] or t.is_identity or t.is_degenerate:
        return None
    try:
        crs = canonical_crs(dataset.crs.to_wkt())
    except CRSError:
        return None
    return Grid(crs, (t.a, t.b, t.c, t.d, t.e, t.f), dataset.height, dataset.width) if is_on_earth(crs) else None


def _alpha(dataset: Any) -> int:
    """Number of the alpha layer, from 1; 0 where there is none."""
    return next((n for n, meaning in enumerate(dataset.colorinterp, start=1) if meaning == ColorInterp.alpha), 0)


def _size_problem(header: Header, interleaving: object) -> str | None:
    """Why a raster is too large to touch, if it is."""
    if max(header.height, header.width) > MAX_SIDE or header.height * header.width > MAX_PIXELS:
        return f"{header.height} x {header.width} pixels are more than any scene has"
    height, width = header.block_shape
    layers = header.layers if "pixel" in str(interleaving).lower() else 1
    size = height * width * layers * np.dtype(_numpy_dtype(header.dtype)).itemsize
    if size <= MAX_BLOCK_BYTES:
        return None
    return (
        f"one block of {height} x {width} pixels is {size / 2**20:.0f} MiB decoded, more than the "
        f"{MAX_BLOCK_BYTES // 2**20} MiB allowed; rewrite it as a Cloud Optimized GeoTIFF"
    )


def _is_same(one: float, other: float | None) -> bool:
    return one == other or (other is not None and math.isnan(one) and math.isnan(other))


def _holds(dtype: str, value: float) -> bool:
    """Whether a pixel of that type can be `value`."""
    kind = np.dtype(_numpy_dtype(dtype))
    if kind.kind not in "iu":
        return not math.isfinite(value) or abs(value) <= float(np.finfo(kind).max)
    limits = np.iinfo(kind)
    return math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max


def _numpy_dtype(name: str) -> str:
    return "complex64" if name.startswith("complex") else name


@contextmanager
def _errors_of(ref: RasterRef) -> Iterator[None]:
    try:
        yield
    except (RasterioError, CPLE_BaseError, OSError, ValueError, IndexError) as err:
        text = _shown(err, ref)
        kind = TransientReadError if is_remote(ref.href) and _TRANSIENT.search(text) else ReadError
        raise kind(f"{ref}: {text}") from err


def _shown(err: Exception, ref: RasterRef) -> str:
    """GDAL's reason with its cause, without the path it opened (a signed URL or a folder of this machine)."""
    reasons: list[str] = []
    cause: BaseException | None = err
    while cause is not None:  # rasterio's own text only says to see the previous one
        reasons += [] if "previous exception" in str(cause) else [str(cause)]
        cause = cause.__cause__
    text = ": ".join(dict.fromkeys(reason for reason in reasons if reason)) or str(err)
    for root in ref.local_roots:
        text = text.replace(str((Path(root) / ref.href).resolve()), "the file")
    text = re.sub(r"/vsi\w+/\S+|'?(?:/[^\s'/]+){2,}'?", "the file", text)
    return text.replace(ref.href, "the file")
