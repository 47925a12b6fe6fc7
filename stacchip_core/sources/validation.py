"""Configuration models for people: what is wrong in one line, and fields that keep their order in a form."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError


def numbered(schema: dict[str, Any]) -> None:
    """Give each property of a JSON schema its place: on PostgreSQL, Prefect's run form shuffles them without."""
    for position, entry in enumerate(schema.get("properties", {}).values()):
        entry["position"] = position


def explain(error: ValidationError, model: type[BaseModel], *more_keys: str) -> str:
    """All problems, keys first, with the nearest key for an unknown one.

    Args:
        error: what pydantic raised.
        model: the model that refused.
        more_keys: keys that are taken besides the model's own, for the suggestions.
    """
    return "; ".join(_explain_one(problem, model, more_keys) for problem in error.errors(include_url=False))


def _explain_one(problem: Mapping[str, Any], model: type[BaseModel], more_keys: Sequence[str]) -> str:
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        known = sorted({*_keys_at(model, problem["loc"][:-1]), *more_keys})
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"keys are {', '.join(known)}"
        return f"unknown key {key!r}, {hint}"
    if problem["type"] == "missing" and isinstance(problem["loc"][-1], int):
        return f"{key.rpartition('.')[0]}: value {problem['loc'][-1] + 1} of the list is missing"
    if problem["type"] == "missing":
        return f"key {key!r} is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    found = problem.get("input")
    is_short = isinstance(found, str | int | float) and len(str(found)) < 100
    shown = f", found {found!r}" if is_short and repr(found) not in message else ""
    return f"{key}: {message}{shown}" if key else message


def _keys_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Keys that the model at `location` inside `model` knows."""
    for part in location:
        field = model.model_fields.get(str(part))
        inner = _models_in(field.annotation) if field else []
        if inner:
            model = inner[0]
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for arg in getattr(annotation, "__args__", ()) for found in _models_in(arg)]
