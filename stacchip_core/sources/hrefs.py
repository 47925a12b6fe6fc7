"""What an href may look like: one spelling that every program reads alike, and nothing that GDAL takes for an order."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote, urlsplit

from stacchip_core.errors import HrefRefusedError
from stacchip_core.sources.gate import origin_of

REMOTE_SCHEMES = ("https", "http", "s3", "gs", "az")

# Categories of Unicode that have no place in a name: controls, lone surrogates, line and paragraph separators.
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")
_GDAL_HANDLER = re.compile(r"[/\\]*vsi\w*[/?]", re.IGNORECASE)
# "GTIFF_DIR:1:x.tif", "NETCDF:x", "http:x.tif"; a scheme has "//" after it, a drive of Windows one letter before.
_PREFIX = re.compile(r"[A-Za-z][\w.+-]+:(?!//)")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
# Source: the "naming rules" of S3, Google Cloud Storage and Azure, for buckets and containers; old buckets are longer.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def check_spelling(href: str, shown: str) -> None:
    """Raise unless an href is spelled as one may be; where it leads is asked elsewhere.

    Args:
        href: as it stands in an item.
        shown: how messages show it: without signature.

    Raises:
        HrefRefusedError: with its rule.
    """
    if not href or href != href.strip() or any(unicodedata.category(c) in _CONTROLS for c in href):
        raise HrefRefusedError(f"href {shown} is empty or holds control characters or outer spaces", rule="characters")
    decoded = unquote(href)
    if any(_GDAL_HANDLER.match(text) or "<" in text.partition("?")[0] for text in (href, decoded)):
        raise HrefRefusedError(f"href {shown} names a GDAL handler, not a file", rule="gdal-handler")
    if _PREFIX.match(href) and not href.lower().startswith("file:"):
        raise HrefRefusedError(
            f"href {shown} begins with a prefix that names a driver, not a file", rule="driver-prefix"
        )
    try:
        scheme = urlsplit(href).scheme.lower()
    except ValueError as err:
        raise HrefRefusedError(f"href {shown} is no URL: {err}", rule="host-spelling") from err
    if scheme and scheme not in (*REMOTE_SCHEMES, "file") and not _DRIVE.match(href):
        raise HrefRefusedError(
            f"href {shown} has scheme {scheme!r}; allowed are {', '.join(REMOTE_SCHEMES)} and files below local_roots",
            rule="scheme",
        )
    if scheme in REMOTE_SCHEMES:
        _check_remote(href, scheme)
    if scheme == "file":
        _check_file(href, shown)


def _check_remote(href: str, scheme: str) -> None:
    """Raise unless host, or bucket and key, are in their usual spelling."""
    if scheme in ("http", "https"):
        origin_of(href)
        return
    parts = urlsplit(href)
    if not _BUCKET.fullmatch(parts.netloc) or ".." in parts.netloc:
        raise HrefRefusedError(f"{scheme} bucket {parts.netloc[:80]!r} is none that can be", rule="bucket-name")
    if any(segment in (".", "..") for segment in unquote(parts.path).replace("\\", "/").split("/")):
        raise HrefRefusedError(f"the key in bucket {parts.netloc!r} has '.' or '..' for a folder", rule="bucket-name")


def _check_file(href: str, shown: str) -> None:
    """Raise unless a file: URL is of this machine, and decodes to a path without control characters."""
    parts = urlsplit(href)
    if parts.netloc not in ("", "localhost"):
        raise HrefRefusedError(f"href {shown} names a file of another machine", rule="local-root")
    if any(unicodedata.category(c) in _CONTROLS for c in unquote(parts.path)):
        raise HrefRefusedError(f"href {shown} is empty or holds control characters or outer spaces", rule="characters")
