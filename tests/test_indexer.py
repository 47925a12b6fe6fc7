"""From item to rows: what is opened, what decides the rows, and what is refused by name."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from stacchip_core.errors import (
    HrefRefusedError,
    InputError,
    InvalidItemError,
    ProfileNotFoundError,
    ReadError,
    UnsupportedGridError,
)
from stacchip_core.index.indexer import Indexer, IndexSettings
from stacchip_core.sources.access import Storage
from stacchip_core.sources.item import read_item
from stacchip_core.sources.profiles import CollectionProfile, load_profile, parse_profile
from stacchip_core.sources.raster import Grid
from tests import scenes
from tests.file_server import FileServer, serve
from tests.items import coarser, utm_grid
from tests.nasa_scenes import sinusoidal_grid
from tests.rasters import Layout, wedge, write_cog

S2_FULL = 480


@pytest.fixture
def item(tmp_path: Path) -> dict[str, Any]:
    return scenes.sentinel2_scene(tmp_path)


HERE = Storage(hosts=("127.0.0.1",))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    with serve(tmp_path) as running:
        yield running


def on_server(item: dict[str, Any], folder: Path, server: FileServer) -> dict[str, Any]:
    """The item with its assets behind HTTP."""
    text = json.dumps(item).replace(str(folder), server.url)
    found: dict[str, Any] = json.loads(text)
    return found


def column(index: Any, name: str) -> list[Any]:
    values: list[Any] = index.table[name].to_pylist()
    return values


def test_rows_say_where_their_chips_lie(item: dict[str, Any], tmp_path: Path) -> None:
    before = copy.deepcopy(item)
    index = Indexer(item, chip_size=100, stride=150, edge="pad", local_roots=[tmp_path]).create_index()
    assert item == before
    xs, ys = column(index, "chip_x"), column(index, "chip_y")
    assert list(zip(ys, xs, strict=True)) == [(y, x) for y in range(4) for x in range(4)]
    assert column(index, "col_off") == [x * 150 for x in xs]
    assert column(index, "row_off") == [y * 150 for y in ys]
    assert column(index, "valid_width") == [min(100, 480 - x * 150) for x in xs]
    assert column(index, "valid_height") == [min(100, 480 - y * 150) for y in ys]
    assert column(index, "chip_id")[5] == f"sentinel-2-l2a/{item['id']}/100-150-pad/1-1"
    for name, value in {"size_px": 100, "stride_px": 150, "gsd_m": 10.0, "collection": "sentinel-2-l2a"}.items():
        assert set(column(index, name)) == {value}
    assert {moment.isoformat() for moment in column(index, "datetime")} == {"2024-06-15T10:30:31.024000+00:00"}
    assert column(index, "start_datetime") == [None] * 16
    assert set(column(index, "platform")) == {"sentinel-2b"}
    assert set(column(index, "earthsearch:boa_offset_applied")) == {True}
    centres = shapely.centroid(shapely.from_wkb(index.table["geometry"].to_numpy()))
    assert shapely.get_x(centres).min() > 9
    assert all(cell for cell in column(index, "grid_cell"))


def test_fractions_count_the_pixels_of_the_mask(tmp_path: Path) -> None:
    scl = np.full((240, 240), 4, np.uint8)
    scl[:25, :50], scl[25:50, :25] = 0, 9  # of the first 100 px chip: half nodata, a quarter cloud
    item = scenes.sentinel2_scene(tmp_path, pixels={"scl": scl})
    index = Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index()
    assert column(index, "nodata_fraction")[:2] == [0.5, 0.0]
    assert column(index, "cloud_fraction")[:2] == [0.5, 0.0]
    item = scenes.sentinel2_scene(tmp_path, pixels={"scl": np.zeros((240, 240), np.uint8)})
    index = Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index()
    assert set(column(index, "nodata_fraction")) == {1.0}
    assert set(column(index, "cloud_fraction")) == {None}, "null, not a made-up number"


@pytest.mark.parametrize("name", ["linz", "naip", "sentinel1"])
def test_sensors_without_a_mask_tell_nodata_and_nothing_else(name: str, tmp_path: Path) -> None:
    builder = getattr(scenes, f"{name}_scene")
    item = builder(tmp_path, nodata_share=0.2)
    profile = "linz" if name == "linz" else None
    index = Indexer(item, chip_size=120, local_roots=[tmp_path], profile=profile).create_index()
    grid = next(iter(index.scenes.values())).grid
    assert grid is not None
    empty = wedge(grid.shape, 0.2)
    expected = [
        np.float32(empty[row : row + 120, col : col + 120].mean())
        for row, col in zip(column(index, "row_off"), column(index, "col_off"), strict=True)
    ]
    assert column(index, "nodata_fraction") == pytest.approx(expected, abs=1e-7)
    assert max(expected) == 1.0
    for other in ("cloud", "shadow", "snow", "water"):
        assert set(column(index, f"{other}_fraction")) == {None}


def test_modis_counts_the_fill_of_the_reference_band_as_nodata(tmp_path: Path) -> None:
    empty = wedge((360, 360), 0.3)
    state = np.full((360, 360), 0b001000, np.uint16)  # clear land everywhere: only the band has fill
    band = np.where(empty, -28672, 100).astype(np.int16)
    pixels = {"sur_refl_state_500m": state, "sur_refl_b01": band}
    item = scenes.modis_scene(tmp_path, grid=sinusoidal_grid(360), pixels=pixels)
    index = Indexer(item, chip_size=90, local_roots=[tmp_path]).create_index()
    expected = [
        np.float32(empty[row : row + 90, col : col + 90].mean())
        for row, col in zip(column(index, "row_off"), column(index, "col_off"), strict=True)
    ]
    assert column(index, "nodata_fraction") == pytest.approx(expected, abs=1e-7)
    assert {moment.isoformat() for moment in column(index, "datetime")} == {"2022-02-05T23:59:59.500000+00:00"}
    assert {moment.isoformat() for moment in column(index, "end_datetime")} == {"2022-02-09T23:59:59+00:00"}


@pytest.mark.parametrize(("limit", "kept"), [(None, 16), (1.0, 16), (0.5, None), (0.0, None), (0, None)])
def test_max_nodata_keeps_what_is_at_most_that(limit: float | None, kept: int | None, tmp_path: Path) -> None:
    item = scenes.sentinel2_scene(tmp_path, nodata_share=0.4)
    everything = Indexer(item, chip_size=120, local_roots=[tmp_path]).create_index()
    found = Indexer(item, chip_size=120, max_nodata=limit, local_roots=[tmp_path]).create_index()
    shares = column(everything, "nodata_fraction")
    assert 0 < sum(share == 0 for share in shares) < 16
    assert len(found) == (kept or sum(share <= limit for share in shares if limit is not None))


def test_unknown_nodata_passes_a_nodata_limit(item: dict[str, Any], tmp_path: Path) -> None:
    profile = load_profile("sentinel-2-l2a").model_copy(update={"qa": parse_profile(MINE, "t").qa})
    index = Indexer(item, chip_size=120, max_nodata=0, profile=profile, local_roots=[tmp_path]).create_index()
    assert len(index) == 16
    assert set(column(index, "nodata_fraction")) == {None}


MINE = {"name": "t", "reference": "red", "bands": [{"name": "red", "asset": "red"}], "qa": {"kind": "none"}}


def test_only_the_mask_is_read_where_the_item_has_the_grid(tmp_path: Path, server: FileServer) -> None:
    item = on_server(scenes.sentinel2_scene(tmp_path), tmp_path, server)
    Indexer(item, chip_size=100, storage=HERE).create_index()
    assert server.paths() == [f"/{item['id']}/scl.tif"]
    Indexer(item, chip_size=100, grid="asset", storage=HERE).create_index()
    assert sorted(server.paths()) == [f"/{item['id']}/{name}.tif" for name in ("red", "scl")]
    Indexer(item, profile=parse_profile(MINE, "t")).create_index()
    assert server.paths() == [], "the item says it all, and the rule reads nothing"


def test_the_fraction_of_a_file_that_is_needed_is_all_that_is_asked_for(tmp_path: Path, server: FileServer) -> None:
    item = on_server(scenes.sentinel1_scene(tmp_path), tmp_path, server)
    Indexer(item, chip_size=100, storage=HERE).create_index()
    assert server.paths() == [f"/{item['id']}/vv.tif"]


def other_grids() -> dict[str, Grid]:
    grid = utm_grid(S2_FULL)
    a, b, c, d, e, f = grid.transform
    return {
        "moved": Grid(grid.crs, (a, b, c + 640, d, e, f), *grid.shape),
        "crs": Grid("EPSG:32633", grid.transform, *grid.shape),
        "coarser": coarser(grid, 2),
        "wider": Grid(grid.crs, grid.transform, 480, 481),
    }


@pytest.mark.parametrize("name", other_grids())
def test_a_header_that_contradicts_the_item_is_an_error_that_says_both(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    item = scenes.sentinel1_scene(tmp_path)
    other = other_grids()[name]
    write_cog(Path(item["assets"]["vv"]["href"]), np.ones(other.shape, np.float32), other)
    with pytest.raises(UnsupportedGridError, match=rf"item {item['id']}: asset 'vv': the item says 480 x 480 .*header"):
        Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index()
    with caplog.at_level(logging.WARNING):
        index = Indexer(item, chip_size=100, grid="asset", local_roots=[tmp_path]).create_index()
    assert next(iter(index.scenes.values())).grid == other
    assert f"item {item['id']}: asset 'vv': the item says 480 x 480" in caplog.text


def test_a_mask_of_another_place_is_refused(item: dict[str, Any], tmp_path: Path) -> None:
    scl = coarser(other_grids()["moved"], 2)
    write_cog(Path(item["assets"]["scl"]["href"]), np.full(scl.shape, 4, np.uint8), scl)
    for grid in ("item", "asset"):
        with pytest.raises(UnsupportedGridError, match=rf"item {item['id']}: asset 'scl'.*(header|does not divide)"):
            Indexer(item, grid=grid, local_roots=[tmp_path]).create_index()


def test_a_mask_that_is_no_whole_numbers_is_refused(item: dict[str, Any], tmp_path: Path) -> None:
    grid = coarser(utm_grid(S2_FULL), 2)
    write_cog(Path(item["assets"]["scl"]["href"]), np.full(grid.shape, 4, np.float32), grid)
    with pytest.raises(UnsupportedGridError, match="QA asset 'scl' is float32, not whole numbers"):
        Indexer(item, local_roots=[tmp_path]).create_index()


def test_rasters_without_a_place_must_be_geocoded(tmp_path: Path) -> None:
    item = scenes.hls_scene(tmp_path)
    import rasterio

    with rasterio.open(
        item["assets"]["B04"]["href"], "w", driver="GTiff", height=9, width=9, count=1, dtype="int16"
    ) as raster:
        raster.write(np.ones((1, 9, 9), np.int16))
    with pytest.raises(UnsupportedGridError, match=rf"item {item['id']}: asset 'B04' .* must be geocoded"):
        Indexer(item, local_roots=[tmp_path]).create_index()


@pytest.mark.parametrize("damage", ["missing", "html", "truncated"])
def test_assets_that_can_not_be_read_are_named(damage: str, item: dict[str, Any], tmp_path: Path) -> None:
    path = Path(item["assets"]["scl"]["href"])
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"<html></html>" if damage == "html" else content[:700])
    with pytest.raises(ReadError, match=rf"item {item['id']}: asset 'scl'") as caught:
        Indexer(item, local_roots=[tmp_path]).create_index()
    assert str(tmp_path) not in str(caught.value)


def test_files_outside_the_roots_are_never_read(item: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(HrefRefusedError, match=rf"item {item['id']}: .*outside local_roots"):
        Indexer(item)
    with pytest.raises(HrefRefusedError, match="local_roots"):
        Indexer(item, local_roots=[tmp_path / "elsewhere"])


def test_the_folder_of_an_item_file_is_a_root(item: dict[str, Any], tmp_path: Path) -> None:
    path = scenes.write_item(tmp_path, item)
    index = Indexer(path, chip_size=100).create_index()
    assert len(index) == 16
    assert index.local_roots == (str(tmp_path),)
    assert index.table.equals(Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index().table)


def test_a_grid_off_the_globe_is_refused(item: dict[str, Any], tmp_path: Path) -> None:
    grid = Grid("EPSG:32632", (10.0, 0.0, 9e8, 0.0, -10.0, 9e8), 480, 480)
    item["assets"]["red"] |= {"proj:transform": list(grid.transform)}
    with pytest.raises((InvalidItemError, ReadError), match=f"item {item['id']}"):
        Indexer(item, profile=parse_profile(MINE, "t"), local_roots=[tmp_path]).create_index()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chip_size": 0}, "chip_size"),
        ({"stride": 0}, "stride"),
        ({"chip_size": 2.5}, "chip_size"),
        ({"edge": "keep"}, "edge.*drop"),
        ({"grid": "file"}, "grid.*item"),
        ({"max_nodata": 1.5}, "max_nodata"),
        ({"max_nodata": -0.1}, "max_nodata"),
        ({"max_nodata": float("nan")}, "max_nodata"),
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(
    settings: dict[str, Any], message: str, item: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=message):
        Indexer(item, **settings)


def test_an_unknown_profile_is_refused_with_a_list(item: dict[str, Any]) -> None:
    with pytest.raises(ProfileNotFoundError, match="built in are"):
        Indexer(item, profile="sentinel-2")


def recipe(profile: CollectionProfile | None = None, **settings: Any) -> str:
    return IndexSettings(**settings).recipe(profile or load_profile("sentinel-2-l2a"))


def changed(**update: Any) -> CollectionProfile:
    return load_profile("sentinel-2-l2a").model_copy(update=update)


def test_recipes_are_the_same_for_what_does_not_decide_rows() -> None:
    base = load_profile("sentinel-2-l2a")
    renamed = tuple(band.model_copy(update={"aliases": ("x",), "scale": 9.0, "source": "y"}) for band in base.bands)
    same = [
        recipe(local_roots=("/x",)),
        recipe(storage=Storage(region="x")),
        recipe(stride=256),
        recipe(changed(bands=renamed)),
        recipe(changed(name="mine", preview=(), collections=("x",))),
        recipe(changed(qa=base.qa.model_copy(update={"aliases": (), "source": ""}))),
        recipe(load_profile("sentinel-2-c1-l2a")),
    ]
    assert set(same) == {recipe()}
    assert len(recipe()) == 32


def test_recipes_change_with_what_decides_rows() -> None:
    base = load_profile("sentinel-2-l2a")
    red = tuple(band.model_copy(update={"nodata": 7.0}) if band.name == "red" else band for band in base.bands)
    radar = load_profile("sentinel-1-rtc")
    different = [
        recipe(),
        recipe(chip_size=128),
        recipe(stride=128),
        recipe(edge="pad"),
        recipe(max_nodata=0),
        recipe(max_nodata=0.5),
        recipe(changed(reference=("green",))),
        recipe(changed(bands=red)),
        recipe(changed(qa=base.qa.model_copy(update={"cloud": (8, 9)}))),
        recipe(changed(properties=base.properties[:1])),
        recipe(radar),
        recipe(radar.model_copy(update={"reference": ("hh", "vv")})),
        recipe(load_profile("modis-09a1")),
        recipe(load_profile("modis-09a1-qc")),
    ]
    assert len(set(different)) == len(different)


def test_many_items_share_settings(item: dict[str, Any], tmp_path: Path) -> None:
    settings = IndexSettings(chip_size=100, local_roots=(str(tmp_path),))
    indexer = Indexer.from_settings(read_item(item, (str(tmp_path),)), settings)
    alone = Indexer(item, chip_size=100, local_roots=[tmp_path])
    assert indexer.recipe == alone.recipe
    assert indexer.create_index().table.equals(alone.create_index().table)
    assert "local_roots" not in settings.model_dump(), "a path of this machine is not stored"


def test_big_blocks_and_strips_give_the_same_fractions(item: dict[str, Any], tmp_path: Path) -> None:
    path, grid = Path(item["assets"]["scl"]["href"]), coarser(utm_grid(S2_FULL), 2)
    pixels = np.random.default_rng(0).integers(0, 12, grid.shape).astype(np.uint8)
    tables = []
    for block in (16, 64, 256, 512):
        write_cog(path, pixels, grid, layout=Layout(block=block, has_overviews=False))
        tables.append(Indexer(item, chip_size=64, local_roots=[tmp_path]).create_index().table)
    assert all(table.equals(tables[0]) for table in tables)


def test_the_grid_setting_is_part_of_the_recipe() -> None:
    profile = load_profile("sentinel-2-l2a")
    assert IndexSettings(grid="item").recipe(profile) != IndexSettings(grid="asset").recipe(profile)


def test_a_profile_is_read_once_and_a_misspelt_one_is_an_error_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nextends: naip\n")
    settings = IndexSettings.of(profile=path)
    path.unlink()
    assert settings.profile_of({}).name == "mine"
    with pytest.raises(ProfileNotFoundError, match=r"no profile 'sentinal-2'.*sentinel-2-l2a"):
        IndexSettings.of(profile="sentinal-2")
    with pytest.raises(InputError, match=r"unknown key 'chip_sise', did you mean 'chip_size'"):
        IndexSettings.of(chip_sise=3)


def test_a_mask_wider_than_any_scene_is_read_in_thin_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stacchip_core.index.indexer._STRIP_PIXELS", 480 * 7)
    item = scenes.sentinel1_scene(tmp_path)
    thin = Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index().table
    monkeypatch.undo()
    assert thin.equals(Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index().table)
