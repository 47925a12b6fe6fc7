"""What README.md and docs/ show works as it stands there, and links lead somewhere."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from stacchip_core.sources.profiles import parse_profile
from tests import snippets
from tests.data import REPO

PAGES = list(snippets.pages())
MOST_MARKED = 0.4  # of all blocks that could be tested: beyond this the marks hide too much


def needs_prefect(page: str) -> bool:
    return any(
        "python -m flows" in one.code and not one.mark for one in snippets.snippets(page) if one.language == "sh"
    )


def page_params() -> list[object]:
    """Pages with something to run; those that run flows need Prefect's server."""
    return [
        pytest.param(page, marks=[pytest.mark.server] if needs_prefect(page) else [], id=page)
        for page in PAGES
        if any(one.language in snippets.TESTED for one in snippets.snippets(page))
    ]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snippets.prepared(tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("page", page_params())
def test_what_a_page_shows_runs_as_it_stands(
    page: str, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if needs_prefect(page):
        request.getfixturevalue("prefect_server")
    folder = shutil.copytree(template, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(folder)
    if any(snippets.BUCKET in one.code and not one.mark for one in snippets.snippets(page)):
        fake = request.getfixturevalue("s3_fake")
        snippets.upload(folder / "warehouse", fake)
        monkeypatch.setenv("AWS_ENDPOINT_URL", fake.endpoint)
    names = snippets.run_page(page)
    if "chip" in names:
        chip = names["chip"]
        assert isinstance(chip, dict), page
        assert {"red", "nir"} <= set(chip), page
        assert all(isinstance(pixels, np.ndarray) and pixels.any() for pixels in chip.values()), page
    if "dataset" in names:
        assert len(names["dataset"]) > 0, page  # type: ignore[arg-type]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_tested_or_says_why_not(page: str) -> None:
    assert "~~~" not in snippets.pages()[page].read_text(encoding="utf-8"), "fence code with ```: those are found"
    for one in snippets.snippets(page):
        assert one.language in (*snippets.TESTED, *snippets.UNTESTED), f"{one.where}: {one.language!r} is not tested"
        is_shell = any(line.startswith(snippets.PROMPT) for line in one.code.splitlines())
        assert not is_shell or one.language == "sh", f"{one.where}: commands with a prompt go into a console block"
        if not one.mark:
            continue
        reason, elsewhere = one.mark.removeprefix("not run: "), one.mark.removeprefix("run by ")
        if elsewhere != one.mark:
            test = REPO / elsewhere
            assert test.is_file(), f"{one.where}: there is no {elsewhere}"
            assert Path(page).name in test.read_text("utf-8"), f"{one.where}: {elsewhere} does not speak of {page}"
        else:
            known = ", ".join(snippets.NOT_RUN)
            assert reason in snippets.NOT_RUN, f"{one.where}: mark {one.mark!r}; reasons are {known}"


def test_few_blocks_are_not_run() -> None:
    found = [one for page in PAGES for one in snippets.snippets(page) if one.language in snippets.TESTED]
    marked = Counter(one.mark for one in found if one.mark.startswith("not run"))
    print(f"{len(found)} blocks; not run: {dict(marked)}")
    assert marked.total() <= MOST_MARKED * len(found), marked


def test_the_profile_that_is_shown_is_one() -> None:
    shown = [one for one in snippets.snippets("docs/sensors.md") if one.language == "yaml"]
    for one in shown:
        profile = parse_profile(yaml.safe_load(one.code), where=one.where)
        assert profile.bands


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page: str) -> None:
    """Paths below the repository, or below the rooms of the library."""
    text = re.sub(r"```.*?```", "", snippets.pages()[page].read_text(encoding="utf-8"), flags=re.DOTALL)
    rooms = "|".join(
        ("sources", "index", "warehouse", "chips", "cli", "stacchip_core", "flows", "tests", "deployments")
    )
    for name in re.findall(rf"`((?:{rooms})/[\w./-]*)`", text):
        assert (REPO / name).exists() or (REPO / "stacchip_core" / name).exists(), f"{page}: {name}"


def test_every_page_has_a_place_in_the_nav() -> None:
    nav = (REPO / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2].partition("\nvalidation:")[0]
    named = re.findall(r": ([\w/-]+\.md)$", nav, re.MULTILINE)
    pages = [path.relative_to(REPO / "docs").as_posix() for path in (REPO / "docs").rglob("*.md")]
    assert sorted(pages) == sorted(name for name in named if not name.startswith("reference/")), "see nav in mkdocs.yml"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = snippets.pages()[page]
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
        is_generated = target.lstrip("./").startswith("reference/")
        assert is_generated or (path.parent / target).exists(), f"{page}: {target}"
