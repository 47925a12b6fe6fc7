"""Intervals of time: both ends included, whole days, months and years, open ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core.sources.interval import parse_interval

MOMENTS = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC))


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2024", at(2024, 1, 1), at(2024, 12, 31, 23, 59, 59, 999999)),
        ("2024-02", at(2024, 2, 1), at(2024, 2, 29, 23, 59, 59, 999999)),
        ("2023-02", at(2023, 2, 1), at(2023, 2, 28, 23, 59, 59, 999999)),
        ("2024-06-30", at(2024, 6, 30), at(2024, 6, 30, 23, 59, 59, 999999)),
        ("2024-06-30T10:20:00Z", at(2024, 6, 30, 10, 20), at(2024, 6, 30, 10, 20)),
        ("2024-06-30T10:20:00+02:00", at(2024, 6, 30, 8, 20), at(2024, 6, 30, 8, 20)),
        ("2024-01-01/2024-12-31", at(2024, 1, 1), at(2024, 12, 31, 23, 59, 59, 999999)),
        ("2023/2024", at(2023, 1, 1), at(2024, 12, 31, 23, 59, 59, 999999)),
        ("2024-03/..", at(2024, 3, 1), None),
        ("../2024-03", None, at(2024, 3, 31, 23, 59, 59, 999999)),
        ("/2024-03-01T00:00:00Z", None, at(2024, 3, 1)),
    ],
)
def test_intervals_read_as_stac_writes_them(text: str, start: datetime | None, end: datetime | None) -> None:
    assert parse_interval(text) == (start, end)


@given(MOMENTS, MOMENTS)
def test_any_two_moments_in_order_are_an_interval(one: datetime, other: datetime) -> None:
    first, last = sorted((one, other))
    east = timezone(timedelta(hours=9))
    assert parse_interval(f"{first.isoformat()}/{last.astimezone(east).isoformat()}") == (first, last)


@pytest.mark.parametrize(
    "text", ["", "..", "../..", "/", "2024-13", "2024-02-30", "yesterday", "2024/2025/2026", "0000"]
)
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no time|open at both ends"):
        parse_interval(text)


def test_an_interval_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="ends before it starts"):
        parse_interval("2024-05/2024-04")
