"""Opening a raster: through the gate, by the drivers that open only what they are given, no larger than can be read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextvars import copy_context
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import numpy as np
import rasterio

from stacchip_core.errors import InputError, ReadError, StacchipError
from stacchip_core.sources.access import is_remote, locate
from stacchip_core.sources.cog.failures import errors_of
from stacchip_core.sources.cog.reading import Opened, Raster, numpy_dtype
from stacchip_core.sources.cog.reference import Header, RasterRef
from stacchip_core.sources.identity import UNKNOWN, FileIdentity
from stacchip_core.sources.objects import object_identity
from stacchip_core.sources.ranges import OpenedAgain, RangeReader
from stacchip_core.sources.raster import MAX_PIXELS, MAX_SIDE
from stacchip_core.sources.remote import RemoteFile
from stacchip_core.sources.signing import sign_of

# One block is decoded whole, whatever window is asked for: a 29 984 px deflate tile cost 947 MiB for 10 x 40 pixels.
MAX_BLOCK_BYTES = 256 * 2**20

# Hyperspectral scenes have some hundred.
MAX_LAYERS = 4096

# Sources: TIFF 6.0 and BigTIFF, 8-byte header; ISO 15444-1, annex I (the box) and A (a bare codestream).
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JP2 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")

_numbers = itertools.count()


def open_raster(ref: RasterRef) -> Raster:
    """Open a GeoTIFF (or, by media type or name, a JPEG 2000).

    Only those two drivers are tried: others read local files or call other hosts for whoever names a file .tif. Bytes
    of https and http come through our own reader, so that GDAL never sees the URL; where the environment names a proxy
    for the host, and for s3, gs and az, GDAL's own network reader asks.

    Raises:
        HrefRefusedError: the href may not be read.
        ReadError: missing, truncated, not a raster, otherwise than when its item was indexed, or made of blocks too
            large to decode; TransientReadError where the network was at fault.
    """
    try:
        href = locate(ref.href, ref.local_roots)
        reader = _reader(ref, href)
        path = f"ranges/{next(_numbers)}/image" if reader else gdal_path(href)
    except (InputError, ReadError) as err:
        raise type(err)(f"item {ref.item_id}: asset {ref.asset!r}: {err}") from err
    with rasterio.Env(**ref.gdal_options()), errors_of(ref, reader):
        begin = _first_bytes(href, reader)
        identity = _identity(ref, href, reader)
        ref.indexed.check(identity)
        _check_format(begin, is_jp2=_is_jp2(ref))
        context = copy_context()
        dataset = context.run(_open, path, "JP2OpenJPEG" if _is_jp2(ref) else "GTiff", reader)
        raster = Raster(ref, Opened(dataset, context, reader, identity))
        try:
            _check_size(raster.header, dataset.interleaving)
        except ReadError:
            raster.close()
            raise
    return raster


def read_header(ref: RasterRef) -> Header:
    """Header of a raster."""
    with open_raster(ref) as raster:
        return raster.header


def read_identity(ref: RasterRef) -> FileIdentity:
    """What tells a file from others, in one request where it is remote; nothing where it can't be read."""
    try:
        href = locate(ref.href, ref.local_roots)
        reader = _reader(ref, href)
        if reader is not None:
            reader.load_header()
        return _identity(ref, href, reader)
    except (StacchipError, OSError):
        return UNKNOWN


def gdal_version() -> str:
    """Version of the GDAL that rasterio was built with."""
    return str(rasterio.__gdal_version__)


def gdal_path(href: str) -> str:
    """What GDAL calls a gated href."""
    if not is_remote(href):
        return href
    parts = urlsplit(href)
    if parts.scheme in ("http", "https"):
        return f"/vsicurl/{href}"
    prefix = {"s3": "vsis3", "gs": "vsigs", "az": "vsiaz"}[parts.scheme]
    path = quote(parts.path, safe="/%") if "%" in parts.path else parts.path
    return f"/{prefix}/{parts.netloc}{path}"


