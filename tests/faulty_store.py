"""A store that fails on request: before or after the work, with an answer lost on the way, or refusing."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable

from stacchip_core.errors import ObjectExistsError, StoreError, TransientStoreError
from stacchip_core.warehouse.store import MemoryStore, open_store

Fault = Callable[[Callable[[], None]], None]  # does the work given, or not, and raises or not


def memory_store() -> MemoryStore:
    """An empty store in memory, nobody else's."""
    store = open_store(f"memory://{uuid.uuid4()}/warehouse")
    assert isinstance(store, MemoryStore)
    return store


class FaultyStore(MemoryStore):
    """A memory store whose next exclusive creates meet the faults in `faults`, in that order.

    Attributes:
        unreadable: for how many reads the store gives no answer.
        written: keys of all objects written or created.
    """

    def __init__(self) -> None:
        """An empty store, without faults yet."""
        plain = memory_store()
        super().__init__(plain.root, plain.path("x").removesuffix("/x"), plain.fs)
        self.faults: deque[Fault] = deque()
        self.unreadable = 0
        self.written: list[str] = []

    def create(self, key: str, data: bytes) -> None:
        """Create, through the next fault if there is one."""
        self.written.append(key)
        fault = self.faults.popleft() if self.faults else _no_fault
        fault(lambda: MemoryStore.create(self, key, data))

    def write(self, key: str, data: bytes) -> None:
        """Write, and remember it."""
        self.written.append(key)
        super().write(key, data)

    def read(self, key: str) -> bytes:
        """Read, unless the store is silent."""
        if self.unreadable:
            self.unreadable -= 1
            raise TransientStoreError(f"{key}: no answer")
        return super().read(key)


def _no_fault(work: Callable[[], None]) -> None:
    work()


def fails_before(work: Callable[[], None]) -> None:
    """Nothing happens, and nobody can tell."""
    raise TransientStoreError("connection reset before the request was read")


def loses_the_answer(work: Callable[[], None]) -> None:
    """It happens, and the answer never comes."""
    work()
    raise TransientStoreError("connection reset before the answer was read")


def retries_itself(work: Callable[[], None]) -> None:
    """It happens, the answer is lost, and the library's own second attempt finds the key taken."""
    work()
    raise ObjectExistsError("412 PreconditionFailed")


def refuses(work: Callable[[], None]) -> None:
    """Nothing happens, certainly."""
    raise StoreError("403 AccessDenied")
