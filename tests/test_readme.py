"""README.md is short, and names what there is; what it shows is run by tests/test_docs.py."""

from __future__ import annotations

import re

from tests.data import REPO

README = (REPO / "README.md").read_text(encoding="utf-8")


def test_commands_are_targets_of_the_makefile() -> None:
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([\w-]+)`", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_it_is_read_in_two_minutes() -> None:
    assert len(README.split()) < 900
