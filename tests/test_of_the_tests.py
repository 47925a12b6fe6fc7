"""The tests' test: what protects a warehouse is switched off, one thing at a time, and a named test fails each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test

from stacchip_core.errors import CommitConflictError, StacchipError
from stacchip_core.warehouse import commit as committing
from stacchip_core.warehouse import settle as settling
from stacchip_core.warehouse.care import vacuum as cleaning
from stacchip_core.warehouse.care.verify import verify
from stacchip_core.warehouse.entry import LogEntry
from stacchip_core.warehouse.items import States
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.store import Store
from tests import test_commit, test_log, test_vacuum
from tests.care import grow, later, memory_warehouse
from tests.faulty_store import loses_the_answer
from tests.machine import WarehouseMachine
from tests.warehouse_rows import Piece, commit_parts, part_of

Patch = pytest.MonkeyPatch


# --- what is switched off


def own_commit_detection(patch: Patch) -> None:
    """Whatever stands at the number after an unclear answer is taken for another's."""
    judged = Log._judged

    def mistrusting(self: Log, mine: LogEntry, found: bytes) -> LogEntry:
        if found == mine.to_bytes() and self.store.read(self.key(mine.version)) and was_unclear(self):
            raise CommitConflictError("taken for another's")
        return judged(self, mine, found)

    unclear = dict[int, bool]()

    def was_unclear(log: Log) -> bool:
        return unclear.get(id(log), False)

    tried = Log._try_create

    def remembering(self: Log, key: str, body: bytes) -> Any:
        failure = tried(self, key, body)
        unclear[id(self)] = failure is not None
        return failure

    patch.setattr(Log, "_try_create", remembering)
    patch.setattr(Log, "_judged", mistrusting)


def rebase(patch: Patch) -> None:
    """After a lost race the work goes into the next number as it was."""
    settled = settling.settle
    kept: dict[int, Any] = {}

    def once(mine: Any, states: States, read_version: int, **how: Any) -> Any:
        return kept.setdefault(id(mine), (mine, settled(mine, states, read_version, **how)))[1]

    patch.setattr(committing, "settle", once)


def list_before_read(patch: Patch) -> None:
    """Vacuum reads the logs, then lists."""

    def wrong_way_round(store: Store, now: datetime, grace: timedelta) -> Any:
        uses = cleaning._uses(store, {}, now, grace)
        return cleaning._files(store), uses

    patch.setattr(cleaning, "_look", wrong_way_round)


def grace(patch: Patch) -> None:
    """Any age is old enough."""
    patch.setattr(cleaning, "_is_old", lambda *_: True)


def hash_chain(patch: Patch) -> None:
    """Nobody compares the hash of an entry with what the next one says."""
    patch.setattr(Log, "_prove", lambda *_: None)


def memory_of_parts(patch: Patch) -> None:
    """Parts that were committed are not known again."""
    settled = settling.settle
    patch.setattr(committing, "settle", lambda *mine, **how: settled(*mine, **{**how, "committed": ()}))


# --- what notices


def a_commit_between_the_two_steps_of_a_vacuum_stays_whole(patch: Patch) -> None:
    """A commit lands once the first step, whichever that is, is done: listing files, or reading logs."""
    store = memory_warehouse().store
    grow(store, 2)
    part = part_of(store, "s2", [Piece(77)]).part
    later(patch, 30)
    steps = {name: getattr(cleaning, name) for name in ("_files", "_uses")}
    done: list[str] = []

    def then_commit(name: str) -> Callable[..., Any]:
        def step(*args: Any) -> Any:
            found = steps[name](*args)
            if not done:
                done.append(name)
                commit_parts(store, "s2", [part])
            return found

        return step

    for name in ("_files", "_uses"):
        patch.setattr(cleaning, name, then_commit(name))
    cleaning.vacuum(store, dry_run=False)
    assert verify(store).is_clean


@dataclass(frozen=True)
class Notice:
    """A part that is switched off, and the test that has to fail then."""

    off: Callable[[Patch], None]
    check: Callable[[Patch], object]


NOTICES: Mapping[str, Notice] = {
    "own-commit detection": Notice(
        own_commit_detection,
        lambda _: test_log.test_a_commit_that_landed_is_a_success_whatever_was_answered([loses_the_answer]),
    ),
    "rebase": Notice(rebase, lambda _: test_commit.test_after_a_lost_race_what_remains_goes_into_the_next_number()),
    "list before read": Notice(list_before_read, a_commit_between_the_two_steps_of_a_vacuum_stays_whole),
    "grace period": Notice(grace, lambda _: test_vacuum.test_a_commit_on_its_way_is_left_alone()),
    "hash chain": Notice(hash_chain, lambda _: test_log.test_a_rewritten_entry_breaks_the_chain_by_name()),
    "memory of parts": Notice(
        memory_of_parts, lambda _: test_commit.test_parts_that_were_committed_undo_nothing_that_came_later()
    ),
}


@pytest.mark.parametrize("what", list(NOTICES))
def test_what_protects_a_warehouse_is_missed_by_a_test(what: str) -> None:
    notice = NOTICES[what]
    with pytest.MonkeyPatch.context() as patch:
        notice.check(patch)  # passes as long as nothing is switched off
    with pytest.MonkeyPatch.context() as patch:
        notice.off(patch)
        with pytest.raises((AssertionError, pytest.fail.Exception, StacchipError)):
            notice.check(patch)


MISSED_BY_THE_MACHINE = (own_commit_detection, rebase)


@pytest.mark.slow
@pytest.mark.parametrize("off", MISSED_BY_THE_MACHINE, ids=lambda off: off.__name__)
def test_what_protects_a_warehouse_is_missed_by_the_state_machine(off: Callable[[Patch], None]) -> None:
    few = settings(
        max_examples=150,
        stateful_step_count=50,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        off(patch)
        with pytest.raises((AssertionError, StacchipError)):
            run_state_machine_as_test(WarehouseMachine, settings=few)
