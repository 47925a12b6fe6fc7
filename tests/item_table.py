"""The table in docs/items.md: what becomes of every real item that the project was tried on.

`python -m tests.item_table` writes it anew.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from stacchip_core import StacchipError
from stacchip_core.sources.item import read_item
from stacchip_core.sources.profiles import CollectionProfile, load_profile, profile_names
from stacchip_core.sources.scene import Scene
from tests.data import ITEMS, REPO
from tests.items import Item

DOCUMENT = REPO / "docs" / "items.md"

INTRODUCTION = """\
# Real items

What `Indexer(item)` makes of real STAC items, collected from the test data of public projects: of each provider and
form of the projection extension at least one, and the oddest that could be found. Nothing is read but the item. An item
with a collection gets the profile that serves it, or a generic one; an item without gets that of its folder here.

*Grid from the header* means that the item says too little of its grid, so that the reference asset is opened. A scene
can still be refused, by name, once a file is opened: because it has no CRS (the ground-range radar items, also those
that claim a grid: their pixels have ground control points alone), or because it contradicts the item.

This page is written by `python -m tests.item_table`, and a test holds it to what the code does.
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one item."""

    path: Path
    item_id: str
    scene: Scene | None
    error: StacchipError | None


def item_paths() -> list[Path]:
    """Every real item, in the order of the table."""
    return sorted(ITEMS.rglob("*.json"))


def profile_of(path: Path, item: Item) -> CollectionProfile | None:
    """The profile of the folder's sensor for an item without a collection."""
    has_own = path.parent.name in profile_names()
    return load_profile(path.parent.name) if has_own and not item.get("collection") else None


def outcome_of(path: Path, item: Item) -> Outcome:
    """Reduce one item to a scene, or to the error that says why not."""
    try:
        return Outcome(path, item["id"], Scene.from_item(read_item(item), profile_of(path, item)), None)
    except StacchipError as err:
        return Outcome(path, item["id"], None, err)


def _row(outcome: Outcome) -> str:
    name, scene = outcome.path.stem, outcome.scene
    if scene is None:
        why = str(outcome.error).removeprefix(f"item {outcome.item_id}: ").replace("|", "\\|")
        return f"| {name} | | refused | {why} |"
    bands = f"{len(scene.assets)} band{'s' if len(scene.assets) > 1 else ''}"
    mask = f", quality from `{scene.qa_asset.key}`" if scene.qa_asset else ""
    grid = f"`{scene.reference}` is {scene.grid}; " if scene.grid else ""
    result = "scene, grid from the item" if scene.grid else "scene, grid from the header"
    return f"| {name} | {scene.profile} | {result} | {grid}{bands}{mask} |"


def document() -> str:
    """The whole page."""
    outcomes = [outcome_of(path, json.loads(path.read_text(encoding="utf-8"))) for path in item_paths()]
    scenes = [outcome.scene for outcome in outcomes if outcome.scene]
    from_item = sum(scene.grid is not None for scene in scenes)
    lines = [
        INTRODUCTION,
        f"Of {len(outcomes)} items, {from_item} say their grid, {len(scenes) - from_item} leave it to the header of a "
        f"file, {len(outcomes) - len(scenes)} are refused.",
    ]
    for folder in dict.fromkeys(outcome.path.parent.name for outcome in outcomes):
        lines += ["", f"## {folder}", "", "| item | profile | result | why |", "|---|---|---|---|"]
        lines += [_row(outcome) for outcome in outcomes if outcome.path.parent.name == folder]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
