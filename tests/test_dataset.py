"""Datasets: the chips that the Chipper cuts, each once, with a lock that names all they were made from."""

from __future__ import annotations

import hashlib
import json
import multiprocessing as mp
import pickle
import subprocess
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import rasterio

from stacchip_core import (
    ChipNotFoundError,
    Dataset,
    SpecError,
    Storage,
    Warehouse,
    materialize,
    select,
    stream,
)
from stacchip_core.chips.formats.table import IN_ONE_ARRAY, WRITERS
from stacchip_core.chips.lock import DatasetLock, spec_sha256
from stacchip_core.warehouse.store import open_store
from tests.scenes import sentinel2_scene, utm_grid
from tests.warehouses import RGBN, SIZE, cut, listing, made, scenes, spec

FORMATS = sorted(WRITERS)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the scenes lie."""
    folder = tmp_path_factory.mktemp("pixels")
    scenes(folder)
    return folder


@pytest.fixture(scope="module")
def warehouse(pixels: Path, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return made(pixels, tmp_path_factory.mktemp("warehouse"))


@pytest.mark.parametrize(
    ("form", "values"),
    [
        *((form, {"bands": RGBN, "max_nodata": 0.5}) for form in FORMATS),
        ("zarr", {"limit": 20}),
        ("zarr", {"bands": RGBN, "native": True, "limit": 9}),
        ("webdataset", {"bands": RGBN, "native": True, "limit": 9}),
        ("safetensors", {"bands": RGBN, "resampling": "bilinear", "limit": 4}),
    ],
    ids=[*FORMATS, "all-collections", "native", "native-webdataset", "bilinear"],
)
def test_a_dataset_holds_the_chips_that_the_chipper_cuts(
    warehouse: Warehouse, form: str, values: dict[str, Any]
) -> None:
    number = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:8]
    wanted = spec(name=f"parity-{form}-{number}", format=form, **values)
    expected = cut(warehouse, wanted)
    dataset = materialize(warehouse, wanted)
    assert len(dataset) == len(expected) == dataset.lock.chips
    assert dataset.lock.failures == 0
    seen = set()
    for row, chip in dataset:
        seen.add(row["chip_id"])
        assert list(chip) == list(dataset.lock.bands[row["collection"]])
        for band, found in expected[row["chip_id"]].items():
            assert np.array_equal(chip[band], found), (row["chip_id"], band)
            assert chip[band].dtype == found.dtype
    assert seen == set(expected)


@pytest.mark.parametrize("form", sorted(IN_ONE_ARRAY))
def test_native_bands_of_several_sizes_are_refused_where_a_format_has_one_array(
    warehouse: Warehouse, form: str
) -> None:
    wanted = spec(name=f"native-{form}", format=form, bands=RGBN, native=True)
    with pytest.raises(SpecError, match=rf"format '{form}' holds all bands of a chip in one array"):
        materialize(warehouse, wanted)


def test_a_shard_holds_one_collection_and_chips_keep_the_order_of_the_draw(warehouse: Warehouse) -> None:
    wanted = spec(name="order", limit=30)
    index = select(warehouse, wanted)
    dataset = materialize(warehouse, wanted)
    drawn = list(zip(index.table["collection"].to_pylist(), index.table["chip_id"].to_pylist(), strict=True))
    assert dataset.chips["chip_id"].to_pylist() == [chip for _, chip in sorted(drawn, key=lambda pair: pair[0])]
    by_shard = dataset.chips.group_by("shard").aggregate([("collection", "count_distinct"), ("offset", "max")])
    assert set(by_shard["collection_count_distinct"].to_pylist()) == {1}
    assert max(by_shard["offset_max"].to_pylist()) == 6
    assert [info.chips for info in dataset.lock.shards][:1] != []
    assert sum(info.chips for info in dataset.lock.shards) == len(dataset) == 30


def test_the_lock_names_what_it_was_made_from_and_every_byte(warehouse: Warehouse) -> None:
    dataset = materialize(warehouse, spec(name="lock", bands=RGBN, max_cloud=0.9))
    lock, folder = dataset.lock, Path(dataset.path)
    version = warehouse.combined("global")
    assert (lock.index.name, lock.index.version, lock.index.sha256) == ("global", version.version, version.sha256)
    assert lock.spec == spec(name="lock", bands=RGBN, max_cloud=0.9, version=version.version)
    assert lock.spec_sha256 == spec_sha256(lock.spec)
    assert lock.profiles == {"sentinel-2-l2a": "sentinel-2-l2a"}
    assert lock.bands == {"sentinel-2-l2a": ("red", "nir", "swir16", "coastal", "scl")}
    assert lock.radiometry == "raw"
    assert {"zarr", "numcodecs", "numpy", "rasterio", "stacchip-core"} <= set(lock.libraries)
    assert lock == DatasetLock.model_validate_json((folder / "dataset.json").read_text())
    assert lock.chips_key == f"chips-{lock.chips_sha256[:16]}.parquet"
    assert hashlib.sha256((folder / lock.chips_key).read_bytes()).hexdigest() == lock.chips_sha256
    for info in lock.shards:
        assert info.key is not None
        command = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
        shard = folder / info.key
        found = subprocess.run(["bash", "-c", command], cwd=shard, capture_output=True, text=True, check=True).stdout
        assert found.split()[0] == info.sha256
        assert sum(size for size, _ in listing(shard).values()) == info.size


def test_the_table_of_chips_is_geoparquet_with_the_columns_of_the_index(warehouse: Warehouse) -> None:
    import geopandas as gpd

    dataset = materialize(warehouse, spec(name="table", limit=12))
    frame = gpd.read_parquet(Path(dataset.path) / dataset.lock.chips_key)
    assert len(frame) == 12
    assert list(frame.columns[:5]) == ["chip_id", "shard", "offset", "status", "reason"]
    assert frame.crs.to_string() == "OGC:CRS84"
    assert {"collection", "item_id", "cloud_fraction", "grid_cell", "platform"} <= set(frame.columns)
    assert frame.geometry.is_valid.all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"index": "planet"}, "planet"),
        ({"version": 99}, "99"),
        ({"size": 64}, "size 96, stride 96, edge drop"),
        ({"collections": ["sentinel-2"]}, "did you mean 'sentinel-2-l2a'"),
        ({"bands": [{"collection": "sentinel-2-l2a", "bands": ["rde"]}]}, "no band 'rde', did you mean 'red'"),
        ({"datetime": "1999"}, "datetime 1999 leaves no chip"),
    ],
)
def test_what_the_index_does_not_hold_is_refused_before_anything_is_written(
    warehouse: Warehouse, values: dict[str, Any], message: str
) -> None:
    with pytest.raises((SpecError, KeyError), match=message):
        materialize(warehouse, spec(name="refused", **values))
    assert not (Path(warehouse.store.root) / "datasets/refused").exists()


def test_a_dataset_is_opened_by_path_and_travels_to_other_processes(warehouse: Warehouse) -> None:
    made_here = materialize(warehouse, spec(name="opened", limit=10))
    opened = Dataset.open(made_here.path)
    travelled = pickle.loads(pickle.dumps(made_here))
    for dataset in (opened, travelled):
        assert dataset.lock == made_here.lock
        found, expected = dataset[4], made_here[4]
        assert all(np.array_equal(found[band], expected[band]) for band in expected)
    assert repr(opened) == "Dataset('opened', global@1, 10 chips)"


@pytest.mark.parametrize("place", [10, -11, 10**9])
def test_places_outside_a_dataset_are_told_with_the_range(warehouse: Warehouse, place: int) -> None:
    dataset = materialize(warehouse, spec(name="ten", limit=10))
    with pytest.raises(ChipNotFoundError, match=rf"dataset 'ten': there is no chip {place}; they run from 0 to 9"):
        dataset[place]


def test_places_count_from_the_end_too(warehouse: Warehouse) -> None:
    dataset = materialize(warehouse, spec(name="ten", limit=10))
    last, expected = dataset[-1], dataset[9]
    assert all(np.array_equal(last[band], expected[band]) for band in expected)


@pytest.mark.parametrize("place", ["a", slice(0, 2), [0, 1], None, 1.5, np.float64(1)])
def test_a_chip_is_asked_for_by_a_whole_number(warehouse: Warehouse, place: Any) -> None:
    wanted = spec(name="ten", limit=10)
    for whose, chips in (("dataset", materialize(warehouse, wanted)), ("stream", stream(warehouse, wanted))):
        with pytest.raises(TypeError, match=rf"{whose} 'ten' gives a chip at a time: expected a whole number, found "):
            chips[place]
        assert chips[np.int64(1)].keys() == chips[True].keys()


def test_few_shards_are_kept_open(warehouse: Warehouse) -> None:
    dataset = materialize(warehouse, spec(name="many", shard_size=1, limit=20, format="npz"))
    for place in range(20):
        assert dataset[place]
    assert len(dataset._here.shards) == 8


def test_nothing_of_an_unreadable_chip_is_in_the_tables_it_is_not_in(warehouse: Warehouse) -> None:
    dataset = materialize(warehouse, spec(name="tables", limit=10))
    assert dataset.failures.num_rows == 0
    assert pc.all(pc.equal(dataset.chips["status"], "ok")).as_py()
    assert dataset.chips.num_rows == len(dataset)


@pytest.mark.server
def test_a_bucket_holds_the_same_bytes_as_a_folder(warehouse: Warehouse, pixels: Path, s3_endpoint: str) -> None:
    storage = Storage(endpoint=s3_endpoint)
    open_store("s3://datasets", storage).fs.mkdir("datasets")
    remote = made(pixels, "s3://datasets/warehouse", storage=storage)
    for form in ("zarr", "npz"):
        wanted = spec(name=f"bytes-{form}", format=form, limit=12)
        here, there = materialize(warehouse, wanted), materialize(remote, wanted)
        assert there.path == f"s3://datasets/warehouse/datasets/bytes-{form}"
        assert there.lock.shards == here.lock.shards
        assert there.lock.chips_sha256 == here.lock.chips_sha256
        for (row, chip), (same_row, same_chip) in zip(Dataset.open(there.path, storage), here, strict=True):
            assert row == same_row
            assert all(np.array_equal(chip[band], same_chip[band]) for band in same_chip)
        assert materialize(remote, wanted).lock == there.lock


def _read_all(dataset: Dataset, answer: Connection) -> None:
    answer.send([dataset[place]["red"] for place in range(len(dataset))])


@pytest.mark.server
@pytest.mark.parametrize("form", ["zarr", "npz"])
def test_a_dataset_on_a_bucket_opened_before_a_fork_is_read_in_the_child(
    pixels: Path, s3_endpoint: str, form: str
) -> None:
    """The parent is a fresh process: in one with other tests' threads, a child may wait for a lock for ever."""
    parent = mp.get_context("spawn").Process(target=_read_with_a_forked_child, args=(pixels, s3_endpoint, form))
    parent.start()
    parent.join(240)
    if parent.is_alive():
        parent.kill()
    assert parent.exitcode == 0


