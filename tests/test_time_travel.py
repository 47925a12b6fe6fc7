"""Versions read as they did, whatever is committed, compacted, expired and removed after them."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from stacchip_core.errors import VersionNotFoundError
from tests.model import digest
from tests.quick import quick
from tests.warehouse_rows import Piece, part_of
from tests.worlds import MemoryWorld, make

HELD, LATER = 100, 500
INDEXES = ("collections/a", "collections/b", "combined/global")


class Busy:
    """A warehouse in which things go on: two collections and their combined index.

    Attributes:
        compacted: merges that made fewer parts of some month than there were.
    """

    def __init__(self) -> None:
        self.world = MemoryWorld()
        make(self.world)
        self.warehouse, self._chance = self.world.warehouse, random.Random(4)
        self.compacted = 0

    def commit(self) -> None:
        """Some new and some changed items, in one of two months; now and then one is removed."""
        name, chance = self._chance.choice("ab"), self._chance
        seen = self.warehouse._manifest(name).version
        pieces = {
            (piece.number, piece.size): piece
            for piece in (
                Piece(
                    chance.randrange(60),
                    form=chance.choice("abcdefgh"),
                    rows=1,
                    month=chance.choice([6, 7]),
                    collection=name,
                )
                for _ in range(2)
            )
        }
        part = part_of(self.world.store, name, list(pieces.values())).part
        self.warehouse.commit(name, [part], read_version=seen)
        live = self.warehouse.collection(name).items(["item_id"])["item_id"].to_pylist() if seen % 9 == 8 else []
        if live:
            self.warehouse.remove_items(name, [live[seen % len(live)]], reason="told to")
        self.world.age(timedelta(hours=7))

    def merge(self) -> None:
        """Bring the combined index up to date."""
        before = self._paths()
        self.warehouse.merge("global", self.warehouse.collections())
        gone, come = before - self._paths(), self._paths() - before
        self.compacted += len(gone) > len(come)

    def _paths(self) -> set[str]:
        try:
            return {info.path for info in self.warehouse.combined("global").files}
        except VersionNotFoundError:
            return set()

    def head(self, index: str) -> int:
        """Number of the newest version."""
        return self.warehouse.index(index).version


@pytest.mark.slow
def test_a_hundred_versions_read_the_same_after_500_more_commits_compactions_and_a_vacuum() -> None:
    with quick(every=6):
        busy = Busy()
        warehouse = busy.warehouse
        for _ in range(4):
            busy.commit()
        busy.merge()
        while sum(map(busy.head, INDEXES)) <= HELD:
            busy.commit()
            if busy.head("collections/a") % 2:
                busy.merge()
        held = {
            (index, n): digest(warehouse.index(index, n)) for index in INDEXES for n in range(1, busy.head(index) + 1)
        }
        chosen = dict(random.Random(5).sample(sorted(held.items()), HELD))
        for index, number in chosen:
            warehouse.tag(f"{index.replace('/', '-')}-{number}", index, number)
        for number in range(LATER):
            busy.commit()
            if number % 10 == 0:
                busy.merge()
        for index in INDEXES:
            assert warehouse.expire(index, keep=5, days=2).added > 10
        busy.world.age(timedelta(days=30))
        busy.world.store.may_delete = True
        removed = warehouse.vacuum(dry_run=False)
        assert len(removed.files) > 100 and busy.compacted > 3
        for (index, number), told in chosen.items():
            assert digest(warehouse.index(index, number)) == told, f"{index}@{number}"
        assert warehouse.verify(deep=True).is_clean
