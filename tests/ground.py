"""What the state machine stands on: a store, actors with faults of their own, a model, and what must hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

from hypothesis.stateful import RuleBasedStateMachine, invariant

from stacchip_core.errors import (
    CommitConflictError,
    CommitUnknownError,
    CorruptWarehouseError,
    InputError,
    StacchipError,
    StoreError,
    TransientStoreError,
)
from stacchip_core.warehouse.commit import Commit
from stacchip_core.warehouse.format import make_format
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store
from tests import faulty_store
from tests.dict_store import DictStore, Numbered
from tests.faulty_store import Crash, Fault, FaultyStore, Scripted
from tests.model import Reader, State, after_commit, check_collection, check_combined, digest
from tests.quick import opened, quick
from tests.warehouse_rows import Piece, chip_ids

NAMES = ("a", "b")
INDEXES = ("global", "other")
WRITERS = 3
WEEK = timedelta(days=7)
DAY = timedelta(hours=24)
MOST_HELD, MOST_RETIRED, READ_AT_THE_END = 6, 6, 2
AT_THE_LOG = {  # met by the next entry that is created
    "fails at the log": faulty_store.fails_before,
    "answer lost at the log": faulty_store.loses_the_answer,
    "own 412 at the log": faulty_store.retries_itself,
}
FAULTS = (
    *("before", "answer lost", "own 412", "409", "403", "503", "slow", "rival", "dies before", "dies after"),
    *AT_THE_LOG,
)
DrawnPlan = Sequence[tuple[int, str]]


@dataclass
class Writer:
    """A run: what it saw, and what it has made and not committed yet."""

    name: str
    seen: int = -1
    parts: list[str] = field(default_factory=list)
    pieces: list[tuple[Piece, str | None]] = field(default_factory=list)  # and the data file of each


@dataclass(frozen=True)
class Intent:
    """What an actor may have committed: how the state follows from the one before."""

    name: str
    after: Callable[[State, int], State]


@dataclass(frozen=True)
class HeldVersion:
    """A version that a reader has opened, and what it read."""

    folder: str
    number: int
    sha256: str


class Ground(RuleBasedStateMachine):
    """A warehouse, those who use it, and the model. Each act is one process, with faults of its own, and may die."""

    steps: ClassVar[Counter[str]] = Counter()  # rules executed by all machines of this process; campaigns report them

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._stack.enter_context(quick())
        self.disk = DictStore()
        make_format(self.disk)
        self.base = FaultyStore(self.disk)
        self.reader = Reader(self.disk)
        self.model: dict[str, list[State]] = {name: [State()] for name in NAMES}
        self.writers = [Writer("a") for _ in range(WRITERS)]
        self.retired: list[Writer] = []
        self.intents: dict[str, Intent] = {}
        self.read_version = 0  # that the writer of the entry which is followed had looked at
        self.held: list[HeldVersion] = []
        self.tags: dict[str, tuple[str, int]] = {}
        self.is_sound = True  # the last step held what it promised
        self._actors = 0

    def teardown(self) -> None:
        """All that is too slow to look at after each step."""
        type(self).steps["examples"] += 1
        try:
            if self.is_sound:
                self._check_all()
        finally:
            self._stack.close()

    @property
    def has_versions(self) -> bool:
        """Whether anything was committed."""
        return any(len(versions) > 1 for versions in self.model.values())

    # --- invariants

    @invariant()
    def logs_are_whole_and_hold_what_was_committed(self) -> None:
        """After each step: new entries are proven and agree with the model; nobody broke a rule of the store."""
        type(self).steps["steps"] += 1
        self.is_sound = False
        assert not self.disk.violations, self.disk.violations
        self._absorb()
        self.is_sound = True

    def _absorb(self) -> None:
        """Read what has been committed, and let the model follow."""
        for name in NAMES:
            folder = f"collections/{name}"
            for entry in self._new_entries(folder):
                self._follow(name, entry)
        for index in INDEXES:
            for entry in self._new_entries(f"combined/{index}"):
                type(self).steps["merges" if entry["operation"] == "merge" else "expiries"] += 1
                check_combined(self.reader, f"combined/{index}", entry["version"])

    def _new_entries(self, folder: str) -> list[dict[str, Any]]:
        keys = self.disk.keys(f"{folder}/log")
        return self.reader.extend(folder, keys) if len(keys) > self.reader.head(folder) else []

    def _follow(self, name: str, entry: Mapping[str, Any]) -> None:
        folder, version = f"collections/{name}", entry["version"]
        type(self).steps["expiries" if entry["operation"] == "expire" else "commits"] += 1
        type(self).steps["deletes"] += entry["counts"]["deleted"]
        type(self).steps["checkpoints"] += entry["checkpoint"] == version
        author = self.disk.authors[f"{folder}/log/{version:020d}.json"]
        before, self.read_version = self.model[name][-1], entry["read_version"]
        after = self.intents[author].after(before, version)
        expected, found = after.outline(), self.reader.folded[folder][version].outline()
        assert expected == found, f"{folder}@{version} by {author}: before {before}, expected {expected}, found {found}"
        assert entry["operation"] == "expire" or after != before, f"{folder}@{version} by {author} brings no news"
        self.model[name].append(after)
        check_collection(self.reader, folder, version)
        chips = self.reader.chips_at(folder, version)
        assert chips == after.chips(), f"{folder}@{version} by {author}: chips"

    # --- acting

    def _act(
        self,
        plan: DrawnPlan,
        work: Callable[..., Any],
        *,
        late: int = 0,
        may_refuse: bool = False,
        rival: Writer | None = None,
    ) -> Any:
        """Let a process do something; None where it failed, as only faults may make it.

        Args:
            plan: its faults.
            work: takes its store, and the name of the actor if it wants to.
            late: operations that a listing lags behind.
            may_refuse: an InputError is fine.
            rival: a run that commits just before this process first creates a log entry.
        """
        faults = Numbered({number: self._fault(kind) for number, kind in plan})
        process = self.base.sibling(faults)
        process_faults = {"dies before": "before", "dies after": "after"}
        for number, kind in plan:
            if kind in AT_THE_LOG:
                process.script.append(Scripted(AT_THE_LOG[kind], "create", "*/log/*"))
            if kind in process_faults:
                process.crash_at = (number - 1, process_faults[kind])  # type: ignore[assignment]
        if rival is not None:
            meet = faulty_store.slow(lambda: self._commit(rival, (), 0))
            process.script.append(Scripted(meet, "create", "*/log/*"))
        self._actors += 1
        author, outer = f"actor {self._actors}", self.disk.author
        type(self).steps["acts"] += 1
        self.is_sound = False
        self.disk.author, self.base.shared.late_listings = author, late
        try:
            return work(process, author) if work.__code__.co_argcount > 1 else work(process)
        except Crash:
            return None
        except (TransientStoreError, CommitConflictError, CommitUnknownError):
            assert faults.met, "failed without a fault"
            return None
        except CorruptWarehouseError:
            raise
        except StoreError:
            assert faults.met, "refused without a fault"
            return None
        except InputError:
            assert may_refuse
            return None
        finally:
            self.disk.author, self.base.shared.late_listings = outer, 0
            type(self).steps["faults"] += len(faults.met) + sum(not one.times for one in process.script)
            type(self).steps["deaths"] += process.is_dead
            self._absorb()

    def _fault(self, kind: str) -> Fault:
        if kind == "rival":
            return faulty_store.slow(self._rival)
        if kind == "slow":
            return faulty_store.slow(self._tick)
        return {
            "before": faulty_store.fails_before,
            "answer lost": faulty_store.loses_the_answer,
            "own 412": faulty_store.retries_itself,
            "409": faulty_store.conflicts,
            "403": faulty_store.refuses,
            "503": faulty_store.is_overloaded,
        }.get(kind, faulty_store.no_fault)

    def _tick(self) -> None:
        self.disk.clock += timedelta(minutes=50)

    def _rival(self) -> None:
        """Meanwhile another run commits what it has."""
        type(self).steps["rivals"] += 1
        for place, writer in enumerate(self.writers):
            if writer.parts:
                self.writers[place] = Writer(writer.name)
                self._commit(writer, (), 0)
                return

    def _look(self, name: str) -> int:
        return Manifest.load(self.base, name).version

    def _head(self, name: str) -> State:
        return self.model[name][-1]

    def _retire(self, writer: Writer) -> None:
        if len(self.retired) < MOST_RETIRED and writer not in self.retired:
            self.retired.append(writer)

    def _commit(self, writer: Writer, plan: DrawnPlan, late: int, rival: Writer | None = None) -> Commit | None:
        """Commit a run's parts; what it reports must be what happened.

        Args:
            writer: the run.
            plan: faults that it meets.
            late: operations that a listing lags behind.
            rival: a run that commits just before this one tries to.
        """
        name, pieces = writer.name, tuple(writer.pieces)
        folder = f"collections/{name}"

        def after(state: State, number: int) -> State:
            named = {info["path"] for entry in self.reader.entries[folder][: number - 1] for info in entry["added"]}
            settled = {place for place, (_, file) in enumerate(pieces) if file in named}
            return after_commit(state, [piece for piece, _ in pieces], seen=writer.seen, now=number, settled=settled)

        def work(store: Store, author: str) -> tuple[Commit, str]:
            self.intents[author] = Intent(name, after)
            return opened(store).commit(name, list(writer.parts), read_version=writer.seen), author

        times = [self.disk.objects[self.disk.path(part)][1] for part in writer.parts if self._is_there(part)]
        if len(times) < len(writer.parts):  # a vacuum took them after a week
            return None
        is_old = self.disk.clock - min(times) > DAY + timedelta(minutes=5)
        is_nearly_old = self.disk.clock - min(times) > DAY - timedelta(hours=3)
        done = self._act(plan, work, late=late, may_refuse=is_nearly_old, rival=rival)
        if done is None:
            return None
        commit: Commit = done[0]
        author = done[1]
        mine = [key for key, who in self.disk.authors.items() if who == author and "/log/" in key]
        assert len(mine) <= 1, f"{author} committed twice"
        if mine:
            assert not is_old, "work older than a day was committed"
            assert mine == [f"{folder}/log/{commit.version:020d}.json"], "it tells another version than it made"
            entry = self.reader.entries[folder][commit.version - 1]
            counts = {name: getattr(commit, name) for name in ("new", "updated", "deleted", "chips")}
            assert counts == {name: entry["counts"][name] for name in counts}
        else:
            state = self.model[name][commit.version]
            assert state == after(state, commit.version + 1), "news was not committed"
            assert (commit.new, commit.updated, commit.chips) == (0, 0, 0)
        return commit

    def _is_there(self, key: str) -> bool:
        return self.disk.path(key) in self.disk.objects

    @contextmanager
    def _deleting(self) -> Iterator[None]:
        self.disk.may_delete = True
        try:
            yield
        finally:
            self.disk.may_delete = False

    # --- reading, and what has to stay readable

    def _expired(self, folder: str) -> int:
        entries = self.reader.entries.get(folder) or [{"expired": 0}]
        return int(entries[-1]["expired"])

    def _retained(self, folder: str) -> set[int]:
        """Versions of an index that have to be readable, said from the entries alone."""
        held = {number for own, number in self.tags.values() if own == folder}
        if folder.startswith("collections/"):
            for index in INDEXES:
                combined = f"combined/{index}"
                for number in self._retained(combined):
                    for source in self.reader.entries[combined][number - 1]["sources"]:
                        if folder == f"collections/{source['collection']}":
                            held.add(source["version"])
        return held | set(range(self._expired(folder) + 1, self.reader.head(folder) + 1))

    def _read(self, folder: str, number: int) -> str:
        """All of a version, through production code; its chips are those of the model."""
        kind, name = folder.split("/")
        warehouse = opened(self.disk)
        version = warehouse.collection(name, number) if kind == "collections" else warehouse.combined(name, number)
        assert chip_ids(version.dataset()) == self.reader.chips_at(folder, number), f"{folder}@{number}"
        if kind == "collections":
            failures = warehouse.collection(name, number).failures()
            found = set(zip(failures["key"].to_pylist(), failures["size_px"].to_pylist(), strict=True))
            assert found == set(self.model[name][number].failed), f"{folder}@{number}: failures"
        return digest(version)

    def _reads_as_before(self, held: HeldVersion) -> bool:
        """Whether a version can still be read; what is read is what was read."""
        if held.number in self._retained(held.folder):
            assert self._read(held.folder, held.number) == held.sha256, f"{held} reads otherwise"
            return True
        try:
            assert self._read(held.folder, held.number) == held.sha256, f"{held} reads otherwise"
        except StacchipError:
            return False
        return True

    def _check_held(self) -> None:
        self.held = [held for held in self.held if self._reads_as_before(held)]
        for folder in self.reader.entries:
            if self.reader.head(folder):
                self._read(folder, self.reader.head(folder))
        for folder, number in self.tags.values():
            self._read(folder, number)

    def _check_all(self) -> None:
        self._absorb()
        self._check_held()
        for folder in self.reader.entries:
            retained = sorted(self._retained(folder))
            for number in retained[:: max(1, len(retained) // READ_AT_THE_END)]:
                self._read(folder, number)
            for key, body in zip(self.disk.keys(f"{folder}/log"), self.reader.bodies[folder], strict=True):
                assert self.disk.read(key) == body, f"{key} was changed"
        found = opened(self.disk).verify(deep=True)
        assert not found.problems, found
