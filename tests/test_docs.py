"""The Python that docs/ shows runs as it stands there, one page after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import scenes
from tests.data import REPO

PAGES = ("warehouse.md", "care.md", "datasets.md")


def test_examples_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, day in (("a", "10"), ("b", "20")):
        item = scenes.sentinel2_scene(
            tmp_path / "scenes", grid=scenes.utm_grid(600), item_id=name, when=f"2024-06-{day}T10:00:00Z"
        )
        scenes.write_item(tmp_path / "scenes", item)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for page in PAGES:
        example = re.search(r"```python\n(.+?)```", (REPO / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
        assert example, page
        exec(example[1].replace("max_cloud=0.2", "max_cloud=0.9").replace("max_nodata=0.05", "max_nodata=0.9"), names)
    assert len(names["dataset"]) == len(names["again"]) == len(names["rows"]) > 0  # type: ignore[arg-type]
    assert set(names["chip"]) == {"red", "green", "blue", "nir"}  # type: ignore[call-overload]


def test_links_lead_somewhere() -> None:
    for page in (REPO / "docs").glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
