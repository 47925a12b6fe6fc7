"""Which parts of a month become one: a rule of sizes alone."""

from __future__ import annotations

from collections.abc import Sequence

# A request to a bucket and a footer cost little beside a part of this size, and a reader that wants all of one still
# has it in seconds; it is what Delta Lake and Iceberg write.
PART_BYTES = 128 * 2**20
# Parts of about that size are never written again for their size: estimates may be off by a quarter.
FULL_BYTES = 96 * 2**20
# Three parts of a month that is still filled do no harm, and a merge costs what is new until there are more.
_FEW = 3
_WHILE_FILLED, _ONCE_CLOSED = 4, 16
SETTLED_PER_MERGE = 2  # months that a merge may write though nothing in them is new: it never pays for years at once


def is_due(sizes: Sequence[int], *, is_touched: bool) -> bool:
    """Whether the parts of a month that are not full become one.

    In a month that is still filled they do once the others add up to a quarter of the biggest: each byte is written
    at most six times until the part is full. In one that a merge has nothing for, a sixteenth is enough: it costs one
    more time, and what a box touches is then a single run.

    Args:
        sizes: bytes of the parts that are not full.
        is_touched: whether the merge writes into the month anyway.
    """
    if len(sizes) <= (_FEW if is_touched else 1):
        return False
    others = sum(sizes) - max(sizes)
    return others * (_WHILE_FILLED if is_touched else _ONCE_CLOSED) >= max(sizes)


def excess(sizes: Sequence[int]) -> float:
    """How much there is beside the biggest part, as a share of it: the month with most is settled first."""
    return (sum(sizes) - max(sizes)) / max(sizes)


def parts_for(size: int) -> int:
    """How many parts so many bytes are written as: each from 128 MB to twice that, but for a single small one."""
    return max(1, size // PART_BYTES)
