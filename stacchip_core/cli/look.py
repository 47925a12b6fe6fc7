"""Commands that look at indexes and name their versions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stacchip_core.cli import printing
from stacchip_core.cli.root import AsJson, At, Index, app, opened, parsed
from stacchip_core.errors import CorruptWarehouseError, VersionNotFoundError

if TYPE_CHECKING:
    from stacchip_core.warehouse.version import IndexVersion
    from stacchip_core.warehouse.warehouse import Warehouse


@app.command()
def ls(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the indexes."""
    warehouse = ctx.obj.open()
    names = [*(f"combined/{name}" for name in warehouse.combined_names())]
    names += [f"collections/{name}" for name in warehouse.collections()]
    rows = [{"index": name, **_facts_or_error(warehouse, name)} for name in names]
    is_damaged = any("error" in row for row in rows)
    columns = ("index", "version", "items", "chips", "created_at", *(["error"] if is_damaged else []))
    printing.show(rows, [[row.get(column, "") for column in columns] for row in rows], columns, as_json)
    if is_damaged:
        raise typer.Exit(1)


@app.command()
def versions(ctx: typer.Context, index: Index, as_json: AsJson = False) -> None:
    """List the versions of an index."""
    found = [asdict(one) for one in ctx.obj.open().versions(index)]
    columns = ("version", "operation", "items", "chips", "new", "updated", "deleted", "failed", "created_at")
    rows = [
        [*(one[column] for column in columns), "" if one["is_readable"] else "expired", ", ".join(one["tags"])]
        for one in found
    ]
    printing.show(found, rows, (*columns, "", "tags"), as_json)


@app.command()
def show(ctx: typer.Context, at: At, as_json: AsJson = False) -> None:
    """Show what a version of an index holds, and what it was made from."""
    warehouse = ctx.obj.open()
    version = opened(warehouse, at)
    files = version.files
    facts = {
        **_facts(version),
        "sha256": version.sha256,
        "files": len(files),
        "bytes": sum(info.size for info in files),
        "grids": {name: sorted(map(str, specs)) for name, specs in version.grids().items()},
        "sources": [dict(source) for source in version.sources],
    }
    words = {**facts, "bytes": printing.size(facts["bytes"]), "sources": _lines(facts["sources"])}
    words["grids"] = "\n".join(f"{name}: {', '.join(specs)}" for name, specs in facts["grids"].items())
    printing.show(facts, [[name, str(value)] for name, value in words.items()], ("", at), as_json)


@app.command()
def diff(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(metavar="INDEX@A")],
    new: Annotated[str, typer.Argument(metavar="INDEX@B")],
    as_json: AsJson = False,
) -> None:
    """Show what differs between two versions of an index."""
    from stacchip_core.warehouse.care.retention import folder_of

    (index, before), (other, after) = parsed(old), parsed(new)
    warehouse = ctx.obj.open()
    if index != other and folder_of(warehouse.store, index) != folder_of(warehouse.store, other):
        raise typer.BadParameter(f"{old} and {new} are two indexes; name two versions of one")
    found = warehouse.diff(index, before if before is not None else warehouse.index(index).version, after)
    kinds = ("added", "removed", "changed")
    rows = [[name, *(_pair(own, kind) for kind in kinds)] for name, own in found.counts.items()]
    printing.show(found.to_json(), rows, ("collection", *kinds), as_json)
    if not as_json and not rows:
        typer.echo("no differences")


@app.command()
def tag(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Of the tag.")] = None,
    at: Annotated[str | None, typer.Argument(help="What it names.", metavar="INDEX[@V]")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the tag.")] = False,
    as_json: AsJson = False,
) -> None:
    """Name a version, so that it will not expire; without a name, list the tags."""
    if (name is None and delete) or (name is not None and (at is None) != delete):
        raise typer.BadParameter("expected NAME INDEX[@V], or --delete NAME")
    warehouse = ctx.obj.open()
    if name is not None and delete:
        if not warehouse.untag(name):
            there = ", ".join(one.name for one in warehouse.tags()) or "none"
            raise VersionNotFoundError(f"{warehouse.root}: no tag {name!r} to delete; there are {there}")
    elif name is not None and at is not None:
        warehouse.tag(name, *parsed(at))
    found = [one.to_json() for one in warehouse.tags()]
    columns = ("name", "index", "version")
    printing.show(found, [[one[column] for column in columns] for one in found], columns, as_json)


@app.command()
def files(
    ctx: typer.Context,
    at: At,
    items: Annotated[bool, typer.Option("--items", help="Files of items, not of chips.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the files of a version, a path or URL a line, for other tools; those of a collection may hold dead rows."""
    version = opened(ctx.obj.open(), at)
    infos = version.item_files if items else version.files
    root = version.store.root.replace("s3a://", "s3://", 1)
    found = [{"url": f"{root}/{i.path}", "size": i.size, "rows": i.rows, "sha256": i.sha256} for i in infos]
    typer.echo(
        printing.as_text(found) if as_json else "\n".join(str(one["url"]) for one in found), nl=as_json or bool(found)
    )


def _facts(version: IndexVersion) -> dict[str, Any]:
    """What the log says of a version."""
    entry = version.entry
    totals = {"items": entry.totals.items, "chips": entry.totals.chips}
    return {"version": version.version, **totals, "created_at": entry.created_at}


def _facts_or_error(warehouse: Warehouse, name: str) -> dict[str, Any]:
    try:
        return _facts(warehouse.index(name))
    except CorruptWarehouseError as err:
        return {"error": " ".join(str(err).split())}


def _pair(counts: Mapping[str, Mapping[str, int]], kind: str) -> str:
    return f"{counts['items'][kind]} items, {counts['chips'][kind]} chips"


def _lines(sources: Iterable[Mapping[str, Any]]) -> str:
    return "\n".join(", ".join(f"{name} {_word(value)}" for name, value in source.items()) for source in sources)


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
