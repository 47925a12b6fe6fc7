"""The steps of a dataset: repeated, interrupted, raced, and with sources that fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from stacchip_core import (
    Dataset,
    InputError,
    ObjectNotFoundError,
    ReadError,
    SpecError,
    TransientReadError,
    Warehouse,
    materialize,
)
from stacchip_core.chips import assembly
from stacchip_core.chips.assembly import finish, is_finished, prepare, write_group, write_shard
from stacchip_core.chips.lock import DatasetLock, library_versions
from stacchip_core.chips.work import current
from stacchip_core.sources.access import Storage
from tests.scenes import naip_scene, sentinel2_scene, utm_grid
from tests.warehouses import RGBN, SIZE, cut, grow, listing, made, scenes, spec


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the scenes lie."""
    folder = tmp_path_factory.mktemp("pixels")
    scenes(folder)
    return folder


@pytest.fixture
def own(pixels: Path, tmp_path: Path) -> Warehouse:
    """A warehouse of the test's own."""
    return made(pixels, tmp_path / "warehouse")


def cut_groups(warehouse: Warehouse, name: str = "fields") -> int:
    """Cut all groups of a dataset; how many chips could not be read."""
    return sum(write_group(warehouse, name, n) for n in range(len(current(warehouse.store, name).plan().groups)))


def test_the_same_spec_again_finds_the_dataset_and_writes_nothing(own: Warehouse) -> None:
    first = materialize(own, spec(limit=15))
    before = listing(first.path)
    second = materialize(own, spec(limit=15))
    assert listing(first.path) == before
    assert second.lock == first.lock


def test_a_name_taken_by_another_spec_is_refused(own: Warehouse) -> None:
    materialize(own, spec(limit=3))
    with pytest.raises(
        SpecError, match=r"'fields': a dataset of that name was made from another spec .*differs in limit, seed"
    ):
        materialize(own, spec(limit=4, seed=6))


def test_a_finished_dataset_is_not_passed_off_for_a_newer_index(own: Warehouse, pixels: Path) -> None:
    materialize(own, spec(limit=3))
    first = own.combined("global").version
    grow(own, pixels)
    with pytest.raises(
        SpecError, match=rf"made from global@{first}, and the spec asks for global@{first + 1}; .*version={first}"
    ):
        materialize(own, spec(limit=3))
    assert len(materialize(own, spec(limit=3, version=first))) == 3


def test_a_run_that_was_cut_short_carries_on_with_the_version_it_began_with(own: Warehouse, pixels: Path) -> None:
    plan = prepare(own, spec(limit=20))
    cut_groups(own)
    write_shard(own, "fields", 1)
    grow(own, pixels)
    dataset = materialize(own, spec(limit=20))
    assert dataset.lock.index == plan.index


def test_a_killed_run_keeps_its_shards_and_ends_in_the_same_dataset(
    own: Warehouse, pixels: Path, tmp_path: Path
) -> None:
    wanted = spec(limit=30)
    plan = prepare(own, wanted)
    cut_groups(own)
    write_shard(own, "fields", 0)
    write_shard(own, "fields", 2)
    folder = Path(own.store.root) / "datasets/fields"
    half = {path: facts for path, facts in listing(folder).items() if "/cut/" not in path}
    assert not is_finished(own, "fields")
    with pytest.raises(ObjectNotFoundError):
        Dataset.open(folder)
    with pytest.raises(InputError, match=r"dataset 'fields': \d+ of \d+ shards are not written yet \(1, 3"):
        finish(own, "fields")
    done = materialize(own, wanted)
    assert {path: listing(folder)[path] for path in half} == half
    assert not [path for path in listing(folder) if "/cut/" in path]
    other = materialize(made(pixels, tmp_path / "other"), wanted)
    assert [info.model_dump() for info in done.lock.shards] == [info.model_dump() for info in other.lock.shards]
    assert done.lock.chips_sha256 == other.lock.chips_sha256
    assert len(plan.shards) == len(done.lock.shards)


def test_shards_may_be_written_in_any_order_and_twice(own: Warehouse, tmp_path: Path, pixels: Path) -> None:
    plan = prepare(own, spec(limit=25, name="backwards"))
    cut_groups(own, "backwards")
    infos = [write_shard(own, "backwards", number) for number in (*reversed(range(len(plan.shards))), 0)]
    lock = finish(own, "backwards")
    assert infos[-1] == lock.shards[0]
    assert lock.shards == materialize(own, spec(limit=25, name="forwards")).lock.shards


