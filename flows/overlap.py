"""One run at a time for each collection: a global concurrency limit of Prefect's, for deployments and runs by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import get_current_settings

from flows.artifacts import safe_key, tell
from stacchip_core.errors import StacchipError

Overlap = Literal["wait", "refuse"]

REFUSED_AFTER_S = 5.0
# Renewed while the run goes on; that of a killed run ends by itself. Prefect takes no shorter one.
LEASE_S = 60.0


class OverlapError(StacchipError):
    """Another run is at work on the same collection."""


def slot_of(title: str) -> str:
    """Name of the limit that runs on a collection share."""
    return f"collection-{safe_key(title)}"


def ensure_limit(client: SyncPrefectClient, name: str, limit: int = 1) -> None:
    """See to it that there is a limit of that name; one that is there keeps what it allows."""
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        try:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=limit, active=True))
        except ObjectAlreadyExists:  # another run was faster
            return


@contextmanager
def alone(title: str, overlap: Overlap) -> Iterator[None]:
    """Keep other runs on the same collection out while the block runs.

    Beneath it, commits settle races by themselves: this saves the work, they save the index. On the temporary server
    of a run by hand nobody is kept out: no other run is on it, and it frees no slots of runs that were killed.

    Args:
        title: of the collection.
        overlap: where another run is at work, wait until it ends, or give up.

    Raises:
        OverlapError: names the collection.
    """
    if not get_current_settings().api.url:
        yield
        return
    name = slot_of(title)
    with get_client(sync_client=True) as client:
        ensure_limit(client, name)
    with ExitStack() as stack:
        tell(f"waiting for other runs on {title}")
        timeout = None if overlap == "wait" else REFUSED_AFTER_S
        slot = concurrency(name, timeout_seconds=timeout, lease_duration=LEASE_S, raise_on_lease_renewal_failure=False)
        try:
            stack.enter_context(slot)
        except TimeoutError as err:
            raise OverlapError(
                f"collection {title!r}: another run is at work on it (limit {name!r} of Prefect is taken), and "
                "overlap is 'refuse': run again when it has ended, or set overlap to 'wait'"
            ) from err
        yield
