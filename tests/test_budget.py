"""The failure budget: a number and a share, and what a run that has spent it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core.errors import FailureBudgetError
from stacchip_core.warehouse.budget import FailureBudget
from stacchip_core.warehouse.commit import Commit


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 10), st.floats(0, 1))
def test_a_budget_is_spent_when_number_and_share_are_exceeded(failed: int, fine: int, count: int, share: float) -> None:
    budget = FailureBudget(max_failed=count, max_failed_share=share)
    assert budget.is_spent(failed, failed + fine) is (failed > count and failed > share * (failed + fine))


def test_a_spent_budget_says_how_many_why_and_what_to_do() -> None:
    done = [
        Commit("s2", 3, "", new=5, failed=9, causes=(("grid", 2), ("not-found", 7))),
        Commit("naip", 1, "", failed=3, causes=(("grid", 3),)),
    ]
    said = r"12 of 17 items failed \(7 not-found, 5 grid\), more than max_failed=10 .*0\.5 .*5 were committed.*s2, naip"
    with pytest.raises(FailureBudgetError, match=said):
        FailureBudget().check(done)
    FailureBudget(max_failed=12).check(done)
    FailureBudget(max_failed_share=0.8).check(done)
    FailureBudget().check([])


def test_items_that_fail_again_spend_nothing() -> None:
    old = Commit("s2", 3, "", failed=500, failed_again=500)
    FailureBudget().check([old])
    with pytest.raises(FailureBudgetError, match="11 of 11 items failed"):
        FailureBudget().check([old, Commit("naip", 1, "", failed=11)])
