"""A file that is no longer the one that was indexed: its chips fail by name, all others are written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from stacchip_core import Chipper, Dataset, Indexer, ReadError, Storage, Warehouse, materialize, stream
from stacchip_core.chips.dataset import update
from stacchip_core.index.indexer import IndexSettings
from stacchip_core.sources.identity import UNKNOWN, FileIdentity
from stacchip_core.sources.item import StagedItem, read_item
from stacchip_core.sources.scene import Scene
from stacchip_core.warehouse.store import open_store
from tests.range_server import Asked, RangeServer, Reply, part, serving
from tests.s3_fake import S3Fake
from tests.scenes import SENTINEL2_BANDS, Item, naip_scene, sentinel2_scene, utm_grid
from tests.warehouses import SIZE, spec

HERE = Storage(hosts=("127.0.0.1", "localhost"))
IMAGE = [{"collection": "naip", "bands": ["image"]}]


@dataclass
class Bucket:
    """A folder behind HTTP; files have the tags given here, redirected paths answer 302."""

    folder: Path
    etags: dict[str, str] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)

    def answer(self, asked: Asked) -> Reply:
        name = urlsplit(asked.path).path.lstrip("/")
        if name in self.elsewhere:
            return Reply(302, headers={"Location": self.elsewhere[name]})
        path = self.folder / name
        if not path.is_file():
            return Reply(404)
        reply = part(path.read_bytes(), asked)
        tag = {"ETag": self.etags[name]} if name in self.etags else {}
        return replace(reply, headers={**reply.headers, **tag})


@dataclass
class Place:
    """Two aerial items of one file each, near or far; `path` is the second's."""

    warehouse: Warehouse
    path: Path
    bucket: Bucket

    @property
    def name(self) -> str:
        return self.path.relative_to(self.bucket.folder).as_posix()


def items_in(folder: Path) -> list[Item]:
    grid = utm_grid(200, 1.0, epsg=26914)
    return [naip_scene(folder, grid=grid, item_id=name, seed=n) for n, name in enumerate(("steady", "altered"))]


def away(item: Item, folder: Path, server: RangeServer) -> Item:
    moved: Item = json.loads(json.dumps(item).replace(str(folder), server.url))
    return moved


def indexed(root: Path, items: list[Item], *roots: Path) -> Warehouse:
    warehouse = Warehouse(root, create=True, storage=HERE, local_roots=[str(one) for one in roots])
    warehouse.index_items(items, chip_size=SIZE, storage=HERE)
    warehouse.merge("global", collections=warehouse.collections())
    return warehouse


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    folder = tmp_path / "pixels"
    items = items_in(folder)
    bucket = Bucket(folder)
    with serving(bucket.answer) as server:
        for path in folder.rglob("*.tif"):
            bucket.etags[path.relative_to(folder).as_posix()] = f'"{path.parent.name}-1"'
        is_far = request.param == "far"
        given = [away(item, folder, server) for item in items] if is_far else items
        warehouse = indexed(tmp_path / "warehouse", given, *([] if is_far else [folder]))
        yield Place(warehouse, next((folder / "altered").glob("*.tif")), bucket)


def vanished(place: Place) -> str:
    place.path.unlink()
    return r"HTTP 404|is not there"


def longer(place: Place) -> str:
    """The same pixels on the same grid: what was appended is no part of the raster."""
    size = place.path.stat().st_size
    place.path.write_bytes(place.path.read_bytes() + bytes(10))
    return rf"changed since the item was indexed: {size} bytes then, {size + 10} now; reindex the item"


def cut_off(place: Place) -> str:
    content = place.path.read_bytes()
    place.path.write_bytes(content[:-40])
    return rf"changed since the item was indexed: {len(content)} bytes then, {len(content) - 40} now; reindex"


def retagged(place: Place) -> str:
    place.bucket.etags[place.name] = '"altered-2"'
    return r'changed since the item was indexed: ETag "altered-1" then, "altered-2" now; reindex the item'


def check_failures(place: Place, reason: str) -> Dataset:
    """Chips of the changed file fail, in the dataset as in its twin; the others are written; the budget decides."""
    wanted = spec(bands=IMAGE)
    dataset, streamed = materialize(place.warehouse, wanted), stream(place.warehouse, wanted)
    kept = {row["chip_id"]: chip for row, chip in streamed}
    assert sorted(kept) == sorted(row["chip_id"] for row, _ in dataset)
    assert {row["item_id"] for row, _ in dataset} == {"steady"}
    assert len(kept) == len(dataset) == dataset.failures.num_rows == 4
    for row, chip in dataset:
        assert np.array_equal(chip["image"], kept[row["chip_id"]]["image"])
    assert sorted(streamed.failures) == sorted(dataset.failures["chip_id"].to_pylist())
    for said in (*dataset.failures["reason"].to_pylist(), *streamed.failures.values()):
        assert said.startswith("item altered: asset 'image'")
        assert re.search(reason, said), said
    strict = spec(name="strict", bands=IMAGE, max_failed=3)
    with pytest.raises(ReadError, match=r"4 of its 8 chips could not be read, and max_failed is 3; the others are wr"):
        materialize(place.warehouse, strict)
    with pytest.raises(ReadError, match=r"4 of its 8 chips could not be read, and no more than 3 may fail"):
        list(stream(place.warehouse, strict))
    return dataset


