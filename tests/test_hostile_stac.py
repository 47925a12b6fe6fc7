"""A STAC API that lies, loses, loops and stalls: the index equals the truth, or the run says INCOMPLETE."""

from __future__ import annotations

import pytest

from tests.hostile_runs import random_script, run_script
from tests.hostile_stac import BEHAVIOURS

SCRIPTS = 200


def test_there_are_at_least_forty_behaviours() -> None:
    assert len(BEHAVIOURS) >= 40


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SCRIPTS))
def test_nothing_is_lost_in_silence(seed: int) -> None:
    report = run_script(random_script(seed), seed)
    assert not report.wrong, str(report)
