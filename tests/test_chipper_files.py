"""The files behind chips: many layers, threads, forks, roots, and files that go away."""

from __future__ import annotations

import multiprocessing as mp
import pickle
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rasterio
from rasterio.shutil import copy as copy_raster
from rasterio.vrt import WarpedVRT

from stacchip_core import BandNotFoundError, ChipIndex, Chipper, CollectionProfile, HrefRefusedError, Indexer, ReadError
from stacchip_core.sources.profiles import load_profile
from stacchip_core.sources.raster import Grid
from tests import scenes
from tests.items import Item
from tests.oracles import full


def naip_index(folder: Path, **more: Any) -> tuple[Item, ChipIndex]:
    item = scenes.naip_scene(folder, grid=scenes.utm_grid(300, 1.0, epsg=26914), **more)
    return item, Indexer(item, chip_size=100, local_roots=[folder]).create_index()


def test_an_asset_of_many_layers_is_one_band_and_each_layer_another(tmp_path: Path) -> None:
    item, index = naip_index(tmp_path)
    whole = full(item, "image")
    for row, chip in Chipper(index, ["image", "red", "nir"]):
        rows, cols = slice(row["row_off"], row["row_off"] + 100), slice(row["col_off"], row["col_off"] + 100)
        assert [chip[band].shape for band in ("image", "red", "nir")] == [(4, 100, 100), (1, 100, 100), (1, 100, 100)]
        np.testing.assert_array_equal(chip["image"], whole[:, rows, cols])
        np.testing.assert_array_equal(chip["red"], whole[:1, rows, cols])
        np.testing.assert_array_equal(chip["nir"], whole[3:, rows, cols])
    assert list(Chipper(index)[0]) == ["image"]


def test_alpha_is_the_mask_and_no_layer_of_the_chip(tmp_path: Path) -> None:
    grid = Grid("EPSG:2193", (0.3, 0.0, 1_843_200.0, 0.0, -0.3, 5_845_680.0), 150, 130)
    item = scenes.linz_scene(tmp_path, grid=grid, nodata_share=0.3)
    index = Indexer(item, chip_size=100, edge="pad", profile="linz", local_roots=[tmp_path]).create_index()
    whole = full(item, "visual")
    chips = Chipper(index, ["visual", "green"], masked=True)
    assert len(chips) == 4
    for row, chip in chips:
        rows, cols = slice(row["row_off"], row["row_off"] + 100), slice(row["col_off"], row["col_off"] + 100)
        inside = (slice(None), slice(row["valid_height"]), slice(row["valid_width"]))
        assert chip["visual"].shape == (3, 100, 100)
        np.testing.assert_array_equal(np.ma.getdata(chip["visual"])[inside], whole[:3, rows, cols])
        np.testing.assert_array_equal(np.ma.getdata(chip["green"])[inside], whole[1:2, rows, cols])
        is_masked = np.ma.getmaskarray(chip["visual"])
        np.testing.assert_array_equal(is_masked[inside], np.repeat(whole[3:, rows, cols] == 0, 3, axis=0))
        assert row["nodata_fraction"] == pytest.approx(is_masked[0].mean())


def test_a_layer_that_the_profile_names_is_no_alpha(tmp_path: Path) -> None:
    """NAIP files written as RGBA: near infrared is 0 over water, and measured."""
    grid = scenes.utm_grid(100, 1.0, epsg=26914)
    item = scenes.naip_scene(tmp_path, grid=grid)
    image = full(item, "image")
    image[3, :40] = 0
    layout = scenes.Layout(interleave="pixel", has_alpha=True)
    scenes.write_cog(Path(item["assets"]["image"]["href"]), image, grid, layout=layout)
    index = Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index()
    assert index.table["nodata_fraction"].to_pylist() == [0.0]
    chip = Chipper(index, masked=True)[0]["image"]
    np.testing.assert_array_equal(np.ma.getdata(chip), image)
    assert not np.ma.getmaskarray(chip).any()


