"""What Prefect does by itself: end runs of workers that were killed, and tell people of runs that failed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import Automation
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

# Prefect sends a heartbeat every 30 seconds at the shortest; three that are missing end a run (measured: 92 s).
HEARTBEAT_S = 30
SILENT_S = 3 * HEARTBEAT_S

CRASHED = "stacchip: end runs whose process is gone"
TELL = "stacchip: tell of runs that failed"

_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")
_RUNS = ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]})


def crashed() -> Automation:
    """Marks a run as crashed whose heartbeats have stopped, so that its slots are free."""
    return Automation(
        name=CRASHED,
        description="A worker that is killed can't say so. The next run carries on from what was committed.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in _ENDS)},
            match=_RUNS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_S),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message=f"no heartbeat for {SILENT_S} seconds: its process is gone"
            )
        ],
    )


def tell(block: UUID) -> Automation:
    """Sends a message for each run that failed or crashed."""
    return Automation(
        name=TELL,
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match=_RUNS,
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="{{ flow.name }}: run {{ flow_run.name }} is {{ flow_run.state.name }}",
                body="{{ flow_run.state.message }}",
            )
        ],
    )


def ensure(wanted: Automation) -> None:
    """See to it that the automation is there, as it is wanted, once."""
    try:
        there: Any = Automation.read(name=wanted.name)
    except ValueError:  # Prefect's word for: there is none
        wanted.create()
        return
    wanted.id = there.id
    wanted.update()
