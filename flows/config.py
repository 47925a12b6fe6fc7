"""What the parameter models of all flows share, and reading them from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stacchip_core import Storage, Warehouse
from stacchip_core.errors import InputError
from stacchip_core.sources.validation import explain, numbered
from stacchip_core.sources.yaml_text import read_mapping, read_yaml

M = TypeVar("M", bound=BaseModel)


class WarehouseConfig(BaseModel):
    """A warehouse, and what reading and writing it takes: all that a task needs to open it; a text is its root."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    root: str = Field(
        title="Folder or bucket", description="Local path, or s3://bucket/prefix.", min_length=1, max_length=1000
    )
    storage: Storage = Field(Storage(), title="Bucket", description="Endpoint, region and account of the bucket.")

    @model_validator(mode="before")
    @classmethod
    def _text_is_the_root(cls, given: object) -> object:
        return {"root": given} if isinstance(given, str) else given

    def open(self, *, create: bool = False, local_roots: Sequence[str] = ()) -> Warehouse:
        """The warehouse there."""
        return Warehouse(self.root, create=create, storage=self.storage, local_roots=tuple(local_roots))


def load_config(model: type[M], path: str | Path, overrides: Sequence[str] = ()) -> M:
    """Parameters from a YAML file, with `key.key=value` overrides (the value read as YAML).

    What a file says about its deployment (`deploy:`) is left aside.

    Raises:
        InputError: names the file, each wrong key, and what was found.
    """
    file = Path(path)
    data = {key: value for key, value in load_yaml(file).items() if key != "deploy"}
    for override in overrides:
        data = _overridden(data, override)
    return validated(model, data, file)


def load_yaml(file: Path) -> Mapping[str, Any]:
    """Keys and values of a YAML file.

    Raises:
        InputError: names the file, and what was found.
    """
    try:
        return read_mapping(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise InputError(f"{file}: {err}") from err


def validated(model: type[M], data: object, file: Path) -> M:
    """A model of what a file holds.

    Raises:
        InputError: names the file, each wrong key, and what was found.
    """
    try:
        return model.model_validate(data)
    except ValidationError as err:
        raise InputError(f"{file}: {explain(err, model)}") from err


def _overridden(data: Mapping[str, Any], override: str) -> dict[str, Any]:
    """`data` with one value replaced, as `key.key=value` says."""
    path, _, text = override.partition("=")
    keys = path.split(".")
    if "=" not in override or not all(keys):
        raise InputError(f"--set {override}: expected key=value, or key.key=value")
    try:
        return _with(data, keys, read_yaml(text))
    except ValueError as err:
        raise InputError(f"--set {override}: {err}") from err


def _with(data: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """`data` with `value` at the end of a path of keys."""
    first, *rest = keys
    if rest:
        inner = {} if data.get(first) is None else data[first]
        if not isinstance(inner, dict):
            raise ValueError(f"{first!r} holds {inner!r}, not keys and values")
        value = _with(inner, rest, value)
    return {**data, first: value}
