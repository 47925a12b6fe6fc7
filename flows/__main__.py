"""Run a flow by hand: `python -m flows index|merge|materialize|reindex|maintain --config file.yaml [--set key=value]`.

Exit codes: 0 done, 1 the run failed, 2 wrong parameters, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from flows.environment import prepare_environment, start_server
from stacchip_core.errors import InputError, LookupFailedError, StacchipError

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130

COMMANDS = ("index", "merge", "materialize", "reindex", "maintain")

Command = tuple[type[BaseModel], Callable[[Any], Any], Callable[[Any], str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    prepare_environment(console_level="INFO" if options.verbose else "CRITICAL")
    try:
        outcome, summary = _run(options, console)
    except (InputError, LookupFailedError) as err:
        console.print(f"[bold red]wrong input[/] {_literal(err)}")
        return WRONG_INPUT
    except StacchipError as err:
        console.print(f"[bold red]{type(err).__name__}[/] {_literal(err)}")
        return FAILED
    except KeyboardInterrupt:
        console.print("interrupted: what was committed stays, and the next run carries on from there")
        return INTERRUPTED
    if options.json:
        sys.stdout.write(f"{json.dumps(asdict(outcome), indent=2, default=str)}\n")
    else:
        console.print(_literal(summary))
    return 0


def _run(options: argparse.Namespace, console: Console) -> tuple[Any, str]:
    """Load the parameters, and run the flow; its outcome, and in Markdown what it did."""
    from flows.artifacts import PROGRESS_LISTENER  # not before the environment is prepared: imports Prefect
    from flows.config import load_config

    model, flow, summarize = _command(options.command)
    config = load_config(model, options.config, options.set)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as shown:  # the clock goes on in steps that take long
        line = shown.add_task(f"{options.command}: waiting for Prefect's server", total=None)
        start_server()
        token = PROGRESS_LISTENER.set(lambda what: shown.update(line, description=f"{options.command}: {what}"))
        try:
            outcome = flow(config)
            return outcome, summarize(outcome)
        finally:
            PROGRESS_LISTENER.reset(token)


def _command(name: str) -> Command:
    """Parameter model, flow, and the summary of its outcome."""
    from flows.artifacts import index_summary, maintain_summary, materialize_summary, merge_summary, reindex_summary
    from flows.index_items import IndexConfig, index_items
    from flows.maintain import MaintainConfig, maintain
    from flows.materialize_chips import MaterializeConfig, materialize_chips
    from flows.merge_indexes import MergeConfig, merge_indexes
    from flows.reindex_items import ReindexConfig, reindex_items

    commands: dict[str, Command] = {
        "index": (IndexConfig, index_items, index_summary),
        "merge": (MergeConfig, merge_indexes, merge_summary),
        "materialize": (MaterializeConfig, materialize_chips, materialize_summary),
        "reindex": (ReindexConfig, reindex_items, reindex_summary),
        "maintain": (MaintainConfig, maintain, maintain_summary),
    }
    return commands[name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows", description="Run a flow by hand.")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file with the flow's parameters")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a parameter: source.max_items=10"
    )
    parser.add_argument("--json", action="store_true", help="print what it did as JSON, and nothing else on stdout")
    parser.add_argument("--verbose", action="store_true", help="show the run's log")
    return parser


def _literal(text: object) -> str:
    """`text` with nothing in it that the console would take for markup."""
    from rich.markup import escape

    return escape(str(text))


if __name__ == "__main__":
    sys.exit(main())