def test_alpha_behind_four_layers_is_still_the_mask(tmp_path: Path) -> None:
    """LINZ writes RGB, near infrared and alpha; GDAL takes alpha for the mask of one or three layers alone."""
    item = scenes.linz_scene(tmp_path, nodata_share=0.0)
    grid = Grid("EPSG:2193", (0.3, 0.0, 1_843_200.0, 0.0, -0.3, 5_845_680.0), 100, 100)
    image = np.stack([scenes.ramp(grid.shape, np.uint8, seed=n) for n in range(5)])
    image[4] = 255
    image[4, :, :25] = 0
    layout = scenes.Layout(interleave="pixel", has_alpha=True)
    scenes.write_cog(Path(item["assets"]["visual"]["href"]), image, grid, layout=layout)
    index = Indexer(item, chip_size=100, profile="linz", local_roots=[tmp_path]).create_index()
    assert index.table["nodata_fraction"].to_pylist() == [0.25]
    chip = Chipper(index, masked=True)[0]["visual"]
    np.testing.assert_array_equal(np.ma.getdata(chip), image[:3])
    np.testing.assert_array_equal(np.ma.getmaskarray(chip), np.repeat(image[4:] == 0, 3, axis=0))


def test_a_layer_that_the_file_lacks_is_an_error_that_counts(tmp_path: Path) -> None:
    item = scenes.naip_scene(tmp_path, grid=scenes.utm_grid(100, 1.0, epsg=26914))
    scenes.write_cog(
        Path(item["assets"]["image"]["href"]), full(item, "image")[:3], scenes.utm_grid(100, 1.0, epsg=26914)
    )
    index = Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index()
    assert Chipper(index)[0]["image"].shape == (3, 100, 100)
    with pytest.raises(BandNotFoundError, match=r"item ok_m_.*asset 'image' has 3 layers; 'nir' would be number 4"):
        Chipper(index, ["nir"])[0]


def test_a_nodata_value_that_the_type_cannot_hold_masks_nothing(tmp_path: Path) -> None:
    """HLS' -9999 in a file of bytes: its zeros are measurements."""
    grid = scenes.utm_grid(100, 30.0)
    item = scenes.hls_scene(tmp_path, grid=grid, nodata_share=0.0)
    zeros = np.zeros(grid.shape, np.uint8)
    scenes.write_cog(Path(item["assets"]["B02"]["href"]), zeros, grid)
    index = Indexer(item, chip_size=64, edge="pad", local_roots=[tmp_path]).create_index()
    chip = Chipper(index, ["blue"], masked=True).chip(1, 1)["blue"]
    np.testing.assert_array_equal(np.ma.getdata(chip), 0)
    assert not np.ma.getmaskarray(chip)[:, :36, :36].any()
    assert np.ma.getmaskarray(chip)[:, 36:].all() and np.ma.getmaskarray(chip)[:, :, 36:].all()


@pytest.mark.parametrize("alpha", [False, True])
def test_nodata_that_only_the_profile_knows_counts_in_table_and_chips(tmp_path: Path, alpha: bool) -> None:
    """As GDAL's own: a pixel is nodata where all layers are."""
    grid = scenes.utm_grid(100, 1.0, epsg=26914)
    item = scenes.naip_scene(tmp_path, grid=grid)
    image = full(item, "image")
    image[:, :30] = 0
    image[0, 50:] = 0
    layout = scenes.Layout(interleave="pixel", has_alpha=alpha)
    scenes.write_cog(Path(item["assets"]["image"]["href"]), image, grid, layout=layout)
    profile = load_profile("naip").model_dump()
    profile["bands"][0]["nodata"] = 0
    knows = CollectionProfile.model_validate(profile)
    indexer = Indexer(item, chip_size=100, profile=knows, local_roots=[tmp_path])
    index = indexer.create_index()
    assert index.table["nodata_fraction"].to_pylist() == [pytest.approx(0.3)]
    assert indexer.recipe != Indexer(item, chip_size=100, local_roots=[tmp_path]).recipe
    chip = Chipper(index, masked=True)[0]["image"]
    np.testing.assert_array_equal(np.ma.getmaskarray(chip), image == 0)


