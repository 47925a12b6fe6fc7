"""The four rooms import only leftward, outside systems have one door each, and the core needs no Prefect."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data import REPO

CORE = REPO / "stacchip_core"
ROOMS = ("sources", "index", "warehouse", "chips")
DOORS = {
    "rasterio": {
        *(f"sources/cog/{name}.py" for name in ("__init__", "failures", "opening", "pictures", "reading")),
        "sources/geotiff.py",  # what others wrote is read there; what we write, here
    },
    "fsspec": {"sources/objects.py"},
    "s3fs": set[str](),
    "pystac": {"sources/scene.py", "sources/catalog.py"},
    "pystac_client": {"sources/catalog.py"},
    "prefect": set[str](),
}


def core_files() -> list[Path]:
    return sorted(CORE.rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_rooms_import_only_leftward() -> None:
    wrong = [
        f"{path.relative_to(CORE)} imports {name}"
        for position, room in enumerate(ROOMS)
        for path in (CORE / room).rglob("*.py")
        for name in imported_modules(path)
        for later in ROOMS[position + 1 :]
        if name == f"stacchip_core.{later}" or name.startswith(f"stacchip_core.{later}.")
    ]
    assert not wrong


def test_rooms_know_nothing_of_the_command() -> None:
    wrong = [
        path
        for room in ROOMS
        for path in (CORE / room).rglob("*.py")
        if any(name.startswith("stacchip_core.cli") for name in imported_modules(path))
    ]
    assert not wrong


def test_core_files_sit_in_a_room_or_stand_beside_them() -> None:
    rooms = {path.relative_to(CORE).parts[0] for path in core_files() if path.parent != CORE}
    beside = {path.name for path in core_files() if path.parent == CORE}
    assert rooms <= {*ROOMS, "cli"}
    assert beside <= {"__init__.py", "errors.py"}


@pytest.mark.parametrize("library", sorted(DOORS))
def test_outside_systems_have_one_door(library: str) -> None:
    users = {
        str(path.relative_to(CORE))
        for path in core_files()
        if any(name.split(".")[0] == library for name in imported_modules(path))
    }
    assert users <= DOORS[library]


def test_core_never_imports_flows() -> None:
    assert not [p for p in core_files() if any(n.split(".")[0] == "flows" for n in imported_modules(p))]


def run_python(code: str) -> str:
    """Standard output of `code` in a fresh interpreter; its errors fail the test."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_core_imports_where_prefect_is_not_installed() -> None:
    run_python("""
import importlib, pkgutil, sys

class NoPrefect:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"prefect", "flows"}:
            raise ModuleNotFoundError(name)
        return None

sys.meta_path.insert(0, NoPrefect())
import stacchip_core
for module in pkgutil.walk_packages(stacchip_core.__path__, "stacchip_core."):
    importlib.import_module(module.name)
""")


def loaded_after(code: str) -> set[str]:
    """Top-level packages that are loaded after running `code` in a fresh interpreter."""
    return set(run_python(f"{code}\nimport sys\nprint(*{{m.split('.')[0] for m in sys.modules}})").split())


def test_importing_the_package_loads_no_heavy_library() -> None:
    heavy = {"numpy", "pandas", "geopandas", "pyarrow", "rasterio", "shapely", "zarr", "pydantic", "torch"}
    assert not loaded_after("import stacchip_core") & heavy


def test_indexer_and_chipper_load_no_pandas() -> None:
    """It costs every worker process a third of a second."""
    assert not loaded_after("from stacchip_core import Chipper, Indexer") & {"pandas", "geopandas", "torch"}


def test_nothing_public_loads_geopandas_or_torch() -> None:
    """pyarrow.dataset, which versions of an index are read with, loads pandas by itself."""
    assert not loaded_after("from stacchip_core import *") & {"geopandas", "torch", "prefect"}
