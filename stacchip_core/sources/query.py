"""Conditions on an item's properties, "eo:cloud_cover < 20": asked of the server, and checked on each item."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stacchip_core.errors import InputError

# Operators as people write them, as the STAC API query extension names them, and what they mean.
_OPERATORS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "<=": ("lte", operator.le),
    ">=": ("gte", operator.ge),
    "!=": ("neq", operator.ne),
    "<": ("lt", operator.lt),
    ">": ("gt", operator.gt),
    "=": ("eq", operator.eq),
    "in": ("in", lambda value, among: value in among),
}
_CONDITION = re.compile(r"\s*(?P<name>[^\s<>=!]+)\s*(?P<symbol><=|>=|!=|<|>|==?|\sin\s)\s*(?P<value>.+?)\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition: a property, an operator and a value; for "in", a tuple of values."""

    name: str
    symbol: str
    value: Any

    def holds(self, properties: Mapping[str, Any]) -> bool:
        """Whether a property meets it; one that is not there does not."""
        found = properties.get(self.name)
        if found is None:
            return False
        try:
            return bool(_OPERATORS[self.symbol][1](found, self.value))
        except TypeError:  # a text compared with a number
            return False


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions that have to hold together."""

    parts: tuple[Condition, ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Conditions:
        """Conditions such as "eo:cloud_cover < 20" or "platform in sentinel-2a, sentinel-2b".

        Raises:
            InputError: says what a condition looks like.
        """
        return cls(tuple(map(_parse, texts)))

    def hold(self, properties: Mapping[str, Any]) -> bool:
        """Whether all do."""
        return all(one.holds(properties) for one in self.parts)

    def has(self, symbol: str) -> bool:
        """Whether any is of an operator."""
        return any(one.symbol == symbol for one in self.parts)

    def as_query(self, *, without: str = "") -> dict[str, dict[str, Any]]:
        """For the `query` of a STAC API search; without the conditions of one operator."""
        asked: dict[str, dict[str, Any]] = {}
        for one in (part for part in self.parts if part.symbol != without):
            value = list(one.value) if one.symbol == "in" else one.value
            asked.setdefault(one.name, {})[_OPERATORS[one.symbol][0]] = value
        return asked


def _parse(text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise InputError(
            f"{text!r} is no condition; write a property, one of <, <=, >, >=, =, != or in, and a value: "
            "'eo:cloud_cover < 20', 'platform in sentinel-2a, sentinel-2b'"
        )
    symbol = match["symbol"].strip().replace("==", "=")
    value = match["value"]
    among = tuple(_value(part.strip()) for part in value.split(",")) if symbol == "in" else _value(value)
    return Condition(match["name"], symbol, among)


def _value(text: str) -> Any:
    """A number, true or false, else a text; quotes make a text of anything."""
    try:
        found = json.loads(text)
    except ValueError:
        return text.strip("'")
    return found if isinstance(found, str | int | float | bool) else text
