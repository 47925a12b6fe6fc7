"""The demo: on small scenes, it keeps its promises, can be run again, and notices when a promise is broken."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from flows.demo import steps
from flows.demo.steps import Demo, list_files, run_demo
from tests.scenes import landsat_l2_scene, naip_scene, sentinel1_scene, sentinel2_scene, utm_grid, write_catalog

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def _scenes(folder: Path, days: tuple[str, ...]) -> Path:
    """A catalog of the four sensors, with a clear Sentinel-2 scene for each day."""
    clear: Any = {"scl": np.full((300, 300), 4, np.uint8)}
    whole: dict[str, Any] = {"grid": utm_grid(600), "nodata_share": 0.0, "pixels": clear}
    optical = [
        sentinel2_scene(folder, item_id=f"S2B_32TMT_{day}_0_L2A", when=f"{day}T10:30:31Z", **whole) for day in days
    ]
    others = (landsat_l2_scene(folder, grid=utm_grid(600, 30.0)), sentinel1_scene(folder), naip_scene(folder))
    return write_catalog(folder, [*optical, *others])


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, str]]:
    """Runs the demo on small scenes; gives its exit code and what it showed."""
    later = "2024-10-05"

    def build(folder: Path, on_scene: Callable[[str], None]) -> Path:
        on_scene("all")
        return _scenes(folder, ("2024-06-12", "2024-09-10"))

    def add(folder: Path, on_scene: Callable[[str], None]) -> Path:
        on_scene(later)
        return _scenes(folder, ("2024-06-12", "2024-09-10", later))

    monkeypatch.setattr(steps, "build_demo", build)
    monkeypatch.setattr(steps, "add_scene", add)
    monkeypatch.setattr(steps, "BANDS", {"sentinel-2-l2a": ("red", "green", "blue", "nir")})

    def run() -> tuple[int, str]:
        console = Console(file=io.StringIO(), width=200)
        code = run_demo(Demo(tmp_path / "demo", console))
        shown: Any = console.file
        return code, shown.getvalue()

    return run


def test_the_demo_keeps_its_promises_twice(demo: Callable[[], tuple[int, str]], tmp_path: Path) -> None:
    for _ in range(2):
        code, shown = demo()
        assert code == 0, shown
        assert "5 new items" in shown
        assert re.search(r"0 new, nothing written \(\d+ files compared\)", shown)
        assert "exactly 1 new item" in shown
        assert "world@1: 6 items" in shown
        assert shown.rstrip().endswith("report.html")
    page = (tmp_path / "demo" / "report.html").read_text()
    for expected in ("sentinel-2-l2a", "world@1", "rgb-nir", "exactly 1 new item", "data:image/png;base64,"):
        assert expected in page


def test_the_demo_fails_when_the_second_run_writes_something(
    demo: Callable[[], tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    listings = iter([{}, {"surprise": (1, 1)}])

    def listed(folder: Path) -> dict[str, tuple[int, int]]:
        return list_files(folder) if folder.name == "scenes" else next(listings)

    monkeypatch.setattr(steps, "list_files", listed)
    code, shown = demo()
    assert code == 1
    assert "1 files were written: surprise" in shown