def _reader(ref: RasterRef, href: str) -> RangeReader | None:
    """Who reads the bytes of a gated href; None: GDAL."""
    parts = urlsplit(href)
    if not is_remote(href) or parts.scheme not in ("http", "https"):
        return None
    gate = ref.gate
    origin = gate.check(href)
    if parts.scheme in getproxies() and not proxy_bypass(origin.host):
        if ref.storage.signing:
            raise InputError("signing needs a direct connection, and the environment names a proxy (see no_proxy)")
        return None
    return RangeReader(RemoteFile(href, gate, sign_of(ref.storage.signing, ref.storage.signing_url)))


def _open(path: str, driver: str, reader: RangeReader | None) -> Any:
    if reader is None:
        return rasterio.open(path, driver=driver, sharing=False)
    return rasterio.open(path, driver=driver, sharing=False, opener=_opener(reader))


def _opener(reader: RangeReader) -> Callable[..., RawIOBase | BytesIO]:
    """What rasterio opens files with; the first call, for a file named "test", is only to see that it can.

    What is warped may be a VRT of the file, which opens it once more.
    """
    files: Iterator[RawIOBase] = itertools.chain([reader], (OpenedAgain(reader) for _ in itertools.count()))

    def opened(path: str, mode: str = "rb") -> RawIOBase | BytesIO:
        return BytesIO() if path == "test" else next(files)

    return opened


def _is_jp2(ref: RasterRef) -> bool:
    return "jp2" in (ref.media_type or "") or urlsplit(ref.href).path.lower().endswith(".jp2")


def _first_bytes(href: str, reader: RangeReader | None) -> bytes | None:
    """What a file begins with; None where only GDAL may ask.

    Raises:
        ReadError: it is a folder, a pipe or a device.
    """
    if reader is not None:
        return reader.header()
    if is_remote(href):
        return None
    if not Path(href).is_file():
        raise ReadError("not a file", rule="file-format")
    with Path(href).open("rb") as file:
        return file.read(16)


def _identity(ref: RasterRef, href: str, reader: RangeReader | None) -> FileIdentity:
    """What tells this state of a file from another; nothing of http(s) files that GDAL asks for."""
    if reader is not None:
        return reader.identity
    if not is_remote(href):
        return FileIdentity(Path(href).stat().st_size)
    return UNKNOWN if href.startswith("http") else object_identity(href, ref.storage)


def _check_format(begin: bytes | None, *, is_jp2: bool) -> None:
    """Raise unless a file begins as a GeoTIFF does, or a JPEG 2000 where that is expected."""
    if begin is None or begin.startswith(_JP2 if is_jp2 else _TIFF):
        return
    wanted = "JPEG 2000" if is_jp2 else "GeoTIFF"
    raise ReadError(f"not a {wanted}: the file begins with {begin[:12]!r}", rule="file-format")


def _check_size(header: Header, interleaving: object) -> None:
    """Raise for a raster that is too large to touch."""
    if max(header.height, header.width) > MAX_SIDE or header.height * header.width > MAX_PIXELS:
        raise ReadError(f"{header.height} x {header.width} pixels are more than any scene has", rule="raster-size")
    if header.layers > MAX_LAYERS:
        raise ReadError(f"{header.layers} layers are more than the {MAX_LAYERS} allowed", rule="raster-size")
    height, width = header.block_shape
    layers = header.layers if "pixel" in str(interleaving).lower() else 1
    size = height * width * layers * np.dtype(numpy_dtype(header.dtype)).itemsize
    if size > MAX_BLOCK_BYTES:
        raise ReadError(
            f"one block of {height} x {width} pixels is {size / 2**20:.0f} MiB decoded, more than the "
            f"{MAX_BLOCK_BYTES // 2**20} MiB allowed; rewrite it as a Cloud Optimized GeoTIFF",
            rule="block-bytes",
        )
