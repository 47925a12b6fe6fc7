"""Which rows of a run are news, given what others have committed meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stacchip_core.warehouse.entry import Totals
from stacchip_core.warehouse.items import Identity, ItemState, States, states_of
from stacchip_core.warehouse.manifest import is_older, rank


@dataclass(frozen=True, slots=True)
class Settled:
    """The rows of a run that are news to a manifest.

    Attributes:
        places: which rows of the run's table.
        ops: what each does: "add", "update" or "failed".
        chips: rows of chips they bring.
        change: what they do to the totals.
    """

    places: tuple[int, ...]
    ops: tuple[str, ...]
    chips: int
    change: Totals


def settle(mine: Sequence[ItemState], states: States, read_version: int) -> Settled:
    """Which rows are news, given what is committed by now.

    Args:
        mine: the run's rows.
        states: of the same items, at the newest version.
        read_version: the version the run compared its items with.
    """
    live = {state.identity: state for state in states_of(states.live)}
    failed = {state.identity: state for state in states_of(states.failed)}
    chosen: dict[Identity, int] = {}
    for place, state in enumerate(mine):
        before = chosen.get(state.identity)
        if before is None or rank(state) > rank(mine[before]):
            chosen[state.identity] = place
    ops = {
        place: op
        for identity, place in chosen.items()
        if (op := decide(mine[place], live.get(identity), failed.get(identity), read_version))
    }
    done = [(mine[place], live.get(mine[place].identity)) for place, op in ops.items() if op != "failed"]
    return Settled(
        places=tuple(ops),
        ops=tuple(ops.values()),
        chips=sum(after.rows for after, _ in done),
        change=Totals(
            items=sum(before is None for _, before in done),
            chips=sum(after.rows - (before.rows if before else 0) for after, before in done),
        ),
    )


def decide(mine: ItemState, live: ItemState | None, failed: ItemState | None, read_version: int) -> str | None:
    """What a row does to the state; None where it is no news.

    Which form of an item stays follows its source's `updated`, then, between two runs that overlapped, its
    fingerprint and recipe; never anybody's clock. A form that is live already is news after a failure that the run
    knew of: its source has taken the form back that failed.
    """
    if live is not None and _is_same(mine, live):
        is_mended = failed is not None and failed.version <= read_version and mine.op != "failed"
        return "update" if is_mended else None
    if live is not None and is_older(mine, live):
        return None
    if mine.op == "failed":
        return None if failed is not None and _is_same_failure(mine, failed) else "failed"
    if live is None:
        return "add"
    is_tie = live.version > read_version and not is_older(live, mine)
    if is_tie and (mine.fingerprint, mine.recipe) < (live.fingerprint, live.recipe):
        return None
    return "update"


def _is_same(one: ItemState, other: ItemState) -> bool:
    return (one.fingerprint, one.recipe) == (other.fingerprint, other.recipe)


def _is_same_failure(one: ItemState, other: ItemState) -> bool:
    """Whether a failure is the one already on record; what a passing one says varies."""
    is_alike = (one.stage, one.is_transient) == (other.stage, other.is_transient)
    return _is_same(one, other) and is_alike and (bool(one.is_transient) or one.reason == other.reason)