def test_two_runs_that_prepare_at_once_agree(own: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(own, spec(limit=5))
    monkeypatch.setattr(type(own.store), "exists", lambda *_: False)  # the second looked before the first was done
    assert prepare(own, spec(limit=5)) == first
    with pytest.raises(SpecError, match="made from another spec"):
        prepare(own, spec(limit=6))


@pytest.mark.parametrize("first", ["the one with failures", "the whole one"])
def test_of_two_runs_that_finish_at_once_one_dataset_is_left_whole(
    broken: tuple[Warehouse, Path], monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """One run, for which chips failed, has read the records; another retries them and finishes in between."""
    warehouse, item = broken
    wanted = spec(bands=RGBN)
    plan = prepare(warehouse, wanted)
    nir = item / "nir.tif"
    content = nir.read_bytes()
    nir.unlink()
    cut_groups(warehouse)
    for number in range(len(plan.shards)):
        write_shard(warehouse, "fields", number)
    nir.write_bytes(content)
    make_table = assembly._chips_table

    def interrupted(*given: Any) -> bytes:
        monkeypatch.setattr(assembly, "_chips_table", make_table)
        if first == "the whole one":
            mine = make_table(*given)
            materialize(warehouse, wanted)
            return mine
        finish(warehouse, "fields")
        return make_table(*given)

    monkeypatch.setattr(assembly, "_chips_table", interrupted)
    lock = finish(warehouse, "fields")
    dataset = Dataset.open(f"{warehouse.root}/datasets/fields")
    assert dataset.lock == lock == materialize(warehouse, wanted).lock
    assert len(dataset) == lock.chips == (50 if first == "the whole one" else 25)
    expected = cut(warehouse, wanted)
    for row, chip in dataset:
        assert all(np.array_equal(chip[band], found) for band, found in expected[row["chip_id"]].items())


def test_shards_made_by_other_libraries_than_the_finishing_runs_name_them(
    own: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = prepare(own, spec(limit=20))
    cut_groups(own)
    write_shard(own, "fields", 1)
    newer = {**library_versions(), "zarr": "99.0"}
    monkeypatch.setattr(assembly, "library_versions", lambda: newer)
    for number in range(len(plan.shards)):
        write_shard(own, "fields", number)
    lock = finish(own, "fields")
    assert lock.libraries == newer
    made_by = [shard.libraries for shard in lock.shards]
    assert made_by == [library_versions() if number == 1 else None for number in range(len(plan.shards))]
    assert DatasetLock.model_validate_json((Path(own.store.root) / "datasets/fields/dataset.json").read_text()) == lock


def test_a_dataset_never_begun_is_told_so(own: Warehouse) -> None:
    with pytest.raises(InputError, match=r"dataset 'nothing': not begun in .*; prepare it first"):
        write_shard(own, "nothing", 0)
    prepare(own, spec(limit=3))
    with pytest.raises(InputError, match=r"dataset 'fields': group 0 is not cut yet; cut all groups, then write"):
        write_shard(own, "fields", 0)


@pytest.fixture
def broken(tmp_path: Path) -> tuple[Warehouse, Path]:
    """A warehouse, and the folder of one of its two Sentinel-2 items."""
    folder = tmp_path / "pixels"
    items = scenes(folder)[:2]
    return made(folder, tmp_path / "warehouse", items), folder / items[0]["id"]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def html(path: Path) -> None:
    path.write_text("<html>404</html>")


@pytest.mark.parametrize("damage", [Path.unlink, truncated, html], ids=["missing", "truncated", "html"])
def test_chips_that_cannot_be_read_are_rows_with_a_reason(
    broken: tuple[Warehouse, Path], damage: Callable[[Path], None]
) -> None:
    warehouse, item = broken
    wanted = spec(bands=RGBN)
    expected = cut(warehouse, wanted)
    damage(item / "nir.tif")
    dataset = materialize(warehouse, wanted)
    lost = {chip for chip in expected if item.name in chip}
    assert set(dataset.failures["chip_id"].to_pylist()) == lost
    assert dataset.lock.failures == len(lost) == 25
    assert len(dataset) == dataset.lock.chips == 25
    for row in dataset.failures.to_pylist():
        assert f"item {item.name}: asset 'nir'" in row["reason"]
        assert (row["shard"], row["offset"], row["status"]) == (None, None, "failed")
    for row, chip in dataset:
        assert all(np.array_equal(chip[band], found) for band, found in expected[row["chip_id"]].items())


def test_shards_with_failures_are_tried_again_until_the_dataset_is_finished(broken: tuple[Warehouse, Path]) -> None:
    warehouse, item = broken
    nir = item / "nir.tif"
    content = nir.read_bytes()
    nir.unlink()
    plan = prepare(warehouse, spec(bands=RGBN))
    assert cut_groups(warehouse) == 25
    assert sum(write_shard(warehouse, "fields", n).failures for n in range(len(plan.shards))) == 25
    nir.write_bytes(content)
    dataset = materialize(warehouse, spec(bands=RGBN))
    assert dataset.lock.failures == 0
    nir.unlink()
    assert materialize(warehouse, spec(bands=RGBN)).lock == dataset.lock


@pytest.mark.parametrize(("key", "allowed"), [("max_failed", 24), ("max_failed_share", 0.4)])
def test_a_run_that_fails_too_much_ends_without_a_lock_and_mends(
    broken: tuple[Warehouse, Path], key: str, allowed: float
) -> None:
    warehouse, item = broken
    nir = item / "nir.tif"
    content = nir.read_bytes()
    nir.unlink()
    wanted = spec(bands=RGBN, **{key: allowed})
    with pytest.raises(ReadError, match=rf"25 of its 50 chips could not be read, and {key} is {allowed:g}; the others"):
        materialize(warehouse, wanted)
    assert not is_finished(warehouse, "fields")
    nir.write_bytes(content)
    assert len(materialize(warehouse, wanted)) == 50
    assert len(materialize(warehouse, spec(name="more", bands=RGBN, max_failed=25, max_failed_share=0.5))) == 50


def test_a_dataset_of_which_no_chip_can_be_read_is_an_error_that_mends(broken: tuple[Warehouse, Path]) -> None:
    warehouse, item = broken
    moved = item.parent.rename(item.parent.with_name("elsewhere"))
    with pytest.raises(ReadError, match=r"dataset 'fields': none of its 50 chips could be read; the first: item S2"):
        materialize(warehouse, spec(bands=RGBN))
    moved.rename(item.parent)
    assert len(materialize(warehouse, spec(bands=RGBN))) == 50


def test_a_scene_without_a_band_asked_for_fails_alone(tmp_path: Path) -> None:
    items = scenes(tmp_path / "pixels")[:2]
    del items[0]["assets"]["swir16"]
    warehouse = made(tmp_path / "pixels", tmp_path / "warehouse", items)
    dataset = materialize(warehouse, spec(bands=RGBN))
    assert set(dataset.failures["reason"].to_pylist()) == {
        f"item {items[0]['id']}: no band 'swir16'; it has coastal, blue, green, red, rededge1, rededge2, rededge3, "
        "nir, nir08, nir09, swir22, scl"
    }
    assert len(dataset) == 25
    common = materialize(warehouse, spec(name="common", limit=10))  # no bands asked for: those that all have
    assert common.lock.failures == 0
    assert "swir16" not in common.lock.bands["sentinel-2-l2a"]
    assert len(common.lock.bands["sentinel-2-l2a"]) == 12


class Unavailable(BaseHTTPRequestHandler):
    """A server that is overloaded for ever."""

    def do_GET(self) -> None:
        self.send_error(503)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def overloaded() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unavailable)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_transient_errors_are_raised_to_be_retried_and_a_failure_at_last(overloaded: str, tmp_path: Path) -> None:
    item = naip_scene(tmp_path / "pixels", grid=utm_grid(SIZE, 1.0, epsg=26914))
    warehouse = made(tmp_path / "pixels", tmp_path / "warehouse", [item])
    plan = prepare(warehouse, spec())
    folder = Path(warehouse.store.root) / "datasets/fields"
    remote(folder / plan.groups[0].part, f"{overloaded}/image.tif")
    here = Storage(hosts=("127.0.0.1",))
    with pytest.raises(TransientReadError, match="item ok_m_3409901"):
        write_group(warehouse, "fields", 0, storage=here, is_last_try=False)
    assert not (folder / "work/0001/records").exists()
    assert write_group(warehouse, "fields", 0, storage=here) == 1
    assert write_shard(warehouse, "fields", 0).failures == 1


def remote(part: Path, href: str) -> None:
    """Point the scene of a planned shard to a server."""
    table = pq.read_table(part)
    metadata = dict(table.schema.metadata)
    scenes_json = json.loads(metadata[b"stacchip:scenes"])
    for key, text in scenes_json.items():
        scene = json.loads(text)
        for asset in scene["assets"]:
            asset["href"] = href
        scenes_json[key] = json.dumps(scene)
    metadata[b"stacchip:scenes"] = json.dumps(scenes_json).encode()
    pq.write_table(table.replace_schema_metadata(metadata), part)


def test_native_pixels_need_whole_pixels_of_every_band(pixels: Path, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "warehouse", create=True, local_roots=[str(pixels)])
    warehouse.index_items([sentinel2_scene(pixels)], chip_size=100)
    warehouse.merge("global", collections=["sentinel-2-l2a"])
    with pytest.raises(SpecError, match=r"sentinel-2-l2a has 'coastal' with 6 pixels .* take 96 or 102"):
        prepare(warehouse, spec(size=100, native=True, bands=RGBN))
    assert not list(Path(warehouse.store.root).glob("datasets/**/*"))
