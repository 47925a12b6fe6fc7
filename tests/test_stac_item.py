"""Datasets as STAC items: valid by the schemas of the core, and true to the dataset."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import jsonschema
import pyarrow.parquet as pq
import pystac
import pytest
import shapely
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource
from shapely.geometry import box, shape

from stacchip_core import Dataset, Warehouse, materialize
from stacchip_core.chips.checking import verify_dataset
from stacchip_core.chips.dataset import update
from stacchip_core.chips.stac import footprint, geojson_bbox, stac_item
from tests.warehouses import grow, listing, made, spec


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    warehouse = made(tmp_path_factory.mktemp("pixels"), tmp_path_factory.mktemp("warehouse"))
    return materialize(warehouse, spec())


@pytest.fixture(scope="module")
def item(dataset: Dataset) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(dataset.write_item()).read_text())
    return read


def validate(item: dict[str, Any]) -> None:
    """By the core's schemas as pystac brings them: what is not among those is not looked up anywhere."""
    bundled = get_local_schema_cache()
    registry: Any = Registry().with_resources((uri, Resource.from_contents(one)) for uri, one in bundled.items())
    whole = bundled["https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"]
    jsonschema.Draft7Validator(whole, registry=registry).validate(item)


def test_the_item_is_valid_by_the_core_schema(item: dict[str, Any]) -> None:
    validate(item)
    for broken in ({**item, "bbox": "world"}, {key: value for key, value in item.items() if key != "assets"}):
        with pytest.raises(jsonschema.ValidationError):
            validate(broken)


def test_pystac_reads_it(item: dict[str, Any], dataset: Dataset) -> None:
    read = pystac.Item.from_dict(item)
    assert read.id == "fields"
    times = dataset.chips["datetime"].to_pylist()
    assert read.common_metadata.start_datetime is not None
    assert read.common_metadata.end_datetime is not None
    assert read.common_metadata.start_datetime <= min(times) <= max(times) <= read.common_metadata.end_datetime
    assert set(read.assets) == {"chips", "lock", *(f"shard-{shard.number:05d}" for shard in dataset.lock.shards)}


def test_what_it_says_of_the_dataset_is_so(item: dict[str, Any], dataset: Dataset) -> None:
    folder, chips = Path(dataset.path), item["assets"]["chips"]
    content = (folder / chips["href"]).read_bytes()
    assert chips["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
    assert chips["file:size"] == len(content)
    frame = gpd.read_parquet(folder / chips["href"])
    assert chips["table:row_count"] == len(frame) == 58
    assert [column["name"] for column in chips["table:columns"]] == pq.read_schema(folder / chips["href"]).names
    for asset in item["assets"].values():
        path = folder / asset["href"]
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) or path.stat().st_size
        assert asset["file:size"] == size
    properties = item["properties"]
    names = {name for own in dataset.lock.bands.values() for name in own}
    assert {band["name"] for band in properties["bands"]} == names
    assert properties["stacchip:spec"] == {
        "name": "fields",
        "index": "global",
        "version": 1,
        "size": 96,
        "shard_size": 7,
        "seed": 5,
    }
    assert properties["stacchip:index_sha256"] == dataset.lock.index.sha256
    ground = shape(item["geometry"])
    assert ground.buffer(1e-9).covers(shapely.union_all(frame.geometry.values))
    assert item["bbox"] == pytest.approx(frame.total_bounds.tolist())
    assert stac_item(dataset) == item


def test_one_moment_is_a_datetime(dataset: Dataset, tmp_path: Path) -> None:
    warehouse = made(tmp_path / "scenes", tmp_path / "w")
    one = stac_item(materialize(warehouse, spec(collections=["naip"])))
    validate(one)
    assert one["properties"]["datetime"] is not None
    assert "start_datetime" not in one["properties"]


