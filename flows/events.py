"""What runs tell other systems: Prefect events with counts and seconds, which automations can act on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from prefect.context import FlowRunContext
from prefect.events import emit_event

PREFIX = "stacchip"

Counts = Mapping[str, int | float | str | bool | None]


def emit(what: str, name: str, counts: Counts) -> None:
    """Emit `stacchip.<what>` about a collection, index, dataset or warehouse; nothing outside of a run.

    Args:
        what: such as "collection.indexed".
        name: of the collection or index.
        counts: goes into the event as it is, with `seconds` since the run started.
    """
    context = FlowRunContext.get()
    if context is None:
        return
    kind = what.partition(".")[0]
    seconds = round((datetime.now(UTC) - context.start_time).total_seconds(), 3)
    emit_event(
        event=f"{PREFIX}.{what}",
        resource={"prefect.resource.id": f"{PREFIX}.{kind}.{name}", "prefect.resource.name": name},
        payload={**counts, "seconds": seconds},
    )
