"""The command `stacchip`: look at a warehouse and take care of it, on disk or in a bucket."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from stacchip_core.errors import CorruptWarehouseError, StacchipError, VersionNotFoundError

if TYPE_CHECKING:
    from stacchip_core.warehouse.version import IndexVersion
    from stacchip_core.warehouse.warehouse import Warehouse


_LONGEST_DAYS = 36_500
_WIDE = 1000  # columns of a table that goes to a file or a pipe, where no line is to be broken


class _Commands(TyperGroup):
    """Commands whose errors on purpose are one line, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except StacchipError as err:
            typer.echo(f"stacchip: {' '.join(str(err).split())}", err=True)
            raise typer.Exit(1) from err


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Look at a warehouse of chip indexes, and take care of it.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Index = Annotated[str, typer.Argument(help="Name of an index, such as global or collections/naip.", metavar="INDEX")]
At = Annotated[
    str,
    typer.Argument(
        help="An index, and perhaps its version or tag: global, global@12, global@paper.", metavar="INDEX[@V]"
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without this, only tell.")]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the warehouse is, and how to get there."""

    root: str
    storage: Mapping[str, Any]

    def open(self) -> Warehouse:
        from stacchip_core.sources.access import Storage
        from stacchip_core.warehouse.warehouse import Warehouse

        return Warehouse(self.root, storage=Storage(**self.storage))


@app.callback()
def main(
    ctx: typer.Context,
    warehouse: Annotated[
        str,
        typer.Option(
            "-w", "--warehouse", envvar="STACCHIP_WAREHOUSE", help="Local path, or s3://bucket/prefix.", metavar="ROOT"
        ),
    ] = ".",
    endpoint: Annotated[str | None, typer.Option(help="S3 endpoint URL; none: the cloud's own.")] = None,
    region: Annotated[str | None, typer.Option(help="Region of the bucket.")] = None,
    anonymous: Annotated[bool, typer.Option("--anonymous", help="Read without credentials.")] = False,
    requester_pays: Annotated[bool, typer.Option("--requester-pays", help="Agree to pay for requests.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Tell on stderr how long work goes on.")] = False,
) -> None:
    """Look at a warehouse of chip indexes, and take care of it."""
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    how = {"endpoint": endpoint, "region": region, "anonymous": anonymous, "requester_pays": requester_pays}
    ctx.obj = _Place(warehouse, how)


@app.command()
def ls(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the indexes."""
    warehouse = ctx.obj.open()
    names = [*(f"combined/{name}" for name in warehouse.combined_names())]
    names += [f"collections/{name}" for name in warehouse.collections()]
    rows = [{"index": name, **_facts_or_error(warehouse, name)} for name in names]
    is_damaged = any("error" in row for row in rows)
    columns = ("index", "version", "items", "chips", "created_at", *(["error"] if is_damaged else []))
    _show(rows, [[row.get(column, "") for column in columns] for row in rows], columns, as_json)
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
    _show(found, rows, (*columns, "", "tags"), as_json)


@app.command()
def show(ctx: typer.Context, at: At, as_json: AsJson = False) -> None:
    """Show what a version of an index holds, and what it was made from."""
    warehouse = ctx.obj.open()
    version = _opened(warehouse, at)
    files = version.files
    facts = {
        **_facts(version),
        "sha256": version.sha256,
        "files": len(files),
        "bytes": sum(info.size for info in files),
        "grids": {name: sorted(map(str, specs)) for name, specs in version.grids().items()},
        "sources": [dict(source) for source in version.sources],
    }
    words = {**facts, "bytes": _size(facts["bytes"]), "sources": _lines(facts["sources"])}
    words["grids"] = "\n".join(f"{name}: {', '.join(specs)}" for name, specs in facts["grids"].items())
    _show(facts, [[name, str(value)] for name, value in words.items()], ("", at), as_json)


@app.command()
def diff(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(metavar="INDEX@A")],
    new: Annotated[str, typer.Argument(metavar="INDEX@B")],
    as_json: AsJson = False,
) -> None:
    """Show what differs between two versions of an index."""
    from stacchip_core.warehouse.care.retention import folder_of

    (index, before), (other, after) = _parsed(old), _parsed(new)
    warehouse = ctx.obj.open()
    if index != other and folder_of(warehouse.store, index) != folder_of(warehouse.store, other):
        raise typer.BadParameter(f"{old} and {new} are two indexes; name two versions of one")
    found = warehouse.diff(index, before if before is not None else warehouse.index(index).version, after)
    kinds = ("added", "removed", "changed")
    rows = [[name, *(_pair(own, kind) for kind in kinds)] for name, own in found.counts.items()]
    _show(found.to_json(), rows, ("collection", *kinds), as_json)


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
        warehouse.tag(name, *_parsed(at))
    found = [one.to_json() for one in warehouse.tags()]
    columns = ("name", "index", "version")
    _show(found, [[one[column] for column in columns] for one in found], columns, as_json)


@app.command()
def verify(
    ctx: typer.Context,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte that versions need.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that all versions are there as they were written; exit code 1 where one is not."""
    report = ctx.obj.open().verify(deep=deep)
    rows = [[one.path, one.what, one.todo] for one in report.problems]
    _show(report.to_json(), rows, ("what", "is wrong", "what to do"), as_json)
    if not as_json:
        checked = ", ".join(_size(n) if what == "bytes" else f"{n} {what}" for what, n in report.checked.items())
        typer.echo(f"{len(report.problems) or 'no'} problems; checked {checked}")
    if not report.is_clean:
        raise typer.Exit(1)


@app.command()
def expire(
    ctx: typer.Context,
    index: Index,
    keep: Annotated[int, typer.Option(help="How many of the newest versions stay.", min=1)] = 30,
    days: Annotated[
        float, typer.Option(help="Versions that were the newest since then stay.", min=1, max=_LONGEST_DAYS)
    ] = 90,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Let go of old versions, so that vacuum may remove what they alone need; without --yes, only tell which."""
    done = ctx.obj.open().expire(index, keep=keep, days=days, dry_run=not yes)
    rows = [[done.index, done.version, done.added, done.expired or "none"]]
    _show(done.to_json(), rows, ("index", "version", "newly expired", "expired up to"), as_json)
    if not as_json and not yes and done.added:
        typer.echo(f"{done.added} versions would be expired, with --yes")


@app.command()
def vacuum(
    ctx: typer.Context,
    grace_days: Annotated[
        float, typer.Option(help="How old a file must be to go, by the store's clock.", min=0, max=_LONGEST_DAYS)
    ] = 7,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove files that no version needs; without --yes, only tell which."""
    found = ctx.obj.open().vacuum(dry_run=not yes, grace=timedelta(days=grace_days))
    rows = [[one.path, _size(one.size), f"{one.age_days:.0f} d", one.why] for one in found.files]
    _show(found.to_json(), rows, ("file", "size", "age", "why"), as_json)
    if not as_json:
        done = "removed" if yes else "would be removed, with --yes"
        kept = f"{found.kept} kept ({_size(found.kept_bytes)}), {found.young} not old enough"
        typer.echo(f"{len(found.files)} files ({_size(found.bytes)}) {done}; {kept}; {len(found.unknown)} unknown")
        for key in found.unknown:
            typer.echo(f"unknown, left alone: {key}")


@app.command()
def repair(ctx: typer.Context, yes: Yes = False, as_json: AsJson = False) -> None:
    """Mend what can be mended; without --yes, only tell what that is."""
    done = ctx.obj.open().repair(dry_run=not yes)
    rows = [[one.path, one.what, "done" if yes else "with --yes"] for one in done.actions]
    rows += [[one.path, one.what, one.todo] for one in done.left]
    _show(done.to_json(), rows, ("what", "", "what to do"), as_json)
    if not as_json and not rows:
        typer.echo("nothing to mend")
    if done.left:
        raise typer.Exit(1)


@app.command()
def files(
    ctx: typer.Context,
    at: At,
    items: Annotated[bool, typer.Option("--items", help="Files of items, not of chips.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the files of a version, a path or URL a line, for other tools; those of a collection may hold dead rows."""
    version = _opened(ctx.obj.open(), at)
    infos = version.entry.files("items") if items else version.files
    root = version.store.root.replace("s3a://", "s3://", 1)
    found = [{"url": f"{root}/{i.path}", "size": i.size, "rows": i.rows, "sha256": i.sha256} for i in infos]
    typer.echo(_json(found) if as_json else "\n".join(str(one["url"]) for one in found), nl=as_json or bool(found))


def _parsed(at: str) -> tuple[str, int | str | None]:
    """Index and version of INDEX[@V]; V is a number or a tag."""
    index, sign, version = at.partition("@")
    if not index or (sign and not version):
        raise typer.BadParameter(f"{at!r}: expected INDEX or INDEX@V, where V is a number or a tag")
    return index, int(version) if version.isdecimal() else version or None


def _opened(warehouse: Warehouse, at: str) -> IndexVersion:
    return warehouse.index(*_parsed(at))


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
    return "\n".join(", ".join(f"{name} {value}" for name, value in source.items()) for source in sources)


def _size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str)


def _show(value: Any, rows: Sequence[Sequence[Any]], columns: Sequence[str], as_json: bool) -> None:
    """A table, or the same as JSON; nothing where there are no rows."""
    if as_json:
        typer.echo(_json(value))
        return
    if not rows:
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    for column, first in zip(columns, rows[0], strict=True):
        table.add_column(column, justify="right" if isinstance(first, int) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value) for value in row))
    terminal = Console(markup=False, highlight=False)
    wide = Console(markup=False, highlight=False, width=_WIDE)
    (terminal if terminal.is_terminal else wide).print(table)