def test_a_nodata_value_beyond_float32_masks_nothing(tmp_path: Path) -> None:
    """The lowest double, as some tools write it beside 32-bit pixels, and profiles repeat it."""
    grid = scenes.utm_grid(64)
    item = scenes.sentinel1_scene(tmp_path, grid=grid, nodata_share=0.0)
    profile = load_profile("sentinel-1-rtc").model_dump()
    profile["bands"][0]["nodata"] = -1.7976931348623157e308
    wrong = CollectionProfile.model_validate(profile)
    index = Indexer(item, chip_size=64, profile=wrong, local_roots=[tmp_path]).create_index()
    chip = Chipper(index, ["vv"], masked=True)[0]["vv"]
    np.testing.assert_array_equal(np.ma.getdata(chip), full(item, "vv"))
    assert not np.ma.getmaskarray(chip).any()


def many(folder: Path) -> tuple[Chipper, list[dict[str, Any]]]:
    item = scenes.sentinel2_scene(folder, grid=scenes.utm_grid(480))
    chipper = Chipper(Indexer(item, chip_size=60, local_roots=[folder]).create_index(), ["red", "swir16", "coastal"])
    return chipper, [dict(chip) for _, chip in chipper]


def assert_same(found: Sequence[dict[str, Any]], wanted: Sequence[dict[str, Any]]) -> None:
    for chip, other in zip(found, wanted, strict=True):
        for band in other:
            np.testing.assert_array_equal(chip[band], other[band])


def test_threads_share_a_chipper(tmp_path: Path) -> None:
    chipper, wanted = many(tmp_path)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(chipper)), 8)).tolist()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(chipper.__getitem__, order))
    assert_same(found, [wanted[i] for i in order])
    chipper.close()
    assert_same([chipper[3]], [wanted[3]])


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_close_closes_the_files_of_all_threads(tmp_path: Path) -> None:
    chipper, wanted = many(tmp_path)
    chipper.close()
    before = open_files()
    together = threading.Barrier(3)

    def work(i: int) -> dict[str, Any]:
        together.wait(20)  # each on a thread of its own
        return chipper[i]

    with ThreadPoolExecutor(3) as pool:
        assert_same(list(pool.map(work, range(3))), wanted[:3])
        assert open_files() == before + 9
        chipper.close()
        assert open_files() == before
        assert_same(list(pool.map(work, range(3))), wanted[:3])  # opened anew
        with chipper:
            assert_same([chipper[5]], [wanted[5]])
        assert open_files() == before


def _cut_all(chipper: Chipper, order: list[int], answer: Connection) -> None:
    answer.send([chipper[i] for i in order])


def test_a_fork_does_not_share_the_parents_files(tmp_path: Path) -> None:
    """Parent and children read at once; a shared file position would mix up their pixels.

    The parent is a fresh process: in one with other tests' threads, a child may wait for a lock that nobody lets go of.
    """
    parent = mp.get_context("spawn").Process(target=_read_with_forked_children, args=(tmp_path,))
    parent.start()
    parent.join(240)
    if parent.is_alive():
        parent.kill()
    assert parent.exitcode == 0


def _read_with_forked_children(folder: Path) -> None:
    chipper, wanted = many(folder)
    context = mp.get_context("fork")
    jobs = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(chipper)).tolist()
        here, there = context.Pipe()
        child = context.Process(target=_cut_all, args=(chipper, order, there), daemon=True)
        child.start()
        jobs.append((child, here, order))
    assert_same([chipper[i] for i in range(len(chipper))], wanted)
    for child, here, order in jobs:
        assert here.poll(60)
        assert_same(here.recv(), [wanted[i] for i in order])
        child.join(60)
        assert child.exitcode == 0
    assert_same([chipper[0]], [wanted[0]])