@pytest.mark.parametrize("change", [vanished, longer, cut_off])
@pytest.mark.parametrize("place", ["near", "far"], indirect=True)
def test_a_file_that_is_not_the_one_indexed_fails_its_chips_alone(place: Place, change: Callable[[Place], str]) -> None:
    check_failures(place, change(place))


@pytest.mark.parametrize("place", ["far"], indirect=True)
def test_another_etag_is_another_file_until_the_item_is_reindexed(place: Place) -> None:
    """The size and the grid are the same: only the server's name of the version tells."""
    content = place.path.read_bytes()
    dataset = check_failures(place, retagged(place))
    settings = IndexSettings(chip_size=SIZE, storage=HERE)
    items = [json.loads(text) for text in place.warehouse.collection("naip").items(["item"])["item"].to_pylist()]
    found = place.warehouse.classify("naip", [StagedItem(item) for item in items], settings, rebuild="all")
    batch = place.warehouse.index_batch("naip", place.warehouse.stage(found.updated), settings)
    place.warehouse.commit("naip", [batch.part], read_version=found.version, is_rebuilt=True)
    place.warehouse.merge("global", collections=["naip"])
    assert update(place.warehouse, "fields").lock.failures == 0
    assert place.path.read_bytes() == content
    assert dataset.lock.failures == 4


@pytest.mark.parametrize("place", ["far"], indirect=True)
def test_chippers_refuse_a_changed_file_too(place: Place) -> None:
    item = json.loads(place.warehouse.collection("naip").items(["item"])["item"].to_pylist()[0])
    index = Indexer(item, chip_size=SIZE, storage=HERE).create_index()
    assert Chipper(index, storage=HERE)[0]["image"].shape == (4, SIZE, SIZE)
    place.bucket.etags[place.name] = '"another"'
    with pytest.raises(ReadError, match=r'item altered: .*: ETag "altered-1" then, "another" now; reindex'):
        Chipper(index, storage=HERE)[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [('W/"1"', 'W/"2"'), ('"1"', 'W/"2"'), ('W/"1"', '"2"'), (None, '"2"'), ('"1"', None)],
    ids=["weak", "grown-weak", "grown-strong", "named-since", "nameless-since"],
)
def test_only_two_strong_etags_are_compared(tmp_path: Path, before: str | None, after: str | None) -> None:
    bucket = Bucket(tmp_path / "pixels")
    item = items_in(bucket.folder)[1]
    path = next((bucket.folder / "altered").glob("*.tif"))
    name = path.relative_to(bucket.folder).as_posix()
    with serving(bucket.answer) as server:
        bucket.etags |= {} if before is None else {name: before}
        warehouse = indexed(tmp_path / "warehouse", [away(item, bucket.folder, server)])
        bucket.etags.pop(name, None)
        bucket.etags |= {} if after is None else {name: after}
        assert len(materialize(warehouse, spec(bands=IMAGE))) == 4
        path.write_bytes(path.read_bytes() + bytes(10))  # sizes are compared all the same
        with pytest.raises(ReadError, match=r"none of its 4 chips .* changed since the item was indexed: \d+ bytes"):
            materialize(warehouse, spec(name="longer", bands=IMAGE))


def test_mirrors_that_we_are_sent_on_to_may_name_the_same_bytes_otherwise(tmp_path: Path) -> None:
    bucket = Bucket(tmp_path / "pixels")
    item = items_in(bucket.folder)[1]
    name = next((bucket.folder / "altered").glob("*.tif")).relative_to(bucket.folder).as_posix()
    one, other = (Bucket(bucket.folder, {name: tag}) for tag in ('"one"', '"other"'))
    with serving(bucket.answer) as server, serving(one.answer) as first, serving(other.answer) as second:
        bucket.elsewhere[name] = f"{first.url}/{name}"
        warehouse = indexed(tmp_path / "warehouse", [away(item, bucket.folder, server)])
        bucket.elsewhere[name] = f"{second.url}/{name}"
        assert len(materialize(warehouse, spec(bands=IMAGE))) == 4
        assert second.asked


