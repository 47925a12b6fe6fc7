"""Where tasks run is configuration; that results are the same, tests/ops/test_clusters.py shows."""

from __future__ import annotations

import sys

import pytest
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import ValidationError

from flows.runner import Runner, task_runner
from stacchip_core import InputError


def test_tasks_run_on_threads_unless_told_otherwise() -> None:
    runner = task_runner(3)
    assert isinstance(runner, ThreadPoolTaskRunner)
    assert runner._max_workers == 3
    assert isinstance(task_runner(3, Runner()), ThreadPoolTaskRunner)


def test_an_address_is_that_of_a_scheduler() -> None:
    from prefect_dask.task_runners import DaskTaskRunner

    runner = task_runner(3, Runner(kind="dask", address="tcp://127.0.0.1:8786"))
    assert isinstance(runner, DaskTaskRunner)
    assert runner.address == "tcp://127.0.0.1:8786"
    own = task_runner(3, Runner(kind="dask", processes=5))
    assert isinstance(own, DaskTaskRunner)
    assert own.cluster_kwargs["n_workers"] == 5
    assert own.cluster_kwargs["host"] == "127.0.0.1"
    for wrong in ("127.0.0.1", "http://127.0.0.1:8786", "tcp:// x"):
        with pytest.raises(ValidationError, match="address"):
            Runner(kind="dask", address=wrong)


def test_without_dask_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    monkeypatch.setitem(sys.modules, "prefect_dask.task_runners", None)
    with pytest.raises(InputError, match=r'pip install "stacchip-core\[dask\]"'):
        task_runner(3, Runner(kind="dask"))
