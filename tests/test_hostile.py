"""Items that mean harm: each is refused by the name of a rule, or reads nothing but what it may."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from stacchip_core import ChipIndex, Chipper, Indexer, Storage
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.errors import HrefRefusedError, InputError, ProfileError, ReadError
from stacchip_core.sources.cog import RasterRef, open_raster
from stacchip_core.sources.gate import RULES
from stacchip_core.sources.profiles import load_profile
from tests.data import REPO
from tests.hostile_world import GRID, SIZE, World, failures, indexed, scene, watching
from tests.range_server import part, serving
from tests.rasters import write_cog
from tests.scenes import naip_scene


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with watching(tmp_path, monkeypatch) as made:
        yield made


IDS = [
    *("../../etc/x", "/abs/x", "a/b", "C:\\x", "CON", "NUL.tif", ".", "..", "%2e%2e%2f", "x" * 512, "-rf", "a b"),
    *("Case", "case", unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café"), "😀", "a\u202eb"),
    *("<script>alert(1)</script>", "[x](http://127.0.0.1/)", "=1+1", "'; DROP TABLE items; --", "{{7*7}}", "$(id)"),
]
NO_IDS = ["", "x" * 513, "a\0b", "a\nb", "a\x7f", "\ud800"]


def test_ids_of_any_form_are_data_and_never_a_part_of_a_key(world: World, tmp_path: Path) -> None:
    write_cog(world.root / "good.tif", np.ones((4, *GRID.shape), np.uint8), GRID)
    items = [scene(world, name) for name in (*IDS, *NO_IDS)]
    for item in items:
        item["assets"]["image"]["href"] = "good.tif"
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    found = indexed(world, tmp_path, items)
    ids = found.items(["item_id", "op"]).to_pylist()
    assert sorted(row["item_id"] for row in ids if row["op"] != "failed") == sorted(IDS)
    assert found.count() == 4 * len(IDS)
    for reason in failures(found).values():
        assert "(rule: item-id)" in reason
    keys = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() and path not in before}
    assert all(re.fullmatch(r"warehouse/[a-z0-9_./-]+", key) for key in keys), keys
    assert not [key for key in keys for name in IDS if name in key and len(name) > 3]


def absurd() -> dict[str, tuple[str, dict[str, Any]]]:
    """Rule and fields (of the item, or its properties) of items that no scene has."""
    shape = {
        f"shape-{n}": ("grid-fields", {"properties": {"proj:shape": value}})
        for n, value in enumerate(
            [
                [10**9, 10**9],
                [-1, 5],
                [0, 0],
                [1.5, 2],
                [float("nan"), 1],
                ["1", "2"],
                [1, 2, 3],
                [float("inf")],
                {},
            ]
        )
    }
    transform = {
        f"transform-{n}": ("grid-fields", {"properties": {"proj:transform": value}})
        for n, value in enumerate(
            [[0] * 6, [float("inf")] * 6, [float("nan")] * 6, [1, 2], ["a"] * 6, [1, 0, 0, 0, 0, 0], [10**400] * 6]
        )
    }
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    ring = [[i / 10**6, 0.0] for i in range(150_000)]
    return {
        **shape,
        **transform,
        "deep": ("item-nesting", {"x": deep}),
        "many": ("item-size", {"assets": {str(n): {"href": "x.tif"} for n in range(2000)}}),
        "long": ("item-size", {"x": "y" * 5_000_000}),
        "ring": ("geometry-size", {"geometry": {"type": "Polygon", "coordinates": [ring]}}),
    }


def test_absurd_items_are_refused_by_rule_and_item(world: World, tmp_path: Path) -> None:
    items, rules = [], {}
    for name, (rule, fields) in absurd().items():
        item = scene(world, name)
        properties = {**item["properties"], **fields.get("properties", {})}
        items.append({**item, **fields, "properties": properties})
        rules[name] = rule
    reasons = failures(indexed(world, tmp_path, items))
    assert {id_: reasons.get(id_) for id_, rule in rules.items() if f"(rule: {rule})" not in reasons.get(id_, "")} == {}
    assert {id_: reason for id_, reason in reasons.items() if id_ not in reason} == {}


def bomb(path: Path, *, side: int, block: int, count: int = 1) -> None:
    """A few kilobytes that claim to be much more."""
    with rasterio.open(
        *(path, "w"),
        driver="GTiff",
        width=side,
        height=side,
        count=count,
        dtype="uint8",
        tiled=True,
        blockxsize=block,
        blockysize=block,
        compress="deflate",
        SPARSE_OK=True,
        BIGTIFF="YES",
        crs="EPSG:32632",
        transform=rasterio.Affine(1, 0, 500_000, 0, -1, 5_000_000),
    ):
        pass


@pytest.mark.parametrize(
    ("rule", "size"),
    [
        ("raster-size", {"side": 400_000, "block": 16_384}),
        ("raster-size", {"side": 16, "block": 16, "count": 4097}),
        ("block-bytes", {"side": 29_984, "block": 29_984}),
    ],
)
def test_bombs_are_refused_before_a_block_is_read(world: World, rule: str, size: dict[str, int]) -> None:
    bomb(world.root / "bomb.tif", **size)
    content = (world.root / "bomb.tif").read_bytes()
    ref = RasterRef("bomb.tif", "scene-1", "red", local_roots=(str(world.root),))
    with serving(lambda asked: part(content, asked)) as server:
        far = RasterRef(f"{server.url}/b.tif", "scene-1", "red", storage=Storage(hosts=("127.0.0.1",)))
        for one in (ref, far):
            with pytest.raises(ReadError, match=rf"item scene-1: asset 'red' .*\(rule: {rule}\)"):
                open_raster(one)
        assert sum((asked.span or (0, 0))[1] - (asked.span or (0, 0))[0] for asked in server.asked) < 10**6


def test_an_index_that_was_tampered_with_opens_no_other_files(world: World, tmp_path: Path) -> None:
    item = naip_scene(world.root, grid=GRID)
    index = Indexer(item, chip_size=SIZE, local_roots=[world.root]).create_index()
    index.write(tmp_path / "index.parquet")
    read = ChipIndex.read(tmp_path / "index.parquet")
    ((key, good),) = read.scenes.items()
    for href, rule in (
        (str(world.secret), "local-root"),
        ("../secret.tif", "local-root"),
        ("/vsicurl/http://127.0.0.1/x.tif", "gdal-handler"),
        ("http://169.254.169.254/x.tif", "special-address"),
        (f"http://127.0.0.1:{world.port}/x.tif", "private-address"),
    ):
        evil = replace(good, assets=tuple(replace(asset, href=href) for asset in good.assets))
        chips = Chipper(replace(read, scenes={key: evil}), bands=["red"], local_roots=[world.root])
        with pytest.raises(HrefRefusedError, match=rf"item {good.item_id}: .*\(rule: {rule}\)"):
            chips[0]


def test_an_index_can_claim_no_metadata_server_for_its_own_host(world: World) -> None:
    ref = RasterRef("http://169.254.169.254/x.tif", "scene-1", "red", host="169.254.169.254:80")
    with pytest.raises(HrefRefusedError, match="rule: special-address"):
        open_raster(ref)


EVIL_YAML = "!!python/object/apply:os.system ['touch {path}']\n"


def test_tags_in_yaml_build_nothing(tmp_path: Path) -> None:
    text = EVIL_YAML.format(path=tmp_path / "ran")
    (tmp_path / "evil.yaml").write_text(text)
    with pytest.raises(ProfileError, match=r"evil\.yaml"):
        load_profile(tmp_path / "evil.yaml")
    with pytest.raises(InputError):
        ChipSpec.load(tmp_path / "evil.yaml")
    assert not (tmp_path / "ran").exists()


def test_nothing_of_ours_unpickles_or_builds_objects_from_text() -> None:
    """Arrays of objects in .npy files are pickles, and so refused by numpy unless it is told otherwise."""
    banned = {"pickle", "cPickle", "dill", "marshal", "shelve"}
    for path in [*(REPO / "stacchip_core").rglob("*.py"), *(REPO / "flows").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not banned & {alias.name.split(".")[0] for alias in node.names}, path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), path
            if isinstance(node, ast.Attribute):
                assert node.attr not in (
                    "unsafe_load",
                    "full_load",
                    "UnsafeLoader",
                    "FullLoader",
                ), path


def test_every_rule_is_explained() -> None:
    text = (REPO / "docs" / "access.md").read_text(encoding="utf-8")
    assert [rule for rule in RULES if f"`{rule}`" not in text] == []
