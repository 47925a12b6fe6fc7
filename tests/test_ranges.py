"""Ranges of a remote file: the bytes asked for and no others, in the requests that were announced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core.errors import ReadError
from stacchip_core.sources.access import Storage
from stacchip_core.sources.cog import RasterRef, open_raster
from stacchip_core.sources.gate import Gate
from stacchip_core.sources.ranges import HEADER_BYTES, Range, RangeReader, coalesced
from stacchip_core.sources.raster import Window
from stacchip_core.sources.remote import RemoteFile, Traffic
from tests.items import utm_grid
from tests.range_server import RangeServer, part, serving
from tests.rasters import Layout, write_cog

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000).astype(np.uint8).tobytes()
HERE = Gate(("127.0.0.1",))

RANGES = st.lists(st.builds(Range, st.integers(0, 2_900_000), st.integers(1, 100_000)), max_size=12)


@pytest.fixture(scope="module")
def module_server() -> Iterator[RangeServer]:
    with serving(lambda asked: part(CONTENT, asked)) as running:
        yield running


@pytest.fixture
def server(module_server: RangeServer) -> RangeServer:
    module_server.asked.clear()
    return module_server


def reader_of(server: RangeServer) -> RangeReader:
    return RangeReader(RemoteFile(f"{server.url}/a.tif", HERE))


@given(ranges=RANGES)
def test_requests_cover_what_is_asked_for_and_never_overlap_much(ranges: list[Range]) -> None:
    requests = coalesced(ranges)
    assert list(requests) == sorted(requests)
    for one in ranges:
        is_in_header = one.stop <= HEADER_BYTES
        assert is_in_header or any(r.offset <= one.offset and one.stop <= r.stop for r in requests)
    wanted = sum(one.size for one in set(ranges))
    assert sum(request.size for request in requests) <= wanted + 65_536 * len(ranges)
    assert len(requests) <= len(ranges)


def test_near_blocks_are_one_request_and_far_or_many_ones_several() -> None:
    row = [Range(100_000 + n * 1_000_008, 1_000_000) for n in range(9)]
    assert coalesced(row) == (
        Range(100_000, 4_000_024),
        Range(4_100_032, 4_000_024),
        Range(8_100_064, 1_000_000),
    )
    assert coalesced([Range(100_000, 10), Range(200_000, 10)]) == (Range(100_000, 10), Range(200_000, 10))
    assert coalesced([Range(100_000, 10 * 2**20)]) == (Range(100_000, 10 * 2**20),), "one block is one request"
    assert coalesced([Range(0, 100), Range(32_000, 768)]) == (), "the header is there"


def test_a_header_is_one_request_without_a_look_at_the_size(server: RangeServer) -> None:
    reader = reader_of(server)
    assert reader.read(1024) == CONTENT[:1024]
    reader.seek(0)
    assert reader.read(8) + reader.read(100) == CONTENT[:108]
    assert reader.seek(0, os.SEEK_END) == len(CONTENT)
    assert [asked.span for asked in server.asked] == [(0, HEADER_BYTES)]
    assert (reader.traffic.requests, reader.traffic.received) == (1, HEADER_BYTES)


def test_reads_beyond_the_header_are_exact_or_a_little_ahead(server: RangeServer) -> None:
    reader = reader_of(server)
    reader.seek(1_000_000)
    assert reader.read(50_000) == CONTENT[1_000_000:1_050_000]
    reader.seek(2_000_000)
    assert b"".join(reader.read(n) for n in (2, 200, 16_000)) == CONTENT[2_000_000:2_016_202]
    assert [asked.span for asked in server.asked[1:]] == [(1_000_000, 1_050_000), (2_000_000, 2_016_384)]
    reader.seek(len(CONTENT) - 10)
    assert reader.read(100) == CONTENT[-10:]
    assert reader.read(100) == b""
    assert reader.failure is None


@given(ranges=RANGES)
def test_what_is_fetched_ahead_is_read_from_memory(module_server: RangeServer, ranges: list[Range]) -> None:
    reader = reader_of(module_server)
    reader.load_header()
    module_server.asked.clear()
    assert reader.prefetch(ranges) == sorted(set(ranges))
    spans = sorted(asked.span or (0, 0) for asked in module_server.asked)
    assert spans == [(request.offset, request.stop) for request in coalesced(ranges)]
    assert reader.traffic.received == HEADER_BYTES + sum(request.size for request in coalesced(ranges))
    module_server.asked.clear()
    for one in {one.offset: one for one in sorted(set(ranges))}.values():
        reader.seek(one.offset)
        assert reader.read(one.size) == CONTENT[one.offset : one.stop]
    assert module_server.asked == []


def test_a_block_is_let_go_once_it_is_read_and_fetched_again_when_asked(server: RangeServer) -> None:
    reader = reader_of(server)
    block = Range(100_000, 50_000)
    reader.prefetch([block])
    for _ in range(2):
        reader.seek(block.offset)
        assert reader.read(block.size) == CONTENT[block.offset : block.stop]
    assert [asked.span for asked in server.asked[1:]] == [(100_000, 150_000)] * 2


def test_a_block_past_the_end_is_told_before_anything_is_fetched(server: RangeServer) -> None:
    reader = reader_of(server)
    with pytest.raises(ReadError, match=r"the file ends at byte 3000000, and a block of it at 3000001: it is cut off"):
        reader.prefetch([Range(2_999_000, 1_001)])
    assert len(server.asked) == 1


def test_a_failed_read_is_short_and_says_why(server: RangeServer) -> None:
    reader = RangeReader(RemoteFile(f"{server.url}/a.tif", HERE))
    with serving(lambda asked: part(b"", asked)) as empty:
        reader = reader_of(empty)
        assert reader.read(10) == b""
    assert isinstance(reader.failure, ReadError)
    assert "the file is empty" in str(reader.failure)


@pytest.mark.parametrize("form", ["GTiff", "COG"])
def test_a_rasters_requests_and_bytes_are_known_before_they_are_sent(form: str, tmp_path: Path) -> None:
    """Layers one after the other; and as GDAL writes COGs, pixel by pixel, with overviews and byte counts of blocks."""
    grid = utm_grid(1500)
    noise = np.random.default_rng(0).integers(0, 60_000, (3, *grid.shape)).astype(np.uint16)
    path = write_cog(tmp_path / "a.tif", noise, grid, layout=Layout(has_overviews=False))
    if form == "COG":
        rasterio.shutil.copy(path, tmp_path / "cog.tif", driver="COG", compress="deflate", blocksize=256)
        path = tmp_path / "cog.tif"
    content = path.read_bytes()
    windows = [Window(0, 0, 100, 100), Window(700, 300, 500, 10), Window(1400, 1400, 100, 100), Window(10, 10, 20, 20)]
    with serving(lambda asked: part(content, asked)) as server:
        storage = Storage(hosts=("127.0.0.1",))
        with open_raster(RasterRef(f"{server.url}/a.tif", "scene-1", "red", storage=storage)) as raster:
            planned = raster.ranges(windows, [1, 3])
            assert raster.traffic == Traffic(1, HEADER_BYTES), "to plan costs the header alone"
            raster.prefetch(windows, [1, 3])
            for window in windows:
                rows, cols = slice(window.row, window.row + window.height), slice(window.col, window.col + window.width)
                np.testing.assert_array_equal(raster.read(window, [1, 3]), noise[[0, 2], rows, cols])
            expected = Traffic(1 + len(planned), HEADER_BYTES + sum(one.size for one in planned))
            assert raster.traffic == expected, "and nothing is read twice"
        assert len(server.asked) == expected.requests
