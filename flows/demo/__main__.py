"""`make demo`: scenes of four sensors, indexed, indexed again, merged and materialized; then a report to look at.

Everything stays in one folder: scenes, warehouse, Prefect's own server's state, report. The exit code is 0 only if
each step did what it promises: the second indexing run writes nothing, the third indexes exactly the one new scene.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from flows.environment import prepare_environment
from stacchip_core.errors import StacchipError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.demo", description="Run the main job on made-up scenes.")
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where everything is kept")
    options = parser.parse_args(arguments)
    os.environ.pop("PREFECT_API_URL", None)  # the demo brings a server of its own
    prepare_environment(home=options.folder / "prefect", level="WARNING")
    from flows.demo.steps import Demo, run_demo  # not before the environment is prepared: imports Prefect

    console = Console()
    try:
        return run_demo(Demo(options.folder, console))
    except StacchipError as err:
        console.print(f"[bold red]{type(err).__name__}[/] {escape(str(err))}")
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; `make demo` starts afresh")
        return 130


if __name__ == "__main__":
    sys.exit(main())
