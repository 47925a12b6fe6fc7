"""What protects is switched off, and what notices has to fail: the form of the tests' tests for sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from stacchip_core.errors import StacchipError

Patch = pytest.MonkeyPatch
Check = Callable[[Patch, Path], object]
_FAILED = (AssertionError, pytest.fail.Exception, StacchipError, StopIteration)  # the last: an error did not come


@dataclass(frozen=True)
class Notice:
    """A guard that is switched off, and what has to fail then.

    Attributes:
        off: switches it off.
        check: is given a folder of its own; passes as long as nothing is off.
    """

    off: Callable[[Patch], None]
    check: Check

    def is_noticed(self, folder: Path) -> None:
        """Fail unless the check passes with the guard, and fails without it."""
        for name in ("guarded", "off"):
            (folder / name).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            self.check(patch, folder / "guarded")
        with pytest.MonkeyPatch.context() as patch:
            self.off(patch)
            with pytest.raises(_FAILED):
                self.check(patch, folder / "off")


def constant(module: object, **values: object) -> Callable[[Patch], None]:
    """Limits, patterns and rules are other ones."""

    def off(patch: Patch) -> None:
        for name, value in values.items():
            patch.setattr(module, name, value)

    return off