def _read_with_a_forked_child(pixels: Path, s3_endpoint: str, form: str) -> None:
    storage = Storage(endpoint=s3_endpoint)
    open_store(f"s3://forked-{form}", storage).fs.mkdir(f"forked-{form}")
    remote = made(pixels, f"s3://forked-{form}/warehouse", scenes(pixels)[:1], storage)
    dataset = materialize(remote, spec(limit=9, bands=RGBN, format=form))
    expected = [dataset[place]["red"] for place in range(len(dataset))]
    here, there = mp.Pipe()
    child = mp.get_context("fork").Process(target=_read_all, args=(dataset, there), daemon=True)
    child.start()
    assert here.poll(60)
    assert np.array_equal(here.recv(), expected)
    child.join(60)
    assert child.exitcode == 0
    assert np.array_equal(dataset[3]["red"], expected[3])


def test_chips_are_cut_from_the_form_of_the_item_that_their_rows_were_made_from(tmp_path: Path) -> None:
    """Reprocessed on a grid 96 pixels further west, the item was indexed anew at another chip size only."""
    grid = utm_grid(192)
    a, b, c, d, e, f = grid.transform
    first = sentinel2_scene(tmp_path / "first", grid=grid, seed=1, nodata_share=0)
    moved = replace(grid, transform=(a, b, c - 960, d, e, f))
    second = sentinel2_scene(tmp_path / "second", grid=moved, seed=2, nodata_share=0)
    second["properties"]["updated"] = "2025-01-01T00:00:00Z"
    warehouse = Warehouse(tmp_path / "warehouse", create=True, local_roots=[str(tmp_path)])
    warehouse.index_items([first], chip_size=SIZE)
    warehouse.index_items([second], chip_size=SIZE // 2)
    warehouse.merge("global", collections=warehouse.collections())
    for size, item in ((SIZE, first), (SIZE // 2, second)):
        wanted = spec(name=f"form-{size}", size=size, bands=[{"collection": "sentinel-2-l2a", "bands": ["red"]}])
        with rasterio.open(item["assets"]["red"]["href"]) as file:
            full = file.read()
        chips = list(materialize(warehouse, wanted))
        assert len(chips) == (192 // size) ** 2
        for row, chip in chips:
            col, top = row["col_off"], row["row_off"]
            assert np.array_equal(chip["red"], full[:, top : top + size, col : col + size])


def test_cubes_of_a_dataset_are_of_one_platform_each_and_swapped_where_that_is_asked_for(warehouse: Warehouse) -> None:
    """Clay's loader takes the folder of a cube for its platform, and `lat_norm` for what the switch puts there."""
    bands = [{"collection": "sentinel-2-l2a", "bands": ["red"]}, {"collection": "naip", "bands": ["red"]}]
    cubes: dict[bool, dict[tuple[str, ...], dict[str, Any]]] = {False: {}, True: {}}
    for swap, found in cubes.items():
        wanted = spec(name=f"clay-{str(swap).lower()}", bands=bands, format="npz", clay_v1_swap=swap, shard_size=4)
        dataset = materialize(warehouse, wanted)
        for info in dataset.lock.shards:
            assert info.key is not None and Path(info.key).parent.name == info.collection
            with np.load(Path(dataset.path) / info.key, allow_pickle=False) as cube:
                arrays = {name: cube[name] for name in ("pixels", "week_norm", "hour_norm", "lat_norm", "lon_norm")}
            assert {name: norm.shape for name, norm in arrays.items() if name != "pixels"} == dict.fromkeys(
                ("week_norm", "hour_norm", "lat_norm", "lon_norm"), (info.chips, 2)
            )
            ids = [row["chip_id"] for row in dataset.chips.to_pylist() if row["shard"] == info.number]
            assert {chip.split("/")[0] for chip in ids} == {info.collection}
            found[tuple(ids)] = arrays
    assert set(cubes[False]) == set(cubes[True])
    for chosen, plain in cubes[False].items():
        swapped = cubes[True][chosen]
        for name, other in (("lat_norm", "lon_norm"), ("lon_norm", "lat_norm"), ("pixels", "pixels")):
            assert np.array_equal(plain[name], swapped[other])
        assert not np.array_equal(plain["lat_norm"], plain["lon_norm"])
