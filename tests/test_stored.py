"""Stored shards: read by range, they are the files that were written."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.core.buffer import default_buffer_prototype

from stacchip_core.chips.stored import StoredFile, StoredShard, stored_sizes
from tests.faulty_store import memory_store

CONTENT = bytes(range(100))
STORE = memory_store()
STORE.write("a/file", CONTENT)


@given(st.lists(st.tuples(st.integers(-120, 120), st.sampled_from([0, 1, 2]), st.integers(0, 150)), max_size=8))
def test_seeking_and_reading_are_those_of_a_file_in_memory(steps: list[tuple[int, int, int]]) -> None:
    found, oracle = StoredFile(STORE, "a/file", len(CONTENT)), io.BytesIO(CONTENT)
    for offset, whence, count in steps:
        if whence == io.SEEK_SET and offset < 0:
            continue
        assert found.seek(offset, whence) == oracle.seek(offset, whence)
        assert found.read(count) == oracle.read(count)
        assert found.tell() == oracle.tell()


def test_sizes_are_those_of_the_files_of_one_shard() -> None:
    store = memory_store()
    for key, size in (("s/1.zarr/zarr.json", 3), ("s/1.zarr/red/c/0", 5), ("s/1.zarr-not", 7), ("s/2.npz", 9)):
        store.write(key, b"x" * size)
    assert stored_sizes(store, "s/1.zarr") == {"red/c/0": 5, "zarr.json": 3}
    assert stored_sizes(store, "s/2.npz") == {"": 9}
    assert stored_sizes(store, "s/3.npz") == {}


def shard() -> StoredShard:
    files = dict[str, zarr.core.buffer.Buffer]()
    group = zarr.create_group(zarr.storage.MemoryStore(files), zarr_format=3)
    for name in ("red", "nir"):
        group.create_array(name, data=np.arange(12).reshape(3, 4), chunks=(1, 4), shards=(3, 4))
    store = memory_store()
    for path, content in files.items():
        store.write(f"s/{path}", content.to_bytes())
    return StoredShard(store, "s", stored_sizes(store, "s"))


async def _all(names: AsyncIterator[str]) -> list[str]:
    return sorted([name async for name in names])


def test_any_zarr_reader_finds_its_way_in_a_stored_shard() -> None:
    found = shard()
    group = zarr.open_group(found, mode="r")
    assert sorted(group.array_keys()) == ["nir", "red"]
    for _, array in group.arrays():
        assert np.array_equal(array[:], np.arange(12).reshape(3, 4))
        assert np.array_equal(array[1:, 2], [6, 10])
    assert asyncio.run(_all(found.list_dir(""))) == ["nir", "red", "zarr.json"]
    assert asyncio.run(_all(found.list_dir("red"))) == ["c", "zarr.json"]
    assert asyncio.run(_all(found.list_prefix("red/z"))) == ["red/zarr.json"]
    assert asyncio.run(found.get("red/c/9/9", default_buffer_prototype())) is None


def test_a_stored_shard_is_never_written() -> None:
    found = shard()
    with pytest.raises(ValueError, match="read-only"):
        zarr.open_group(found, mode="a").create_array("new", shape=(1,), dtype="u1")
