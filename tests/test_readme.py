"""What README.md shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import scenes
from tests.data import REPO

README = (REPO / "README.md").read_text(encoding="utf-8")


def test_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(1100))
    scenes.write_item(tmp_path, item).rename(tmp_path / "item.json")
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.+?)```", README, re.DOTALL)
    assert example
    names: dict[str, object] = {}
    exec(example[1], names)
    chip = names["chip"]
    assert isinstance(chip, dict)
    assert {band: pixels.shape for band, pixels in chip.items()} == dict.fromkeys(
        ("red", "green", "blue", "nir"), (1, 256, 256)
    )


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (REPO / target).is_file(), target


def test_commands_are_targets_of_the_makefile() -> None:
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make (\w+)`", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
