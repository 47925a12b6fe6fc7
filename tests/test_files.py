"""Readers take no byte that is not the one committed, whichever pieces of a file they ask for."""

from __future__ import annotations

import base64
import multiprocessing
import threading
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stacchip_core.errors import CorruptWarehouseError
from stacchip_core.warehouse import files
from stacchip_core.warehouse.entry import FileInfo
from stacchip_core.warehouse.files import ProvenFile, naming, open_parquet, proven_filesystem, publish
from stacchip_core.warehouse.store import MemoryStore
from tests.faulty_store import memory_store

PATH = "collections/s2/data/a-0.parquet"
TABLE = pa.table({"key": [f"k{n:05d}" for n in range(3000)], "x": np.arange(3000.0), "y": np.arange(3000) % 7})


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small files have many blocks, and are not fetched whole."""
    monkeypatch.setattr(files, "BLOCK_BYTES", 512)
    monkeypatch.setattr(files, "WHOLE_BYTES", 1024)


def written(store: MemoryStore, body: bytes) -> FileInfo:
    def write(local: Path) -> None:
        local.write_bytes(body)

    return publish(store, FileInfo(PATH, "data", 0, "", 0), write)


def table_file(store: MemoryStore) -> FileInfo:
    draft = FileInfo(PATH, "data", 0, "", len(TABLE))
    return publish(store, draft, lambda local: pq.write_table(TABLE, local, row_group_size=500))


def scan(store: MemoryStore, info: FileInfo, columns: list[str] | None = None, above: float | None = None) -> pa.Table:
    filesystem, layout = proven_filesystem(store, [info]), ds.ParquetFileFormat()
    fragment = layout.make_fragment(store.path(info.path), filesystem)
    dataset = ds.FileSystemDataset([fragment], TABLE.schema, layout, filesystem)
    return dataset.to_table(columns=columns, filter=None if above is None else ds.field("x") > above)


def test_a_file_is_described_by_a_sum_of_each_block() -> None:
    body = bytes(range(256)) * 5
    info = written(memory_store(), body)
    sums = [zlib.crc32(body[at : at + 512]) for at in range(0, len(body), 512)]
    assert base64.b64decode(info.blocks) == np.array(sums, ">u4").tobytes()
    assert info.size == 1280


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 4000), st.lists(st.tuples(st.integers(0, 4100), st.integers(-1, 4100)), min_size=1, max_size=8))
def test_pieces_read_in_any_order_are_those_of_the_file(size: int, pieces: list[tuple[int, int]]) -> None:
    store, body = memory_store(), np.random.default_rng(size).bytes(size)
    file = ProvenFile(store, written(store, body))
    for start, length in pieces:
        file.seek(start)
        expected = body[start:] if length < 0 else body[start : start + length]
        assert file.read(length) == expected
        assert file.tell() == start + len(expected)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_is_told_by_whoever_reads_it_and_by_nobody_else(data: st.DataObject) -> None:
    store, body = memory_store(), np.random.default_rng(1).bytes(3000)
    info = written(store, body)
    place = data.draw(st.integers(0, 2999))
    store.write(PATH, body[:place] + bytes([body[place] ^ data.draw(st.integers(1, 255))]) + body[place + 1 :])
    start = data.draw(st.integers(0, 2998))
    stop = data.draw(st.integers(start + 1, 3000))
    file = ProvenFile(store, info)
    file.seek(start)
    if start // 512 * 512 <= place < -(-stop // 512) * 512:
        with pytest.raises(CorruptWarehouseError, match=r"a-0\.parquet was changed: bytes \d+ to \d+"):
            file.read(stop - start)
    else:
        assert file.read(stop - start) == body[start:stop]


@pytest.mark.parametrize("size", [600, 3000])
def test_a_file_that_is_cut_off_or_gone_is_named(size: int) -> None:
    store, body = memory_store(), np.random.default_rng(1).bytes(size)
    info = written(store, body)
    for damaged in (body[:-1], body[:512], b""):
        store.write(PATH, damaged)
        with pytest.raises(CorruptWarehouseError, match=r"a-0\.parquet was changed"):
            ProvenFile(store, info).read()
    store.delete(PATH)
    with pytest.raises(CorruptWarehouseError, match=r"a-0\.parquet is named by the log and is not there"):
        ProvenFile(store, info).read()


def test_any_flipped_byte_of_a_table_is_an_error_or_changes_nothing_that_is_read() -> None:
    store = memory_store()
    info = table_file(store)
    body = store.read(PATH)
    expected = {column: scan(store, info, [column]) for column in TABLE.schema.names}
    filtered = scan(store, info, ["key"], above=1234.0)
    told = 0
    for place in range(0, len(body), 97):
        store.write(PATH, body[:place] + bytes([body[place] ^ 0x10]) + body[place + 1 :])
        for column, table in expected.items():
            try:
                assert scan(store, info, [column]).equals(table)
            except CorruptWarehouseError:
                told += 1
        try:
            assert scan(store, info, ["key"], above=1234.0).equals(filtered)
        except CorruptWarehouseError:
            told += 1
        with pytest.raises(CorruptWarehouseError, match=r"a-0\.parquet"), open_parquet(store, info) as file:
            file.read()
    assert told > 40


def test_a_table_of_another_length_than_the_log_says_is_refused() -> None:
    store = memory_store()
    info = table_file(store)
    wrong = FileInfo(info.path, "data", info.size, info.sha256, 2999, blocks=info.blocks)
    with pytest.raises(CorruptWarehouseError, match="holds 3000 rows, the log says 2999"), open_parquet(store, wrong):
        raise AssertionError("it was opened")


def test_a_lack_of_memory_is_no_damage() -> None:
    """Else a repair would give up rows that are sound."""
    for lack in (pa.ArrowMemoryError("realloc of size 67043328 failed"), MemoryError()):
        with pytest.raises(MemoryError), naming(memory_store(), PATH):
            raise lack


def test_an_interpreter_that_ends_waits_for_files_that_threads_still_hold() -> None:
    store = memory_store()
    info = written(store, b"x" * 3000)

    def hold() -> None:
        held = ProvenFile(store, info)
        time.sleep(0.3)
        del held

    thread = threading.Thread(target=hold)
    thread.start()
    while not len(files._OPEN):
        time.sleep(0.001)
    files._let_readers_end()
    assert not len(files._OPEN)
    thread.join()


def test_a_forked_process_waits_for_no_file_of_its_parent() -> None:
    store = memory_store()
    held = ProvenFile(store, written(store, b"x" * 3000))
    assert held in files._OPEN
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(open_files).result() == 0


def open_files() -> int:
    return len(files._OPEN)
