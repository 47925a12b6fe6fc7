"""Flow: look after a warehouse: verify it, mend it, let old versions go, remove what no version needs."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.artifacts import publish_maintain, tell
from flows.config import WarehouseConfig
from flows.results import MaintainOutcome
from flows.tasks import expire_versions, repair_warehouse, run_logger, vacuum_warehouse, verify_warehouse
from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.sources.validation import numbered


class MaintainConfig(BaseModel):
    """What to do for which warehouse."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    warehouse: WarehouseConfig = Field(title="Warehouse", description="To look after.")
    verify: Literal["no", "quick", "deep"] = Field(
        "quick", title="Verify", description="quick: logs, sizes and counts. deep: every byte that versions need."
    )
    repair: bool = Field(False, title="Repair", description="Mend what can be mended, such as damaged checkpoints.")
    expire: bool = Field(False, title="Expire", description="Let go of old versions; tags hold theirs.")
    keep: int = Field(30, title="Versions kept", description="So many of the newest do not expire.", ge=1)
    days: float = Field(
        90, title="Days kept", description="What was the newest version since then does not expire.", ge=1, le=36_500
    )
    vacuum: bool = Field(True, title="Vacuum", description="Remove files that no version needs.")
    grace_days: float = Field(
        7, title="Days of grace", description="Younger files stay: they may belong to a run.", ge=3, le=36_500
    )
    dry_run: bool = Field(True, title="Dry run", description="Only tell what would be done. Switch off to do it.")


@flow(name="maintain", flow_run_name="maintain {config.warehouse.root}", persist_result=False)
def maintain(config: MaintainConfig) -> MaintainOutcome:
    """Verify, repair, expire and vacuum, as asked; in a dry run, which is the default, only verify and tell the rest.

    What is damaged makes the run fail, after it was told; where something is, nothing is expired or removed.
    """
    outcome = MaintainOutcome(config.warehouse.root, is_dry_run=config.dry_run)
    if config.repair:
        tell("repairing")
        outcome += repair_warehouse(config.warehouse, dry_run=config.dry_run)
    if config.verify != "no":
        tell("verifying")
        outcome += verify_warehouse(config.warehouse, deep=config.verify == "deep")
    if config.expire and not outcome.problems:
        tell("expiring")
        outcome += expire_versions(config.warehouse, keep=config.keep, days=config.days, dry_run=config.dry_run)
    if config.vacuum and not outcome.problems:
        tell("looking for files that no version needs")
        outcome += vacuum_warehouse(config.warehouse, grace_days=config.grace_days, dry_run=config.dry_run)
    publish_maintain("maintain", outcome)
    for problem in outcome.problems:
        run_logger().error("%s: %s; %s", problem.path, problem.what, problem.todo)
    if outcome.problems:
        first = outcome.problems[0]
        raise CorruptWarehouseError(
            f"{len(outcome.problems)} problems in {config.warehouse.root}, nothing was expired or removed; the first: "
            f"{first}; {first.todo}"
        )
    return outcome
