"""Writers, readers, merges, checkpoints, expiry, vacuum, tags in any order, under all faults, against plain dicts."""

from __future__ import annotations

import random

import pytest

from tests.campaign.machine import run

EXAMPLES, STEPS = 200, 75


@pytest.mark.slow
def test_whatever_happens_the_warehouse_holds_what_was_committed() -> None:
    report = run(examples=EXAMPLES, steps=STEPS, seed=random.SystemRandom().randrange(10**6))
    assert not report.violations, str(report)
    assert report.executed["examples"] >= EXAMPLES
    assert report.executed["steps"] > EXAMPLES * STEPS / 2, "examples end early"
    for what in ("commits", "merges", "deletes", "checkpoints", "expiries", "removed files", "deaths"):
        assert report.executed[what] > 0, f"no {what}: the machine does not do what it should"
