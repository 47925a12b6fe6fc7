"""Exact windows: every pixel of every chip is the pixel that numpy finds in the whole raster."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stacchip_core import (
    BandNotFoundError,
    ChipIndex,
    ChipNotFoundError,
    Chipper,
    CollectionProfile,
    Indexer,
    InputError,
    UnsupportedGridError,
)
from stacchip_core.index.grid import Edge
from stacchip_core.sources.raster import Grid
from tests import scenes
from tests.items import Header, Item, Raster, write_scene
from tests.oracles import expected, full

# Pixels of the band along one reference pixel, and reference pixels along one of the band; one of the two is 1.
RATIOS = {"one": (1, 1), "half": (1, 2), "third": (1, 3), "sixth": (1, 6), "twentieth": (1, 20),
          "double": (2, 1), "triple": (3, 1)}  # fmt: skip
PROFILE = CollectionProfile.model_validate(
    {
        "name": "stack",
        "reference": "one",
        "bands": [{"name": name, "asset": name} for name in RATIOS],
        "qa": {"kind": "nodata"},
    }
)
_numbers = itertools.count()


@dataclass(frozen=True)
class Cut:
    """A shape of raster and a way to cut it."""

    height: int
    width: int
    size: int
    stride: int
    edge: Edge


cuts = st.builds(
    Cut,
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    size=st.integers(1, 48),
    stride=st.integers(5, 48),
    edge=st.sampled_from(["drop", "pad"]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stacks")


@pytest.fixture(scope="module")
def sentinel2(folder: Path) -> Item:
    return scenes.sentinel2_scene(folder, grid=scenes.utm_grid(700))


def stack(folder: Path, grid: Grid) -> Item:
    """A scene of noise: one band per ratio, nodata 0 somewhere in each."""
    item_id = f"stack-{next(_numbers)}"
    rng = np.random.default_rng(abs(hash(grid.shape)))
    rasters = []
    for name, (up, down) in RATIOS.items():
        a, b, c, d, e, f = grid.transform
        k = down / up
        shape = (-(-grid.height * up // down), -(-grid.width * up // down))
        own = Grid(grid.crs, (a * k, b, c, d, e * k, f), *shape)
        pixels = rng.integers(0, 60_000, own.shape).astype(np.uint16)
        rasters.append(Raster(name, pixels, own, scenes.Layout(nodata=0.0, block=16, has_overviews=False)))
    properties = {
        "datetime": "2024-06-15T10:30:31Z",
        "proj:code": grid.crs,
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform),
    }
    return write_scene(folder, Header(item_id, "stacks", grid, properties), rasters)


def some(chipper: Chipper, count: int = 9) -> Iterator[tuple[dict[str, Any], dict[str, NDArray[Any]]]]:
    """Rows and chips spread over the table, first and last among them."""
    table = chipper.index.table.drop_columns(["geometry", "bbox"])
    for i in np.unique(np.linspace(0, len(chipper) - 1, count).astype(int)).tolist() if len(chipper) else ():
        yield table.slice(i, 1).to_pylist()[0], chipper[i]


@settings(max_examples=40, deadline=None)
@given(cut=cuts)
def test_every_pixel_is_that_of_the_whole_raster_at_any_ratio(folder: Path, cut: Cut) -> None:
    item = stack(folder, scenes.utm_grid(cut.height, width=cut.width))
    index = Indexer(
        item, chip_size=cut.size, stride=cut.stride, edge=cut.edge, profile=PROFILE, local_roots=[folder]
    ).create_index()
    pixels = {name: full(item, name) for name in RATIOS}
    fits = cut.height >= cut.size and cut.width >= cut.size
    assert (len(index) > 0) == (cut.edge == "pad" or fits)
    for row, chip in some(Chipper(index)):
        for name, ratio in RATIOS.items():
            np.testing.assert_array_equal(chip[name], expected(pixels[name], ratio, row))


@settings(max_examples=25, deadline=None)
@given(cut=cuts)
def test_masks_are_nodata_and_all_beyond_the_raster(folder: Path, cut: Cut) -> None:
    item = stack(folder, scenes.utm_grid(cut.height, width=cut.width))
    index = Indexer(item, chip_size=cut.size, stride=cut.stride, edge="pad", profile=PROFILE, local_roots=[folder])
    for row, chip in some(Chipper(index.create_index(), masked=True)):
        for name, ratio in RATIOS.items():
            wanted = expected(full(item, name), ratio, row)
            is_masked = np.ma.getmaskarray(chip[name])
            np.testing.assert_array_equal(is_masked, wanted == 0)
            np.testing.assert_array_equal(np.ma.filled(chip[name]), wanted)
            assert is_masked[:, row["valid_height"] :].all()
            assert is_masked[:, :, row["valid_width"] :].all()


@settings(max_examples=25, deadline=None)
@given(cut=cuts, step=st.sampled_from([20, 60]), times=st.integers(1, 2), edge=st.sampled_from(["drop", "pad"]))
def test_native_chips_are_plain_slices(folder: Path, cut: Cut, step: int, times: int, edge: Edge) -> None:
    item = stack(folder, scenes.utm_grid(cut.height, width=cut.width))
    size = 60 * times
    index = Indexer(item, chip_size=size, stride=step, edge=edge, profile=PROFILE, local_roots=[folder]).create_index()
    bands = [name for name, (_, down) in RATIOS.items() if step % down == 0]
    for row, chip in some(Chipper(index, bands, native=True)):
        for name in bands:
            up, down = RATIOS[name]
            whole = np.zeros((1, 400 * up, 400 * up), np.uint16)
            pixels = full(item, name)
            whole[:, : pixels.shape[1], : pixels.shape[2]] = pixels
            top, left, side = (row[key] * up // down for key in ("row_off", "col_off", "size_px"))
            np.testing.assert_array_equal(chip[name], whole[:, top : top + side, left : left + side])


def test_native_chips_of_96_px_are_slices_of_96_48_and_16(folder: Path, sentinel2: Item) -> None:
    index = Indexer(sentinel2, chip_size=96, local_roots=[folder]).create_index()
    chip = Chipper(index, ["red", "rededge1", "coastal", "scl"], native=True).chip(x=3, y=5)
    for band, side in {"red": 96, "rededge1": 48, "coastal": 16, "scl": 48}.items():
        wanted = full(sentinel2, band)[:, 5 * side : 6 * side, 3 * side : 4 * side]
        np.testing.assert_array_equal(chip[band], wanted)


@pytest.mark.parametrize(
    ("size", "stride", "message"),
    [
        (256, 256, r"band 'coastal', of which one is 6 pixels .* size 256 and stride 256 .* 252 or 258$"),
        (252, 126, None),
        (252, 100, r"band 'coastal'.*size 252 and stride 100"),
        (255, 255, r"band 'rededge1', of which one is 2 pixels .* 252 or 258$"),
    ],
)
def test_native_needs_whole_pixels_and_names_band_and_sizes(
    folder: Path, sentinel2: Item, size: int, stride: int, message: str | None
) -> None:
    index = Indexer(sentinel2, chip_size=size, stride=stride, local_roots=[folder]).create_index()
    chipper = Chipper(index, ["red", "rededge1", "coastal"], native=True)
    if message is None:
        assert chipper[0]["coastal"].shape == (1, size // 6, size // 6)
        return
    with pytest.raises(InputError, match=message):
        chipper[0]
    assert Chipper(index, ["red"], native=True)[0]["red"].shape == (1, size, size)


def test_rows_and_chips_agree_also_after_a_filter(folder: Path, sentinel2: Item) -> None:
    every = Indexer(sentinel2, chip_size=100, local_roots=[folder]).create_index()
    index = Indexer(sentinel2, chip_size=100, max_nodata=0.0, local_roots=[folder]).create_index()
    assert 0 < len(index) < len(every)
    chipper, red = Chipper(index, ["red"]), full(sentinel2, "red")
    assert len(chipper) == len(index) == len(list(chipper))
    for i, (row, chip) in enumerate(chipper):
        assert row["chip_id"] == index.table["chip_id"][i].as_py()
        assert "geometry" not in row and "bbox" not in row
        np.testing.assert_array_equal(chip["red"], expected(red, (1, 1), row))
        np.testing.assert_array_equal(chipper[i]["red"], chip["red"])
        np.testing.assert_array_equal(chipper.chip(row["chip_x"], row["chip_y"])["red"], chip["red"])
        assert chip["red"].all(), "a chip without nodata by the table has none in its pixels"


def test_rows_count_from_the_end_as_in_any_sequence(folder: Path, sentinel2: Item) -> None:
    index = Indexer(sentinel2, chip_size=256, local_roots=[folder]).create_index()
    chipper = Chipper(index, ["red"])
    np.testing.assert_array_equal(chipper[-1]["red"], chipper[len(index) - 1]["red"])
    np.testing.assert_array_equal(chipper[-len(index)]["red"], chipper[0]["red"])
    for i in (len(index), -len(index) - 1, 10**9):
        with pytest.raises(ChipNotFoundError, match=f"no row {i}: the index has 4 rows"):
            chipper[i]
        with pytest.raises(IndexError):
            chipper[i]


@pytest.mark.parametrize(("x", "y"), [(2, 0), (0, 2), (-1, 0), (0, -1), (10**6, 10**6)])
def test_a_chip_outside_the_grid_is_an_error_with_the_range(folder: Path, sentinel2: Item, x: int, y: int) -> None:
    index = Indexer(sentinel2, chip_size=256, local_roots=[folder]).create_index()
    with pytest.raises(ChipNotFoundError, match=rf"no chip \({x}, {y}\).*chip_x runs from 0 to 1, chip_y from 0 to 1"):
        Chipper(index).chip(x=x, y=y)


def test_an_index_without_rows_has_no_chips(folder: Path, sentinel2: Item) -> None:
    index = Indexer(sentinel2, chip_size=1024, local_roots=[folder]).create_index()
    chipper = Chipper(index)
    assert (len(chipper), list(chipper)) == (0, [])
    with pytest.raises(ChipNotFoundError, match="the index has no chips"):
        chipper.chip(0, 0)
    with pytest.raises(ChipNotFoundError, match="the index has 0 rows"):
        chipper[0]


def test_chips_survive_the_file(folder: Path, sentinel2: Item, tmp_path: Path) -> None:
    index = Indexer(sentinel2, chip_size=200, edge="pad", local_roots=[folder]).create_index()
    index.write(tmp_path / "scene.parquet")
    again = ChipIndex.read(tmp_path / "scene.parquet", local_roots=[str(folder)])
    for (row, chip), (row_again, chip_again) in zip(Chipper(index), Chipper(again), strict=True):
        assert row == row_again
        for band, pixels in chip.items():
            np.testing.assert_array_equal(pixels, chip_again[band])


def test_an_unknown_band_is_named_with_those_there_are(folder: Path, sentinel2: Item) -> None:
    index = Indexer(sentinel2, local_roots=[folder]).create_index()
    with pytest.raises(BandNotFoundError, match=r"item S2B_.*no band 'infrared'; there are coastal, blue, .*scl"):
        Chipper(index, ["red", "infrared"])


def two_scenes(folder: Path, one: Item, other: Item) -> ChipIndex:
    """One index of two items."""
    parts = [Indexer(item, chip_size=100, local_roots=[folder]).create_index() for item in (one, other)]
    table = pa.concat_tables([part.table for part in parts])
    return ChipIndex(table, {**parts[0].scenes, **parts[1].scenes}, parts[0].specs, (str(folder),))


def test_several_scenes_are_told_apart_by_item_id(folder: Path, tmp_path: Path) -> None:
    grid = scenes.utm_grid(200)
    one = scenes.sentinel2_scene(tmp_path, grid=grid, item_id="first", seed=1)
    other = scenes.sentinel2_scene(tmp_path, grid=grid, item_id="second", seed=2)
    chipper = Chipper(two_scenes(tmp_path, one, other), ["red"])
    for item in (one, other):
        wanted = full(item, "red")[:, 100:200, :100]
        np.testing.assert_array_equal(chipper.chip(0, 1, item_id=item["id"])["red"], wanted)
    with pytest.raises(InputError, match=r"2 chips are at \(0, 1\), of items first, second: pass item_id"):
        chipper.chip(0, 1)
    with pytest.raises(ChipNotFoundError, match="no item 'third' in the index; it has 2: first, second"):
        chipper.chip(0, 1, item_id="third")
    with pytest.raises(ChipNotFoundError, match=r"item first: no chip \(0, 2\)"):
        chipper.chip(0, 2, item_id="first")


def test_an_asset_640_m_off_is_refused_by_name(tmp_path: Path) -> None:
    grid = scenes.utm_grid(512)
    a, b, c, d, e, f = grid.transform
    shifted = Grid(grid.crs, (a, b, c + 640.0, d, e, f), *grid.shape)
    rasters = [Raster("one", scenes.ramp(grid.shape), grid), Raster("half", scenes.ramp(grid.shape), shifted)]
    item = write_scene(tmp_path, Header("off", "stacks", grid, {"datetime": "2024-06-15T10:30:31Z"}), rasters)
    index = Indexer(item, profile=PROFILE, local_roots=[tmp_path]).create_index()
    assert Chipper(index, ["one"])[0]["one"].shape == (1, 256, 256)
    with pytest.raises(
        UnsupportedGridError, match=r"item off: band 'half' is 512 x 512 .*not aligned .*resampling=\{'half'"
    ):
        Chipper(index)[0]
