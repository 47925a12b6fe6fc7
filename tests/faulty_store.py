"""A store that fails on request: before or after the work, with an answer lost on the way, refusing, late, or dead."""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pyarrow.fs import FileSystem

from stacchip_core.errors import ObjectExistsError, StoreError, TransientStoreError
from stacchip_core.warehouse.contract import STAGING, Listed
from stacchip_core.warehouse.disk import LocalStore, make_folder
from stacchip_core.warehouse.store import MemoryStore, Store, open_store

Work = Callable[[], Any]
Fault = Callable[[Work], Any]  # does the work given, or not, and raises or not
CrashPoint = tuple[int, Literal["before", "after"]]
WRITES = ("write", "create", "writing")
OPERATIONS = (*WRITES, "read", "read_range", "size", "modified", "listing", "folders", "delete")


class Crash(BaseException):
    """The process died here; no error handler may take it for a failure of the store."""


@dataclass
class Scripted:
    """A fault for the next operations of one kind, on keys that match a pattern."""

    fault: Fault
    operation: str = "*"
    key: str = "*"
    times: int = 1


class Plan:
    """Faults by chance; the same seed gives the same faults to the same operations, in the same order."""

    def __init__(self, seed: int | str, chance: float, faults: tuple[Fault, ...] = ()) -> None:
        """`chance` of a fault for each operation, then one of `faults`; none given: all there are."""
        self._random = random.Random(seed)
        self._chance = chance
        self._faults = faults or FAULTS

    def fault_for(self, operation: str) -> Fault | None:
        """What becomes of the next operation."""
        if self._random.random() >= self._chance:
            return None
        fault = self._random.choice(self._faults)
        return None if fault is retries_itself and operation != "create" else fault


@dataclass
class Shared:
    """What all who use one storage share.

    Attributes:
        clock_offset: of the store's clock against the true time; what is written keeps the time of its writing.
        late_listings: how many operations an object must be old to be listed.
    """

    clock_offset: timedelta = timedelta(0)
    late_listings: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    done: int = 0
    born: dict[str, int] = field(default_factory=dict)
    offsets: dict[str, timedelta] = field(default_factory=dict)


def memory_store() -> MemoryStore:
    """An empty store in memory, nobody else's."""
    store = open_store(f"memory://{uuid.uuid4()}/warehouse")
    assert isinstance(store, MemoryStore)
    return store


