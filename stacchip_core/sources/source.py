"""Where items come from, as a value: what to ask a catalog for, and which local folders that opens."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from stacchip_core.errors import InputError
from stacchip_core.sources.access import unsigned_href
from stacchip_core.sources.area import Area, read_area
from stacchip_core.sources.choice import Choice
from stacchip_core.sources.interval import item_times, parse_interval
from stacchip_core.sources.query import Conditions
from stacchip_core.sources.validation import numbered

BBox = tuple[float, float, float, float]
_IDS_KEPT = 20  # in the log; of longer lists only what tells them from others


class Source(BaseModel):
    """A STAC API, a static catalog, stac-geoparquet or a list of item files; and what to take from it."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    url: str | None = Field(
        None,
        title="Catalog",
        description="Root of a STAC API; a static catalog.json or collection.json; a stac-geoparquet file, or a folder "
        "of them: URL or local path.",
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
    area: str | None = Field(
        None,
        title="Area file",
        description="Instead of degrees: a local vector file with a CRS; only items that meet one of its features.",
        min_length=1,
        max_length=2000,
    )
    ids: tuple[str, ...] = Field(
        (),
        title="Item ids",
        description="Only these items.",
    )
    query: tuple[str, ...] = Field(
        (),
        title="Conditions",
        description="On the items' properties, all to hold: 'eo:cloud_cover < 20', 'platform in landsat-8, landsat-9'.",
    )
    filter: str | None = Field(
        None,
        title="CQL2 filter",
        description="For STAC APIs that know it: CQL2 as JSON, or as text.",
        min_length=1,
        max_length=10_000,
    )
    choose: Choice | None = Field(
        None,
        title="Choose",
        description="Take only the best of the items found; none: take all.",
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
    deadline_minutes: float = Field(
        120,
        title="Deadline",
        description="What waiting for the catalog may take in a run, all together; what is missing then is said.",
        gt=0,
        le=10_000,
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

    @field_validator("query")
    @classmethod
    def _are_conditions(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        Conditions.parse(texts)
        return texts

    @field_validator("filter")
    @classmethod
    def _is_cql2(cls, text: str | None) -> str | None:
        if text is not None and text.lstrip().startswith("{"):
            try:
                json.loads(text)
            except ValueError as err:
                raise InputError(f"filter begins like CQL2 JSON and is no JSON: {err}") from err
        return text

    @model_validator(mode="after")
    def _has_one_origin(self) -> Source:
        if self.bbox is not None and self.area is not None:
            raise InputError("a source has either bbox or area, one of the two")
        if (self.url is None) == (not self.items):
            raise InputError("a source has either url (a catalog) or items (a list of item files), one of the two")
        return self

    @property
    def roots(self) -> tuple[str, ...]:
        """Folders that may be read for this source: those given, and the one that what lies in none of them shares.

        Raises:
            InputError: local item files without a folder in common but the root of the disk.
        """
        given = tuple(str(Path(root).resolve()) for root in self.local_roots)
        paths = [path for path in map(local_path, [self.url] if self.url else self.items) if path]
        outside = [path for path in paths if not any(path.is_relative_to(root) for root in given)]
        if not outside:
            return given
        folder = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in outside]))
        if folder == Path(folder.anchor):
            raise InputError(
                f"the item files have no folder in common, and {str(outside[0])!r} is in none of the {len(given)} "
                "local_roots; name the folders to be read with local_roots"
            )
        return (*given, str(folder))

    @property
    def conditions(self) -> Conditions:
        """Those of `query`."""
        return Conditions.parse(self.query)

    @property
    def filter_condition(self) -> str | dict[str, Any] | None:
        """`filter` as it is sent: text, or JSON."""
        if self.filter is None or not self.filter.lstrip().startswith("{"):
            return self.filter
        found: dict[str, Any] = json.loads(self.filter)
        return found

    @property
    def shape(self) -> Area | None:
        """The area of the file, if one is named.

        Raises:
            InputError: it can't be read.
        """
        if self.area is None:
            return None
        path = local_path(self.area)
        if path is None:
            raise InputError(f"area {unsigned_href(self.area)}: areas are read from local files; fetch it first")
        return read_area(path)

    @property
    def box(self) -> BBox | None:
        """The box that is asked for: `bbox`, or that of the area."""
        return area.box if (area := self.shape) else self.bbox

    @property
    def is_partial(self) -> bool:
        """Whether only some of the items that match are taken, so that what is not taken says nothing."""
        return self.choose is not None or self.max_items is not None

    def matches(self, item: Mapping[str, Any]) -> bool:
        """Whether `item` is what was asked for; what it does not say of collection, time and place, matches."""
        collection = item.get("collection")
        if self.collections and collection is not None and collection not in self.collections:
            return False
        if (self.ids and item.get("id") not in self.ids) or not self.conditions.hold(item.get("properties") or {}):
            return False
        return self._is_in_time(item) and self._is_in_area(item)

    def summary(self) -> dict[str, Any]:
        """What was asked for, as JSON for the log: no signatures, and of a list of items only how many."""
        names = {"collections", "datetime", "bbox", "ids", "query", "filter", "choose", "max_items"}
        asked = self.model_dump(mode="json", include=names, exclude_defaults=True)
        if len(self.ids) > _IDS_KEPT:
            told = hashlib.sha256("\n".join(self.ids).encode("utf-8", "surrogatepass")).hexdigest()[:16]
            asked["ids"] = {"number": len(self.ids), "sha256": told}
        if (area := self.shape) is not None:
            asked["area"] = {"file": Path(str(self.area)).name, "sha256": area.sha256}
        if self.url is None:
            return {"items": len(self.items), **asked}
        path = local_path(self.url)  # of a path only its end: the rest is this machine's own
        return {"url": "/".join(path.parts[-2:]) if path else unsigned_href(self.url), **asked}

    def _is_in_time(self, item: Mapping[str, Any]) -> bool:
        if self.datetime is None:
            return True
        start, end = parse_interval(self.datetime)
        first, last = item_times(item)
        return not (last and start and last < start) and not (first and end and first > end)

    def _is_in_area(self, item: Mapping[str, Any]) -> bool:
        if (area := self.shape) is not None:
            return bool(area.met_by(item))
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
