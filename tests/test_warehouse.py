"""The warehouse as users have it: index, index again, read any version; on disk, in memory and over HTTP."""

from __future__ import annotations

import copy
import json
import multiprocessing
import uuid
from collections import Counter
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import duckdb
import geopandas as gpd
import pystac
import pytest

from stacchip_core import IndexSettings, Storage, Warehouse
from stacchip_core.errors import InputError, StoreError, UnsafeStoreError, VersionNotFoundError
from stacchip_core.index.grid import GridSpec
from stacchip_core.sources.item import ItemSource, StagedItem
from stacchip_core.sources.profiles import load_profile
from stacchip_core.sources.scene import Scene
from stacchip_core.warehouse.commit import Commit
from stacchip_core.warehouse.entry import canonical
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import MemoryStore, open_store
from stacchip_core.warehouse.warehouse import FORMAT_KEY, safe_name
from tests.scenes import Item, naip_scene, sentinel2_scene, utm_grid, write_catalog
from tests.warehouse_rows import Piece, chip_ids, commit_parts, commit_pieces, part_of

SIZE = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the scenes lie."""
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def items(folder: Path) -> list[Item]:
    """Two Sentinel-2 items of 4 chips, in two months, and an aerial one of 4 chips."""
    days = ("2024-06-15", "2024-07-05")
    scenes = [
        sentinel2_scene(folder, item_id=f"S2B_32TMT_{day}", when=f"{day}T10:30:31Z", seed=n, grid=utm_grid(240))
        for n, day in enumerate(days)
    ]
    return [*scenes, naip_scene(folder, grid=utm_grid(200, 1.0, epsg=26914))]


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.server)])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path, folder: Path) -> Warehouse:
    """An empty warehouse on each kind of store."""
    if request.param == "local":
        return Warehouse(tmp_path / "w", create=True, local_roots=[folder])
    if request.param == "memory":
        return Warehouse(f"memory://{uuid.uuid4()}/w", create=True, local_roots=[folder])
    storage = Storage(endpoint=request.getfixturevalue("s3_endpoint"))
    bucket = f"b{uuid.uuid4().hex}"
    open_store(f"s3://{bucket}/w", storage).fs.mkdir(bucket)
    return Warehouse(f"s3://{bucket}/w", create=True, storage=storage, local_roots=[folder])


def contents(warehouse: Warehouse) -> dict[str, bytes]:
    tops = ("_staging", "collections", "combined")
    return {key: warehouse.store.read(key) for top in tops for key in warehouse.store.list(top)}


# --- the main job


def test_index_index_again_merge_and_read(warehouse: Warehouse, items: list[Item]) -> None:
    first = warehouse.index_items(items, chip_size=SIZE)
    assert isinstance(first, list)
    assert [(c.name, c.version, c.new, c.chips) for c in first] == [("naip", 1, 1, 4), ("sentinel-2-l2a", 1, 2, 8)]
    version = warehouse.merge("global", warehouse.collections())
    before = contents(warehouse)
    again = warehouse.index_items(items, chip_size=SIZE)
    assert [(c.version, c.new, c.updated, c.chips) for c in again] == [(1, 0, 0, 0)] * 2  # type: ignore[union-attr]
    assert warehouse.merge("global", warehouse.collections()).sha256 == version.sha256
    assert contents(warehouse) == before, "nothing new: nothing written"
    assert (warehouse.collections(), warehouse.combined_names()) == (["naip", "sentinel-2-l2a"], ["global"])
    reopened = Warehouse(warehouse.root, storage=warehouse.storage)
    table = reopened.combined("global").dataset().to_table()
    assert table.num_rows == reopened.combined("global", 1).count() == 12
    assert sorted(set(table["item_id"].to_pylist())) == sorted(item["id"] for item in items)
    scene = reopened.combined("global").scenes([f"sentinel-2-l2a/{items[0]['id']}"], GridSpec(SIZE, SIZE))
    assert next(iter(scene.values())).item_id == items[0]["id"]


def test_an_updated_item_replaces_its_rows_and_old_versions_stay(warehouse: Warehouse, items: list[Item]) -> None:
    warehouse.index_items(items[:2], chip_size=SIZE)
    changed = copy.deepcopy(items[0])
    changed["properties"]["eo:cloud_cover"] = 77.0
    done = warehouse.index_items([changed], chip_size=SIZE)
    assert isinstance(done, Commit)
    assert (done.version, done.new, done.updated) == (2, 0, 1)
    clouds = [
        set(warehouse.collection("sentinel-2-l2a", number).dataset().to_table()["eo:cloud_cover"].to_pylist())
        for number in (1, 2)
    ]
    assert 77.0 in clouds[1] - clouds[0]
    assert warehouse.collection("sentinel-2-l2a").dataset().count_rows() == 8


def test_the_steps_give_what_index_items_gives(warehouse: Warehouse, items: list[Item], tmp_path: Path) -> None:
    settings = IndexSettings(chip_size=SIZE)
    found = warehouse.classify("s2", [StagedItem(item) for item in items[:2]], settings)
    assert (len(found.new), found.updated, found.same, found.version) == (2, (), 0, 0)
    parts = [warehouse.index_batch("s2", warehouse.stage([one]), settings).part for one in found.new]
    done = warehouse.commit("s2", parts, read_version=found.version, sources=[{"url": "catalog.json"}])
    assert (done.version, done.new, done.chips) == (1, 2, 8)
    other = Warehouse(tmp_path / "other", create=True, local_roots=warehouse.local_roots)
    other.index_items(items[:2], name="s2", chip_size=SIZE)
    assert chip_ids(warehouse.collection("s2").dataset()) == chip_ids(other.collection("s2").dataset())


def test_plain_tools_read_the_listed_files(tmp_path: Path, folder: Path, items: list[Item]) -> None:
    warehouse = Warehouse(tmp_path, create=True, local_roots=[folder])
    warehouse.index_items(items, chip_size=SIZE)
    version = warehouse.merge("global", warehouse.collections())
    paths = [warehouse.store.path(info.path) for info in version.files]
    frames = [gpd.read_parquet(path) for path in paths]
    assert sum(map(len, frames)) == version.count() == 12
    assert all(frame.crs == "OGC:CRS84" and frame.geometry.is_valid.all() for frame in frames)
    found = duckdb.sql(f"select count(*) from read_parquet({paths!r})")
    assert found is not None and found.fetchall() == [(12,)]


# --- items as users have them


def lone_item(folder: Path, item_id: str, nodata_share: float) -> Path:
    """An item file whose assets lie beside it, under names that other folders have too."""
    scene = sentinel2_scene(folder, grid=utm_grid(240), nodata_share=nodata_share) | {"id": item_id}
    for asset in scene["assets"].values():
        asset["href"] = str(Path(asset["href"]).relative_to(folder))
    path = folder / "item.json"
    path.write_text(json.dumps(scene))
    return path


def test_items_come_as_objects_json_or_paths(tmp_path: Path, folder: Path, items: list[Item]) -> None:
    write_catalog(folder, items[:2])
    warehouse = Warehouse(tmp_path, create=True)
    files = sorted(path for path in folder.rglob("*.json") if json.loads(path.read_text()).get("type") == "Feature")
    by_path = warehouse.index_items(files, chip_size=SIZE, local_roots=[folder])
    assert isinstance(by_path, Commit) and (by_path.new, by_path.failed) == (2, 0)
    objects = [pystac.Item.from_dict(item) for item in items[:2]]
    by_object = warehouse.index_items(objects, name="objects", chip_size=SIZE, local_roots=[folder])
    assert isinstance(by_object, Commit) and (by_object.new, by_object.failed) == (2, 0)
    rows = [
        warehouse.collection(name).dataset().to_table().sort_by("chip_id") for name in ("sentinel-2-l2a", "objects")
    ]
    assert rows[0]["nodata_fraction"].equals(rows[1]["nodata_fraction"])


def test_folders_of_items_given_by_path_are_not_mixed_up(tmp_path: Path) -> None:
    """Two folders with files of the same names: each item reads its own, also when chips are cut later."""
    paths = [lone_item(tmp_path / f"f{number}", f"item-{number}", share) for number, share in enumerate((0.0, 0.9))]
    warehouse = Warehouse(tmp_path / "w", create=True)
    done = warehouse.index_items(paths, chip_size=SIZE)
    assert isinstance(done, Commit) and (done.new, done.failed) == (2, 0)
    table = warehouse.collection("sentinel-2-l2a").dataset().to_table()
    most = table.group_by("item_id").aggregate([("nodata_fraction", "max")]).sort_by("item_id")
    assert most["nodata_fraction_max"][0].as_py() == 0.0 < most["nodata_fraction_max"][1].as_py()
    version = warehouse.collection("sentinel-2-l2a")
    assert version.items(["base"])["base"].to_pylist() == ["f0", "f1"]
    scenes = version.scenes(version.items()["key"].to_pylist(), GridSpec(SIZE, SIZE))
    hrefs = [scene.asset("red").href for scene in scenes.values()]
    assert [href.partition("/")[0] for href in hrefs] == ["f0", "f1"]
    assert all((tmp_path / href).is_file() for href in hrefs)


def test_local_items_of_several_disks_need_local_roots(tmp_path: Path) -> None:
    path = lone_item(tmp_path / "a", "item-a", 0.0)
    warehouse = Warehouse(tmp_path / "w", create=True)
    with pytest.raises(InputError, match="in none of the 0 local_roots; name the folders to be read with"):
        warehouse.index_items([path, Path("/nowhere/else.json")], chip_size=SIZE)
    with pytest.raises(InputError, match=r"'/nowhere\.json' is in none of the 1 local_roots"):
        warehouse.index_items([path, Path("/nowhere.json")], chip_size=SIZE, local_roots=[tmp_path])
    done = warehouse.index_items([path, Path("/nowhere/else.json")], chip_size=SIZE, local_roots=[tmp_path])
    assert isinstance(done, Commit) and (done.new, done.failed) == (1, 1)


def test_failed_items_are_reported_and_mended_by_a_later_run(tmp_path: Path, folder: Path, items: list[Item]) -> None:
    warehouse = Warehouse(tmp_path, create=True)
    done = warehouse.index_items([*items[:1], tmp_path / "nowhere.json"], chip_size=SIZE)
    assert isinstance(done, Commit) and (done.version, done.new, done.failed) == (1, 0, 2)
    failures = warehouse.collection("sentinel-2-l2a").failures().to_pylist()
    assert [(row["item_id"], row["stage"]) for row in failures] == [
        ("nowhere.json", "discover"),
        (items[0]["id"], "item"),
    ]
    waiting = warehouse.index_items(items[:1], chip_size=SIZE, local_roots=[folder])
    assert isinstance(waiting, Commit) and (waiting.version, waiting.tried, waiting.waiting) == (1, 0, 1)
    mended = warehouse.index_items(items[:1], chip_size=SIZE, local_roots=[folder], retry_failed=True)
    assert isinstance(mended, Commit) and (mended.new, mended.failed) == (1, 0)
    assert warehouse.collection("sentinel-2-l2a").failures()["stage"].to_pylist() == ["discover"]
    with pytest.raises(InputError, match=r"nowhere\.json.*its collection is not known either: pass name="):
        warehouse.index_items([tmp_path / "nowhere.json"])


def test_settings_out_of_bounds_are_named(tmp_path: Path, items: list[Item]) -> None:
    warehouse = Warehouse(tmp_path, create=True)
    with pytest.raises(InputError, match=r"chip_size: .*greater than or equal to 1, found 0"):
        warehouse.index_items(items, chip_size=0)
    with pytest.raises(InputError, match="unknown key 'chipsize', did you mean 'chip_size'"):
        warehouse.index_items(items, chipsize=256)
    assert warehouse.index_items([]) == []
    assert warehouse.collections() == []


# --- names and versions


@pytest.mark.parametrize(
    ("collection_id", "name"),
    [
        ("sentinel-2-l2a", "sentinel-2-l2a"),
        ("HLSS30.v2.0", "hlss30-v2-0"),
        ("Sentinel 2 / L2A", "sentinel-2-l2a"),
        ("x" * 90, "x" * 63),
        ("--a--", "a"),
        ("../../etc", "etc"),
    ],
)
def test_names_are_made_safe(collection_id: str, name: str) -> None:
    assert safe_name(collection_id) == name


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, create=True)
    with pytest.raises(InputError, match="holds no letter or digit"):
        safe_name("Ωμέγα"[:0] + "…")
    for name in ("../x", "Sentinel-2", "", "x" * 64, "-a"):
        with pytest.raises(InputError, match="is no name for a collection or index"):
            warehouse.collection(name)
        with pytest.raises(InputError, match="is no name for a collection or index"):
            warehouse.merge(name, [])


def test_what_is_not_there_is_told_with_what_is(tmp_path: Path, folder: Path, items: list[Item]) -> None:
    warehouse = Warehouse(tmp_path, create=True, local_roots=[folder])
    with pytest.raises(VersionNotFoundError, match=r"no collection 's2'; there are none yet"):
        warehouse.collection("s2")
    with pytest.raises(VersionNotFoundError, match=r"no combined index 'global'; there are none yet"):
        warehouse.combined("global")
    warehouse.index_items(items, chip_size=SIZE)
    with pytest.raises(VersionNotFoundError, match=r"no collection 's2'; there are naip, sentinel-2-l2a"):
        warehouse.merge("global", ["s2"])
    with pytest.raises(VersionNotFoundError, match="collections/naip has no version 7; it has versions 1 to 1"):
        warehouse.collection("naip", 7)
    warehouse.merge("global", ["naip"])
    with pytest.raises(VersionNotFoundError, match="combined/global has no version 7; it has versions 1 to 1"):
        warehouse.combined("global", 7)


def test_two_collection_ids_with_one_name_are_refused(tmp_path: Path, folder: Path, items: list[Item]) -> None:
    warehouse = Warehouse(tmp_path, create=True, local_roots=[folder])
    warehouse.index_items(items[:1], chip_size=SIZE)
    other = copy.deepcopy(items[1]) | {"collection": "sentinel_2_l2a"}
    for number in range(2):
        done = warehouse.index_items([other, items[1]], profile="sentinel-2-l2a", chip_size=SIZE)
        assert isinstance(done, Commit) and (done.version, done.new, done.failed) == (2, 1 - number, 1 - number)
        assert done.waiting == number
    (row,) = warehouse.collection("sentinel-2-l2a").failures().to_pylist()
    assert (row["key"], row["stage"]) == (f"sentinel_2_l2a/{other['id']}", "item")
    assert "'sentinel_2_l2a', and 'sentinel-2-l2a' of the warehouse holds items of 'sentinel-2-l2a'" in row["reason"]


def test_of_several_collection_ids_under_a_new_name_most_items_decide(
    tmp_path: Path, folder: Path, items: list[Item]
) -> None:
    warehouse = Warehouse(tmp_path, create=True, local_roots=[folder])
    done = warehouse.index_items(items, name="all", chip_size=SIZE)
    assert isinstance(done, Commit) and (done.new, done.failed) == (2, 1)
    assert warehouse.collection("all").entry.collection == "sentinel-2-l2a"


def test_an_item_without_collection_takes_that_of_the_name_it_goes_to(
    tmp_path: Path, folder: Path, items: list[Item]
) -> None:
    warehouse = Warehouse(tmp_path, create=True, local_roots=[folder])
    lone = {key: value for key, value in items[1].items() if key != "collection"}
    for _ in range(2):
        warehouse.index_items([items[0], lone], name="s2", chip_size=SIZE)
        warehouse.index_items([lone], name="s2", profile="sentinel-2-l2a", chip_size=SIZE)
    version = warehouse.collection("s2")
    assert (version.version, version.failures().num_rows) == (1, 0)
    assert version.items()["key"].to_pylist() == [f"sentinel-2-l2a/{item['id']}" for item in items[:2]]


def test_one_odd_item_does_not_end_a_run(tmp_path: Path, folder: Path, items: list[Item]) -> None:
    class Broken:
        id = "broken"

        def to_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
            raise RuntimeError("no links")

    deep: dict[str, Any] = {}
    for _ in range(480):
        deep = {"a": deep}
    dated = items[1] | {"properties": {**items[1]["properties"], "seen": datetime(2024, 1, 1, tzinfo=UTC)}}
    odd = [
        {"type": "Feature", "id": "bare", "collection": "sentinel-2-l2a"},
        items[0] | {"id": "deep", "properties": {**items[0]["properties"], "x": deep}},
        items[0] | {"id": "dots", "collection": "…"},
        Broken(),
        7,
    ]
    warehouse = Warehouse(tmp_path, create=True, local_roots=[folder])
    done = warehouse.index_items([*odd, items[0], dated], chip_size=SIZE)  # type: ignore[list-item]
    assert isinstance(done, Commit) and (done.new, done.failed) == (2, 5)
    failures = {row["item_id"]: row for row in warehouse.collection("sentinel-2-l2a").failures().to_pylist()}
    assert set(failures) == {"bare", "deep", "dots", "broken", "None"}
    assert {row["stage"] for row in failures.values()} == {"item"}
    assert failures["broken"]["reason"] == "RuntimeError: no links"


def test_items_of_no_known_collection_are_told_once_the_others_are_committed(
    tmp_path: Path, folder: Path, items: list[Item]
) -> None:
    warehouse = Warehouse(tmp_path / "w", create=True, local_roots=[folder])
    with pytest.raises(InputError, match=r"nowhere\.json.*pass name= to record the failure \(1 such; all other"):
        warehouse.index_items([tmp_path / "nowhere.json", *items], chip_size=SIZE)
    assert warehouse.collections() == ["naip", "sentinel-2-l2a"]
    assert warehouse.collection("sentinel-2-l2a").count() == 8


def test_a_signed_address_is_not_kept(tmp_path: Path, folder: Path, items: list[Item]) -> None:
    warehouse = Warehouse(tmp_path, create=True, local_roots=[folder])
    warehouse.index_items([*items[:2], "http://127.0.0.1:9/item.json?sig=SECRET&se=1"], chip_size=SIZE)
    (row,) = warehouse.collection("sentinel-2-l2a").failures().to_pylist()
    assert (row["item_id"], row["stage"]) == ("http://127.0.0.1:9/item.json", "discover")
    assert not [key for key, body in contents(warehouse).items() if b"SECRET" in body]


def test_what_a_scene_is_made_of_is_kept(tmp_path: Path) -> None:
    path = lone_item(tmp_path / "scenes" / "a", "item-a", 0.0)
    warehouse = Warehouse(tmp_path / "w", create=True)
    warehouse.index_items([path], chip_size=SIZE, local_roots=[tmp_path / "scenes"])
    (row,) = warehouse.collection("sentinel-2-l2a").items(["item", "scene", "base", "profile"]).to_pylist()
    assert (row["base"], row["profile"]) == ("a", "sentinel-2-l2a")
    source = ItemSource(json.loads(row["item"]), row["base"], (str(tmp_path / "scenes"),))
    made = json.loads(Scene.from_item(source, load_profile(row["profile"])).to_json())
    kept = json.loads(row["scene"])
    for asset in (*kept["assets"], kept["qa_asset"]):  # only what is there tells how large it is
        assert asset.pop("size") == (tmp_path / "scenes" / asset["href"]).stat().st_size
    assert kept == made


# --- opening


def test_what_is_no_warehouse_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no warehouse: it has no _format\.json; Warehouse\(root, create=True\)"):
        Warehouse(tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_warehouse_is_made_once(tmp_path: Path) -> None:
    first = Warehouse(tmp_path, create=True).store.read(FORMAT_KEY)
    assert Warehouse(tmp_path, create=True).store.read(FORMAT_KEY) == first
    assert json.loads(first) | {"uuid": "", "checksum": ""} == {
        "format": "stacchip-warehouse",
        "version": 1,
        "features": [],
        "uuid": "",
        "checksum": "",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"_format\.json: format version 2; this release reads 1: install a newer stacchip-core"),
        ({"features": ["x"]}, r"_format\.json asks for x: install a newer stacchip-core"),
        ({"format": "parquet"}, "is not that of a warehouse"),
    ],
)
def test_a_later_format_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    store = Warehouse(tmp_path, create=True).store
    store.write(FORMAT_KEY, canonical(json.loads(store.read(FORMAT_KEY)) | change))
    with pytest.raises(InputError, match=message):
        Warehouse(tmp_path)


def test_a_damaged_format_file_is_named(tmp_path: Path) -> None:
    store = Warehouse(tmp_path, create=True).store
    store.write(FORMAT_KEY, b"{")
    with pytest.raises(StoreError, match=r"_format\.json is damaged"):
        Warehouse(tmp_path)


def test_an_unsafe_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryStore, "_create", lambda self, path, data: self.fs.pipe_file(path, data))
    with pytest.raises(UnsafeStoreError, match="created twice"):
        Warehouse(f"memory://{uuid.uuid4()}/w", create=True)


# --- processes


PROCESSES, COMMITS, ITEMS = 8, 13, 60


def _commit_many(root: str, worker: int, barrier: Barrier) -> None:
    """Commit batches that overlap with those of all other workers, and note what was acknowledged."""
    store = open_store(root)
    barrier.wait()
    for number in range(COMMITS):
        seen = Manifest.load(store, "s2").version
        mine = [Piece((worker * 7 + number * 5 + k) % ITEMS, form="f", rows=2) for k in range(4)]
        own = Piece(1000 + worker * 100 + number, rows=1)
        part = part_of(store, "s2", [*mine, own]).part
        done = commit_parts(store, "s2", [part], read_version=seen)
        store.write(f"acks/{worker}-{number}.json", json.dumps([done.version, done.new, own.key]).encode())


@pytest.mark.slow
def test_processes_racing_to_commit_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    workers = [context.Process(target=_commit_many, args=(str(tmp_path), n, barrier)) for n in range(PROCESSES)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(300)
        assert process.exitcode == 0
    store = open_store(tmp_path)
    entries = Log(store, "collections/s2").entries()
    acks = [json.loads(store.read(key)) for key in store.list("acks")]
    assert len(acks) == PROCESSES * COMMITS
    assert sorted(version for version, _, _ in acks) == [entry.version for entry in entries] == list(range(1, 105))
    manifest = Manifest.load(store, "s2")
    live = Counter(manifest.states().live["key"].to_pylist())
    assert set(live.values()) == {1}
    assert set(live) == {key for _, _, key in acks} | {Piece(number).key for number in range(ITEMS)}
    ids = chip_ids(Warehouse.collection(_opened(tmp_path), "s2").dataset())
    assert len(ids) == len(set(ids)) == entries[-1].totals.chips == len(acks) + 2 * ITEMS
    assert sum(new for _, new, _ in acks) == len(live)


def _opened(root: Path) -> Warehouse:
    return Warehouse(root, create=True)


def test_a_warehouse_that_another_release_committed_to_still_reads(tmp_path: Path) -> None:
    """Fields that this release does not know are left alone."""
    warehouse = _opened(tmp_path)
    commit_pieces(warehouse.store, "s2", [Piece(1)])
    assert warehouse.collection("s2").count() == 3
