"""Whether a file is still the one that was indexed: by its size, and by what its server calls its version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stacchip_core.errors import ReadError


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells one state of a file from another, as far as its store told; times of change tell nothing.

    Attributes:
        size: bytes; None: not told.
        etag: strong entity tag with its quotes; None: not told, weak, or of a server that we were sent on to, of which
            the next one may call the same bytes otherwise. Source: RFC 9110, 8.8.3.
    """

    size: int | None = None
    etag: str | None = None

    def check(self, found: FileIdentity) -> None:
        """Compare with what is found now, as far as both tell.

        Raises:
            ReadError: it is another file, or another state of it.
        """
        if None not in (self.size, found.size) and self.size != found.size:
            raise ReadError(f"changed since the item was indexed: {self.size} bytes then, {found.size} now; {_REMEDY}")
        if None not in (self.etag, found.etag) and self.etag != found.etag:
            raise ReadError(f"changed since the item was indexed: ETag {self.etag} then, {found.etag} now; {_REMEDY}")


UNKNOWN = FileIdentity()
_REMEDY = "reindex the item"


def declared_sizes(item: Mapping[str, Any]) -> dict[str, int]:
    """Asset key -> bytes of its file, as an item says. Source: `file:size` of the STAC file extension."""
    sizes = {key: asset.get("file:size") for key, asset in item["assets"].items() if isinstance(asset, Mapping)}
    return {key: size for key, size in sizes.items() if type(size) is int and size > 0}
