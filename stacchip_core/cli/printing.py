"""What commands print: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer

_WIDE = 1000  # columns of a table that goes to a file or a pipe, where no line is to be broken


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def as_text(value: Any) -> str:
    return json.dumps(value, indent=2, default=str)


def show(value: Any, rows: Sequence[Sequence[Any]], columns: Sequence[str], as_json: bool) -> None:
    """A table, or the same as JSON; nothing where there are no rows."""
    if as_json:
        typer.echo(as_text(value))
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
