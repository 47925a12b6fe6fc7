"""Commands about items that failed: list them by cause, try them again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from stacchip_core.cli import printing
from stacchip_core.cli.root import AsJson, At, app, parsed
from stacchip_core.sources.cause import CAUSES

_SHOWN = ("item_id", "stage", "reason", "attempts", "first_failed", "last_failed")


@app.command()
def failures(
    ctx: typer.Context,
    at: At,
    cause: Annotated[str | None, typer.Option(help=f"Only these: {', '.join(CAUSES)}.", metavar="CAUSE")] = None,
    as_json: AsJson = False,
) -> None:
    """List the items of a collection that failed, by cause."""
    name, version = parsed(at)
    if cause is not None and cause not in CAUSES:
        raise typer.BadParameter(f"no cause {cause!r}; there are {', '.join(CAUSES)}")
    rows = ctx.obj.open().collection(name.removeprefix("collections/"), version).failures().to_pylist()
    found = [{"cause": row["cause"] or "other", **{one: row[one] for one in _SHOWN}} for row in rows]
    chosen = [one for one in found if cause in (None, one["cause"])]
    printing.show(chosen, [list(map(_word, one.values())) for one in chosen], ("cause", *_SHOWN), as_json)
    if not as_json:
        typer.echo(_summary(chosen))


@app.command()
def retry_failed(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Of the collection.", metavar="COLLECTION")],
    profile: Annotated[str | None, typer.Option(help="Sensor profile that its items are indexed with.")] = None,
    max_nodata: Annotated[float | None, typer.Option(help="Largest share of nodata of its chips.")] = None,
    local_root: Annotated[list[str] | None, typer.Option(help="Folder that items may be read from.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try the items of a collection that failed once more, now; exit code 1 where some fail again."""
    settings: dict[str, Any] = {"profile": profile, "max_nodata": max_nodata, "local_roots": local_root or ()}
    done = ctx.obj.open().retry_failed(name.removeprefix("collections/"), **settings)
    told = asdict(done)
    columns = ("name", "version", "new", "updated", "failed", "chips")
    printing.show(told, [[told[column] for column in columns]], columns, as_json)
    if done.is_partial:
        raise typer.Exit(1)


def _word(value: Any) -> Any:
    if value is None:
        return ""
    return value.isoformat(timespec="seconds") if hasattr(value, "isoformat") else value


def _summary(found: list[dict[str, Any]]) -> str:
    """How many failed by which cause, and what the causes mean."""
    counts = {cause: sum(one["cause"] == cause for one in found) for cause in CAUSES}
    lines = [f"{count} {cause}: {CAUSES[cause]}" for cause, count in counts.items() if count]
    return "\n".join([f"{len(found) or 'no'} items failed", *lines])
