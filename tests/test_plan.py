"""Plans: what they say of requests, bytes and blocks is what a counting server sees, and no pixel is read for them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from stacchip_core import Dataset, SpecError, Storage, Warehouse, materialize, plan
from stacchip_core.chips import lock as locks
from stacchip_core.chips import plan as planning
from stacchip_core.chips import preparing
from stacchip_core.chips.assembly import prepare
from stacchip_core.cli import app
from tests.file_server import FileServer, serve
from tests.scenes import Item, coarser, naip_scene, sentinel1_scene, sentinel2_scene, utm_grid
from tests.warehouses import RGBN, listing, made, scenes, spec

HERE = Storage(hosts=("127.0.0.1",))
BANDS = [
    {"collection": "sentinel-2-l2a", "bands": ["red", "nir", "swir16", "coastal"]},
    {"collection": "sentinel-1-rtc", "bands": ["vv"]},
    {"collection": "naip", "bands": ["image"]},
]


def noise(shape: tuple[int, ...], dtype: str, seed: int) -> Any:
    """Pixels that hardly compress, so that blocks have the bytes of real ones."""
    return np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)


def large_scenes(folder: Path) -> list[Item]:
    """Three sensors whose blocks lie beyond the header that is fetched first."""
    grid = utm_grid(700)
    bands = {"red": 1, "nir": 1, "swir16": 2, "coastal": 6}
    pixels = {name: noise(coarser(grid, n).shape, "uint16", n) for name, n in bands.items()}
    return [
        sentinel2_scene(folder, grid=grid, pixels=pixels),
        sentinel1_scene(folder, grid=utm_grid(600), pixels={"vv": noise((600, 600), "float32", 7)}),
        naip_scene(folder, grid=utm_grid(500, 1.0, epsg=26914), pixels={"image": noise((500, 500), "uint8", 8)}),
    ]


def away(items: list[Item], folder: Path, server: FileServer) -> list[Item]:
    """The items with their assets behind the server."""
    return [json.loads(json.dumps(item).replace(str(folder), server.url)) for item in items]


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server, the folder it serves, and a warehouse of three sensors on it."""
    folder = tmp_path_factory.mktemp("served")
    items = large_scenes(folder)
    with serve(folder) as server:
        root = tmp_path_factory.mktemp("warehouse")
        warehouse = Warehouse(root, create=True, storage=HERE)
        warehouse.index_items(away(items, folder, server), chip_size=96, storage=HERE)
        warehouse.merge("global", collections=warehouse.collections())
        yield server, folder, warehouse


