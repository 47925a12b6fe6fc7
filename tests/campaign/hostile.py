"""Scripts of a hostile STAC server, by the thousand: `python -m tests.campaign.hostile --scripts 1000`."""

from __future__ import annotations

import argparse
import sys

from tests.hostile_runs import random_script, run_script


def main() -> int:
    """Run scripts and print those after which the index is not what the run says; the exit code."""
    parser = argparse.ArgumentParser(description="Follow a hostile STAC server, script by script.")
    parser.add_argument("--scripts", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first script")
    options = parser.parse_args()
    wrong = complete = 0
    for seed in range(options.first, options.first + options.scripts):
        report = run_script(random_script(seed), seed)
        complete += not report.incomplete
        if report.wrong:
            wrong += 1
            print(report, flush=True)
    print(f"{options.scripts} scripts: {wrong} wrong, {complete} complete in every run, the rest said INCOMPLETE")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
