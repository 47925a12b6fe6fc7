"""The code that pages show, and running it: Python as it stands, shell commands one by one.

A page is read from top to bottom: its blocks share their names and one folder, which `prepared` fills. A block that
can't run so has a mark before it, as a comment of the page:

    <!-- not run: a reason of NOT_RUN -->
    <!-- run by tests/test_other.py -->
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from typer.testing import CliRunner

from flows.__main__ import main as run_flow
from flows.report.__main__ import main as draw
from stacchip_core import Warehouse
from stacchip_core.cli import app
from stacchip_core.warehouse.store import open_store
from tests import scenes
from tests.data import REPO
from tests.s3_fake import S3Fake

BUCKET = "s3://chips/index"  # the warehouse of `prepared` is there too, for pages that name it
NOT_RUN = {
    "public data": "reads a public catalog over the network",
    "cloud": "needs an account of a cloud provider",
    "docker": "needs a container engine",
    "kubernetes": "needs a Kubernetes cluster",
    "torch": "needs PyTorch, which is too large for the tests' environment",
    "long": "takes minutes to hours",
    "stacchip": "is code for stacchip, which needs an environment of its own",
}
TESTED = ("python", "sh", "yaml", "json")
UNTESTED = ("", "text")  # pictures, output
PROMPT = "$ "
SHELLS = {"bash": "sh", "shell": "sh", "console": "sh", "py": "python", "yml": "yaml"}

_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^>]*?) -->\n+)?^(?P<indent> *)```(?P<lang>\w*)[^\n]*\n(?P<code>.*?)^ *```", re.M | re.S
)
_GRID = scenes.utm_grid(1100)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A block of a page; `line` is where its code begins, from 1."""

    page: str
    line: int
    language: str
    code: str
    mark: str

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.page}:{self.line}"


def pages() -> dict[str, Path]:
    """All pages by name, the README first."""
    return {"README.md": REPO / "README.md"} | {
        str(path.relative_to(REPO)): path for path in sorted((REPO / "docs").rglob("*.md"))
    }


def snippets(page: str) -> list[Snippet]:
    """The blocks of a page, top to bottom."""
    text = pages()[page].read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        indent, language = match["indent"], match["lang"]
        code = re.sub(rf"^{indent}", "", match["code"], flags=re.M)
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Snippet(page, line, SHELLS.get(language, language), code, match["mark"] or ""))
    return found


def prepared(folder: Path) -> Path:
    """A folder as pages take it for granted.

    `item.json`; `spec.yaml`, a chip spec; `scenes/` with two Sentinel-2 scenes as items and as a catalog, also where
    `make demo` draws its own; `warehouse/` with both, indexed one after the other, and two versions of `world`;
    `deployments/`.
    """
    found = []
    for name, day, clear in (("a", "10", True), ("b", "20", False)):
        pixels = {"scl": np.full((_GRID.shape[0] // 2, _GRID.shape[1] // 2), 4, "uint8")} if clear else None
        found.append(
            scenes.sentinel2_scene(
                folder / "scenes",
                grid=_GRID,
                item_id=name,
                when=f"2024-06-{day}T10:00:00Z",
                nodata_share=0 if clear else 0.15,
                pixels=pixels,
            )
        )
        scenes.write_item(folder / "scenes", found[-1])
    scenes.write_catalog(folder / "scenes", found)
    scenes.write_item(folder, found[0]).rename(folder / "item.json")
    warehouse = Warehouse(folder / "warehouse", create=True, local_roots=[folder / "scenes"])
    for name in ("a", "b"):
        warehouse.index_items([folder / "scenes" / f"{name}.json"])
        warehouse.merge("world", ["sentinel-2-l2a"])
    (folder / "spec.yaml").write_text("{name: clear-fields, index: world, max_cloud: 0.2}", encoding="utf-8")
    (folder / ".demo").mkdir()
    (folder / ".demo" / "scenes").symlink_to(folder / "scenes")
    (folder / "deployments").symlink_to(REPO / "deployments")
    return folder


def upload(warehouse: Path, fake: S3Fake) -> None:
    """Copy a warehouse to the bucket that pages speak of."""
    fake.buckets.make(BUCKET.split("/")[2])
    store = open_store(BUCKET, fake.storage)
    for path in warehouse.rglob("*"):
        if path.is_file():
            store.create(str(path.relative_to(warehouse)), path.read_bytes())


def run_page(page: str) -> dict[str, object]:
    """Run what a page shows in the current folder; the names that its Python leaves."""
    names: dict[str, object] = {"__name__": page}
    for snippet in snippets(page):
        if snippet.mark or snippet.language not in TESTED:
            continue
        if snippet.language == "python":
            exec(compile("\n" * (snippet.line - 1) + snippet.code, page, "exec"), names)
        elif snippet.language in ("yaml", "json"):
            read = json.loads if snippet.language == "json" else yaml.safe_load
            assert read(snippet.code) is not None, snippet.where
        else:
            for command in commands(snippet):
                run_command(command, snippet.where)
    return names


def commands(snippet: Snippet) -> Iterator[list[str]]:
    """Commands of a shell block as words, without comments; where some have a prompt, the rest is what they print."""
    lines = snippet.code.replace("\\\n", " ").splitlines()
    prompted = [line.removeprefix(PROMPT) for line in lines if line.startswith(PROMPT)]
    for line in prompted or lines:
        words = shlex.split(line, comments=True)
        if words:
            yield words


def run_command(words: list[str], where: str) -> None:
    """Run one command as far as that can be done here; another than these is an error."""
    shown = f"{where}: {shlex.join(words)}"
    if words[0] == "stacchip":
        done = CliRunner().invoke(app, words[1:], env={"STACCHIP_WAREHOUSE": "warehouse", "COLUMNS": "200"})
        assert done.exit_code == 0, f"{shown}: {done.output}"
    elif words[:3] == ["python", "-m", "flows"]:
        assert run_flow(words[3:]) == 0, shown
    elif words[:3] == ["python", "-m", "flows.report"]:
        assert draw(words[3:]) == 0, shown
    elif words[0] == "make":
        assert re.search(rf"^{re.escape(words[1])}:", (REPO / "Makefile").read_text("utf-8"), re.M), shown
    elif words[:2] == ["pip", "install"]:
        _check_extras(words[2:], shown)
    elif words[0] == "export":
        os.environ.update(dict([words[1].split("=", 1)]))
    else:
        raise AssertionError(f"{shown}: nothing here runs that; mark the block, see tests/snippets.py")


def _check_extras(requirements: list[str], shown: str) -> None:
    """What is installed is this project, with extras that it has."""
    import tomllib

    known = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for requirement in requirements:
        name, _, extras = requirement.rstrip("]").partition("[")
        assert name == "stacchip-core", shown
        assert set(filter(None, extras.split(","))) <= set(known), shown
