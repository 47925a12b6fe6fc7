"""Draw a warehouse: `python -m flows.report ROOT [--out status.html]`. Needs no server, and changes nothing.

Exit codes: 0 drawn, 1 the warehouse could not be read, 2 there is none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from flows.pages import write_page
from flows.report.page import render
from stacchip_core import InputError, StacchipError, Storage, Warehouse
from stacchip_core.warehouse.summary import summarize


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.report", description="Draw a warehouse as one HTML page.")
    parser.add_argument("root", help="local path, or s3://bucket/prefix")
    parser.add_argument("--out", type=Path, default=Path("status.html"), help="the page; default: %(default)s")
    parser.add_argument("--endpoint", help="S3 endpoint URL; none: the cloud's own")
    parser.add_argument("--region", help="region of the bucket")
    parser.add_argument("--anonymous", action="store_true", help="read without credentials")
    options = parser.parse_args(arguments)
    storage = Storage(endpoint=options.endpoint, region=options.region, anonymous=options.anonymous)
    try:
        summary = summarize(Warehouse(options.root, storage=storage).store)
    except StacchipError as err:
        sys.stderr.write(f"report: {' '.join(str(err).split())}\n")
        return 2 if isinstance(err, InputError) else 1
    path = write_page(options.out, render(summary, datetime.now(UTC)))
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
