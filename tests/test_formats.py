"""Every form of shards: what goes in comes out, chip by chip; equal chips give equal bytes, in any process."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import GzipCodec

from stacchip_core import CorruptWarehouseError, ReadError, SpecError
from stacchip_core.chips.formats.npz import write_npz
from stacchip_core.chips.formats.table import IN_ONE_ARRAY, SUFFIXES, WRITERS, open_shard, writer_of
from stacchip_core.chips.formats.zarr import ZarrRows, write_zarr
from stacchip_core.chips.shards import Files, Shard, ShardLabels, arrays_sha256, files_sha256, put
from stacchip_core.errors import ObjectNotFoundError, StoreError, TransientStoreError
from stacchip_core.warehouse.store import MemoryStore, Store, open_store
from tests.chip_rows import spec as chip_spec
from tests.data import REPO
from tests.faulty_store import memory_store

FORMATS = sorted(WRITERS)
DTYPES = ["uint8", "uint16", "int16", "int32", "float32", "float64"]


def labels(count: int, bands: dict[str, int], nodata: float | None = 0.0, size: int = 8) -> ShardLabels:
    """Labels for `count` chips; `bands` gives the number of layers of each."""
    return ShardLabels(
        collection="sentinel-2-l2a",
        chip_ids=tuple(f"sentinel-2-l2a/item/{size}-{size}-drop/{n}-0" for n in range(count)),
        crs=("EPSG:32632",) * count,
        transforms=tuple((10.0, 0.0, 600_000.1 + 80 * n, 0.0, -10.0, 5e6 / 3) for n in range(count)),
        size_px=size,
        layers={
            band: (band,) if layers == 1 else tuple(f"{band}-{n}" for n in range(1, layers + 1))
            for band, layers in bands.items()
        },
        nodata=dict.fromkeys(bands, (nodata,) * count),
        datetimes=tuple(f"2024-06-{1 + n:02d}T10:30:31.024000+00:00" for n in range(count)),
        centres=tuple((9.5 + n / 7, 45.25 - n / 3) for n in range(count)),
        split="train",
    )


def shard(count: int = 5, size: int = 8, dtype: str = "uint16", seed: int = 0, form: str = "zarr") -> Shard:
    """Two bands, of two sizes where the form can hold them."""
    rng = np.random.default_rng(seed)
    red = rng.integers(0, 200, (count, 1, size, size)).astype(dtype)
    other = size if form in IN_ONE_ARRAY else size // 2
    image = rng.integers(0, 200, (count, 4, other, other)).astype("uint8")
    return Shard(labels(count, {"red": 1, "image": 4}, size=size), {"red": red, "image": image})


def stored(folder: Path, files: Files, key: str) -> Store:
    store = open_store(folder)
    put(store, key, files)
    return store


def equal(found: Shard, expected: Shard) -> bool:
    same = [
        np.array_equal(found.arrays[b][:], expected.arrays[b][:], equal_nan=found.arrays[b][:].dtype.kind == "f")
        and found.arrays[b][:].dtype == expected.arrays[b][:].dtype
        for b in expected.arrays
    ]
    return found.labels == expected.labels and list(found.arrays) == list(expected.arrays) and all(same)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shards_read_back_equal_what_went_in(tmp_path: Path, form: str, dtype: str) -> None:
    written = shard(dtype=dtype, form=form)
    store = stored(tmp_path, WRITERS[form](written), "a/shard" + SUFFIXES[form])
    found = open_shard(store, "a/shard" + SUFFIXES[form], form)
    assert equal(found, written)
    assert len(found) == 5
    for offset in (3, 0, 4, 3):  # any order, twice
        chip = found.chip(offset)
        other = 8 if form in IN_ONE_ARRAY else 4
        assert {band: pixels.shape for band, pixels in chip.items()} == {"red": (1, 8, 8), "image": (4, other, other)}
        assert all(np.array_equal(chip[band], written.arrays[band][offset]) for band in chip)
        assert all(pixels.flags.writeable for pixels in chip.values())


@pytest.mark.parametrize("form", FORMATS)
def test_slices_of_a_stored_band_are_those_of_the_array(tmp_path: Path, form: str) -> None:
    written = shard(form=form)
    found = open_shard(stored(tmp_path, WRITERS[form](written), "s"), "s", form)
    for part in (slice(None), slice(1, 4), slice(4, 2), slice(0, 5, 2), slice(-2, None)):
        assert np.array_equal(found.arrays["red"][part], written.arrays["red"][part])


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 4),
    size=st.sampled_from([2, 8, 10]),
    dtype=st.sampled_from(DTYPES),
    nodata=st.sampled_from([None, 0.0, -32768.0, 255.0, 1e30, float("nan"), float("-inf"), 0.5]),
    form=st.sampled_from(FORMATS),
    seed=st.integers(0, 100),
)
def test_any_nodata_and_type_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    size: int,
    dtype: str,
    nodata: float | None,
    form: str,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 3, (count, 2, size, size)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        pixels[0, 0] = np.nan if nodata is None else nodata
    written = Shard(labels(count, {"b": 2}, nodata, size), {"b": pixels})
    store = stored(tmp_path_factory.mktemp("shards"), WRITERS[form](written), "s")
    found = open_shard(store, "s", form)
    assert np.array_equal(found.arrays["b"][:], pixels, equal_nan=pixels.dtype.kind == "f")
    if nodata is not None and np.isnan(nodata):
        assert np.isnan([value or 0 for value in found.labels.nodata["b"]]).all()
    else:
        assert found.labels == written.labels


def hashes_in_a_fresh_process() -> list[str]:
    code = (
        "from tests.test_formats import FORMATS, WRITERS, shard, files_sha256\n"
        "print(*[files_sha256(WRITERS[f](shard(16, 64, seed=3, form=f))) for f in FORMATS])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_equal_chips_give_equal_bytes_in_every_process() -> None:
    here = [files_sha256(WRITERS[form](shard(16, 64, seed=3, form=form))) for form in FORMATS]
    again = [files_sha256(WRITERS[form](shard(16, 64, seed=3, form=form))) for form in FORMATS for _ in range(5)]
    assert set(again) == set(here)
    assert hashes_in_a_fresh_process() == hashes_in_a_fresh_process() == here


def test_zarr_gives_one_inner_chunk_per_chip_and_one_file_per_band(tmp_path: Path) -> None:
    files = write_zarr(shard(6, 16))
    assert sorted(files) == ["image/c/0/0/0/0", "image/zarr.json", "red/c/0/0/0/0", "red/zarr.json", "zarr.json"]
    stored(tmp_path, files, "s.zarr")
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")  # as any user would
    red = group["red"]
    assert isinstance(red, zarr.Array)
    assert red.chunks == (1, 1, 16, 16)
    assert red.shards == red.shape == (6, 1, 16, 16)
    assert red.metadata.to_dict()["dimension_names"] == ("chip", "layer", "y", "x")
    codec = json.loads(bytes(files["red/zarr.json"][0]))["codecs"][0]["configuration"]["codecs"][1]
    assert codec["configuration"]["cname"] == "zstd"
    assert codec["configuration"]["shuffle"] == "bitshuffle"
    assert group.attrs["chip_ids"] == list(shard(6, 16).labels.chip_ids)
    assert group.attrs["crs"] == ["EPSG:32632"] * 6


def test_zarr_leaves_out_chips_of_nothing_but_nodata() -> None:
    full, empty = shard(8, 32), shard(8, 32)
    empty = Shard(full.labels, {band: np.zeros_like(rows[:]) for band, rows in full.arrays.items()})
    assert not any("/c/" in path for path in write_zarr(empty))


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64", "complex64"])
def test_a_chip_of_a_zarr_band_is_what_zarr_gives(dtype: str, compress: bool) -> None:
    written = shard(9, 16, dtype)
    for band in written.arrays.values():
        np.asarray(band)[2:5] = 0  # left out, as nothing but nodata
    store = memory_store()
    put(store, "s", write_zarr(written, compress=compress))
    for rows in open_shard(store, "s", "zarr").arrays.values():
        assert isinstance(rows, ZarrRows)
        assert rows._chunks is not None, "zarr has to read it"
        for offset in (*range(9), np.int64(3)):
            found, expected = rows[offset], np.asarray(rows.array[offset])
            assert found.dtype == expected.dtype
            assert found.flags.writeable
            assert np.array_equal(found, expected)
        assert np.array_equal(rows[2:7], np.asarray(rows.array[2:7]))
        with pytest.raises(IndexError):
            rows[9]


@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": (1, 1, 8, 8)},
        {"chunks": (2, 1, 8, 8), "shards": (4, 1, 8, 8)},
        {"chunks": (1, 1, 8, 8), "shards": (4, 1, 8, 8), "compressors": GzipCodec()},
        {"chunks": (1, 1, 8, 8), "shards": {"shape": (4, 1, 8, 8), "index_location": "start"}},
    ],
    ids=str,
)
def test_zarr_arrays_of_another_make_are_left_to_zarr(tmp_path: Path, layout: dict[str, Any]) -> None:
    group = zarr.create_group(tmp_path / "s", attributes=labels(4, {"red": 1}).to_dict())
    pixels = np.arange(4 * 64, dtype="uint16").reshape(4, 1, 8, 8)
    group.create_array("red", data=pixels, **layout)
    rows = open_shard(open_store(tmp_path), "s", "zarr").arrays["red"]
    assert isinstance(rows, ZarrRows)
    assert rows._chunks is None
    assert all(np.array_equal(rows[offset], pixels[offset]) for offset in range(4))


def test_a_damaged_index_of_a_zarr_file_gives_no_wrong_chip() -> None:
    store, written = memory_store(), shard(3)
    put(store, "s", write_zarr(written))
    key, size = "s/red/c/0/0/0/0", 3 * 16 + 4
    content, told = store.read(key), 0
    for at in range(len(content) - size, len(content)):
        store.write(key, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        for offset in range(3):
            try:
                found = open_shard(store, "s", "zarr").arrays["red"][offset]
            except ValueError:  # zarr's checksum tells
                told += 1
            else:
                assert np.array_equal(found, written.arrays["red"][offset])
    assert told >= 3 * 3 * 16


def test_npz_is_plain_numpy_without_pickle_or_times() -> None:
    written = shard(form="npz")
    content = b"".join(write_npz(written)[""])
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        assert np.array_equal(archive["pixels"][:, :1], written.arrays["red"][:])
        assert np.array_equal(archive["pixels"][:, 1:], written.arrays["image"][:])
        about = json.loads(archive["metadata.json"])
    assert about["chip_ids"] == list(written.labels.chip_ids)
    assert about["transforms"][1] == list(written.labels.transforms[1])
    with zipfile.ZipFile(io.BytesIO(content)) as archive_:
        assert {entry.date_time for entry in archive_.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_truncated_npz_is_told_not_returned(tmp_path: Path) -> None:
    store = stored(tmp_path, write_npz(shard(form="npz")), "s.npz")
    found = open_shard(store, "s.npz", "npz")
    path = tmp_path / "s.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CorruptWarehouseError, match=r"chips 4\.\.4 are \d+ bytes, expected 128"):
        found.chip(4)


def test_checksums_tell_pixels_ids_and_order_apart_but_not_formats(tmp_path: Path) -> None:
    whole = shard(form="npz")
    for form in FORMATS:
        found = open_shard(stored(tmp_path / form, WRITERS[form](whole), "s"), "s", form)
        assert arrays_sha256(found) == arrays_sha256(whole)
    written = shard()
    expected = arrays_sha256(written)
    for form in set(FORMATS) - IN_ONE_ARRAY:
        assert (
            arrays_sha256(open_shard(stored(tmp_path / form / "2", WRITERS[form](written), "s"), "s", form)) == expected
        )
    red: NDArray[np.uint16] = np.array(written.arrays["red"])
    red[2, 0, 3, 3] += 1
    others = [
        Shard(written.labels, {**written.arrays, "red": red}),
        Shard(labels(5, {"red": 1, "image": 4}, size=16), written.arrays),
        Shard(written.labels, {band: rows[::-1] for band, rows in written.arrays.items()}),
        Shard(written.labels, {band: written.arrays[band] for band in ("image", "red")}),
        Shard(written.labels, {**written.arrays, "red": np.array(written.arrays["red"]).astype("int32")}),
    ]
    assert len({expected, *map(arrays_sha256, others)}) == 6


def test_a_shard_of_many_files_has_the_checksum_of_their_listing(tmp_path: Path) -> None:
    files = write_zarr(shard())
    stored(tmp_path, files, "s.zarr")
    command = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    run = subprocess.run(["bash", "-c", command], cwd=tmp_path / "s.zarr", capture_output=True, text=True, check=True)
    assert run.stdout.split()[0] == files_sha256(files)


def test_memory_store_reads_the_same() -> None:
    store = open_store("memory://shards-test")
    for form in FORMATS:
        written = shard(form=form)
        put(store, f"{form}/s", WRITERS[form](written))
        assert equal(open_shard(store, f"{form}/s", form), written)


@pytest.mark.parametrize("form", FORMATS)
def test_nodata_that_differs_between_items_is_told_chip_by_chip(tmp_path: Path, form: str) -> None:
    values = (0.0, None, float("inf"), -32768.0, 0.0)
    bands = {"red": values, "image": (7.0,) * 5}
    written = replace(shard(form=form), labels=replace(shard(form=form).labels, nodata=bands))
    store = stored(tmp_path, WRITERS[form](written), "s")
    found = open_shard(store, "s", form)
    assert found.labels.nodata == bands
    assert equal(found, written)
    plain = written.labels.to_dict()["nodata"]
    assert plain == {"red": [0.0, None, "inf", -32768.0, 0.0], "image": 7.0}


class Failing(MemoryStore):
    """A store that is there, until `error` is set."""

    error: type[StoreError] | None = None

    def _check(self) -> None:
        if self.error is not None:
            raise self.error("the store says no")

    def read(self, key: str) -> bytes:
        self._check()
        return super().read(key)

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        self._check()
        return super().read_range(key, start, stop)


@pytest.mark.parametrize("error", [StoreError, TransientStoreError, ObjectNotFoundError])
@pytest.mark.parametrize("form", FORMATS)
def test_storage_that_fails_is_our_error_and_never_nodata(form: str, error: type[StoreError]) -> None:
    plain = memory_store()
    store = Failing(plain.root, plain.path("x").removesuffix("/x"), plain.fs)
    put(store, "s", WRITERS[form](shard(form=form)))
    found = open_shard(store, "s", form)
    store.error = error
    with pytest.raises(error, match="the store says no"):
        found.chip(2)
    with pytest.raises(error, match="the store says no"):
        open_shard(store, "s", form)
    store.error = None
    assert equal(found, shard(form=form))


def test_a_chip_of_a_zarr_band_is_one_request_once_its_shard_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_store()
    put(store, "s", write_zarr(shard()))
    found = open_shard(store, "s", "zarr")
    assert found.chip(0)
    read_range, asked = store.read_range, list[str]()

    def counted(key: str, start: int, stop: int) -> bytes:
        asked.append(key)
        return read_range(key, start, stop)

    monkeypatch.setattr(store, "read_range", counted)
    assert found.chip(3)
    assert sorted(asked) == ["s/image/c/0/0/0/0", "s/red/c/0/0/0/0"]


def test_safetensors_opens_our_shards(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors", reason="the extra safetensors is not installed")
    written = shard(dtype="float64")
    stored(tmp_path, WRITERS["safetensors"](written), "s.safetensors")
    with safetensors.safe_open(tmp_path / "s.safetensors", "np") as file:
        assert {*file.keys()} == {"red", "image"}
        for band, rows in written.arrays.items():
            assert np.array_equal(file.get_tensor(band), rows[:])
        assert json.loads(file.metadata()["stacchip"])["chip_ids"] == list(written.labels.chip_ids)


def test_safetensors_has_no_complex_numbers() -> None:
    with pytest.raises(SpecError, match="band 'red' is complex64, which safetensors has no name for; take zarr"):
        WRITERS["safetensors"](shard(dtype="complex64"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of webdataset's own: it leaves the archive to the collector
def test_webdataset_reads_our_shards_in_a_row(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the extra webdataset is not installed")
    written = shard()
    stored(tmp_path, WRITERS["webdataset"](written), "s.tar")
    samples = list(webdataset.WebDataset(str(tmp_path / "s.tar"), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [f"{place:08d}" for place in range(5)]
    for place, sample in enumerate(samples):
        assert all(np.array_equal(sample[f"{band}.npy"], rows[place]) for band, rows in written.arrays.items())
        assert sample["json"]["chip_id"] == written.labels.chip_ids[place]
        assert sample["json"]["transform"] == list(written.labels.transforms[place])
        assert sample["json"]["crs"] == "EPSG:32632"


def test_a_tar_says_nothing_of_when_and_by_whom(tmp_path: Path) -> None:
    stored(tmp_path, WRITERS["webdataset"](shard()), "s.tar")
    with tarfile.open(tmp_path / "s.tar") as archive:
        members = archive.getmembers()
    assert [member.name for member in members[:3]] == ["00000000.red.npy", "00000000.image.npy", "00000000.json"]
    assert {(one.mtime, one.uid, one.gid, one.uname, one.gname) for one in members} == {(0, 0, 0, "", "")}


def test_geotiff_chips_lie_where_their_labels_say(tmp_path: Path) -> None:
    written = shard(form="geotiff")
    stored(tmp_path, WRITERS["geotiff"](written), "s")
    for place, (transform, chip_id) in enumerate(zip(written.labels.transforms, written.labels.chip_ids, strict=True)):
        with rasterio.open(tmp_path / f"s/{place:05d}.tif") as file:
            assert file.crs == rasterio.crs.CRS.from_epsg(32632)
            assert tuple(file.transform)[:6] == pytest.approx(transform, abs=1e-6)
            assert file.descriptions == ("red", "image-1", "image-2", "image-3", "image-4")
            assert (file.nodata, file.tags()["chip_id"]) == (0, chip_id)
            assert np.array_equal(file.read(1), written.arrays["red"][place][0])


def test_chips_of_other_pixels_than_the_grid_lie_on_the_same_ground(tmp_path: Path) -> None:
    whole = shard(form="geotiff")
    coarse = Shard(whole.labels, {band: rows[:, :, ::2, ::2] for band, rows in whole.arrays.items()})
    stored(tmp_path, WRITERS["geotiff"](coarse), "s")
    with rasterio.open(tmp_path / "s/00000.tif") as file:
        assert file.shape == (4, 4)
        assert file.transform.a == 20
        assert (file.bounds.right - file.bounds.left, file.bounds.top - file.bounds.bottom) == pytest.approx((80, 80))


@pytest.mark.parametrize("form", sorted(IN_ONE_ARRAY))
def test_forms_of_one_array_refuse_bands_of_several_sizes(form: str) -> None:
    with pytest.raises(SpecError, match=rf"format '{form}' .* differ in size \(red 8 x 8, image 4 x 4\): leave native"):
        WRITERS[form](shard())


@pytest.mark.parametrize("swap", [False, True])
def test_cubes_are_what_clays_loader_takes(swap: bool) -> None:
    """Its documented contract: keys, shapes, kinds and ranges; pixels become float32, the norms are stacked."""
    written = shard(6, 16, form="npz")
    content = b"".join(write_npz(written, clay_v1_swap=swap)[""])
    with np.load(io.BytesIO(content), allow_pickle=False) as cube:
        assert cube["pixels"].shape == (6, 5, 16, 16)
        assert np.array_equal(cube["pixels"].astype(np.float32)[:, 0], written.arrays["red"][:, 0])
        norms = {name: cube[name] for name in ("week_norm", "hour_norm", "lat_norm", "lon_norm")}
    for norm in norms.values():
        assert (norm.shape, norm.dtype) == ((6, 2), np.float32)
        assert np.abs(norm).max() <= 1
        assert np.allclose((norm**2).sum(axis=1), 1)
    assert np.hstack((norms["week_norm"], norms["hour_norm"]), dtype=np.float32).shape == (6, 4)
    lat, lon = ("lon_norm", "lat_norm") if swap else ("lat_norm", "lon_norm")
    for place, (longitude, latitude) in enumerate(written.labels.centres):
        assert norms[lat][place] == pytest.approx([math.sin(math.radians(latitude)), math.cos(math.radians(latitude))])
        assert norms[lon][place] == pytest.approx(
            [math.sin(math.radians(longitude)), math.cos(math.radians(longitude))]
        )
    week, hour = 22 * 2 * math.pi / 52, 10 * 2 * math.pi / 24  # 1 June 2024 is in ISO week 22; 10:30 UTC
    assert norms["week_norm"][0] == pytest.approx([math.sin(week), math.cos(week)], abs=1e-6)
    assert norms["hour_norm"][0] == pytest.approx([math.sin(hour), math.cos(hour)], abs=1e-6)


def test_options_of_a_format_reach_its_writer() -> None:
    zarr_spec, npz = chip_spec(compress=False), chip_spec(format="npz", clay_v1_swap=True)
    codecs = json.loads(bytes(writer_of(zarr_spec)(shard())["red/zarr.json"][0]))["codecs"][0]["configuration"][
        "codecs"
    ]
    assert [codec["name"] for codec in codecs] == ["bytes"]
    assert writer_of(npz)(shard(form="npz")) == write_npz(shard(form="npz"), clay_v1_swap=True)
    assert writer_of(npz)(shard(form="npz")) != write_npz(shard(form="npz"))
    plain = writer_of(chip_spec(format="geotiff", compress=False))(shard(size=64, form="geotiff"))
    with rasterio.MemoryFile(bytes(plain["00000.tif"][0])) as file, file.open() as dataset:
        assert dataset.compression is None


@pytest.mark.parametrize("form", ["zarr", "geotiff"])
def test_chips_that_are_not_compressed_read_back_too(tmp_path: Path, form: str) -> None:
    written = shard(form=form)
    files = writer_of(chip_spec(format=form, compress=False))(written)
    assert equal(open_shard(stored(tmp_path, files, "s"), "s", form), written)


def test_no_shard_is_ever_unpickled(tmp_path: Path) -> None:
    """An npz with pickled objects in place of pixels is an error."""
    harmful = io.BytesIO()
    about = shard(form="npz").labels.to_dict() | {"dtypes": {}}
    np.savez(harmful, pixels=np.array([{"a": 1}], dtype=object))
    with zipfile.ZipFile(harmful) as old, zipfile.ZipFile(tmp_path / "s.npz", "w") as new:
        new.writestr("pixels.npy", old.read("pixels.npy"))
        new.writestr("metadata.json", json.dumps(about))
    with pytest.raises(CorruptWarehouseError, match=r"pixels\.npy is not a plain, uncompressed array"):
        open_shard(open_store(tmp_path), "s.npz", "npz")


def test_a_tar_of_another_is_told(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(CorruptWarehouseError, match="no tar archive"):
        open_shard(open_store(tmp_path), "s.tar", "webdataset")
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        archive.add(tmp_path / "s.tar", "x")
    with pytest.raises(CorruptWarehouseError, match=r"does not begin with STACCHIP\.labels"):
        open_shard(open_store(tmp_path), "t.tar", "webdataset")


def test_a_file_cut_short_is_told(tmp_path: Path) -> None:
    (tmp_path / "s.safetensors").write_bytes((10**9).to_bytes(8, "little") + b"{}")
    with pytest.raises(CorruptWarehouseError, match="1000000000 bytes of header in a file of 10"):
        open_shard(open_store(tmp_path), "s.safetensors", "safetensors")
    store = stored(tmp_path, WRITERS["geotiff"](shard(form="geotiff")), "g")
    found = open_shard(store, "g", "geotiff")
    path = tmp_path / "g/00003.tif"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ReadError, match=r"g/00003\.tif is no whole GeoTIFF"):
        found.chip(3)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("band", ["zürich", "b" * 120, "a b", "rot.grün"])
def test_bands_of_any_name_come_back(form: str, band: str) -> None:
    written = shard(form=form)
    renamed = Shard(
        replace(
            written.labels,
            layers={band: (band,), "image": written.labels.layers["image"]},
            nodata={band: written.labels.nodata["red"], "image": written.labels.nodata["image"]},
        ),
        {band: written.arrays["red"], "image": written.arrays["image"]},
    )
    store = memory_store()
    put(store, "s", WRITERS[form](renamed))
    found = open_shard(store, "s", form)
    for offset in range(len(renamed)):
        assert np.array_equal(found.chip(offset)[band], np.asarray(renamed.arrays[band])[offset])
        assert np.array_equal(found.chip(offset)["image"], np.asarray(renamed.arrays["image"])[offset])
