"""From the files of an environment to one Prefect file, with a deployment for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from flows.config import load_yaml
from flows.configured import Deploy, Environment, folder, load_deployed
from flows.index_items import IndexConfig
from flows.maintain import MaintainConfig
from flows.materialize_chips import MaterializeConfig
from flows.merge_indexes import MergeConfig
from stacchip_core.errors import InputError

TEMPLATE = Path(__file__).with_name("prefect.yaml")
MODELS: dict[str, type[BaseModel]] = {
    "collections": IndexConfig,
    "combined": MergeConfig,
    "datasets": MaterializeConfig,
    "care": MaintainConfig,
}

Deployment = dict[str, Any]


def render(environment: Environment) -> dict[str, Any]:
    """The Prefect file of an environment.

    Raises:
        InputError: a file names what its model does not know; says which file and key, and the nearest one.
        LookupFailedError: the environment names a file that is not there; lists those there are.
    """
    template = load_yaml(folder() / TEMPLATE.name if (folder() / TEMPLATE.name).is_file() else TEMPLATE)
    deployments = [one for entry in template["deployments"] for one in _filled(entry, environment)]
    kept = {key: value for key, value in template.items() if key not in ("definitions", "deployments")}
    return {**kept, "deployments": deployments}


def write(environment: Environment, path: Path) -> None:
    """Write the Prefect file of an environment."""
    path.write_text(yaml.safe_dump(render(environment), sort_keys=False), encoding="utf-8")


def _filled(entry: Mapping[str, Any], environment: Environment) -> Iterator[Deployment]:
    """The deployments that an entry of the template stands for."""
    base = {key: value for key, value in entry.items() if key != "each"}
    kind = entry.get("each")
    if kind is None:
        yield _placed(base, environment, Deploy())
        return
    if kind not in MODELS:
        raise InputError(f"{TEMPLATE.name}: each: {kind!r} is none of {', '.join(MODELS)}")
    for name in getattr(environment, kind):
        config, deploy = load_deployed(MODELS[kind], kind, name, environment)
        values = {"config": config.model_dump(mode="json", exclude_defaults=True)}
        yield _placed({"name": name, **base, "parameters": values}, environment, deploy)


def _placed(base: Deployment, environment: Environment, deploy: Deploy) -> Deployment:
    """A deployment with its pool, queue, schedule and description."""
    pool = {"name": environment.pool, "work_queue_name": deploy.queue, **base.pop("work_pool", {})}
    when = {"cron": deploy.cron, "timezone": deploy.timezone, "active": environment.schedules}
    about = {"description": deploy.description} if deploy.description else {}
    return {**base, **about, "work_pool": pool, "schedules": [when] if deploy.cron else []}
