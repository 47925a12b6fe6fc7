"""What can be wrong with a warehouse, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

RESTORE = "restore the object from a backup or the bucket's older versions"
LEFT_ALONE = f"nothing in the warehouse can replace what is lost: {RESTORE}"
OLD_ONLY = f"the newest version does not need it: {RESTORE}, or let the versions expire that do"

TODO = {
    "format": f"{RESTORE}; another warehouse's file will not do",
    "log": LEFT_ALONE,
    "counts": "tell the developers of stacchip-core: a release wrote it so",
    "source": LEFT_ALONE,
    "tag": "delete the tag, and set it again at the version that it should name",
    "lock": "restore the dataset's file, or remove the dataset",
    "hint": "nothing breaks, reading is slower: `stacchip repair` writes it anew",
    "checkpoint": "readers use the one before it: `stacchip repair` writes it anew",
    "data": "`stacchip repair` releases its items, and the next indexing run makes their chips anew",
    "items": LEFT_ALONE,
    "combined": "`stacchip repair` merges its collections anew without it",
    "rows": "tell the developers of stacchip-core: a release wrote it so",
    "state": LEFT_ALONE,
}


LOG_FIRST = "leave it: the log of the index that it names is damaged; once that is restored, verify again"
KINDS_OF_FILES = {"data": "data", "items": "items", "checkpoints": "checkpoint"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as the log says.

    Attributes:
        kind: one of `TODO`.
        path: of the object, or the index or version.
        what: is wrong with it.
        todo: what to do.
    """

    kind: str
    path: str
    what: str
    todo: str

    def __str__(self) -> str:
        """On one line."""
        return f"{self.path}: {self.what}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found.

    Attributes:
        checked: how many of what were looked at.
    """

    is_deep: bool
    problems: tuple[Problem, ...]
    checked: Mapping[str, int]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"is_clean": self.is_clean, **asdict(self)}


def todo(kind: str) -> str:
    """What to do about a kind of problem."""
    return TODO[kind]
