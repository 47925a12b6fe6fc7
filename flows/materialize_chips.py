"""Flow: cut the chips that a spec means, and write them as a dataset."""

from __future__ import annotations

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.artifacts import Progress, publish_materialize
from flows.config import WarehouseConfig
from flows.outcome import FAILURES_KEPT, Failure, MaterializeOutcome
from flows.pictures import dataset_pictures
from flows.tasks import DatasetAccess, run_all, run_logger, task_runner, write_one_shard
from stacchip_core import ChipSpec, Dataset, Storage
from stacchip_core.chips.dataset import finish, is_finished, prepare
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
    pictures: bool = Field(True, title="Pictures", description="Leave a contact sheet.")


@flow(name="materialize-chips", flow_run_name="materialize {config.spec.name}", persist_result=False)
def materialize_chips(config: MaterializeConfig) -> MaterializeOutcome:
    """Write a dataset shard by shard; what is there already is kept, and a finished dataset is left alone."""
    access = DatasetAccess(config.warehouse, config.access, config.local_roots)
    warehouse = config.warehouse.open(local_roots=config.local_roots)
    plan = prepare(warehouse, config.spec)
    run_logger().info("%s: %d chips in %d shards", plan.name, plan.chips, len(plan.shards))
    changed = not is_finished(warehouse, plan.name)
    if changed:
        _write_shards(config, access, len(plan.shards))
    finish(warehouse, plan.name)
    dataset = Dataset.open(f"{warehouse.root}/datasets/{plan.name}", config.warehouse.storage)
    outcome = _outcome(dataset, changed=changed)
    pictures = dataset_pictures(dataset) if config.pictures and changed else {}
    publish_materialize(f"dataset-{plan.name}", outcome, pictures)
    return outcome


def _write_shards(config: MaterializeConfig, access: DatasetAccess, count: int) -> None:
    """Write all shards; an error of one is raised once the others are done, and a later run carries on."""
    progress = Progress(f"dataset-{config.spec.name}-progress", "Cutting chips")
    arguments = [{"access": access, "dataset": config.spec.name, "number": n} for n in range(count)]
    with task_runner(config.max_workers) as runner:
        results = run_all(runner, write_one_shard, arguments, lambda done: progress(done, count, "shards"))
    for result in results:
        if isinstance(result, StacchipError):
            raise result
    progress.finish()


def _outcome(dataset: Dataset, *, changed: bool) -> MaterializeOutcome:
    lock = dataset.lock
    written = [shard for shard in lock.shards if shard.key is not None]
    first = dataset.failures.select(["chip_id", "reason"]).slice(0, FAILURES_KEPT).to_pylist()
    return MaterializeOutcome(
        name=lock.name,
        path=dataset.path,
        index=str(lock.index),
        changed=changed,
        chips=lock.chips,
        shards=len(written),
        size_bytes=sum(shard.size for shard in written),
        failed=lock.failures,
        failures=tuple(Failure(row["chip_id"], "read", row["reason"]) for row in first),
    )
