"""The demo's scenes are what their items say, valid STAC, and lifelike in the ways that indexing sees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from jsonschema import Draft7Validator
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource

from flows.demo import land, sensors
from flows.demo.aerial import photograph
from flows.demo.catalog import Asset, Draft, is_written, publish, shape_and_transform, write_scene
from flows.demo.places import CALIFORNIA, IOWA, Pass
from flows.demo.scenes import add_scene, build_demo
from flows.demo.steps import BANDS, COMBINED, demo_spec
from stacchip_core import Storage, Warehouse, materialize, plan
from tests.file_server import serve
from tests.items import utm_grid

SHAPE = (120, 144)


@pytest.fixture(scope="module")
def view() -> sensors.View:
    """A small countryside in June, under a few clouds, cut off at the left."""
    ground = land.make_land(SHAPE, 10.0, CALIFORNIA.countryside, seed=1)
    cover = land.cover_on(ground, CALIFORNIA.countryside, 165, seed=2)
    sky = sensors.make_sky(SHAPE, 10.0, cloudy=0.2, corner="left", seed=3)
    return sensors.View(cover, sky)


def test_noise_has_the_promised_moments_and_is_rougher_with_less_slope() -> None:
    rough, smooth = (land.fractal_noise((128, 128), np.random.default_rng(0), slope=slope) for slope in (1.0, 4.0))
    for noise in (rough, smooth):
        assert noise.mean() == pytest.approx(0, abs=1e-4)
        assert noise.std() == pytest.approx(1, abs=1e-4)
    assert np.abs(np.diff(rough)).mean() > 4 * np.abs(np.diff(smooth)).mean()


def test_lottery_is_even_and_each_salt_its_own() -> None:
    numbers = np.arange(20_000, dtype=np.uint32)
    one, two = land.lottery(numbers, 1), land.lottery(numbers, 2)
    assert np.histogram(one, bins=10, range=(0, 1))[0] == pytest.approx(2000, rel=0.1)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03


def test_every_pixel_is_fully_covered(view: sensors.View) -> None:
    shares = view.cover.shares
    assert shares.shape == (len(land.MATERIALS), *SHAPE)
    assert shares.min() >= 0
    assert shares.sum(axis=0) == pytest.approx(1, abs=1e-4)


def test_same_seed_same_land() -> None:
    one, two = (land.make_land(SHAPE, 30.0, IOWA.countryside, seed=5) for _ in range(2))
    assert np.array_equal(one.parcel, two.parcel)
    assert np.array_equal(one.shade, two.shade)


def test_clouds_are_bright_and_classified_so(view: sensors.View) -> None:
    classes, blue = sensors.scene_classes(view), sensors.reflectance(view, "blue")
    assert blue[classes == 9].mean() > 3 * blue[classes == 4].mean()
    assert blue[classes == 3].mean() < blue[classes == 4].mean() * 1.3
    assert np.array_equal(classes == 0, view.sky.outside)
    flags = sensors.qa_pixel(view)
    assert np.array_equal(flags == 1, view.sky.outside)
    assert np.array_equal((flags & 0b1000) > 0, np.isin(classes, (8, 9)))


def test_plants_are_bright_in_the_near_infrared(view: sensors.View) -> None:
    clear = sensors.scene_classes(view) == 4
    red, nir = (sensors.reflectance(view, band)[clear] for band in ("red", "nir"))
    assert np.median((nir - red) / (nir + red)) > 0.4


def test_coarser_view_keeps_the_means(view: sensors.View) -> None:
    coarse = sensors.coarser(view, 6)
    assert coarse.cover.shade.shape == (20, 24)
    assert coarse.cover.shares.mean() == pytest.approx(view.cover.shares.mean(), abs=1e-5)


def test_radar_power_is_positive_with_nodata_outside(view: sensors.View) -> None:
    power = sensors.backscatter(view, "vv", seed=1)
    assert power.dtype == np.float32
    assert np.array_equal(power == -32768, view.sky.outside)
    assert power[~view.sky.outside].min() > 0


def test_shorten_keeps_values_to_a_fifth_of_a_percent() -> None:
    values = np.random.default_rng(0).gamma(4.4, 0.1, 5000).astype(np.float32)
    short = sensors.shorten(values)
    assert short == pytest.approx(values, rel=0.002)
    assert not (short.view(np.uint32) & 0x7FFF).any()


def test_photograph_is_four_bytes_a_pixel() -> None:
    ground = land.make_land(SHAPE, 0.6, CALIFORNIA.village, seed=1)
    cover = land.cover_on(ground, CALIFORNIA.village, 165, seed=2)
    image = photograph(ground, cover, 0.6, seed=3)
    assert image.shape == (4, *SHAPE)
    assert image.dtype == np.uint8
    assert image.min() > 0


def test_pass_knows_its_day() -> None:
    seen = Pass("20240301", "10:00:00")
    assert (seen.datetime, seen.day_of_year) == ("2024-03-01T10:00:00Z", 61)


def make_draft(item_id: str) -> Draft:
    grid = utm_grid(64)
    asset = Asset("red", np.ones(grid.shape, dtype=np.uint16), grid, 0.0, fields=shape_and_transform(grid))
    properties = {"datetime": "2024-06-15T00:00:00Z", "proj:code": grid.crs}
    return Draft(item_id, "sentinel-2-l2a", grid, properties, [asset])


def test_publishing_lists_what_is_written(tmp_path: Path) -> None:
    assert not is_written(tmp_path, "sentinel-2-l2a", "one")
    for name in ("one", "two"):
        write_scene(tmp_path, make_draft(name))
        catalog = pystac.Catalog.from_file(str(publish(tmp_path)))
    assert is_written(tmp_path, "sentinel-2-l2a", "one")
    assert sorted(item.id for item in catalog.get_items(recursive=True)) == ["one", "two"]
    assert not list(tmp_path.rglob("*.new"))
    check_catalog(tmp_path)


def check_schema(value: dict[str, Any], kind: str) -> None:
    """Valid by the core schema of STAC 1.1, which pystac carries; extensions' schemas are not at hand."""
    schemas = get_local_schema_cache()
    registry = Registry().with_resources((url, Resource.from_contents(schema)) for url, schema in schemas.items())
    url = next(url for url in schemas if url.endswith(f"{kind}-spec/json-schema/{kind}.json"))
    Draft7Validator(schemas[url], registry=registry).validate(value)


