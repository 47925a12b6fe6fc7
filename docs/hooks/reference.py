"""Writes the site's reference pages from the code: configuration, command line, errors, changelog.

MkDocs calls `on_files` in every build, so that none of these pages can be older than what it describes.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

REPO = Path(__file__).resolve().parents[2]

# What a field's schema may say of its values, in words. Source: JSON Schema 2020-12, "Validation".
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "pattern": "matches `{}`",
    "minItems": "{} or more",
    "maxItems": "at most {} of them",
    "minLength": "{} characters or more",
    "maxLength": "at most {} characters",
}
_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "object": "keys and values",
}
_LARGE = 2**53  # a bound that keeps numbers within their type
_COUNTED = 64  # bounds on the length of texts and lists beyond this keep out mischief, and tell a reader nothing
_WHAT_TO_DO = {
    "TransientError": "try again later",
    "CommitConflictError": "load again, then try again",
    "CommitUnknownError": "look first: the next run finds out by itself",
    "InputError": "mend what you gave",
    "LookupFailedError": "name one of those that the message lists",
    "CorruptWarehouseError": "`stacchip verify` tells what is damaged, `stacchip repair` mends what can be mended",
    "UnsafeStoreError": "keep the warehouse in another store",
    "FailureBudgetError": "see what failed; what was committed stays",
}

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Chapter:
    """Models of one subject: `models` are those a user writes; those inside them follow by themselves."""

    title: str
    text: str
    models: tuple[type[BaseModel], ...]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """MkDocs' event: the files of the site are known, and may be added to."""
    pages = {
        "reference/configuration.md": configuration_page(chapters()),
        "reference/command-line.md": command_line_page(),
        "reference/errors.md": errors_page(),
        "reference/changelog.md": (REPO / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


# --- configuration


def chapters() -> list[Chapter]:
    """The models that users write, by subject; those of the flows are found, so that none is forgotten."""
    from stacchip_core import ChipSpec, CollectionProfile, IndexSettings

    found = list(flow_models())
    return [
        Chapter("Choosing chips", "What `select`, `plan` and `materialize` take.", (ChipSpec,)),
        Chapter("Sensors", "A profile says what must be known of a collection.", (CollectionProfile,)),
        Chapter("Indexing", "What `Indexer` and `Warehouse.index_items` take by name.", (IndexSettings,)),
        Chapter(
            "Flows",
            "Parameters of the flows: in files for runs by hand, in deployments, and in the form of Prefect's UI. "
            "An unknown key is refused, and the nearest known one is named.",
            tuple(one for one in found if one.__name__.endswith("Config")),
        ),
        Chapter(
            "Deployments",
            "What files of `deployments/` hold beside the parameters of flows: see [operations](../operations.md).",
            tuple(one for one in found if not one.__name__.endswith("Config")),
        ),
    ]


def flow_models() -> Iterator[type[BaseModel]]:
    """Parameter models of the flows: those that no other model of the flows holds."""
    import flows

    found = [
        model
        for info in pkgutil.iter_modules(flows.__path__)
        if info.name not in ("__main__", "demo")
        for model in _models_of(importlib.import_module(f"flows.{info.name}"))
    ]
    inner = {name for model in found for name in _schema(model).get("$defs", {})}
    yield from (model for model in found if model.__name__ not in inner)


def configuration_page(parts: Iterable[Chapter]) -> str:
    """All keys of all models; a model that several hold is told once."""
    lines = ["# Configuration", "", "Every key there is. Made from the models that check them.", ""]
    parts = list(parts)
    later = {model.__name__ for part in parts for model in part.models}  # have a place of their own
    for part in parts:
        lines += [f"## {part.title}", "", part.text, ""]
        for model in part.models:
            schema = _schema(model)
            inner = {
                name: own for name, own in schema.get("$defs", {}).items() if name not in later and "properties" in own
            }
            later |= set(inner)
            for name, own in {model.__name__: schema, **inner}.items():
                lines += _model_section(name, own)
    return "\n".join(lines)


def _models_of(module: ModuleType) -> list[type[BaseModel]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, BaseModel) and value.__module__ == module.__name__
    ]


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    try:
        return model.model_json_schema()
    except PydanticInvalidForJsonSchema as err:
        raise TypeError(f"{model.__name__} can't be documented: {err}") from err


def _model_section(name: str, schema: Schema) -> list[str]:
    text = inspect.cleandoc(schema.get("description", "")).partition("\n\n")[0]
    rows = [_field_row(key, field, key in schema.get("required", ())) for key, field in schema["properties"].items()]
    head = ["| key | takes | default | |", "|---|---|---|---|"]
    return [f"### {name}", "", " ".join(text.split()), "", *head, *rows, ""]


def _field_row(key: str, field: Schema, is_required: bool) -> str:
    default = "required" if is_required else _default(field)
    bounds = ", ".join(_bounds(field))
    words = [field.get("description", "").rstrip("."), bounds[:1].upper() + bounds[1:]]
    told = ". ".join(word for word in words if word)
    return f"| `{key}` | {_takes(field)} | {default} | {_cell(told)}{'.' if told else ''} |"


def _takes(field: Schema) -> str:
    """What a field takes, in words, with links to the models inside it."""
    if "anyOf" in field:
        return " or ".join(_takes(one) for one in field["anyOf"] if one != {"type": "null"})
    if "$ref" in field:
        name = str(field["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        one: Schema = field.get("items") or next(iter(field.get("prefixItems", [])), {})
        return f"list of {_takes(one)}"
    return _WORDS.get(field.get("type", ""), "anything")


def _bounds(field: Schema) -> Iterator[str]:
    for part in map(dict, (field, *field.get("anyOf", ()))):
        if {"minimum", "maximum"} <= set(part):
            yield f"{_number(part.pop('minimum'))} to {_number(part.pop('maximum'))}"
        if "minItems" in part and part["minItems"] == part.get("maxItems"):
            yield f"{part.pop('minItems')} of them"
            del part["maxItems"]
        known = ((words, part[name], name) for name, words in _BOUNDS.items() if name in part)
        yield from (words.format(_number(value)) for words, value, name in known if _tells(name, value))


def _tells(name: str, value: float | str) -> bool:
    """Whether a bound tells a reader something, rather than keep out mischief."""
    if isinstance(value, str):
        return len(value) <= _COUNTED
    return 1 < value <= _COUNTED if name.endswith(("Items", "Length")) else value < _LARGE


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"


def _default(field: Schema) -> str:
    value = field.get("default")
    if value is None:
        return "none"
    if value in ([], {}, ""):
        return "empty"
    return "its own" if isinstance(value, dict) else f"`{json.dumps(value, ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- command line


def command_line_page() -> str:
    """`stacchip` and `python -m flows`, with all their options."""
    from flows.__main__ import _parser
    from stacchip_core.cli import app

    root = typer.main.get_command(app)
    lines = ["# Command line", "", "## stacchip", "", *_command_lines(root, "stacchip")]
    lines += ["## python -m flows", "", "From a checkout; see [flows](../flows.md).", ""]
    return "\n".join([*lines, "```text", _parser().format_help().rstrip(), "```", ""])


def _command_lines(command: Any, path: str) -> Iterator[str]:  # of the click that typer brings, or of click itself
    context = command.make_context(path, [], resilient_parsing=True)
    inner = getattr(command, "commands", {})
    pieces = " ".join(command.collect_usage_pieces(context))
    yield from (command.help or "", "", "```text", f"{path} {pieces}", "```", "")
    rows = [row for parameter in command.params for row in _parameter_row(parameter, context)]
    if rows:
        yield from ("| | |", "|---|---|", *rows, "")
    for name, one in inner.items():
        yield from (f"### {path} {name}", "")
        yield from _command_lines(one, f"{path} {name}")


def _parameter_row(parameter: Any, context: Any) -> Iterator[str]:
    record = parameter.get_help_record(context)
    if record is None and parameter.param_type_name == "argument":
        record = (parameter.make_metavar(context), "")
    if record is not None:
        yield f"| `{_cell(record[0]).replace(' <str>', '')}` | {_cell(record[1])} |"


# --- errors


def errors_page() -> str:
    """The tree of errors, and of each what it means and what to do."""
    from stacchip_core import errors

    tree = inspect.getdoc(errors) or ""
    found = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.StacchipError)]
    rows = [f"| `{one.__name__}` | {_cell(one.__doc__ or '')} | {_what_to_do(one)} |" for one in found]
    head = ["| error | means | what to do |", "|---|---|---|"]
    title = "All can be imported from `stacchip_core`. Messages name the item, what was expected and what was found."
    return "\n".join(["# Errors", "", title, "", "```text", tree, "```", "", *head, *rows, ""])


def _what_to_do(error: type[Exception]) -> str:
    return next(
        (_WHAT_TO_DO[base.__name__] for base in error.__mro__ if base.__name__ in _WHAT_TO_DO), "see its message"
    )
