"""The state machine of `tests/machine.py`, long and often.

    python -m tests.campaign.machine --examples 1000 --steps 500 --seed 1

Prints seed, examples, steps and violations; ends with 1 where there is a violation. The same seed, examples, steps and
processes give the same run, on the same release of Hypothesis.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.internal.conjecture import engine
from hypothesis.stateful import run_state_machine_as_test

from tests.machine import WarehouseMachine

_CHOICES_PER_STEP = 400  # bytes that Hypothesis may draw: by default it gives up on examples of some hundred steps
_fork = multiprocessing.get_context("fork")


@dataclass
class Report:
    """What came of a campaign."""

    seed: int
    examples: int
    steps: int
    executed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """For people."""
        counts = ", ".join(f"{count} {name}" for name, count in self.executed.most_common())
        told = (
            f"seed {self.seed}: {self.executed['examples']} of {self.examples} examples of {self.steps} steps, "
            f"{self.seconds:.0f} s, {len(self.violations)} violations\n{counts}"
        )
        return "\n".join([told, *self.violations])


def run(*, examples: int, steps: int, seed: int, processes: int | None = None, shrink: bool = True) -> Report:
    """Run the examples, spread over processes; a violation ends its process, shrunk to few steps."""
    count = processes or os.cpu_count() or 1
    report, start = Report(seed, examples, steps), time.monotonic()
    running = []
    for number in range(count):
        mine, theirs = _fork.Pipe(duplex=False)
        share = examples // count + (number < examples % count)
        process = _fork.Process(target=_explore, args=(theirs, share, steps, seed + number, shrink), daemon=True)
        process.start()
        theirs.close()
        running.append((mine, process))
    for mine, process in running:
        try:
            executed, violation = mine.recv()
        except EOFError:
            executed, violation = Counter[str](), "a process died"
        report.executed += executed
        report.violations += [violation] if violation else []
        process.join()
    report.seconds = time.monotonic() - start
    return report


def _explore(results: Connection, examples: int, steps: int, number: int, shrink: bool) -> None:
    """The share of one process."""
    WarehouseMachine.steps.clear()
    long = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
    )
    violation, told = "", io.StringIO()
    most = max(engine.BUFFER_SIZE, steps * _CHOICES_PER_STEP)
    try:
        with (
            contextlib.redirect_stdout(told),
            contextlib.redirect_stderr(told),
            patch.object(engine, "BUFFER_SIZE", most),
        ):
            run_state_machine_as_test(seed(number)(_machine()), settings=long)
    except BaseException:
        violation = f"seed {number}: {traceback.format_exc()}{told.getvalue()}"
    results.send((WarehouseMachine.steps, violation))


def _machine() -> type[WarehouseMachine]:
    """A class of one's own, for Hypothesis to note the seed on."""
    return type("WarehouseMachine", (WarehouseMachine,), {})


def main(args: Sequence[str] | None = None) -> int:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--processes", type=int, default=None, help="all processors by default")
    parser.add_argument("--no-shrink", action="store_true", help="tell a violation at once, with all its steps")
    given = parser.parse_args(args)
    report = run(
        examples=given.examples,
        steps=given.steps,
        seed=given.seed,
        processes=given.processes,
        shrink=not given.no_shrink,
    )
    print(report)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
