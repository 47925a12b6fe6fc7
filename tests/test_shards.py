"""Shards: what goes in comes out, chip by chip; equal chips give equal bytes, in any process."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stacchip_core import CorruptWarehouseError
from stacchip_core.chips.shards import (
    SUFFIXES,
    WRITERS,
    Files,
    Shard,
    ShardLabels,
    arrays_sha256,
    files_sha256,
    open_shard,
    write_npz,
    write_zarr,
)
from stacchip_core.errors import ObjectNotFoundError, StoreError, TransientStoreError
from stacchip_core.warehouse.store import MemoryStore, Store, open_store
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
    )


def shard(count: int = 5, size: int = 8, dtype: str = "uint16", seed: int = 0) -> Shard:
    rng = np.random.default_rng(seed)
    red = rng.integers(0, 200, (count, 1, size, size)).astype(dtype)
    image = rng.integers(0, 200, (count, 4, size // 2, size // 2)).astype("uint8")
    return Shard(labels(count, {"red": 1, "image": 4}, size=size), {"red": red, "image": image})


def stored(folder: Path, files: Files, key: str) -> Store:
    store = open_store(folder)
    for path, content in files.items():
        store.write(f"{key}/{path}" if path else key, content)
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
    written = shard(dtype=dtype)
    store = stored(tmp_path, WRITERS[form](written), "a/shard" + SUFFIXES[form])
    found = open_shard(store, "a/shard" + SUFFIXES[form], form)
    assert equal(found, written)
    assert len(found) == 5
    for offset in (3, 0, 4, 3):  # any order, twice
        chip = found.chip(offset)
        assert {band: pixels.shape for band, pixels in chip.items()} == {"red": (1, 8, 8), "image": (4, 4, 4)}
        assert all(np.array_equal(chip[band], written.arrays[band][offset]) for band in chip)
        assert all(pixels.flags.writeable for pixels in chip.values())


@pytest.mark.parametrize("form", FORMATS)
def test_slices_of_a_stored_band_are_those_of_the_array(tmp_path: Path, form: str) -> None:
    written = shard()
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
        "from tests.test_shards import FORMATS, WRITERS, shard, files_sha256\n"
        "print(*[files_sha256(WRITERS[f](shard(64, 64, seed=3))) for f in FORMATS])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_equal_chips_give_equal_bytes_in_every_process() -> None:
    here = [files_sha256(WRITERS[form](shard(64, 64, seed=3))) for form in FORMATS]
    again = [files_sha256(WRITERS[form](shard(64, 64, seed=3))) for form in FORMATS for _ in range(5)]
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
    codec = json.loads(files["red/zarr.json"])["codecs"][0]["configuration"]["codecs"][1]
    assert codec["configuration"]["cname"] == "zstd"
    assert codec["configuration"]["shuffle"] == "bitshuffle"
    assert group.attrs["chip_ids"] == list(shard(6, 16).labels.chip_ids)
    assert group.attrs["crs"] == ["EPSG:32632"] * 6


def test_zarr_leaves_out_chips_of_nothing_but_nodata() -> None:
    full, empty = shard(8, 32), shard(8, 32)
    empty = Shard(full.labels, {band: np.zeros_like(rows[:]) for band, rows in full.arrays.items()})
    assert not any("/c/" in path for path in write_zarr(empty))


def test_npz_is_plain_numpy_without_pickle_or_times() -> None:
    written = shard()
    content = write_npz(written)[""]
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        assert np.array_equal(archive["red"], written.arrays["red"][:])
        about = json.loads(archive["metadata.json"])
    assert about["chip_ids"] == list(written.labels.chip_ids)
    assert about["transforms"][1] == list(written.labels.transforms[1])
    with zipfile.ZipFile(io.BytesIO(content)) as archive_:
        assert {entry.date_time for entry in archive_.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_truncated_npz_is_told_not_returned(tmp_path: Path) -> None:
    store = stored(tmp_path, write_npz(shard()), "s.npz")
    found = open_shard(store, "s.npz", "npz")
    path = tmp_path / "s.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CorruptWarehouseError, match=r"chips 4\.\.4 are \d+ bytes, expected 128"):
        found.chip(4)


def test_checksums_tell_pixels_ids_and_order_apart_but_not_formats(tmp_path: Path) -> None:
    written = shard()
    expected = arrays_sha256(written)
    for form in FORMATS:
        assert arrays_sha256(open_shard(stored(tmp_path / form, WRITERS[form](written), "s"), "s", form)) == expected
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
    written = shard()
    store = open_store("memory://shards-test")
    for form in FORMATS:
        for path, content in WRITERS[form](written).items():
            store.write(f"{form}/s/{path}" if path else f"{form}/s", content)
        assert equal(open_shard(store, f"{form}/s", form), written)


@pytest.mark.parametrize("form", FORMATS)
def test_nodata_that_differs_between_items_is_told_chip_by_chip(tmp_path: Path, form: str) -> None:
    values = (0.0, None, float("inf"), -32768.0, 0.0)
    bands = {"red": values, "image": (7.0,) * 5}
    written = replace(shard(), labels=replace(shard().labels, nodata=bands))
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
    for path, content in WRITERS[form](shard()).items():
        store.write(f"s/{path}" if path else "s", content)
    found = open_shard(store, "s", form)
    store.error = error
    with pytest.raises(error, match="the store says no"):
        found.chip(2)
    with pytest.raises(error, match="the store says no"):
        open_shard(store, "s", form)
    store.error = None
    assert equal(found, shard())


def test_a_chip_of_a_zarr_band_is_one_request_once_its_shard_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_store()
    for path, content in write_zarr(shard()).items():
        store.write(f"s/{path}", content)
    found = open_shard(store, "s", "zarr")
    assert found.chip(0)
    read_range, asked = store.read_range, list[str]()

    def counted(key: str, start: int, stop: int) -> bytes:
        asked.append(key)
        return read_range(key, start, stop)

    monkeypatch.setattr(store, "read_range", counted)
    assert found.chip(3)
    assert sorted(asked) == ["s/image/c/0/0/0/0", "s/red/c/0/0/0/0"]
