"""What all commands share: where the warehouse is, errors as one line, words of arguments."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from stacchip_core.errors import StacchipError

if TYPE_CHECKING:
    from stacchip_core.warehouse.version import IndexVersion
    from stacchip_core.warehouse.warehouse import Warehouse


LONGEST_DAYS = 36_500


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
class Place:
    """Where the warehouse is, and how to get there."""

    root: str
    storage: Mapping[str, Any]

    def open(self, local_roots: Sequence[str] = ()) -> Warehouse:
        from stacchip_core.sources.access import Storage
        from stacchip_core.warehouse.warehouse import Warehouse

        return Warehouse(self.root, storage=Storage(**self.storage), local_roots=list(local_roots))


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
    ctx.obj = Place(warehouse, how)


def parsed(at: str) -> tuple[str, int | str | None]:
    """Index and version of INDEX[@V]; V is a number or a tag."""
    index, sign, version = at.partition("@")
    if not index or (sign and not version):
        raise typer.BadParameter(f"{at!r}: expected INDEX or INDEX@V, where V is a number or a tag")
    return index, int(version) if version.isdecimal() else version or None


def opened(warehouse: Warehouse, at: str) -> IndexVersion:
    return warehouse.index(*parsed(at))
