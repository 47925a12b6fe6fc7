"""Times and intervals as STAC writes them: 2024, 2024-05, 2024-05-01T10:20:00Z, 2024-01/2024-06, 2024/.."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any

from stacchip_core.errors import InputError

Interval = tuple[dt.datetime | None, dt.datetime | None]

_DATE = re.compile(r"^(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?$")
_OPEN = ("", "..")


def parse_interval(text: str) -> Interval:
    """First and last moment of an interval, both included, UTC; None where it is open.

    A year, month or day stands for all of it: "2024", "2024/2024" and "2024-01/2024-12" are the same.

    Raises:
        InputError: no time, open at both ends, or ending before it starts.
    """
    first, slash, last = text.partition("/")
    start = None if slash and first in _OPEN else parse_span(first)[0]
    end = None if slash and last in _OPEN else parse_span(last if slash else first)[1]
    if start is None and end is None:
        raise InputError(f"time {text!r} is open at both ends; leave it out instead")
    if start is not None and end is not None and end < start:
        raise InputError(f"time {text!r} ends before it starts")
    return start, end


def format_interval(interval: Interval) -> str:
    """`interval` as STAC APIs take it: two RFC 3339 times, ".." where it is open."""
    return "/".join(end.isoformat().replace("+00:00", "Z") if end else ".." for end in interval)


def parse_span(text: str) -> tuple[dt.datetime, dt.datetime]:
    """First and last microsecond of an instant, day, month or year; a time without a zone is UTC.

    Raises:
        InputError: `text` is none of them.
    """
    try:
        parts = _DATE.match(text)
        if parts is None:
            moment = dt.datetime.fromisoformat(text)
            moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
            return moment, moment
        year, month, day = (int(part) if part else None for part in parts.groups())
        start = dt.datetime(year or 0, month or 1, day or 1, tzinfo=dt.UTC)
        if day:
            following = start + dt.timedelta(days=1)
        elif month:
            following = (start + dt.timedelta(days=31)).replace(day=1)
        else:
            following = start.replace(year=start.year + 1)
    except (ValueError, OverflowError) as err:
        raise InputError(
            f"{text!r} is no time; write 2024, 2024-06, 2024-06-30 or 2024-06-30T10:20:00Z, "
            "or two of them with a slash between ('..' for an open end)"
        ) from err
    return start, following - dt.timedelta(microseconds=1)


def item_times(item: Mapping[str, Any]) -> tuple[dt.datetime | None, dt.datetime | None]:
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
