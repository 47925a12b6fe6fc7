"""Flow: cut the chips that a spec means, and write them as a dataset."""

from __future__ import annotations

from typing import Any

from prefect import Task, flow
from pydantic import BaseModel, ConfigDict, Field

from flows.artifacts import Progress, publish_materialize, tell
from flows.config import WarehouseConfig
from flows.pictures import dataset_pictures, drawn
from flows.results import MaterializeOutcome
from flows.runner import Runner, task_runner
from flows.tasks import (
    DatasetAccess,
    cut_one_group,
    finish_dataset,
    prepare_dataset,
    run_all,
    run_logger,
    write_one_shard,
)
from stacchip_core import ChipSpec, Storage
from stacchip_core.errors import StacchipError
from stacchip_core.sources.validation import numbered


class MaterializeConfig(BaseModel):
    """Which chips to cut, from which warehouse."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    warehouse: WarehouseConfig = Field(title="Warehouse", description="Holds the index, and takes the dataset.")
    spec: ChipSpec = Field(title="Chips", description="Which chips, of which bands, in which form.")
    access: Storage = Field(
        Storage(), title="Access to the assets", description="Endpoint, region and account for reading pixels."
    )
    local_roots: tuple[str, ...] = Field(
        (), title="Local folders", description="Folders below which local assets may be read."
    )
    max_workers: int = Field(2, title="Shards at a time", description="Threads of this process.", ge=1, le=64)
    runner: Runner = Field(Runner(), title="Task runner", description="Where tasks run: threads, or a Dask cluster.")
    pictures: bool = Field(True, title="Pictures", description="Leave a contact sheet.")


@flow(name="materialize-chips", flow_run_name="materialize {config.spec.name}", persist_result=False)
def materialize_chips(config: MaterializeConfig) -> MaterializeOutcome:
    """Write a dataset shard by shard; what is there already is kept, and a finished dataset is left alone."""
    access = DatasetAccess(config.warehouse, config.access, config.local_roots)
    tell("choosing chips")
    todo = prepare_dataset(access, config.spec)
    run_logger().info("%s: %d chips in %d shards", config.spec.name, todo.chips, todo.shards)
    if not todo.is_finished:
        _run_all(config, access, cut_one_group, "groups", todo.groups)
        _run_all(config, access, write_one_shard, "shards", todo.shards)
    tell("finishing")
    outcome = finish_dataset(access, config.spec.name, changed=not todo.is_finished)
    if outcome.failed:
        run_logger().warning("%d of %d chips could not be read", outcome.failed, outcome.failed + outcome.chips)
    has_pictures = config.pictures and outcome.changed
    pictures = drawn(lambda: dataset_pictures(outcome.path, config.warehouse.storage)) if has_pictures else {}
    publish_materialize(f"dataset-{config.spec.name}", outcome, pictures)
    return outcome


def _run_all(config: MaterializeConfig, access: DatasetAccess, work: Task[..., Any], what: str, count: int) -> None:
    """Run a task for all groups or shards; an error of one is raised once all are done: a later run carries on."""
    progress = Progress(f"dataset-{config.spec.name}-progress", "Cutting chips")
    progress(0, count, what)
    arguments = [{"access": access, "dataset": config.spec.name, "number": n} for n in range(count)]
    with task_runner(config.max_workers, config.runner) as runner:
        results = run_all(runner, work, arguments, lambda done: progress(done, count, what))
    for result in results:
        if isinstance(result, StacchipError):
            raise result
    progress.finish()