@pytest.mark.parametrize("is_right", [True, False])
def test_sizes_that_an_item_gives_count_where_they_prove_right(tmp_path: Path, is_right: bool) -> None:
    """Indexing opens the class mask alone; of the bands it knows what the item says, if that is right of the mask."""
    bucket = Bucket(tmp_path / "pixels")
    item = sentinel2_scene(bucket.folder, grid=utm_grid(96))
    for key, asset in item["assets"].items():
        if Path(asset["href"]).is_file():
            asset["file:size"] = Path(asset["href"]).stat().st_size + (0 if is_right or key != "scl" else 1)
    wanted = spec(bands=[{"collection": "sentinel-2-l2a", "bands": ["red"]}])
    with serving(bucket.answer) as server:
        warehouse = indexed(tmp_path / "warehouse", [away(item, bucket.folder, server)])
        assert {Path(asked.path).name for asked in server.asked} == {"scl.tif"}, "and nothing is asked for it"
        red = next(bucket.folder.rglob("red.tif"))
        red.write_bytes(red.read_bytes() + bytes(10))
        if is_right:
            with pytest.raises(ReadError, match=r"asset 'red' .* changed since the item was indexed: \d+ bytes then"):
                materialize(warehouse, wanted)
        else:
            assert len(materialize(warehouse, wanted)) == 1


def test_scenes_of_earlier_releases_are_read_as_they_are_and_not_checked(tmp_path: Path) -> None:
    scene = Scene.from_item(read_item(items_in(tmp_path)[0], (str(tmp_path),)))
    told = json.loads(scene.to_json())
    assert not {"size", "etag"} & set(told["assets"][0])
    assert Scene.from_json(scene.to_json()) == scene
    UNKNOWN.check(FileIdentity(5, '"new"'))
    known = scene.with_files({"image": FileIdentity(7, '"v"')})
    assert Scene.from_json(known.to_json()) == known
    assert (known.assets[0].size, known.assets[0].etag) == (7, '"v"')


def test_files_that_indexing_does_not_open_are_asked_where_that_is_wanted(tmp_path: Path) -> None:
    bucket = Bucket(tmp_path / "pixels")
    item = sentinel2_scene(bucket.folder, grid=utm_grid(96))
    for path in bucket.folder.rglob("*.tif"):
        bucket.etags[path.relative_to(bucket.folder).as_posix()] = f'"{path.stem}"'
    next(bucket.folder.rglob("nir.tif")).unlink()
    wanted = spec(bands=[{"collection": "sentinel-2-l2a", "bands": ["red"]}])
    with serving(bucket.answer) as server:
        warehouse = Warehouse(tmp_path / "warehouse", create=True, storage=HERE)
        warehouse.index_items([away(item, bucket.folder, server)], chip_size=SIZE, storage=HERE, ask_files=True)
        warehouse.merge("global", collections=warehouse.collections())
        names = [Path(asked.path).name for asked in server.asked if "scl" not in asked.path]
        assert sorted(names) == sorted(f"{band}.tif" for band, _, _ in SENTINEL2_BANDS), "each once"
        bucket.etags[f"{item['id']}/red.tif"] = '"another"'
        with pytest.raises(ReadError, match=r'asset .red. .*: ETag "red" then, "another" now; reindex the item'):
            materialize(warehouse, wanted)
        with pytest.raises(ReadError, match=r"asset 'nir' .* HTTP 404"):  # it was not there then either
            materialize(warehouse, spec(name="nir", bands=[{"collection": "sentinel-2-l2a", "bands": ["nir"]}]))


def put(fake: S3Fake, bucket: str, folder: Path) -> None:
    """Every file of a folder, as an object."""
    store = open_store(f"s3://{bucket}", fake.storage)
    for path in folder.rglob("*.tif"):
        store.write(path.relative_to(folder).as_posix(), path.read_bytes())


@pytest.mark.slow
def test_objects_are_known_by_what_their_store_tells(s3_fake: S3Fake, tmp_path: Path) -> None:
    folder, bucket = tmp_path / "pixels", f"pixels-{tmp_path.name[-8:].strip('_')}"
    items = [json.loads(json.dumps(item).replace(str(folder), f"s3://{bucket}")) for item in items_in(folder)]
    s3_fake.buckets.make(bucket)
    put(s3_fake, bucket, folder)
    warehouse = Warehouse(tmp_path / "warehouse", create=True, storage=s3_fake.storage)
    warehouse.index_items(items, chip_size=SIZE, storage=s3_fake.storage)
    warehouse.merge("global", collections=warehouse.collections())
    path = next((folder / "altered").glob("*.tif"))
    place = Place(warehouse, path, Bucket(folder))
    assert len(materialize(warehouse, spec(name="before", bands=IMAGE))) == 8
    path.write_bytes(path.read_bytes()[:-1] + b"?")  # no pixel is there, and the size is the same
    put(s3_fake, bucket, folder)
    check_failures(place, r'changed since the item was indexed: ETag "\w+" then, "\w+" now; reindex the item')
