"""Files and servers that break: each is a named failure in its time, publishes nothing and costs no other item."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stacchip_core import Storage, Warehouse
from stacchip_core.errors import ReadError, TransientReadError
from stacchip_core.sources import remote
from stacchip_core.sources.cog import RasterRef, open_raster
from stacchip_core.sources.connections import Patience
from stacchip_core.sources.profiles import load_profile
from stacchip_core.sources.raster import Window
from stacchip_core.warehouse.budget import FailureBudget
from tests.range_server import Asked, Reply, part, serving
from tests.rasters import Layout, write_cog
from tests.scenes import Item, naip_scene, utm_grid

GRID = utm_grid(512, 1.0)
HERE = Storage(hosts=("127.0.0.1",))
STEP = 16 * 1024
TOTAL_S = 4.0
# Zero is nodata: without that, NAIP's mask is told without a look at the pixels.
MASKED = load_profile("naip").model_copy(
    update={"bands": tuple(band.model_copy(update={"nodata": 0.0}) for band in load_profile("naip").bands)}
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE", Patience(connect_s=2, silence_s=1, total_s=TOTAL_S, retries=1, backoff_s=0))


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """A GeoTIFF of a little more than 1 MB, every byte of which a read of all pixels needs."""
    noise = np.random.default_rng(0).integers(0, 256, (4, *GRID.shape)).astype(np.uint8)
    layout = Layout(has_overviews=False, interleave="pixel", block=128)
    found = write_cog(tmp_path / "whole.tif", noise, GRID, layout=layout).read_bytes()
    assert 2**20 <= len(found) < 1.1 * 2**20
    return found


def replaced(content: bytes, asked: Asked) -> Reply:
    """Another file, of the same length, from the second request on."""
    start = (asked.span or (0, 0))[0]
    answer = part(content, asked)
    return Reply(answer.status, answer.body, {**answer.headers, "ETag": '"a"' if start == 0 else '"b"'})


def shifted(content: bytes, asked: Asked) -> Reply:
    """Bytes from elsewhere, and a header that says so."""
    start, stop = asked.span or (0, 0)
    body = content[start + 1 : stop + 1]
    return Reply(206, body, {"Content-Range": f"bytes {start + 1}-{start + len(body)}/{len(content)}"})


def short(content: bytes, asked: Asked) -> Reply:
    answer = part(content, asked)
    return Reply(206, answer.body[:-5], answer.headers, length=len(answer.body))


def longer(content: bytes, asked: Asked) -> Reply:
    answer = part(content, asked)
    return Reply(206, answer.body + b"more", answer.headers)


def unsaid(content: bytes, asked: Asked) -> Reply:
    return Reply(206, part(content, asked).body)


def packed(content: bytes, asked: Asked) -> Reply:
    answer = part(content, asked)
    return Reply(206, answer.body, {**answer.headers, "Content-Encoding": "gzip"})


# What a server does, the class of the failure, and what its message says.
FAULTS: dict[str, tuple[Callable[[bytes, Asked], Reply], type[ReadError], str]] = {
    "html": (
        lambda _, a: part(b"<!DOCTYPE html><html>sign in</html>", a),
        ReadError,
        "not a GeoTIFF.*rule: file-format",
    ),
    "page": (lambda *_: Reply(200, b"<html>sign in</html>"), ReadError, "HTTP 200 to a range request"),
    "forbidden": (lambda *_: Reply(403), ReadError, "HTTP 403"),
    "gone": (lambda *_: Reply(404), ReadError, "HTTP 404"),
    "empty": (lambda _, a: part(b"", a), ReadError, "the file is empty"),
    "busy": (lambda *_: Reply(503), TransientReadError, "HTTP 503"),
    "limited": (lambda *_: Reply(429, headers={"Retry-After": "3600"}), TransientReadError, "HTTP 429"),
    "short": (short, TransientReadError, r"got \d+ bytes, expected"),
    "long": (longer, TransientReadError, r"got \d+ bytes, expected"),
    "shifted": (shifted, TransientReadError, "asked for .* bytes from 0, the server says"),
    "no length": (unsaid, ReadError, "does not say which bytes"),
    "packed": (packed, ReadError, "packed the bytes"),
    "replaced": (replaced, ReadError, "replaced on the server while it was being read"),
    "hang up": (lambda *_: Reply(206, hang_up=True), TransientReadError, "no connection|broken answer"),
    "drip": (lambda c, a: part(c, a, drip_s=0.05), TransientReadError, "timed out"),
    "silent": (lambda c, a: part(c, a, drip_s=30), TransientReadError, "timed out"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_of_a_server_is_named_in_its_time(name: str, content: bytes) -> None:
    answer, kind, says = FAULTS[name]
    with serving(lambda asked: answer(content, asked)) as server:
        begin = time.monotonic()
        with (
            pytest.raises(ReadError, match=rf"item scene-1: asset 'red' \(.*\): .*({says})") as caught,
            open_raster(RasterRef(f"{server.url}/a.tif", "scene-1", "red", storage=HERE)) as raster,
        ):
            raster.read(Window(0, 0, 512, 512))
        took = time.monotonic() - begin
    assert type(caught.value) is kind
    assert took < TOTAL_S + 3, "the deadline, and what a busy machine adds"
    assert len(server.asked) <= 10


def test_a_busy_server_is_asked_again_when_it_says(content: bytes) -> None:
    times: list[float] = []

    def answer(asked: Asked) -> Reply:
        times.append(time.monotonic())
        return Reply(503, headers={"Retry-After": "1"}) if len(times) == 1 else part(content, asked)

    with (
        serving(answer) as server,
        open_raster(RasterRef(f"{server.url}/a.tif", "scene-1", "red", storage=HERE)) as raster,
    ):
        assert raster.header.width == 512
    assert times[1] - times[0] >= 1


def test_truncated_files_fail_by_name_and_publish_nothing_while_the_others_are_committed(
    content: bytes, tmp_path: Path
) -> None:
    """A file cut off at every 16 KiB, and a file of each fault, among two good ones: one run."""
    cuts = {f"cut-{size}": content[:size] for size in range(0, len(content), STEP)}
    slow = ("drip", "silent")  # seconds each; shown above
    faults = {name.replace(" ", "-"): fault for name, fault in FAULTS.items() if name not in slow}

    def answer(asked: Asked) -> Reply:
        name = asked.path.split("/")[1]
        if name in cuts:
            return part(cuts[name], asked)
        return faults[name][0](content, asked) if name in faults else part(content, asked)

    with serving(answer) as server:
        names = ["good-1", *cuts, *faults, "good-2"]
        items = [item_at(server.url, name, tmp_path) for name in names]
        warehouse = Warehouse(tmp_path / "warehouse", create=True)
        budget = FailureBudget(max_failed=1000)
        warehouse.index_items(items, chip_size=128, storage=HERE, budget=budget, profile=MASKED)
    found = warehouse.collection("naip")
    assert found.count() == 2 * 16, "the chips of the good ones, and of no other"
    assert set(found.dataset().to_table(["item_id"])["item_id"].to_pylist()) == {"good-1", "good-2"}
    reasons = {row["item_id"]: row for row in found.failures().to_pylist()}
    assert reasons.keys() == cuts.keys() | faults.keys()
    for name, row in reasons.items():
        assert row["stage"] == "read", row
        assert f"item {name}: asset 'image' (http://127.0.0.1" in row["reason"]
    late = [reasons[name]["reason"] for name, cut in cuts.items() if len(cut) > 2 * STEP]
    assert all("it is cut off" in reason for reason in late), set(late)
    assert warehouse.verify(deep=True).problems == ()


def item_at(url: str, name: str, folder: Path) -> Item:
    item = naip_scene(folder / "unused", grid=utm_grid(16, 1.0), item_id=name)
    item["properties"] |= {
        "proj:shape": list(GRID.shape),
        "proj:transform": list(GRID.transform),
        "proj:code": GRID.crs,
    }
    item["assets"]["image"]["href"] = f"{url}/{name}/image.tif"
    return item
