"""Commands that take care of a warehouse."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from stacchip_core.cli import printing
from stacchip_core.cli.root import LONGEST_DAYS, AsJson, Index, Yes, app

_SHOWN = 20  # files that a table lists


@app.command()
def verify(
    ctx: typer.Context,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte that versions need.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that all versions are there as they were written; exit code 1 where one is not."""
    report = ctx.obj.open().verify(deep=deep)
    rows = [[one.path, one.what, one.todo] for one in report.problems]
    printing.show(report.to_json(), rows, ("what", "is wrong", "what to do"), as_json)
    if not as_json:
        checked = ", ".join(
            printing.size(n) if what == "bytes" else f"{n} {what}" for what, n in report.checked.items()
        )
        typer.echo(f"{len(report.problems) or 'no'} problems; checked {checked}")
    if not report.is_clean:
        raise typer.Exit(1)


@app.command()
def expire(
    ctx: typer.Context,
    index: Index,
    keep: Annotated[int, typer.Option(help="How many of the newest versions stay.", min=1)] = 30,
    days: Annotated[
        float, typer.Option(help="Versions that were the newest since then stay.", min=1, max=LONGEST_DAYS)
    ] = 90,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Let go of old versions, so that vacuum may remove what they alone need; without --yes, only tell which."""
    done = ctx.obj.open().expire(index, keep=keep, days=days, dry_run=not yes)
    rows = [[done.index, done.version, done.added, done.expired or "none"]]
    printing.show(done.to_json(), rows, ("index", "version", "newly expired", "expired up to"), as_json)
    if not as_json and not yes and done.added:
        typer.echo(f"{done.added} versions would be expired, with --yes")


@app.command()
def vacuum(
    ctx: typer.Context,
    grace_days: Annotated[
        float, typer.Option(help="How old a file must be to go, by the store's clock.", min=0, max=LONGEST_DAYS)
    ] = 7,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove files that no version needs; without --yes, only tell which."""
    found = ctx.obj.open().vacuum(dry_run=not yes, grace=timedelta(days=grace_days))
    shown = found.files[:_SHOWN]
    rows = [[one.path, printing.size(one.size), f"{one.age_days:.0f} d", one.why] for one in shown]
    printing.show(found.to_json(), rows, ("file", "size", "age", "why"), as_json)
    if not as_json:
        if len(found.files) > _SHOWN:
            typer.echo(f"and {len(found.files) - _SHOWN} more; --json lists them all")
        done = "removed" if yes else "would be removed, with --yes"
        kept = f"{found.kept} kept ({printing.size(found.kept_bytes)}), {found.young} not old enough"
        typer.echo(
            f"{len(found.files)} files ({printing.size(found.bytes)}) {done}; {kept}; {len(found.unknown)} unknown"
        )
        for key in found.unknown[:_SHOWN]:
            typer.echo(f"unknown, left alone: {key}")


@app.command()
def repair(ctx: typer.Context, yes: Yes = False, as_json: AsJson = False) -> None:
    """Mend what can be mended; without --yes, only tell what that is."""
    done = ctx.obj.open().repair(dry_run=not yes)
    rows = [[one.path, one.what, "done" if yes else "with --yes"] for one in done.actions]
    rows += [[one.path, one.what, one.todo] for one in done.left]
    printing.show(done.to_json(), rows, ("what", "", "what to do"), as_json)
    if not as_json and not rows:
        typer.echo("nothing to mend")
    if not as_json and yes and done.actions and not done.left:
        typer.echo(
            "versions from now on are whole; what older ones lack, `stacchip verify --deep` tells until they expire"
        )
    if done.left:
        raise typer.Exit(1)
