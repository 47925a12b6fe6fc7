"""The error tree is the one drawn, every class is raised somewhere, and messages read as they were written."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stacchip_core import errors
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.errors import StacchipError
from stacchip_core.index.grid import ChipGrid, GridSpec
from stacchip_core.index.indexer import Indexer
from stacchip_core.sources.access import resolve_href
from stacchip_core.sources.cog import RasterRef, check_resampling, open_raster
from stacchip_core.sources.item import read_item, read_json
from stacchip_core.sources.profiles import load_profile, parse_profile
from stacchip_core.sources.projection import declared_grid
from stacchip_core.sources.scene import Scene
from stacchip_core.warehouse.store import open_store
from stacchip_core.warehouse.warehouse import Warehouse
from tests import scenes
from tests.data import REPO
from tests.items import utm_grid
from tests.rasters import write_cog

CLASSES = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, StacchipError)
}
# One line of the drawing: how deep, the class, and further bases in brackets.
LINE = re.compile(r"^([│├└─ ]*)(\w+)(?: \(([\w, ]+)\))?")


def drawn() -> dict[str, set[str]]:
    """Class -> bases, as the drawing at the top of errors.py has them."""
    found: dict[str, set[str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = LINE.match(line)
        if match and match[2] in CLASSES:
            depth = len(match[1]) // 4
            path = [*path[:depth], match[2]]
            parents = {path[-2]} if depth else {"Exception"}
            found[match[2]] = parents | set((match[3] or "").split(", ")) - {""}
    return found


def test_the_tree_is_the_one_drawn() -> None:
    assert {name: {base.__name__ for base in value.__bases__} for name, value in CLASSES.items()} == drawn()


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_says_what_it_is_for(name: str) -> None:
    assert CLASSES[name].__doc__


@pytest.mark.parametrize("name", CLASSES)
def test_messages_read_as_they_were_written(name: str) -> None:
    error = CLASSES[name]("item 'x': no band 'y'")
    assert str(error) == "item 'x': no band 'y'"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error)), "they travel between processes"


def test_input_errors_are_value_errors_and_lookups_key_errors() -> None:
    for name, value in CLASSES.items():
        assert issubclass(value, ValueError) == issubclass(value, errors.InputError), name
        assert issubclass(value, KeyError) == issubclass(value, errors.LookupFailedError), name
    assert issubclass(errors.ChipNotFoundError, IndexError), "so that a loop over chips ends"


def test_an_error_is_transient_by_its_class_alone() -> None:
    transient = {name for name, value in CLASSES.items() if issubclass(value, errors.TransientError)}
    assert transient == {"TransientError", "TransientReadError", "TransientStoreError"}


def raised_names() -> set[str]:
    """Names of the error classes that stand in the library's code, but for errors.py."""
    found: set[str] = set()
    for path in (REPO / "stacchip_core").rglob("*.py"):
        if path.name != "errors.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            imported = {alias.name for node in imports for alias in node.names}
            used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            found |= imported & used & set(CLASSES)
    return found


def test_every_class_is_used() -> None:
    grouping = {"LookupFailedError", "TransientError"}  # caught by users, raised as one of their kinds
    assert set(CLASSES) - grouping <= raised_names()


def test_every_class_has_a_test_that_matches_its_message() -> None:
    """Some test of the suite names each class in `pytest.raises(..., match=...)`, or this file's cases do."""
    texts = [path.read_text(encoding="utf-8") for path in (REPO / "tests").glob("test_*.py")]
    matched = {
        name
        for text in texts
        for name in re.findall(r"raises\(\s*\(?(?:\w+, )?(?:errors\.)?(\w+)[^)]*\)?,\s*match", text)
    }
    abstract = {"StacchipError", "LookupFailedError", "TransientError"}
    assert set(CLASSES) - abstract <= matched | set(CASES)


def foreign_raises(path: Path) -> list[str]:
    """Raise statements of anything but our errors (and those that protocols ask for)."""
    allowed = {*CLASSES, "ValueError", "AttributeError", "kind", "err", "failure", "NotImplementedError", "TypeError"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    ]
    return [name for name in names if name not in allowed and not name.startswith("_") and name != "type"]


