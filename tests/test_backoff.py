"""The wait after a failure: doubling, bounded, shorter for what passes by itself."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stacchip_core.warehouse.backoff import AT_ONCE, Backoff


@given(st.integers(1, 10_000), st.booleans())
def test_a_wait_never_shrinks_and_never_passes_its_bound(attempts: int, is_transient: bool) -> None:
    backoff = Backoff()
    wait = backoff.wait(attempts, is_transient=is_transient)
    later = backoff.wait(attempts + 1, is_transient=is_transient)
    assert wait <= later <= timedelta(days=backoff.most_days)
    assert later == min(2 * wait, timedelta(days=backoff.most_days))
    assert backoff.wait(attempts, is_transient=True) <= backoff.wait(attempts, is_transient=False)


def test_waits_are_those_of_the_configuration() -> None:
    backoff = Backoff(passing_minutes=1, lasting_hours=2, most_days=0.5)
    assert [backoff.wait(n, is_transient=True).total_seconds() for n in (1, 2, 3)] == [60, 120, 240]
    assert [backoff.wait(n, is_transient=False) for n in (0, 1, 2, 9)] == [timedelta(hours=h) for h in (2, 2, 4, 12)]
    assert not AT_ONCE.wait(50, is_transient=False) and not AT_ONCE.wait(50, is_transient=True)
    with pytest.raises(ValidationError):
        Backoff(passing_minutes=-1)
