"""Commands for chip datasets: what one will cost, and care of those that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stacchip_core.cli import printing
from stacchip_core.cli.root import AsJson, Place, app

if TYPE_CHECKING:
    from stacchip_core.chips.dataset import Dataset

dataset_app = typer.Typer(no_args_is_help=True, help="Bring a dataset up to date, check it, compare two, or draw one.")
app.add_typer(dataset_app, name="dataset")

Spec = Annotated[Path, typer.Argument(help="YAML or JSON file of a ChipSpec.", metavar="SPEC")]
LocalRoots = Annotated[
    list[str] | None, typer.Option("--local-root", help="Folder that local assets may be read from; may be repeated.")
]
Workers = Annotated[int, typer.Option(help="Threads.", min=1, max=64)]
Name = Annotated[str, typer.Argument(help="Name of a dataset.", metavar="NAME")]
NameAt = Annotated[str, typer.Argument(help="Name of a dataset, and perhaps its revision: fields, fields@2.")]


@app.command()
def plan(ctx: typer.Context, spec: Spec, local_root: LocalRoots = None, as_json: AsJson = False) -> None:
    """Tell what a dataset will hold and cost, and read no pixel; exit code 1 where files can't be read."""
    from stacchip_core.chips.plan import plan as make_plan
    from stacchip_core.chips.spec import ChipSpec

    found = make_plan(ctx.obj.open(local_root or ()), ChipSpec.load(spec))
    typer.echo(printing.as_text(found.to_dict()) if as_json else found)
    if found.unreadable:
        raise typer.Exit(1)


@app.command()
def validate(ctx: typer.Context, spec: Spec, as_json: AsJson = False) -> None:
    """Check a spec against its index, and tell how many chips it selects; opens no file of an item."""
    from stacchip_core.chips.preparing import choose
    from stacchip_core.chips.selection import null_fractions
    from stacchip_core.chips.spec import ChipSpec

    wanted = ChipSpec.load(spec)
    table = choose(ctx.obj.open().combined(wanted.index, wanted.version), wanted).index.table
    by = [name for name in ("collection", "split") if name in table.column_names]
    counts = table.group_by(by).aggregate([([], "count_all")]).sort_by([(name, "ascending") for name in by]).to_pylist()
    nulls = null_fractions(table, wanted)
    facts = {"spec": wanted.name, "chips": table.num_rows, "parts": counts, "null_fractions": nulls}
    rows = [[one["collection"], one.get("split") or "", one["count_all"]] for one in counts]
    printing.show(facts, rows, ("collection", "split", "chips"), as_json)
    if not as_json:
        for column, count in nulls.items():
            typer.echo(f"{count:,} of them pass with no {column}")
        typer.echo(f"{wanted.name}: {table.num_rows:,} chips")


@app.command()
def materialize(
    ctx: typer.Context,
    spec: Spec,
    workers: Workers = 2,
    pictures: Annotated[bool, typer.Option("--pictures", help="Draw report.html too.")] = False,
    local_root: LocalRoots = None,
    as_json: AsJson = False,
) -> None:
    """Make the dataset of a spec; one that was killed carries on with what it has, one that is finished stays."""
    from stacchip_core.chips.dataset import materialize as make
    from stacchip_core.chips.spec import ChipSpec

    dataset = make(ctx.obj.open(local_root or ()), ChipSpec.load(spec), workers=workers, pictures=pictures)
    lock = dataset.lock
    facts = {"dataset": dataset.path, "index": str(lock.index), "shards": len(lock.shards), "chips": lock.chips}
    facts |= {"failures": lock.failures}
    printing.show(facts, [list(facts.values())], tuple(facts), as_json)


@dataset_app.command("leakage")
def tell_leakage(ctx: typer.Context, name: NameAt, as_json: AsJson = False) -> None:
    """Tell how near the splits of a dataset come to each other; exit code 1 where they show the same ground."""
    found = _opened(ctx.obj, name).leakage()
    rows = [[p.first, p.second, f"{p.nearest_km:.1f}", p.overlaps, p.other_dates] for p in found.pairs]
    printing.show(found.model_dump(), rows, ("split", "beside", "nearest km", "overlaps", "at other times"), as_json)
    if not found.is_clean:
        raise typer.Exit(1)