def test_a_footprint_across_the_antimeridian_has_a_bbox_that_says_so() -> None:
    across = footprint([box(179, -17, 180, -16), box(-180, -17, -179, -16)])
    assert geojson_bbox(across) == [179, -17, -179, -16]
    assert geojson_bbox(box(-180, -90, 180, 90)) == [-180, -90, 180, 90]
    assert geojson_bbox(footprint([box(-97, 34, -96, 35), box(140, 30, 141, 31)])) == [-97, 30, 141, 35]


def test_a_footprint_of_very_many_pieces_stays_small_and_covers_them() -> None:
    pieces = [box(x, y, x + 0.1, y + 0.1) for x in range(-170, 170, 10) for y in range(-80, 80, 10)]
    found = footprint(pieces)
    assert shapely.get_num_coordinates(found) <= 1000
    assert found.covers(shapely.union_all(pieces))
    seam = [box(-180, 0, -179.9, 0.1), box(179.9, 0, 180, 0.1)]
    assert shapely.get_num_coordinates(footprint([*pieces, *seam])) <= 1000


RED = [{"collection": "sentinel-2-l2a", "bands": ["red"]}]


@pytest.fixture
def place(tmp_path: Path) -> tuple[Warehouse, Path]:
    """A warehouse of its own, and the folder that `fields` will be in."""
    return made(tmp_path / "pixels", tmp_path / "warehouse"), tmp_path / "warehouse/datasets/fields"


def test_one_call_writes_the_whole_dataset_and_the_next_nothing(place: tuple[Warehouse, Path]) -> None:
    warehouse, folder = place
    wanted = spec(limit=5, bands=RED)
    dataset = materialize(warehouse, wanted)
    assert json.loads((folder / "item.json").read_text()) == stac_item(dataset)
    assert not (folder / "report.html").exists(), "pictures are asked for"
    materialize(warehouse, wanted, pictures=True)
    assert "</html>" in (folder / "report.html").read_text()
    before = listing(folder)
    materialize(warehouse, wanted, pictures=True)
    assert listing(folder) == before
    assert not verify_dataset(dataset, deep=True)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"assets": {"chips": {"file:checksum": "1220ab"}}}'])
def test_a_run_killed_before_its_item_writes_it_the_next_time(
    place: tuple[Warehouse, Path], content: bytes | None
) -> None:
    warehouse, folder = place
    whole = materialize(warehouse, spec(limit=2, bands=RED))
    item = (folder / "item.json").read_bytes()
    (folder / "item.json").unlink() if content is None else (folder / "item.json").write_bytes(content)
    assert materialize(warehouse, spec(limit=2, bands=RED)).lock == whole.lock
    assert (folder / "item.json").read_bytes() == item


def test_an_update_says_its_own_revision_and_draws_a_page_anew_that_was_there(place: tuple[Warehouse, Path]) -> None:
    warehouse, folder = place
    materialize(warehouse, spec(bands=RED), pictures=True)
    page = (folder / "report.html").read_text()
    grow(warehouse, folder.parents[2] / "pixels")
    updated = update(warehouse, "fields")
    assert updated.lock.revision == 2
    assert json.loads((folder / "item.json").read_text()) == stac_item(updated)
    assert (folder / "report.html").read_text() != page


def test_what_is_said_of_the_size_of_chips_is_their_own(place: tuple[Warehouse, Path]) -> None:
    """Not that of the chips of the index, where another pixel size was asked for."""
    bands = [{"collection": "sentinel-2-l2a", "bands": ["red"]}]
    for gsd, side in ((20, 48), (5, 192), (None, 96)):
        wanted = spec(name=f"at-{gsd}".lower(), bands=bands, limit=3, gsd=gsd, resampling="average")
        made_of = materialize(place[0], wanted, pictures=True)
        assert made_of[0]["red"].shape == (1, side, side)
        assert f"3 chips of {side} px" in stac_item(made_of)["properties"]["description"]
        assert f"<b>{side}</b><span>pixels a side</span>" in (Path(made_of.path) / "report.html").read_text()