@pytest.mark.parametrize("room", ["sources", "index"])
def test_these_rooms_raise_errors_of_the_tree(room: str) -> None:
    for path in sorted((REPO / "stacchip_core" / room).glob("*.py")):
        assert foreign_raises(path) == [], path.name


ITEM: dict[str, Any] = {
    "type": "Feature",
    "id": "scene-1",
    "geometry": {"type": "Point", "coordinates": [0, 0]},
    "properties": {"datetime": "2024-01-01T00:00:00Z"},
    "assets": {"red": {"href": "https://h/red.tif"}},
}


def no_raster(folder: Path) -> None:
    (folder / "x.tif").write_text("no raster")
    open_raster(RasterRef("x.tif", "scene-1", "red", local_roots=(str(folder),)))


def chip_off_the_grid(_: Path) -> None:
    ChipGrid(utm_grid(100), GridSpec(10, 10)).window(10, 0)


def mask_that_does_not_fit(folder: Path) -> None:
    item = scenes.sentinel2_scene(folder)
    grid = utm_grid(481, 20.0)
    write_cog(Path(item["assets"]["scl"]["href"]), np.zeros(grid.shape, np.uint8), grid)
    Indexer(item, grid="asset", local_roots=[folder]).create_index()


def taken_key(folder: Path) -> None:
    store = open_store(str(folder))
    store.create("a", b"1")
    store.create("a", b"2")


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "InputError": (lambda _: check_resampling("x"), "unknown resampling 'x'; there are nearest"),
    "InvalidItemError": (lambda _: read_item({"type": "Feature"}), "not a STAC item"),
    "UnsupportedGridError": (mask_that_does_not_fit, r"item S2B\w+: asset 'scl' is .* which does not divide"),
    "HrefRefusedError": (lambda _: resolve_href("ftp://h/x", ""), "has scheme 'ftp'; allowed are"),
    "ProfileError": (lambda _: parse_profile({"nme": "x"}, "mine"), "profile mine: .*unknown key 'nme'"),
    "ProfileNotFoundError": (lambda _: load_profile("x"), "there is no profile 'x'; built in are"),
    "ChipNotFoundError": (chip_off_the_grid, r"no chip \(10, 0\): chip_x runs from 0 to 9"),
    "BandNotFoundError": (
        lambda _: Scene.from_item(read_item(ITEM)).asset("x"),
        "item scene-1: no band 'x'; there are red",
    ),
    "ReadError": (no_raster, r"item scene-1: asset 'red' \(x.tif\): "),
    "TransientReadError": (lambda _: read_json("http://127.0.0.1:9/x.json"), "http://127.0.0.1:9/x.json: "),
    "ObjectNotFoundError": (lambda folder: open_store(str(folder)).read("gone"), "gone"),
    "ObjectExistsError": (taken_key, "a"),
    "VersionNotFoundError": (lambda folder: Warehouse(folder, create=True).collection("x"), "x"),
    "SpecError": (lambda _: ChipSpec.load({"name": "x", "limmit": 1}), "limmit.*did you mean 'limit'"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_is_raised_with_a_message_that_helps(name: str, tmp_path: Path) -> None:
    cause, message = CASES[name]
    with pytest.raises(CLASSES[name], match=message) as caught:
        cause(tmp_path)
    assert type(caught.value) is CLASSES[name]
    assert not str(caught.value).startswith(("'", '"')), "KeyError would quote it"
    is_of_a_store = isinstance(caught.value, errors.StoreError | errors.VersionNotFoundError)
    assert str(tmp_path) not in str(caught.value) or is_of_a_store, "items never bring up a folder of this machine"


def test_the_grid_of_an_item_is_named_by_its_caller() -> None:
    with pytest.raises(errors.UnsupportedGridError, match="proj:epsg 'x' is not a whole number"):
        declared_grid({"proj:epsg": "x"}, {})
