"""Which rows of a run are news, given what others have committed meanwhile."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime

from stacchip_core.warehouse.classify import is_older, rank
from stacchip_core.warehouse.entry import Totals
from stacchip_core.warehouse.items import Identity, ItemState, States, states_of


@dataclass(frozen=True, slots=True)
class Settled:
    """The rows of a run that are news to a manifest.

    Attributes:
        places: which rows of the run's table.
        ops: what each does: "add", "update", "delete" or "failed".
        was: datetime of the form that each takes the place of, if it does.
        since: when each that failed was first found failing, if that is on record.
        chips: rows of chips they bring.
        change: what they do to the totals.
    """

    places: tuple[int, ...]
    ops: tuple[str, ...]
    was: tuple[datetime | None, ...]
    since: tuple[datetime | None, ...]
    chips: int
    change: Totals


@dataclass(frozen=True, slots=True)
class Known:
    """What is committed of an identity, if anything."""

    live: ItemState | None = None
    failed: ItemState | None = None
    deleted: ItemState | None = None


def settle(
    mine: Sequence[ItemState],
    states: States,
    read_version: int,
    *,
    is_rebuilt: bool = False,
    committed: Container[str] = (),
) -> Settled:
    """Which rows are news, given what is committed by now: of several of one item the one that ranks first, or none.

    Args:
        mine: the run's rows.
        states: of the same items, at the newest version.
        read_version: the version the run compared its items with.
        is_rebuilt: rows of forms that are live already are news, where nobody else has committed them meanwhile.
        committed: data files that the log names: a commit that landed has settled their rows.
    """
    live, failed, deleted = ({one.identity: one for one in states_of(rows)} for rows in states.tables())
    chosen: dict[Identity, int] = {}
    for place, state in enumerate(mine):
        other = chosen.get(state.identity)
        if other is None or rank(state) > rank(mine[other]):
            chosen[state.identity] = place
    chosen = {one: place for one, place in chosen.items() if (mine[place].file or "") not in committed}
    known = {one: Known(live.get(one), failed.get(one), deleted.get(one)) for one in chosen}
    ops = {
        place: op
        for one, place in chosen.items()
        if (op := decide(mine[place], known[one], read_version, is_rebuilt=is_rebuilt)) is not None
    }
    gone = {place: live.get(mine[place].identity) for place, op in ops.items() if op != "failed"}
    come = [mine[place] for place, op in ops.items() if op in ("add", "update")]
    went = [state for state in gone.values() if state is not None]
    chips = sum(state.rows for state in come)
    return Settled(
        places=tuple(ops),
        ops=tuple(ops.values()),
        was=tuple(before.datetime if (before := gone.get(place)) else None for place in ops),
        since=tuple(before.first_failed if (before := failed.get(mine[place].identity)) else None for place in ops),
        chips=chips,
        change=Totals(items=len(come) - len(went), chips=chips - sum(state.rows for state in went)),
    )


def decide(mine: ItemState, known: Known, read_version: int, *, is_rebuilt: bool = False) -> str | None:
    """What a row does to the state; None where it is no news.

    Which form of an item stays follows its source's `updated`, then, between two runs that overlapped, its
    fingerprint and recipe; never anybody's clock. A form that is live already is news after a failure that the run
    knew of: its source has taken the form back that failed. So is one that was rebuilt, unless another run has
    committed it since this one looked; a rebuild that failed leaves the rows of before, and a failure on record.
    """
    live, failed = known.live, known.failed
    if mine.op == "delete":
        return _decide_delete(mine, known, read_version)
    if live is not None and _is_same(mine, live):
        return _decide_same(mine, known, read_version, is_rebuilt=is_rebuilt and live.version <= read_version)
    if (live is not None and is_older(mine, live)) or _is_gone(mine, known.deleted, read_version):
        return None
    if mine.op == "failed":
        return _decide_failure(mine, failed)
    if live is None:
        return "add"
    is_tie = live.version > read_version and not is_older(live, mine)
    is_loser = is_tie and (mine.fingerprint, mine.recipe) < (live.fingerprint, live.recipe)
    return None if is_loser else "update"


def _decide_same(mine: ItemState, known: Known, read_version: int, *, is_rebuilt: bool) -> str | None:
    failed = known.failed
    if is_rebuilt:
        return _decide_failure(mine, failed) if mine.op == "failed" else "update"
    is_mended = failed is not None and failed.version <= read_version and mine.op != "failed"
    return "update" if is_mended else None


def _decide_failure(mine: ItemState, failed: ItemState | None) -> str | None:
    return None if failed is not None and _is_same_failure(mine, failed) else "failed"


def _decide_delete(mine: ItemState, known: Known, read_version: int) -> str | None:
    """A delete is of the form that the run saw: one that came meanwhile stays. It also takes a failure off the list."""
    if known.live is not None:
        return "delete" if _is_same(mine, known.live) else None
    return "delete" if known.failed is not None and known.failed.version <= read_version else None


def _is_gone(mine: ItemState, deleted: ItemState | None, read_version: int) -> bool:
    """Whether another run has deleted the item since this one looked at it, and its source does not date mine later."""
    return deleted is not None and deleted.version > read_version and not is_older(deleted, mine)


def _is_same(one: ItemState, other: ItemState) -> bool:
    return (one.fingerprint, one.recipe) == (other.fingerprint, other.recipe)


def _is_same_failure(one: ItemState, other: ItemState) -> bool:
    """Whether a failure is the one already on record, and not of a later try; what a passing one says varies."""
    is_alike = (one.stage, one.is_transient) == (other.stage, other.is_transient)
    is_later = (one.attempts or 1) > (other.attempts or 1)
    return _is_same(one, other) and is_alike and not is_later and (bool(one.is_transient) or one.reason == other.reason)