class FaultyStore(Store):
    """Another store, seen by one process that fails on request.

    Each operation asks, in this order: `crash_at`, `unreadable` (reads), `faults` (creates), `script`, `plan`.

    Attributes:
        inner: the store itself, without faults.
        operations: (name, key) of all operations so far; `list`, `exists` and `now` are made of others.
        written: keys of all objects written or created, or tried to be.
        faults: met by the next exclusive creates, in this order.
        unreadable: for how many reads the store gives no answer.
        script: faults for operations by name and key.
        plan: faults by chance.
        crash_at: (k, "before" or "after"): dies there, counting from 0; afterwards nothing works any more.
        shared: clock and lateness, which others on the same storage share: see `sibling`.
    """

    def __init__(self, inner: Store | None = None, plan: Plan | None = None, shared: Shared | None = None) -> None:
        """Without faults, unless there is a plan; a store in memory, unless there is another."""
        self.inner = inner or memory_store()
        super().__init__(self.inner.root, self.inner.path("x").removesuffix("/x"), self.inner.fs)
        self.operations: list[tuple[str, str]] = []
        self.written: list[str] = []
        self.faults: deque[Fault] = deque()
        self.unreadable = 0
        self.script: list[Scripted] = []
        self.plan = plan
        self.crash_at: CrashPoint | None = None
        self.is_dead = False
        self.shared = shared or Shared()

    def sibling(self, plan: Plan | None = None) -> FaultyStore:
        """The same storage, seen by another process."""
        return FaultyStore(self.inner, plan, self.shared)

    def count(self, operation: str = "*", key: str = "*") -> int:
        """How many operations there were so far."""
        return sum(fnmatchcase(name, operation) and fnmatchcase(at, key) for name, at in self.operations)

    @cached_property
    def arrow_filesystem(self) -> FileSystem:
        """Without faults: warehouse files are read through `read` and `read_range`."""
        return self.inner.arrow_filesystem

    def read(self, key: str) -> bytes:
        data: bytes = self._do("read", key, lambda: self.inner.read(key))
        return data

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        data: bytes = self._do("read_range", key, lambda: self.inner.read_range(key, start, stop))
        return data

    def write(self, key: str, data: bytes) -> None:
        self._do("write", key, lambda: self.inner.write(key, data))

    def create(self, key: str, data: bytes) -> None:
        self._do("create", key, lambda: self.inner.create(key, data))

    def delete(self, key: str) -> None:
        self._do("delete", key, lambda: self.inner.delete(key))

    def size(self, key: str) -> int:
        size: int = self._do("size", key, lambda: self.inner.size(key))
        return size

    def modified(self, key: str) -> datetime:
        moment: datetime = self._do("modified", key, lambda: self.inner.modified(key))
        return moment + self.shared.offsets.get(key, timedelta(0))

    def listing(self, prefix: str) -> dict[str, Listed]:
        found: dict[str, Listed] = self._do("listing", prefix, lambda: self._listed(prefix))
        return found

    def folders(self, prefix: str) -> list[str]:
        found: list[str] = self._do("folders", prefix, lambda: self._folders(prefix))
        return found

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """The operation is the publication, when the block is left."""
        self._raise_if_dead()
        with tempfile.TemporaryDirectory(prefix="stacchip-") as folder:
            local = Path(folder) / "object"
            yield local
            self._do("writing", key, lambda: self._publish(key, local))

    def _publish(self, key: str, filled: Path) -> None:
        with self.inner.writing(key) as local:
            shutil.copyfile(filled, local)

    def _create(self, path: str, data: bytes) -> None:
        self.inner._create(path, data)  # only `create` counts

    def _listed(self, prefix: str) -> dict[str, Listed]:
        shared, found = self.shared, self.inner.listing(prefix)
        with shared.lock:
            oldest = shared.done - shared.late_listings
            seen = {key: one for key, one in found.items() if shared.born.get(key, -1) <= oldest}
            return {
                key: Listed(one.size, one.modified + shared.offsets.get(key, timedelta(0))) for key, one in seen.items()
            }

    def _folders(self, prefix: str) -> list[str]:
        if not self.shared.late_listings:
            return self.inner.folders(prefix)
        names = (key.removeprefix(f"{prefix}/").partition("/") for key in self._listed(prefix))
        return sorted({name for name, is_folder, _ in names if is_folder})

    def _do(self, operation: str, key: str, work: Work) -> Any:
        with self.shared.lock:
            self._raise_if_dead()
            number = len(self.operations)
            self.operations.append((operation, key))
            self.shared.done += 1
            if operation in ("write", "create"):
                self.written.append(key)
            fault = self._fault(operation, key)
        if self.crash_at == (number, "before"):
            self._leave_a_torn_file(operation, key)
            self._die(operation, key)
        try:
            return fault(lambda: self._work(operation, key, work))
        finally:
            if self.crash_at == (number, "after"):
                self._die(operation, key)

    def _work(self, operation: str, key: str, work: Work) -> Any:
        done = work()
        with self.shared.lock:
            if operation in WRITES:
                self.shared.born.setdefault(key, self.shared.done)
                self.shared.offsets[key] = self.shared.clock_offset
            elif operation == "delete":
                self.shared.born.pop(key, None)
        return done

    def _fault(self, operation: str, key: str) -> Fault:
        if operation == "read" and self.unreadable:
            self.unreadable -= 1
            return fails_before
        if operation == "create" and self.faults:
            return self.faults.popleft()
        for scripted in self.script:
            if scripted.times and fnmatchcase(operation, scripted.operation) and fnmatchcase(key, scripted.key):
                scripted.times -= 1
                return scripted.fault
        return (self.plan and self.plan.fault_for(operation)) or no_fault

    def _leave_a_torn_file(self, operation: str, key: str) -> None:
        """What a process killed while it writes to a disk leaves: a folder, and half a file under a passing name."""
        if operation in WRITES and isinstance(self.inner, LocalStore):
            make_folder(Path(self.inner.path(key)).parent)
            self.inner.write(f"{STAGING}/tmp-{uuid.uuid4()}", b"half a fi")

    def _die(self, operation: str, key: str) -> None:
        self.is_dead = True
        raise Crash(f"at operation {self.crash_at}: {operation} {key}")

    def _raise_if_dead(self) -> None:
        if self.is_dead:
            raise Crash("dead since an earlier operation")


def each_crash(fresh: Callable[[], FaultyStore], work: Callable[[Store], object]) -> Iterator[tuple[str, FaultyStore]]:
    """Every way to die during some work: what happened, and the store that it happened to.

    The next process takes `store.inner`, or `store.sibling()`.

    Args:
        fresh: makes the store, with the state before the work put into its `inner`.
        work: what is done; each time with the same operations.
    """
    whole = fresh()
    work(whole)
    for number, (operation, key) in enumerate(whole.operations):
        points: tuple[CrashPoint, CrashPoint] = ((number, "before"), (number, "after"))
        for point in points:
            store = fresh()
            store.crash_at = point
            try:
                work(store)
            except Crash:
                yield f"{point[1]} operation {number}: {operation} {key}", store
            else:
                raise AssertionError(f"survived the crash {point[1]} operation {number}, {operation} {key}")


def no_fault(work: Work) -> Any:
    """It happens."""
    return work()


def fails_before(work: Work) -> Any:
    """Nothing happens, and nobody can tell."""
    raise TransientStoreError("connection reset before the request was read")


def loses_the_answer(work: Work) -> Any:
    """It happens, and the answer never comes."""
    work()
    raise TransientStoreError("connection reset before the answer was read")


def retries_itself(work: Work) -> Any:
    """It happens, the answer is lost, and the library's own second attempt finds the key taken."""
    work()
    raise ObjectExistsError("412 PreconditionFailed")


def refuses(work: Work) -> Any:
    """Nothing happens, certainly."""
    raise StoreError("403 AccessDenied")


def conflicts(work: Work) -> Any:
    """Nothing happens: another conditional write was under way."""
    raise TransientStoreError("409 ConditionalRequestConflict")


def is_overloaded(work: Work) -> Any:
    """Nothing happens; later it may."""
    raise TransientStoreError("503 SlowDown")


def slow(wait: Callable[[], object]) -> Fault:
    """It happens after a while: `wait` is called first, and may let others act, or a clock go on."""

    def fault(work: Work) -> Any:
        wait()
        return work()

    return fault


FAULTS: tuple[Fault, ...] = (fails_before, loses_the_answer, retries_itself, refuses, conflicts, is_overloaded)