def check_catalog(folder: Path) -> None:
    """Valid by the core schemas, and each header is what its item says."""
    check_schema(read(folder / "catalog.json"), "catalog")
    for path in folder.glob("*/collection.json"):
        check_schema(read(path), "collection")
    for path in folder.glob("*/*/*.json"):
        item = read(path)
        check_schema(item, "item")
        for asset in item["assets"].values():
            fields = item["properties"] | asset
            with rasterio.open(path.parent / asset["href"]) as raster:
                assert list(raster.shape) == fields["proj:shape"]
                assert list(raster.transform)[:6] == fields["proj:transform"]
                assert raster.crs.to_string() == fields["proj:code"]
                assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def read(path: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return parsed


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Folder of the demo's scenes, and those that were told to be done; takes 20 s."""
    folder, done = tmp_path_factory.mktemp("demo"), list[str]()
    build_demo(folder, done.append)
    return folder, done


@pytest.mark.slow
def test_a_plan_over_three_sensors_of_the_demo_is_what_a_server_sees(
    drawn: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Requests and bytes within 5 % of what a server counts while the chips are cut."""
    here = Storage(hosts=("127.0.0.1",))
    wanted = demo_spec()
    assert len(wanted.chosen_collections) == 3
    with serve(drawn[0]) as server:
        warehouse = Warehouse(tmp_path, create=True, storage=here)
        items = [f"{server.url}/{path.relative_to(drawn[0])}" for path in drawn[0].glob("*/*/*.json")]
        commits = warehouse.index_items(items, storage=here)
        assert isinstance(commits, list)
        for commit in commits:
            assert not commit.failed
        warehouse.merge(COMBINED, collections=warehouse.collections())
        planned = plan(warehouse, wanted)
        server.answers()
        dataset = materialize(warehouse, wanted)
        seen = server.answers()
    assert {row["collection"] for row in dataset.chips.select(["collection"]).to_pylist()} == set(BANDS)
    assert planned.is_exact
    assert dataset.lock.failures == 0
    assert planned.chips == len(dataset)
    assert len(seen) > 20
    assert planned.requests == pytest.approx(len(seen), rel=0.05)
    assert planned.bytes_in == pytest.approx(sum(answer.size for answer in seen), rel=0.05)


@pytest.mark.slow
def test_demo_has_two_dates_of_two_places_for_four_sensors(drawn: tuple[Path, list[str]], tmp_path: Path) -> None:
    shutil.copytree(drawn[0], tmp_path, dirs_exist_ok=True)
    done, path = drawn[1], tmp_path / "catalog.json"
    check_catalog(tmp_path)
    catalog = pystac.Catalog.from_file(str(path))
    counts = {child.id: len(list(child.get_items())) for child in catalog.get_children()}
    assert counts == dict.fromkeys(("landsat-c2-l2", "naip", "sentinel-1-rtc", "sentinel-2-l2a"), 4)
    assert len(done) == 16
    add_scene(tmp_path)
    again: list[str] = []
    catalog = pystac.Catalog.from_file(str(build_demo(tmp_path, again.append)))
    assert len(list(catalog.get_items(recursive=True))) == 17
    assert not again, "scenes that are there are kept"
