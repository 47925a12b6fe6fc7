"""Commands about sources of items: see what is wrong with one, copy its files."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stacchip_core.cli import printing
from stacchip_core.cli.root import AsJson, app

if TYPE_CHECKING:
    from stacchip_core.sources.access import Storage
    from stacchip_core.sources.source import Source

_MARKS = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "–"}

Where = Annotated[
    str, typer.Argument(help="STAC API, catalog, item file or stac-geoparquet: URL or path.", metavar="SOURCE")
]
Collections = Annotated[list[str] | None, typer.Option("--collection", help="Only this collection; may be repeated.")]
When = Annotated[str | None, typer.Option("--datetime", help="A day, month, year, or a range of them.")]
Profile = Annotated[str | None, typer.Option(help="Sensor profile, by name or YAML file.")]
Roots = Annotated[list[str] | None, typer.Option("--local-root", help="Folder that may be read; may be repeated.")]
Hosts = Annotated[list[str] | None, typer.Option("--host", help="Host that may be read; may be repeated.")]


@app.command()
def doctor(  # noqa: PLR0913 - the options of a command
    ctx: typer.Context,
    source: Where,
    *,
    collection: Collections = None,
    when: When = None,
    profile: Profile = None,
    chip_size: Annotated[int, typer.Option(help="Pixels of the reference grid.", min=1)] = 256,
    grid: Annotated[str, typer.Option(help="item, or asset: from the files.")] = "item",
    local_root: Roots = None,
    host: Hosts = None,
    as_json: AsJson = False,
) -> None:
    """Try a source from its catalog to one chip, and say what is wrong and what to do; exit code 1 where it is ill."""
    from stacchip_core.chips.doctor import diagnose
    from stacchip_core.index.indexer import IndexSettings

    storage = _storage(ctx, host)
    settings = IndexSettings.of(
        chip_size=chip_size, grid=grid, profile=profile, storage=storage, local_roots=tuple(local_root or ())
    )
    found = diagnose(_source(source, collection, when, local_root), settings)
    rows = [[_MARKS[one.status], one.name, one.found or "not reached", one.todo] for one in found.checks]
    printing.show(found.to_json(), rows, ("", "check", "found", "what to do"), as_json)
    if not found.is_healthy:
        raise typer.Exit(1)


@app.command()
def mirror(  # noqa: PLR0913 - the options of a command
    ctx: typer.Context,
    source: Where,
    destination: Annotated[str, typer.Argument(help="Folder, or s3://bucket/prefix.", metavar="DEST")],
    *,
    collection: Collections = None,
    assets: Annotated[str, typer.Option(help="Asset keys or band names, as red,scl; none: all of the profile.")] = "",
    when: When = None,
    max_items: Annotated[int | None, typer.Option(help="Stop after so many items.", min=1)] = None,
    profile: Profile = None,
    local_root: Roots = None,
    host: Hosts = None,
    destination_endpoint: Annotated[str | None, typer.Option(help="S3 endpoint of DEST; none: as --endpoint.")] = None,
    as_json: AsJson = False,
) -> None:
    """Copy assets of items to a folder or bucket, and rewrite the items to the copies; run again to carry on."""
    from stacchip_core.sources.access import Storage
    from stacchip_core.warehouse.mirror import mirror as copy_all

    storage = _storage(ctx, host)
    place = Storage(endpoint=destination_endpoint or storage.endpoint, region=storage.region)
    done = copy_all(
        _source(source, collection, when, local_root, max_items),
        destination,
        assets=[name.strip() for name in assets.split(",") if name.strip()],
        storage=storage,
        destination_storage=place,
        profile=profile,
        local_roots=local_root or (),
    )
    counts = {"items": len(done.items), "copied": done.copied, "kept": done.kept, "bytes": done.size_bytes}
    failed = [asdict(failure) for failure in done.failures]
    if as_json:
        typer.echo(printing.as_text({**counts, "failures": failed}))
    else:
        size = printing.size(done.size_bytes)
        typer.echo(f"{len(done.items)} items: {done.copied} files copied ({size}), {done.kept} were there")
        for failure in done.failures:
            typer.echo(f"✗ {failure.item} ({failure.cause}): {failure.reason}")
    if failed:
        raise typer.Exit(1)


def _storage(ctx: typer.Context, hosts: list[str] | None) -> Storage:
    from stacchip_core.sources.access import Storage

    how: dict[str, Any] = {**ctx.obj.storage, "hosts": tuple(hosts or ())}
    return Storage(**how)


def _source(
    where: str,
    collections: list[str] | None,
    when: str | None,
    roots: list[str] | None,
    max_items: int | None = None,
) -> Source:
    from pydantic import ValidationError

    from stacchip_core.errors import InputError
    from stacchip_core.sources.source import Source
    from stacchip_core.sources.validation import explain

    asked: dict[str, Any] = {"collections": tuple(collections or ()), "datetime": when, "max_items": max_items}
    try:
        return Source(url=where, local_roots=tuple(roots or ()), **asked)
    except ValidationError as err:
        raise InputError(f"{where}: {explain(err, Source)}") from err
