"""What is configured in `deployments/`: environments, and which collections, combined indexes and datasets each has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from flows.config import WarehouseConfig, load_yaml, validated
from stacchip_core.errors import InputError, LookupFailedError

M = TypeVar("M", bound=BaseModel)

FOLDER_VARIABLE = "STACCHIP_DEPLOYMENTS"  # where the files are; else deployments/ beside flows/
ENVIRONMENT_VARIABLE = "STACCHIP_ENVIRONMENT"  # local, staging, production, …; else local
WAREHOUSE_VARIABLE = "STACCHIP_WAREHOUSE"  # root of the warehouse, in place of the environment's
DEPLOY = "deploy"  # key of a file beside the flow's parameters


class Deploy(BaseModel):
    """How a file of parameters is deployed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str | None = Field(None, description="When it runs by itself; none: on events and at the press of a button.")
    timezone: str = Field("UTC", description="Of the cron expression.")
    queue: str = Field("default", description="Work queue of the environment's pool.", pattern=r"^[a-z0-9-]{1,63}$")
    description: str = Field("", description="For people, in Prefect's UI.")


class Environment(BaseModel):
    """Where flows run, on which warehouse, and which files of `deployments/` are deployed there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: str = Field(description="Work pool.", pattern=r"^[a-z0-9-]{1,63}$")
    pool_type: str = Field("process", description="Of the work pool, where it is made anew: process, kubernetes, ecs.")
    warehouse: WarehouseConfig | None = Field(None, description="In place of the one that each file names.")
    collections: tuple[str, ...] = Field((), description="Files of collections/ to deploy.")
    combined: tuple[str, ...] = Field((), description="Files of combined/ to deploy.")
    datasets: tuple[str, ...] = Field((), description="Files of datasets/ to deploy.")
    care: tuple[str, ...] = Field((), description="Files of care/ to deploy.")
    schedules: bool = Field(True, description="Whether what has a cron expression runs by itself.")
    variables: dict[str, str] = Field({}, description="Environment variables of the flows' processes; no secrets.")
    secrets: tuple[str, ...] = Field(
        (), description="Environment variables whose values are kept in Secret blocks of Prefect, never in a file."
    )


def folder() -> Path:
    """Where the files are."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(__file__).resolve().parent.parent / "deployments")


def environment_name() -> str:
    """Which environment this process belongs to."""
    return os.environ.get(ENVIRONMENT_VARIABLE) or "local"


def load_environment(name: str = "") -> Environment:
    """The environment of that name, or the one that this process belongs to.

    Raises:
        LookupFailedError: lists those there are.
        InputError: names each wrong key.
    """
    name = name or environment_name()
    path = _file("environments", name)
    found = validated(Environment, load_yaml(path), path)
    root = os.environ.get(WAREHOUSE_VARIABLE)
    if not root:
        if found.warehouse and found.warehouse.root.startswith("$"):
            raise InputError(
                f"{path}: set {WAREHOUSE_VARIABLE} to the root of the warehouse, such as s3://bucket/prefix"
            )
        return found
    before = found.warehouse.model_dump() if found.warehouse else {}
    return found.model_copy(update={"warehouse": WarehouseConfig.model_validate({**before, "root": root})})


def load_deployed(model: type[M], kind: str, name: str, environment: Environment) -> tuple[M, Deploy]:
    """Parameters of a file of `deployments/`, as they are in an environment, and how it is deployed.

    Args:
        model: of the flow's parameters.
        kind: folder: collections, combined, datasets or care.
        name: of the file, without ending.
        environment: gives the warehouse.

    Raises:
        LookupFailedError: lists the files there are.
        InputError: names the file and each wrong key.
    """
    path = _file(kind, name)
    data = dict(load_yaml(path))
    deploy = validated(Deploy, data.pop(DEPLOY, {}), path)
    if environment.warehouse is not None:
        data["warehouse"] = environment.warehouse.model_dump(mode="json", exclude_defaults=True)
    return validated(model, data, path), deploy


def collection_names() -> list[str]:
    """Collections that can be chosen in forms: those of this environment, or where there is none, all files."""
    try:
        return sorted(load_environment().collections)
    except (LookupFailedError, InputError):
        return _names("collections")


@cache
def listed(kind: str) -> Mapping[str, Any]:
    """JSON Schema keywords that make a text field a list to choose from; read once in a process."""
    names = collection_names() if kind == "collections" else _names(kind)
    return {"enum": names} if names else {}


def _names(kind: str) -> list[str]:
    return sorted(path.stem for path in (folder() / kind).glob("*.yaml"))


def _file(kind: str, name: str) -> Path:
    path = folder() / kind / f"{name}.yaml"
    if "/" in name or not path.is_file():
        raise LookupFailedError(f"{folder() / kind} has no {name}.yaml; there are {', '.join(_names(kind)) or 'none'}")
    return path
