"""Flow: bring a combined index up to date with its collections."""

from __future__ import annotations

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.artifacts import publish_merge, tell
from flows.config import WarehouseConfig
from flows.pictures import drawn, merge_pictures
from flows.results import MergeOutcome
from flows.tasks import merge_collections, run_logger
from stacchip_core.chips.spec import NAME_PATTERN
from stacchip_core.sources.validation import numbered


class MergeConfig(BaseModel):
    """Which collections to merge into which combined index."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    warehouse: WarehouseConfig = Field(title="Warehouse", description="Where the index is kept.")
    name: str = Field(title="Name", description="Combined index to bring up to date.", pattern=NAME_PATTERN)
    collections: tuple[str, ...] = Field(
        (), title="Collections", description="Of the warehouse; none: all it has.", max_length=200
    )
    pictures: bool = Field(True, title="Pictures", description="Leave a coverage map.")


@flow(name="merge-indexes", flow_run_name="merge {config.name}", persist_result=False)
def merge_indexes(config: MergeConfig) -> MergeOutcome:
    """Make the next version of a combined index; nothing changed: the present one, and nothing is written."""
    tell("merging")
    outcome = merge_collections(config.warehouse, config.name, config.collections)
    run_logger().info("%s@%d: %d items, %d chips", outcome.name, outcome.version, outcome.items, outcome.chips)
    pictures = drawn(lambda: merge_pictures(config.warehouse.open(), outcome)) if config.pictures else {}
    publish_merge(f"merge-{config.name}", outcome, pictures)
    return outcome
