"""The public API is exactly this list; every name of it loads, and loads lazily."""

from __future__ import annotations

import ast
import importlib
import inspect
from importlib.metadata import version
from pathlib import Path

import pytest

import stacchip_core
from stacchip_core import errors

CLASSES_AND_FUNCTIONS = {
    "ChipIndex",
    "ChipSpec",
    "Chipper",
    "CollectionProfile",
    "Dataset",
    "FailureBudget",
    "IndexSettings",
    "IndexVersion",
    "Indexer",
    "Storage",
    "Warehouse",
    "materialize",
    "mirror",
    "plan",
    "select",
    "stream",
}
ERRORS = {
    name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, errors.StacchipError)
}


def test_exported_names_are_the_public_api() -> None:
    assert set(stacchip_core.__all__) == CLASSES_AND_FUNCTIONS | ERRORS
    assert len(stacchip_core.__all__) == len(set(stacchip_core.__all__))


@pytest.mark.parametrize("name", sorted(CLASSES_AND_FUNCTIONS | ERRORS))
def test_every_exported_name_loads(name: str) -> None:
    value = getattr(stacchip_core, name)
    assert value.__name__ == name
    assert value.__module__.startswith("stacchip_core.")
    assert name in dir(stacchip_core)


def test_lazy_names_come_from_the_modules_that_type_checkers_see() -> None:
    tree = ast.parse(Path(stacchip_core.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name: node.module
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {name: f"stacchip_core.{module}" for name, module in stacchip_core._MODULES.items()}


def test_unknown_name_is_an_attribute_error_that_lists_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Chiper'.*Chipper"):
        _ = stacchip_core.Chiper
    with pytest.raises(ImportError):
        importlib.import_module("stacchip_core.no_such_module")


def test_the_package_says_its_version() -> None:
    assert stacchip_core.__version__ == version("stacchip-core")