def whole_blocks(folder: Path) -> dict[tuple[str, int], int]:
    """Path and offset of every block of every file -> its bytes."""
    found = {}
    for path in folder.rglob("*.tif"):
        with rasterio.open(path) as raster:
            bands = [1] if raster.interleaving.name == "pixel" else raster.indexes
            height, width = raster.block_shapes[0]
            for band in bands:
                for row in range(-(-raster.height // height)):
                    for col in range(-(-raster.width // width)):
                        offset = raster.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=band)
                        size = raster.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=band)
                        if offset:
                            found[f"/{path.relative_to(folder)}", int(offset)] = int(size)
    return found


@pytest.mark.parametrize(
    "values",
    [{}, {"limit": 12}, {"resampling": "bilinear", "limit": 30}],
    ids=["whole scenes", "some chips", "resampled"],
)
def test_a_plan_agrees_with_what_the_server_sees(
    far: tuple[FileServer, Path, Warehouse], values: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    server, folder, warehouse = far
    wanted = spec(name=request.node.callspec.id.replace(" ", "-"), bands=BANDS, **values)
    server.answers()
    found = plan(warehouse, wanted)
    headers = server.answers()
    assert len(headers) <= 6 * 2  # of six files; no pixel
    dataset = materialize(warehouse, wanted)
    seen = server.answers()
    assert dataset.lock.failures == 0
    assert found.chips == len(dataset)
    assert found.shards == len(dataset.lock.shards)
    assert found.requests == pytest.approx(len(seen), rel=0.05)
    assert found.bytes_in == pytest.approx(sum(answer.size for answer in seen), rel=0.05)
    times = Counter(
        (path, offset)
        for (path, offset), size in whole_blocks(folder).items()
        for answer in seen
        if answer.path == path and answer.start <= offset and offset + size <= answer.start + answer.size
        if answer.start > 0  # beyond what came with the header
    )
    assert times
    assert max(times.values()) == 1


def test_a_plan_of_local_files_needs_no_request_and_writes_nothing(tmp_path: Path) -> None:
    warehouse = made(tmp_path / "pixels", tmp_path / "warehouse", scenes(tmp_path / "pixels"))
    before = listing(tmp_path / "warehouse")
    found = plan(warehouse, spec(bands=RGBN, shard_size=7))
    assert listing(tmp_path / "warehouse") == before
    assert [(part.collection, part.chips, part.shards) for part in found.parts] == [
        ("sentinel-2-l2a", 50, 8),
    ]
    assert (found.items, found.requests, found.is_exact, dict(found.unreadable)) == (2, 0, True, {})
    assert found.bytes_out == 50 * 96 * 96 * (4 * 2 + 1)  # four bands of two bytes, and classes
    text = str(found)
    assert "50 chips of 2 items of global@" in text
    assert "50 chips in 8 shards" in text


@pytest.mark.parametrize(
    "values",
    [
        {"radiometry": "reflectance"},
        {"radiometry": "reflectance", "mask": True},
        {"dtype": "float64", "mask": True},
        {"gsd": 20, "resampling": "average", "mask": True},
        {"native": True, "bands": [{"collection": "sentinel-2-l2a", "bands": ["red", "swir16"]}]},
    ],
    ids=str,
)
def test_bytes_out_are_those_of_the_chips(tmp_path: Path, values: dict[str, Any]) -> None:
    warehouse = made(tmp_path / "pixels", tmp_path / "warehouse", scenes(tmp_path / "pixels"))
    wanted = spec(**{"bands": RGBN, **values})
    dataset = materialize(warehouse, wanted)
    assert plan(warehouse, wanted).bytes_out == sum(one.nbytes for _, chip in dataset for one in chip.values())


@pytest.mark.parametrize(
    ("values", "times"),
    [({}, 1), ({"radiometry": "reflectance"}, 2), ({"dtype": "float64"}, 4), ({"gsd": 5}, 4), ({"gsd": 20}, 1 / 4)],
    ids=str,
)
def test_what_is_held_at_a_time_follows_the_bytes_of_chips(
    tmp_path: Path, values: dict[str, Any], times: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not their number: else a fine pixel size or a wide number type would fill the memory."""
    bands = [{"collection": "sentinel-2-l2a", "bands": ["red", "nir"]}]
    warehouse = made(tmp_path / "pixels", tmp_path / "warehouse", scenes(tmp_path / "pixels"))
    each = 2 * 2 * 96 * 96
    monkeypatch.setattr(preparing, "_GROUP_BYTES", 100 * each)
    monkeypatch.setattr(locks, "_SHARDS_BYTES", 3 * 10 * 8 * each)
    made_of = prepare(warehouse, spec(bands=bands, shard_size=10, resampling="average", **values))
    assert made_of.chip_bytes == each * times
    assert made_of.shards_at_a_time == max(1, int(8 / times))
    assert len(made_of.groups) == (2 if times > 2 else 1), "two items of 25 chips"


def test_a_fill_that_is_no_value_of_a_band_is_told_by_the_plan(tmp_path: Path) -> None:
    warehouse = made(tmp_path / "pixels", tmp_path / "warehouse", scenes(tmp_path / "pixels"))
    found = plan(warehouse, spec(bands=RGBN, fill=-1))
    assert len(found.unreadable) == 2
    assert "fill -1 is no value of item" in str(found)


def test_items_whose_files_are_gone_are_told_by_the_plan(tmp_path: Path) -> None:
    items = scenes(tmp_path / "pixels")[:2]
    warehouse = made(tmp_path / "pixels", tmp_path / "warehouse", items)
    (tmp_path / "pixels" / items[0]["id"] / "nir.tif").unlink()
    found = plan(warehouse, spec(bands=RGBN))
    assert list(found.unreadable) == [f"sentinel-2-l2a/{items[0]['id']}"]
    assert "asset 'nir'" in str(found)
    assert found.chips == 50
    lost = replace(found, unreadable={f"naip/i{number}": f"item i{number}: gone" for number in range(25)})
    told = str(lost).splitlines()
    assert sum("can't be read: item i" in line for line in told) == 10
    assert told[-1] == "  and 15 items more; `unreadable` has all"
    assert len(lost.to_dict()["unreadable"]) == 25


def test_of_many_items_some_headers_tell_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = made(tmp_path / "pixels", tmp_path / "warehouse", scenes(tmp_path / "pixels")[:2])
    exact = plan(warehouse, spec(bands=RGBN))
    monkeypatch.setattr(planning, "_ITEMS_READ", 1)
    guessed = plan(warehouse, spec(bands=RGBN))
    assert not guessed.is_exact
    assert "about " in str(guessed)
    assert guessed.blocks == exact.blocks
    assert guessed.bytes_out == exact.bytes_out
    assert guessed.bytes_in == pytest.approx(exact.bytes_in, rel=0.2)


def test_mistakes_are_told_before_any_header_is_read(far: tuple[FileServer, Path, Warehouse]) -> None:
    server, _, warehouse = far
    server.answers()
    with pytest.raises(SpecError, match="has no band 'rde', did you mean 'red'"):
        plan(warehouse, spec(bands=[{"collection": "sentinel-2-l2a", "bands": ["rde"]}]))
    assert not server.answers()


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    pixels = tmp_path / "pixels"
    made(pixels, tmp_path / "warehouse", scenes(pixels)[:1])
    (tmp_path / "spec.yaml").write_text("{name: fields, index: global, size: 96, limit: 9}")
    command = ["-w", str(tmp_path / "warehouse"), "plan", str(tmp_path / "spec.yaml"), "--local-root", str(pixels)]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "fields: 9 chips of 1 items of global@1" in shown.output
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)
    assert (told["chips"], told["items"], told["requests"]) == (9, 1, 0)


def test_the_command_materialize_makes_what_was_planned(tmp_path: Path) -> None:
    pixels, root = tmp_path / "pixels", tmp_path / "warehouse"
    made(pixels, root, scenes(pixels)[:1])
    (tmp_path / "spec.yaml").write_text("{name: fields, index: global, size: 96, limit: 9}")
    command = ["-w", str(root), "materialize", str(tmp_path / "spec.yaml"), "--local-root", str(pixels)]
    told = json.loads(CliRunner().invoke(app, [*command, "--pictures", "--json"]).output)
    assert told == {"dataset": f"{root}/datasets/fields", "index": "global@1", "shards": 1, "chips": 9, "failures": 0}
    assert len(Dataset.open(told["dataset"])) == 9
    assert (root / "datasets/fields/report.html").is_file()
    before = listing(root)
    again = CliRunner().invoke(app, command)
    assert (again.exit_code, listing(root)) == (0, before)
    assert "global@1" in again.output


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_the_command_fails_where_files_of_items_can_not_be_read(tmp_path: Path, more: list[str]) -> None:
    pixels = tmp_path / "pixels"
    made(pixels, tmp_path / "warehouse", scenes(pixels)[:1])
    (tmp_path / "spec.yaml").write_text("{name: fields, index: global, size: 96, limit: 9}")
    command = ["-w", str(tmp_path / "warehouse"), "plan", str(tmp_path / "spec.yaml"), *more]
    shown = CliRunner().invoke(app, command)  # without --local-root
    assert shown.exit_code == 1, shown.output
    assert "local-root" in shown.output