def test_many_files_are_not_all_kept_open(tmp_path: Path) -> None:
    grid = scenes.utm_grid(20, 1.0, epsg=26914)
    items = [scenes.naip_scene(tmp_path, grid=grid, item_id=f"n{i:02}", seed=i) for i in range(70)]
    parts = [Indexer(item, chip_size=20, local_roots=[tmp_path]).create_index() for item in items]
    table = pa.concat_tables([part.table for part in parts])
    all_scenes = {key: scene for part in parts for key, scene in part.scenes.items()}
    chipper = Chipper(ChipIndex(table, all_scenes, parts[0].specs, (str(tmp_path),)), ["red"])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for item, (_, chip) in zip(items, chipper, strict=True):
        np.testing.assert_array_equal(chip["red"], full(item, "image")[:1])
    assert 10 <= len(list(Path("/proc/self/fd").iterdir())) - before <= 60
    chipper.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_local_files_are_read_below_the_roots_alone(tmp_path: Path) -> None:
    folder, other = tmp_path / "scenes", tmp_path / "other"
    other.mkdir()
    _, index = naip_index(folder)
    (scene,) = index.scenes.values()
    assert scene.assets[0].href == "ok_m_3409901_nw_14_1_20100425/image.tif", "relative to the root, no machine's path"
    index.write(tmp_path / "index.parquet")
    assert str(folder).encode() not in (tmp_path / "index.parquet").read_bytes()
    again = ChipIndex.read(tmp_path / "index.parquet")
    message = r"item ok_m_.*asset 'image'.*may not be read.*local_roots"
    with pytest.raises(HrefRefusedError, match=message):
        Chipper(again)[0]
    with pytest.raises(ReadError, match=r"item ok_m_.*asset 'image'.*is not there"):
        Chipper(again, local_roots=[other])[0]
    found = Chipper(again, local_roots=[other, folder])[0]["image"]
    np.testing.assert_array_equal(found, Chipper(index)[0]["image"])


def test_a_link_out_of_the_root_is_not_followed(tmp_path: Path) -> None:
    item, index = naip_index(tmp_path / "scenes")
    path = Path(item["assets"]["image"]["href"])
    outside = tmp_path / "secret.tif"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(HrefRefusedError, match=r"item ok_m_.*asset 'image'"):
        Chipper(index)[0]


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(200))
    index = Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index()
    chipper = Chipper(index, ["red", "nir"])
    first = chipper[0]
    chipper.close()
    Path(item["assets"]["nir"]["href"]).unlink()
    with pytest.raises(ReadError, match=r"item S2B_32TMT.*asset 'nir'"):
        chipper[1]
    np.testing.assert_array_equal(Chipper(index, ["red"])[0]["red"], first["red"])


@pytest.mark.parametrize("damage", ["truncated", "html", "empty"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    item = scenes.sentinel2_scene(tmp_path, grid=scenes.utm_grid(600))
    index = Indexer(item, chip_size=100, local_roots=[tmp_path]).create_index()
    path = Path(item["assets"]["nir"]["href"])
    body = path.read_bytes()
    path.write_bytes({"truncated": body[: len(body) // 2], "html": b"<html>Sign in</html>", "empty": b""}[damage])
    with pytest.raises(ReadError, match=r"item S2B_32TMT.*asset 'nir' \(.*nir.tif\)") as found:
        list(Chipper(index, ["red", "nir"]))
    assert str(tmp_path) not in str(found.value)


def test_a_virtual_raster_is_not_opened_as_a_tiff(tmp_path: Path) -> None:
    """A VRT named .tif reads whatever file it names: only GeoTIFF and JPEG 2000 are tried."""
    item, index = naip_index(tmp_path)
    path = Path(item["assets"]["image"]["href"])
    target = tmp_path / "real.tif"
    path.rename(target)
    with rasterio.open(target) as raster, WarpedVRT(raster) as virtual:
        copy_raster(virtual, path, driver="VRT")
    assert b"VRTDataset" in path.read_bytes()
    with pytest.raises(ReadError, match=r"item ok_m_.*asset 'image'"):
        Chipper(index)[0]


def test_a_chipper_goes_to_another_process(tmp_path: Path) -> None:
    """As a data loader's workers take it where processes are spawned."""
    _, index = naip_index(tmp_path)
    with Chipper(index, ["red"]) as chipper:
        first = chipper[0]["red"]
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(chipper))[0]["red"], first)
