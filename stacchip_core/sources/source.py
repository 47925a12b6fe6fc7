"""Where items come from, as a value: what to ask a catalog for, and which local folders that opens."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from stacchip_core.errors import InputError
from stacchip_core.sources.access import unsigned_href
from stacchip_core.sources.interval import parse_interval, parse_span
from stacchip_core.sources.validation import numbered

BBox = tuple[float, float, float, float]


class Source(BaseModel):
    """A STAC API, a static catalog or collection, or a list of item files; and what to take from it."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    url: str | None = Field(
        None,
        title="Catalog",
        description="Root of a STAC API, or a static catalog.json or collection.json: URL or local path.",
        min_length=1,
        max_length=2000,
    )
    items: tuple[str, ...] = Field(
        (),
        title="Item files",
        description="Instead of a catalog: URLs or local paths of item JSON files.",
    )
    collections: tuple[str, ...] = Field(
        (),
        title="Collections",
        description="Collection ids to take; none: all there are.",
    )
    datetime: str | None = Field(
        None,
        title="Time",
        description="A day, month or year, or a range of them: 2024-05, 2024-01-01/2024-06-30, 2024-01-01/..",
        max_length=80,
    )
    bbox: BBox | None = Field(
        None,
        title="Area",
        description="West, south, east, north in degrees; west > east crosses the antimeridian.",
    )
    max_items: int | None = Field(
        None,
        title="At most",
        description="Stop after so many items.",
        ge=1,
    )
    page_size: int = Field(
        100,
        title="Page size",
        description="Items asked of a STAC API at a time; big pages time out on some servers.",
        ge=1,
        le=1000,
    )
    local_roots: tuple[str, ...] = Field(
        (),
        title="Local folders",
        description="Folders that may be read; the catalog's own is one when it is local.",
    )

    @field_validator("datetime", mode="before")
    @classmethod
    def _yaml_reads_dates(cls, value: Any) -> Any:
        """YAML reads 2024-05-01 as a date and 2024 as a number."""
        if isinstance(value, dt.date):
            return value.isoformat()
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("datetime")
    @classmethod
    def _is_interval(cls, text: str | None) -> str | None:
        if text is not None:
            parse_interval(text)
        return text

    @field_validator("bbox")
    @classmethod
    def _is_bbox(cls, bbox: BBox | None) -> BBox | None:
        if bbox is None:
            return None
        west, south, east, north = bbox
        if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
            raise InputError(
                f"bbox {bbox} is not (west, south, east, north) in degrees with south <= north; "
                "longitudes are -180 to 180, latitudes -90 to 90"
            )
        return bbox

    @model_validator(mode="after")
    def _has_one_origin(self) -> Source:
        if (self.url is None) == (not self.items):
            raise InputError("a source has either url (a catalog) or items (a list of item files), one of the two")
        return self

    @property
    def roots(self) -> tuple[str, ...]:
        """Folders that may be read for this source: those given, and the local catalog's or items' own.

        Raises:
            InputError: local item files without a folder in common but the root of the disk.
        """
        given = tuple(str(Path(root).resolve()) for root in self.local_roots)
        paths = [path for path in map(local_path, [self.url] if self.url else self.items) if path]
        if not paths:
            return given
        folder = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))
        if any(folder.is_relative_to(root) for root in given):
            return given
        if folder == Path(folder.anchor):
            raise InputError("the item files have no folder in common; name the folders to be read with local_roots")
        return (*given, str(folder))

    def matches(self, item: Mapping[str, Any]) -> bool:
        """Whether `item` is of the collections, time and area asked for; what it does not say, matches."""
        collection = item.get("collection")
        if self.collections and collection is not None and collection not in self.collections:
            return False
        return self._is_in_time(item) and self._is_in_area(item)

    def summary(self) -> dict[str, Any]:
        """What was asked for, as JSON for the log: no signatures, and of a list of items only how many."""
        asked = self.model_dump(mode="json", include={"collections", "datetime", "bbox"}, exclude_defaults=True)
        if self.url is None:
            return {"items": len(self.items), **asked}
        path = local_path(self.url)  # of a path only its end: the rest is this machine's own
        return {"url": "/".join(path.parts[-2:]) if path else unsigned_href(self.url), **asked}

    def _is_in_time(self, item: Mapping[str, Any]) -> bool:
        if self.datetime is None:
            return True
        start, end = parse_interval(self.datetime)
        first, last = _item_times(item)
        return not (last and start and last < start) and not (first and end and first > end)

    def _is_in_area(self, item: Mapping[str, Any]) -> bool:
        box = item.get("bbox")
        if self.bbox is None or not _is_box(box):
            return True
        west, south, east, north = self.bbox
        half = len(box) // 2
        return box[1] <= north and box[half + 1] >= south and _longitudes_meet((west, east), (box[0], box[half]))


def local_path(href: str) -> Path | None:
    """Absolute path of a local `href` (a path, or a file:// URL); None for anything with another scheme."""
    parts = urlsplit(href)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).resolve()
    return None if "://" in href else Path(href).resolve()


def _item_times(item: Mapping[str, Any]) -> tuple[dt.datetime | None, dt.datetime | None]:
    """First and last moment an item covers; None where it does not say (or says no time)."""
    found = item.get("properties")
    properties = found if isinstance(found, dict) else {}
    texts = (
        properties.get("start_datetime") or properties.get("datetime"),
        properties.get("end_datetime") or properties.get("datetime"),
    )
    times: list[dt.datetime | None] = []
    for text in texts:
        try:
            times.append(parse_span(text)[0] if isinstance(text, str) else None)
        except InputError:
            times.append(None)
    return times[0], times[1]


def _is_box(box: object) -> TypeGuard[list[float]]:
    """Whether `box` is a STAC bbox, of two or three dimensions."""
    return (
        isinstance(box, list)
        and len(box) in (4, 6)
        and all(isinstance(side, int | float) and not isinstance(side, bool) for side in box)
    )


def _longitudes_meet(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two ranges of longitude (west, east) share a meridian; west > east crosses the antimeridian."""

    def spans(west: float, east: float) -> list[tuple[float, float]]:
        return [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]

    return any(a <= d and c <= b for a, b in spans(*one) for c, d in spans(*other))
