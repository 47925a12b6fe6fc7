"""The documentation site builds strictly, is whole, and asks nothing of anybody."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

from stacchip_core import errors
from tests.data import REPO


class Page(HTMLParser):
    """Addresses that a browser fetches by itself, those that a reader may follow, and the page's anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.followed: list[str] = []
        self.anchors: set[str] = set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := found.get(name)))
        is_link = tag == "a" or (tag == "link" and found.get("rel") in ("next", "prev", "canonical"))
        for name in ("src", "href", "srcset", "action", "data"):
            if value := found.get(name):
                (self.followed if is_link else self.fetched).append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does it."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(folder),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def html(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The hook that writes the reference pages."""
    spec = importlib.util.spec_from_file_location("reference", REPO / "docs" / "hooks" / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module
    spec.loader.exec_module(module)
    return module


def test_every_page_is_there(site: Path) -> None:
    for page in (REPO / "docs").glob("*.md"):
        assert (site / page.with_suffix(".html").name).is_file(), page.name
    assert not list(site.rglob("*.py"))


def test_links_and_anchors_lead_somewhere(site: Path, html: dict[Path, Page]) -> None:
    broken = []
    for path, page in html.items():
        if path.name == "404.html":
            continue  # is shown at any address: its links are absolute
        for address in (*page.fetched, *page.followed):
            url = urlsplit(address)
            if url.scheme or address.startswith("data:"):
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            target = target / "index.html" if target.is_dir() else target
            is_there = target.is_file() and (not url.fragment or target not in html or _has(html[target], url.fragment))
            broken += [] if is_there else [f"{path.relative_to(site)}: {address}"]
    assert not broken


def test_pages_fetch_nothing_from_elsewhere(site: Path, html: dict[Path, Page]) -> None:
    for path, page in html.items():
        assert not [one for one in page.fetched if urlsplit(one).scheme not in ("", "data")], path.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import\s*)[\"']?https?:", sheet.read_text(encoding="utf-8")), sheet.name


def test_every_error_has_a_line(html: dict[Path, Page], site: Path) -> None:
    text = html[site / "reference" / "errors.html"].text
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.StacchipError):
            assert f"<code>{name}</code>" in text


def test_every_command_has_a_section(html: dict[Path, Page], site: Path) -> None:
    from typer.main import get_command

    from stacchip_core.cli import app

    anchors = html[site / "reference" / "command-line.html"].anchors
    names = list(getattr(get_command(app), "commands", {}))
    assert len(names) >= 10
    assert {f"stacchip-{name}" for name in names} <= anchors


def test_every_key_is_explained(reference: ModuleType) -> None:
    page = reference.configuration_page(reference.chapters())
    models = set(re.findall(r"^### (\w+)$", page, re.MULTILINE))
    assert {"IndexConfig", "MergeConfig", "MaterializeConfig", "WarehouseConfig", "Source", "Storage"} <= models
    assert {"ChipSpec", "BandChoice", "CollectionProfile", "Band", "QaRule", "IndexSettings"} <= models
    assert len(re.findall(r"^### ", page, re.MULTILINE)) == len(models)
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= {name.lower() for name in models}
    rows = re.findall(r"^\| `\w+` \|.*\|$", page, re.MULTILINE)
    assert len(rows) > 80
    bare = [row for row in rows if row.endswith("|  |")]
    assert not bare, "fields without a description"


def _has(page: Page, fragment: str) -> bool:
    return unquote(fragment) in page.anchors or fragment.startswith("__")
