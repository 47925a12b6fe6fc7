"""Make on a Prefect server what flows need, and deploy them: `python -m deployments.setup`. Again is harmless.

Exit codes: 0 done, 1 the server or `prefect deploy` refused, 2 wrong configuration.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from flows.configured import (
    ENVIRONMENT_VARIABLE,
    FOLDER_VARIABLE,
    WAREHOUSE_VARIABLE,
    Environment,
    environment_name,
    load_deployed,
    load_environment,
)
from flows.environment import prepare_environment
from stacchip_core.errors import InputError, LookupFailedError

REPO = Path(__file__).resolve().parent.parent
NOTIFY_VARIABLE = "STACCHIP_NOTIFY_URL"  # a webhook that takes {"text": …}, as chat services do


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.setup", description=__doc__)
    parser.add_argument("--environment", help="file of deployments/environments/; default: STACCHIP_ENVIRONMENT, local")
    options = parser.parse_args(arguments)
    prepare_environment()
    if not os.environ.get("PREFECT_API_URL"):
        print("PREFECT_API_URL names no server, such as http://127.0.0.1:4200/api", file=sys.stderr)  # noqa: T201
        return 2
    try:
        return set_up(options.environment or "")
    except (InputError, LookupFailedError) as err:
        print(f"wrong configuration: {err}", file=sys.stderr)  # noqa: T201
        return 2


def set_up(name: str = "") -> int:
    """Make what an environment needs, and deploy its flows; the exit code of `prefect deploy`."""
    from deployments.automations import crashed, ensure
    from deployments.render import write

    name = name or environment_name()
    os.environ[ENVIRONMENT_VARIABLE] = name
    environment = load_environment(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prefect.yaml"
        write(environment, path)  # what is wrong with the files is told before anything is made
        _make_pool(name, environment)
        _make_limits(environment)
        ensure(crashed())
        _make_notifications()
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        return subprocess.run(command, cwd=REPO, check=False).returncode


def _make_pool(name: str, environment: Environment) -> None:
    """A work pool whose jobs know their environment; keys travel as references to blocks, resolved by the worker."""
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(environment.pool)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=environment.pool, type=environment.pool_type))
        pool = client.read_work_pool(environment.pool)
        before = pool.base_job_template or _template(environment)  # a pool that was made by the API has none
        template = with_variables(before, {**_variables(name, environment), **_secrets(name, environment)})
        client.update_work_pool(environment.pool, WorkPoolUpdate(base_job_template=template))


def _template(environment: Environment) -> dict[str, Any]:
    """The job template that the type of a pool brings along.

    Raises:
        InputError: no package that is installed knows the type.
    """
    from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

    kind = environment.pool_type
    found = asyncio.run(get_default_base_job_template_for_infrastructure_type(kind))
    if not found:
        raise InputError(f"pool_type {kind!r}: no installed package brings such workers, as prefect-kubernetes does")
    return found


def with_variables(template: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """A pool's job template in which jobs have these environment variables, besides those of before."""
    inputs = template["variables"]
    env = inputs["properties"]["env"]
    env = {**env, "default": {**(env.get("default") or {}), **variables}}
    return {**template, "variables": {**inputs, "properties": {**inputs["properties"], "env": env}}}


def _variables(name: str, environment: Environment) -> dict[str, str]:
    """What flows' processes are told: no secrets."""
    from deployments.automations import HEARTBEAT_S

    passed = {key: os.environ[key] for key in (FOLDER_VARIABLE, WAREHOUSE_VARIABLE) if os.environ.get(key)}
    own = {
        ENVIRONMENT_VARIABLE: name,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "stacchip_core,flows",
    }
    return {**own, **passed, **environment.variables}


def _secrets(name: str, environment: Environment) -> dict[str, str]:
    """Secret blocks, made of this process's environment where it has them; references to them."""
    from prefect.blocks.system import Secret

    found = {}
    for variable in environment.secrets:
        block = f"stacchip-{name}-{variable.lower().replace('_', '-')}"
        if value := os.environ.get(variable):
            Secret(value=value).save(block, overwrite=True)
        found[variable] = f"{{{{ prefect.blocks.secret.{block} }}}}"
    return found


def _make_limits(environment: Environment) -> None:
    """One run at a time for each collection."""
    from prefect import get_client

    from flows.index_items import IndexConfig
    from flows.overlap import ensure_limit, slot_of

    with get_client(sync_client=True) as client:
        for one in environment.collections:
            config, _ = load_deployed(IndexConfig, "collections", one, environment)
            ensure_limit(client, slot_of(config.title))


def _make_notifications() -> None:
    """Messages on failed runs, where it is known whom to tell."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    from deployments.automations import ensure, tell

    if url := os.environ.get(NOTIFY_VARIABLE):
        text = {"text": "{{subject}}\n{{body}}"}
        block = CustomWebhookNotificationBlock(name="stacchip", url=url, json_data=text)
        saved = block.save("stacchip-notify", overwrite=True)
        ensure(tell(cast(UUID, saved)))  # not a coroutine: nothing here is asynchronous


if __name__ == "__main__":
    sys.exit(main())
