"""A state machine that does to a warehouse all that people, schedules and failures do, beside a plain model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from stacchip_core.errors import LookupFailedError
from stacchip_core.warehouse.commit import Commit
from stacchip_core.warehouse.store import Store
from tests.ground import (
    FAULTS,
    INDEXES,
    MOST_HELD,
    MOST_RETIRED,
    NAMES,
    WEEK,
    WRITERS,
    DrawnPlan,
    Ground,
    HeldVersion,
    Intent,
    Writer,
)
from tests.model import State, after_delete
from tests.quick import opened
from tests.warehouse_rows import Piece, part_of

pieces = st.builds(
    Piece,
    number=st.integers(0, 5),
    form=st.sampled_from("abc"),
    updated=st.sampled_from([None, 1, 2]),
    recipe=st.sampled_from(["r1", "r1", "r2"]),
    size=st.sampled_from([256, 256, 128]),
    rows=st.integers(0, 2),
    month=st.sampled_from([6, 7]),
    failure=st.sampled_from(["", "", "", "read"]),
)
batches = st.lists(pieces, min_size=1, max_size=3, unique_by=lambda piece: (piece.key, piece.size))
plans = st.one_of(
    st.just(()),
    st.just(()),
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from(FAULTS)), min_size=1, max_size=2).map(tuple),
)
lateness = st.sampled_from([0, 0, 0, 3])


class WarehouseMachine(Ground):
    """Every rule is one process: it sees the store through faults of its own, and may die."""

    # --- rules: writers

    @rule(who=st.integers(0, WRITERS - 1), name=st.sampled_from(NAMES))
    def look(self, who: int, name: str) -> None:
        """A run begins: it reads the manifest."""
        self.writers[who] = Writer(name, self._look(name))

    @rule(who=st.integers(0, WRITERS - 1), batch=batches, plan=plans)
    def index(self, who: int, batch: list[Piece], plan: DrawnPlan) -> None:
        """A run indexes some items."""
        writer = self.writers[who]
        if writer.seen < 0:
            writer.seen = self._look(writer.name)
        self._index(writer, batch, plan)

    def _index(self, writer: Writer, batch: Sequence[Piece], plan: DrawnPlan) -> None:
        own = [replace(piece, collection=writer.name) for piece in batch]
        made = self._act(plan, lambda store: part_of(store, writer.name, own).part)
        if isinstance(made, str):
            writer.parts.append(made)
            months = sorted({piece.month for piece in own if piece.rows and not piece.failure})
            txn = made.rpartition("/")[2].removesuffix(".parquet")
            files = {month: f"collections/{writer.name}/data/{txn}-{k}.parquet" for k, month in enumerate(months)}
            writer.pieces += [
                (piece, files[piece.month] if piece.rows and not piece.failure else None) for piece in own
            ]

    @precondition(lambda self: any(writer.parts for writer in self.writers))
    @rule(who=st.integers(0, WRITERS - 1), plan=plans, late=lateness)
    def commit(self, who: int, plan: DrawnPlan, late: int) -> None:
        """A run commits, then begins again; one that failed may try again later."""
        ready = [place for place, writer in enumerate(self.writers) if writer.parts]
        who = ready[who % len(ready)]
        writer = self.writers[who]
        done = self._commit(writer, plan, late)
        self._retire(writer)
        if done is not None:
            self.writers[who] = Writer(writer.name)

    @rule(name=st.sampled_from(NAMES), batch=batches, plan=plans)
    def run(self, name: str, batch: list[Piece], plan: DrawnPlan) -> None:
        """A run from beginning to end, with nobody else meanwhile but rivals."""
        writer = Writer(name, self._look(name))
        self._index(writer, batch, ())
        self._commit(writer, plan, 0)
        self._retire(writer)

    @rule(name=st.sampled_from(NAMES), mine=batches, theirs=batches, plan=plans)
    def race(self, name: str, mine: list[Piece], theirs: list[Piece], plan: DrawnPlan) -> None:
        """Two runs begin together, and one commits at the very moment at which the other is about to."""
        seen = self._look(name)
        one, other = Writer(name, seen), Writer(name, seen)
        self._index(one, mine, ())
        self._index(other, theirs, ())
        self._commit(one, plan, 0, rival=other)
        self._retire(other)

    @precondition(lambda self: self.retired)
    @rule(which=st.integers(0, MOST_RETIRED - 1), plan=plans)
    def commit_again(self, which: int, plan: DrawnPlan) -> None:
        """A run that was believed to have failed is retried, whatever was committed since."""
        self._commit(self.retired[which % len(self.retired)], plan, 0)

    @precondition(lambda self: self.has_versions)
    @rule(name=st.sampled_from(NAMES), numbers=st.sets(st.integers(0, 5), min_size=1, max_size=2), plan=plans)
    def remove(self, name: str, numbers: set[int], plan: DrawnPlan) -> None:
        """Somebody takes items out."""
        known = sorted(
            {held.piece.item_id for own in (self._head(name).live, self._head(name).failed) for held in own.values()}
        )
        ids = sorted({known[number % len(known)] if known else Piece(number).item_id for number in numbers})

        def work(store: Store, author: str) -> Commit | None:
            warehouse = opened(store)
            version = len(self.model[name]) - 1

            def gone(now: State, number: int) -> State:
                seen = self.read_version  # a rival may commit before this run reads the log
                assert version <= seen < number
                return after_delete(now, ids, seen=self.model[name][seen], seen_version=seen, now=number)

            self.intents[author] = Intent(name, gone)
            try:
                return warehouse.remove_items(name, ids, reason="told to")
            except LookupFailedError:
                assert set(ids) - set(known), f"items {ids} of {name!r} were not found"
                return None

        self._act(plan, work)

    # --- rules: the combined index

    @precondition(lambda self: self.has_versions)
    @rule(
        index=st.sampled_from((*INDEXES, INDEXES[0])),
        names=st.sampled_from([NAMES, NAMES, NAMES, *((name,) for name in NAMES)]),
        plan=plans,
        late=lateness,
    )
    def merge(self, index: str, names: Sequence[str], plan: DrawnPlan, late: int) -> None:
        """A combined index is brought up to date with some collections."""
        there = sorted(name for name in names if len(self.model[name]) > 1)
        if not there:
            return
        before = {name: len(self.model[name]) - 1 for name in there}
        version = self._act(plan, lambda store: opened(store).merge(index, there), late=late)
        if version is None:
            return
        found = self.reader.chips_at(f"combined/{index}", version.version)
        pinned = {str(source["collection"]): int(source["version"]) for source in version.sources}
        assert sorted(pinned) == there
        for name, number in before.items():
            head = len(self.model[name]) - 1
            same = [n for n in range(number, head + 1) if self._is_pinned(name, pinned[name], n)]
            assert same, f"{index}@{version.version} holds {name}@{pinned[name]}, which had {number} to {head}"
        assert len(found) == version.count()

    def _is_pinned(self, name: str, pinned: int, version: int) -> bool:
        return self.model[name][pinned].chips() == self.model[name][version].chips()

    # --- rules: readers

    @precondition(lambda self: self.has_versions)
    @rule(folder=st.sampled_from([*(f"collections/{n}" for n in NAMES), "combined/global"]), back=st.integers(0, 4))
    def open(self, folder: str, back: int) -> None:
        """A reader opens a version, perhaps an old one, and keeps it."""
        head = self.reader.head(folder)
        if not head or len(self.held) >= MOST_HELD:
            return
        number = max(1, head - back)
        if number in self._retained(folder):
            self.held.append(HeldVersion(folder, number, self._read(folder, number)))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, MOST_HELD - 1))
    def read_again(self, which: int) -> None:
        """A reader reads once more what it has opened."""
        place = which % len(self.held)
        if not self._reads_as_before(self.held[place]):
            del self.held[place]

    # --- rules: care

    @precondition(lambda self: self.has_versions)
    @rule(tag=st.sampled_from(["t1", "t2"]), folder=st.sampled_from(["collections/a", "combined/global"]), plan=plans)
    def tag(self, tag: str, folder: str, plan: DrawnPlan) -> None:
        """Somebody names the newest version."""
        if not self.reader.head(folder):
            return
        taken = self.tags.get(tag)
        done = self._act(plan, lambda store: opened(store).tag(tag, folder), may_refuse=taken is not None)
        if done is not None:
            assert taken in (None, (done.index, done.version))
        key = f"tags/{tag}.json"
        if taken is None and self.disk.path(key) in self.disk.objects:
            self.tags[tag] = (folder, self._tagged(tag))

    def _tagged(self, tag: str) -> int:
        (found,) = (one for one in opened(self.disk).tags() if one.name == tag)
        return found.version

    @precondition(lambda self: self.tags)
    @rule(tag=st.sampled_from(["t1", "t2"]), plan=plans)
    def untag(self, tag: str, plan: DrawnPlan) -> None:
        """Somebody takes a name back."""
        with self._deleting():
            self._act(plan, lambda store: opened(store).untag(tag))
        if self.disk.path(f"tags/{tag}.json") not in self.disk.objects:
            self.tags.pop(tag, None)

    @precondition(lambda self: self.has_versions)
    @rule(
        folder=st.sampled_from([*(f"collections/{n}" for n in NAMES), "combined/global"]),
        keep=st.integers(1, 4),
        days=st.sampled_from([2, 2, 5]),
        plan=plans,
    )
    def expire(self, folder: str, keep: int, days: int, plan: DrawnPlan) -> None:
        """Old versions are let go."""
        if not self.reader.head(folder):
            return

        def work(store: Store, author: str) -> object:
            self.intents[author] = Intent(folder.rpartition("/")[2], lambda state, _: state)
            return opened(store).expire(folder, keep=keep, days=days)

        self._act(plan, work)

    @rule(hours=st.sampled_from([1, 20, 60, 60, 24 * 8]))
    def wait(self, hours: int) -> None:
        """Time goes by."""
        self.disk.clock += timedelta(hours=hours)

    @precondition(lambda self: self.has_versions)
    @rule(is_dry=st.sampled_from([False, False, True]), plan=plans)
    def vacuum(self, is_dry: bool, plan: DrawnPlan) -> None:
        """Somebody cleans up."""
        before = dict(self.disk.objects)
        with self._deleting():
            self._act(plan, lambda store: opened(store).vacuum(dry_run=is_dry))
        gone = before.keys() - self.disk.objects.keys()
        assert not (gone and is_dry), "a dry run removed files"
        for path in gone:
            assert self.disk.clock - before[path][1] > WEEK, f"vacuum removed {path}, which is young"
        type(self).steps["removed files"] += len(gone)
        if gone:
            self._check_held()

    @precondition(lambda self: self.has_versions)
    @rule(is_deep=st.sampled_from([False, False, False, True]))
    def verify(self, is_deep: bool) -> None:
        """Somebody looks whether all is well."""
        found = opened(self.disk).verify(deep=is_deep)
        assert not found.problems, found
