"""Object storage and the local disk as fsspec has them: the one place that asks for a filesystem."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import fsspec

from stacchip_core.sources.access import DEFAULT_STORAGE, Storage
from stacchip_core.sources.identity import UNKNOWN, FileIdentity

# s3fs: listings are never remembered, and pyarrow asks for the ranges it wants, so reading ahead of it would fetch
# megabytes for a footer. botocore's attempts and s3fs's multiply: by default a server that never answers was waited
# for more than ten minutes, with these two minutes.
_RETRIES = {"mode": "standard", "total_max_attempts": 3}
_S3_OPTIONS = {
    "use_listings_cache": False,
    "default_cache_type": "none",
    "config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": _RETRIES},
}
_CACHELESS = {"use_listings_cache": False}
_OPTIONS: dict[str, dict[str, Any]] = {"s3": _S3_OPTIONS, "s3a": _S3_OPTIONS, "gs": _CACHELESS, "az": _CACHELESS}


def filesystem(scheme: str, storage: Storage = DEFAULT_STORAGE) -> Any:
    """The filesystem of a scheme, with timeouts, and without memory of listings."""
    fs = fsspec.filesystem(scheme, **storage.fsspec_options(scheme), **_OPTIONS.get(scheme, {}))
    if scheme in ("s3", "s3a"):
        fs.retries = 2
    return fs


def object_identity(href: str, storage: Storage) -> FileIdentity:
    """What a store tells of an object, in one request; nothing where there is none, or where the store can't be asked.

    Args:
        href: gated, with scheme s3, gs or az.
        storage: how to reach the store.
    """
    try:
        told = filesystem(urlsplit(href).scheme, storage).info(href)
    except Exception:  # each library has its own; why, tells who reads the object next
        return UNKNOWN
    return FileIdentity(told.get("size"), told.get("ETag") or told.get("etag")) if told["type"] == "file" else UNKNOWN
