"""Where the tasks of a flow run: threads of its process, or a Dask cluster; the same code, with the same results."""

from __future__ import annotations

from typing import Any, Literal

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from stacchip_core.errors import InputError
from stacchip_core.sources.validation import numbered

AnyRunner = TaskRunner[Any]


class Runner(BaseModel):
    """Where tasks run."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    kind: Literal["threads", "dask"] = Field(
        "threads", title="Kind", description="Threads of the flow's process, or the processes of a Dask cluster."
    )
    address: str | None = Field(
        None,
        title="Scheduler",
        description="Of a Dask cluster that runs already, tcp://host:8786; none: one on this machine, for this run.",
        pattern=r"^(tcp|tls|ucx|wss?)://\S+$",
        max_length=300,
    )
    processes: int = Field(
        2, title="Processes", description="Of a Dask cluster that is started for this run.", ge=1, le=256
    )


def task_runner(max_workers: int, runner: Runner | None = None) -> AnyRunner:
    """A task runner, to be started with `with`.

    Args:
        max_workers: threads, where tasks run in the flow's process.
        runner: where tasks run; None: there.

    Raises:
        InputError: tasks are to run on Dask, and it is not installed.
    """
    if runner is None or runner.kind == "threads":
        return ThreadPoolTaskRunner(max_workers=max_workers)
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as err:
        raise InputError('runner.kind is "dask": install it, pip install "stacchip-core[dask]"') from err
    if runner.address:
        return DaskTaskRunner(address=runner.address)
    own = {"n_workers": runner.processes, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=own)