@dataset_app.command()
def update(
    ctx: typer.Context,
    name: Name,
    version: Annotated[
        int | None, typer.Option(help="Version of the index; none: the latest, unless the spec names one.", min=1)
    ] = None,
    workers: Workers = 2,
    local_root: LocalRoots = None,
    as_json: AsJson = False,
) -> None:
    """Retry chips that failed, and make anew the shards that a newer version of the index makes stale."""
    from stacchip_core.chips.dataset import Dataset
    from stacchip_core.chips.dataset import update as bring_up_to_date

    warehouse = ctx.obj.open(local_root or ())
    before = Dataset.open(f"{warehouse.root}/datasets/{name}", warehouse.storage).lock
    lock = bring_up_to_date(warehouse, name, version=version, workers=workers).lock
    kept = {shard.sha256 for shard in before.shards} & {shard.sha256 for shard in lock.shards}
    facts = {
        "revision": lock.revision,
        "index": str(lock.index),
        "chips": lock.chips,
        "failures": lock.failures,
        "shards kept": len(kept),
        "shards made": len(lock.shards) - len(kept),
    }
    printing.show(facts, [list(facts.values())], tuple(facts), as_json)


@dataset_app.command("verify")
def verify_one(
    ctx: typer.Context,
    name: NameAt,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a dataset is what its lock says; exit code 1 where it is not."""
    from stacchip_core.chips.checking import verify_dataset

    problems = verify_dataset(_opened(ctx.obj, name), deep=deep)
    printing.show({"problems": list(problems)}, [[one] for one in problems], ("is wrong",), as_json)
    if not as_json:
        typer.echo(f"{len(problems) or 'no'} problems")
    if problems:
        raise typer.Exit(1)


@dataset_app.command()
def diff(ctx: typer.Context, first: NameAt, second: NameAt, as_json: AsJson = False) -> None:
    """Tell how a dataset, or a revision of one, differs from another; exit code 1 where chips differ."""
    from dataclasses import asdict

    from stacchip_core.chips.checking import diff_datasets

    found = diff_datasets(_opened(ctx.obj, first), _opened(ctx.obj, second))
    rows = [[name, *map(str, pair)] for name, pair in found.settings.items()]
    rows += [
        ["chips of its own", str(len(found.only_in_first)), str(len(found.only_in_second))],
        ["chips of both", str(found.common), str(found.common)],
        ["of these with other pixels", str(len(found.other_pixels)), str(len(found.other_pixels))],
    ]
    printing.show({**asdict(found), "is_same": found.is_same}, rows, ("what", first, second), as_json)
    if not found.is_same:
        raise typer.Exit(1)


@dataset_app.command()
def report(ctx: typer.Context, name: Name) -> None:
    """Draw a dataset as a page, report.html, and say it as a STAC item, item.json, both beside its shards."""
    dataset = _opened(ctx.obj, name)
    typer.echo(dataset.write_item())
    page = dataset.write_report()
    typer.echo(page or "the page could not be drawn: -v tells why")
    if page is None:
        raise typer.Exit(1)


def _opened(place: Place, at: str) -> Dataset:
    from stacchip_core.chips.dataset import Dataset
    from stacchip_core.chips.spec import NAME_PATTERN

    name, sign, revision = at.partition("@")
    if sign and not revision.isdecimal():
        raise typer.BadParameter(f"{at!r}: expected NAME or NAME@REVISION, a number")
    if not re.fullmatch(NAME_PATTERN, name):
        raise typer.BadParameter(f"{name!r} is no name of a dataset: lower case letters, digits, hyphens")
    warehouse = place.open()
    path = f"{warehouse.root}/datasets/{name}"
    return Dataset.open(path, warehouse.storage, revision=int(revision) if revision else None)
