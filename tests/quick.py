"""Production code without pauses, threads and chance, on whatever store."""

from __future__ import annotations

import random
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from stacchip_core.sources.access import Storage
from stacchip_core.warehouse import checkpoint
from stacchip_core.warehouse.log import Patience
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.warehouse import Warehouse


class _Serial:
    """An executor that does the work at once, in order: the same faults always meet the same operations."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> _Serial:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, work: Callable[..., Any], *args: Iterable[Any]) -> Iterator[Any]:
        return iter([work(*one) for one in zip(*args, strict=False)])

    def shutdown(self, *_: object, **__: object) -> None: ...

    def submit(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except BaseException as err:
            future.set_exception(err)
        return future


@contextmanager
def quick(every: int = 3) -> Iterator[None]:
    """No pauses, no threads, names by the seed of `random`, and a checkpoint every few versions."""
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("stacchip_core.warehouse") and hasattr(module, "ThreadPoolExecutor"):
                stack.enter_context(patch.object(module, "ThreadPoolExecutor", _Serial))
        stack.enter_context(patch.object(Patience, "pause", lambda *_: None))
        stack.enter_context(patch.object(checkpoint, "EVERY", every))
        stack.enter_context(patch.object(uuid, "uuid4", lambda: uuid.UUID(int=random.getrandbits(128), version=4)))
        yield


def opened(store: Store) -> Warehouse:
    """A warehouse on a store, whatever store that is."""
    warehouse = object.__new__(Warehouse)
    warehouse.store, warehouse.root = store, store.root
    warehouse.storage, warehouse.local_roots = Storage(), ()
    return warehouse
