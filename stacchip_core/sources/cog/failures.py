"""What rasterio and GDAL say went wrong, as errors of ours that name the raster and show no path or signature."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rasterio._err import CPLE_BaseError  # raised bare by WarpedVRT; no public name
from rasterio.errors import RasterioError

from stacchip_core.errors import ReadError, StacchipError, TransientReadError
from stacchip_core.sources.access import is_remote
from stacchip_core.sources.cog.reference import RasterRef
from stacchip_core.sources.ranges import RangeReader

# What GDAL says when the network or the server, not the file, was at fault.
_TRANSIENT = re.compile(
    r"(?:response_code|HTTP response code)\D{0,5}(?:408|429|5\d\d)|timed? ?out|Couldn't connect|Could not connect"
    r"|Could not resolve|Connection (?:reset|refused)|Recv failure|Empty reply|got \d+ bytes, expected",
    re.IGNORECASE,
)


@contextmanager
def errors_of(ref: RasterRef, reader: RangeReader | None = None) -> Iterator[None]:
    """Translate errors; what the reader of a remote file met goes before what GDAL made of it."""
    try:
        yield
    except StacchipError as err:
        raise _named(ref, err) from err
    except (RasterioError, CPLE_BaseError, OSError, ValueError, IndexError) as err:
        if reader is not None and reader.failure is not None:
            failure, reader.failure = reader.failure, None
            raise _named(ref, failure) from failure
        text = _shown(err, ref)
        is_transient = reader is None and is_remote(ref.href) and _TRANSIENT.search(text)
        raise (TransientReadError if is_transient else ReadError)(f"{ref}: {text}") from err


def _named(ref: RasterRef, error: StacchipError) -> StacchipError:
    """The same error with the raster's name; a subclass of our own is its public parent."""
    kind = TransientReadError if isinstance(error, TransientReadError) else type(error)
    return kind(f"{ref}: {error}")


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
