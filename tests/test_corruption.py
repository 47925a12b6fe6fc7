"""Damage to every kind of file: `verify` finds all of it, and readers name the file or give the right rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stacchip_core.errors import StacchipError
from stacchip_core.index.grid import GridSpec
from stacchip_core.index.indexer import IndexSettings
from stacchip_core.sources.item import StagedItem
from stacchip_core.warehouse.classify import classify
from stacchip_core.warehouse.entry import KINDS, FileInfo, LogEntry
from stacchip_core.warehouse.files import open_parquet, read_whole
from stacchip_core.warehouse.format import check_format
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.version import IndexVersion
from stacchip_core.warehouse.warehouse import Warehouse
from tests.dict_store import DictStore
from tests.quick import opened, quick
from tests.warehouse_rows import Piece, commit_pieces
from tests.worlds import MemoryWorld, make

pytestmark = pytest.mark.slow

Damage = Callable[[bytes], bytes]


def flip(place: int, bits: int = 0xFF) -> Damage:
    def damage(body: bytes) -> bytes:
        at = place % len(body)
        return body[:at] + bytes([body[at] ^ bits]) + body[at + 1 :]

    return damage


def cut(length: int) -> Damage:
    return lambda body: body[:length]


@pytest.fixture(scope="module")
def world() -> Iterator[MemoryWorld]:
    """Two collections, one with checkpoints and all kinds of rows; two versions of a combined index; a tag."""
    world = MemoryWorld()
    with quick(every=2):
        make(world)
        store, warehouse = world.store, world.warehouse
        commit_pieces(store, "s2", [Piece(1), Piece(2, month=7), Piece(3, failure="read")])
        commit_pieces(store, "s2", [Piece(1, form="b", rows=5), Piece(4, size=128), Piece(5, rows=0)])
        commit_pieces(store, "naip", [Piece(1, collection="naip")])
        warehouse.merge("global", ["s2", "naip"])
        warehouse.tag("paper", "global")
        commit_pieces(store, "s2", [Piece(6)])
        warehouse.remove_items("s2", [Piece(2).item_id], reason="gone")
        commit_pieces(store, "s2", [Piece(7, month=7, rows=2)])
        warehouse.merge("global", ["s2", "naip"])
        assert warehouse.verify(deep=True).is_clean
        yield world


def kind_of(key: str) -> str:
    """ "log", "data", "items", "checkpoints", … with the kind of index before it."""
    parts = key.split("/")
    return parts[0] if len(parts) < 3 else f"{parts[0]} {parts[2]}"


def objects(world: MemoryWorld) -> dict[str, list[str]]:
    """Keys of all published objects by kind."""
    found: dict[str, list[str]] = {}
    for key in ("_format.json", *(key for top in ("tags", *KINDS) for key in world.store.list(top))):
        found.setdefault(kind_of(key), []).append(key)
    return found


EXPECTED_KINDS = {
    "_format.json",
    "tags",
    "collections log",
    "collections data",
    "collections items",
    "collections checkpoints",
    "collections _last_checkpoint.json",
    "combined log",
    "combined data",
    "combined items",
}


def test_the_warehouse_under_test_has_every_kind_of_file(world: MemoryWorld) -> None:
    assert set(objects(world)) == EXPECTED_KINDS


def damages(length: int) -> dict[str, Damage]:
    """First, last, footer, middle, and some places by chance; and cut off at several lengths."""
    places = {"first": 0, "second": 1, "last": length - 1, "footer": length - 6, "in the footer": length - 40}
    chance = random.Random(length)
    places |= {f"place {n}": chance.randrange(length) for n in range(4)} | {"middle": length // 2}
    found = {name: flip(place) for name, place in places.items()}
    found |= {f"one bit, {name}": flip(place, 1) for name, place in list(places.items())[2:6]}
    return found | {f"cut to {size}": cut(size) for size in (0, 1, length // 2, length - 1)}


FEW = ("first", "in the footer", "middle", "cut to 1")  # for the second file of a kind and those after it


@dataclass
class Damaged:
    """A warehouse with one object changed."""

    store: DictStore
    key: str

    @property
    def warehouse(self) -> Warehouse:
        return opened(self.store)


def damaged(world: MemoryWorld, key: str, damage: Damage) -> Damaged:
    other = world.copy().store
    path = other.path(key)
    body, when = other.objects[path]
    changed = damage(body)
    assert changed != body
    other.objects[path] = (changed, when)
    return Damaged(other, key)


@pytest.mark.parametrize("kind", sorted(EXPECTED_KINDS))
def test_verify_finds_all_damage_and_names_the_file(world: MemoryWorld, kind: str) -> None:
    tried = 0
    for number, key in enumerate(objects(world)[kind]):
        chosen = damages(world.store.size(key))
        for name in chosen if number == 0 else FEW:
            damage = chosen[name]
            report = damaged(world, key, damage).warehouse.verify(deep=True)
            found = [problem for problem in report.problems if problem.path == key or key in problem.what]
            assert found, f"{key}, {name}: found only {report.problems}"
            tried += 1
    assert tried >= 15


# --- readers


def plain(value: Any) -> Any:
    """Rows in an order of their own, as plain values."""
    return sorted(map(repr, value.to_pylist())) if hasattr(value, "to_pylist") else repr(value)


ITEMS = [
    StagedItem(
        {"id": Piece(n).item_id, "collection": "s2", "properties": {"datetime": datetime(2024, 6, n).isoformat()}}
    )
    for n in (1, 2, 9)
]


def readers(warehouse: Warehouse) -> dict[str, Callable[[], Any]]:
    """Every way to read, by name."""
    store = warehouse.store
    everything: dict[str, Callable[[], Any]] = {
        "format": lambda: check_format(store),
        "tagged": lambda: plain(warehouse.combined("global", "paper").dataset().to_table()),
        "tags": warehouse.tags,
        "classify": lambda: repr(classify(Manifest.load(store, "s2"), ITEMS, IndexSettings())),
        "states of keys": lambda: plain(Manifest.load(store, "s2").states({Piece(1).key}).live),
        "failures": lambda: plain(warehouse.collection("s2").failures()),
        "versions": lambda: [(v.version, v.sha256) for v in warehouse.versions("collections/s2")],
        "diff": lambda: warehouse.diff("combined/global", 1, 2).to_json(),
    }
    for index in ("collections/s2", "collections/naip", "combined/global"):
        for number in (None, 1):
            everything |= readers_of(warehouse, index, number)
    return everything


def readers_of(warehouse: Warehouse, index: str, number: int | None) -> dict[str, Callable[[], Any]]:
    """Every way to read one version."""
    key = Piece(1, collection="naip" if "naip" in index else "s2").key
    reads: dict[str, Callable[[IndexVersion], Any]] = {
        "rows": lambda version: plain(version.dataset().to_table()),
        "ids": lambda version: plain(version.dataset().to_table(columns=["chip_id"])),
        "items": lambda version: plain(version.items()),
        "JSON": lambda version: plain(version.items(["key", "scene"])),
        "scenes": lambda version: repr(version.scenes([key], GridSpec())),
    }

    def opened_and(read: Callable[[IndexVersion], Any]) -> Callable[[], Any]:
        return lambda: read(warehouse.index(index, number))

    where = f"{index}@{number or 'newest'}"
    return {f"{where} {name}": opened_and(read) for name, read in reads.items()}


def merge_of(warehouse: Warehouse) -> Callable[[], Any]:
    """A merge of everything, and its rows."""
    return lambda: plain(warehouse.merge("again", ["s2", "naip"]).dataset().to_table())


@pytest.mark.parametrize("kind", sorted(EXPECTED_KINDS))
def test_readers_of_a_damaged_file_name_it_or_give_the_right_rows(world: MemoryWorld, kind: str) -> None:
    right: Mapping[str, Any] = {name: read() for name, read in readers(world.warehouse).items()}
    right_merge, told = merge_of(world.copy().warehouse)(), 0
    for key in objects(world)[kind][:: max(1, len(objects(world)[kind]) - 1)]:  # the first and the last of the kind
        chosen = damages(world.store.size(key))
        for name in (*FEW, "footer", "cut to 0"):
            other = damaged(world, key, chosen[name])
            for what, read in {**readers(other.warehouse), "merge": merge_of(other.warehouse)}.items():
                try:
                    found = read()
                except StacchipError as err:
                    assert key in str(err), f"{what}, {key}, {name}: the error does not name the file: {err}"
                    told += 1
                else:
                    assert found == (right_merge if what == "merge" else right[what]), f"{what}, {key}, {name}"
    assert told or kind in ("collections _last_checkpoint.json", "collections checkpoints"), "nobody noticed"


@pytest.mark.parametrize("kind", sorted(EXPECTED_KINDS))
def test_a_folder_in_the_place_of_a_file_is_damage_of_that_file(world: MemoryWorld, kind: str, tmp_path: Path) -> None:
    right = {name: read() for name, read in readers(world.warehouse).items()}
    keys = objects(world)[kind]
    for number, key in enumerate({keys[0], keys[-1]}):
        warehouse = on_disk(world, tmp_path / str(number))
        path = tmp_path / str(number) / key
        path.unlink()
        path.mkdir()
        for what, read in readers(warehouse).items():
            try:
                found = read()
            except StacchipError as err:
                assert key in str(err), f"{what}, {key}: the error does not name the file: {err}"
            else:
                assert found == right[what] or kind == "tags", f"{what}, {key}"
        for look in (warehouse.verify, partial(warehouse.verify, deep=True)):
            problems = look().problems
            assert kind == "tags" or any(key in (problem.path, *problem.what.split()) for problem in problems), key
        left = warehouse.repair(dry_run=False).left
        assert path.is_dir(), "a folder of somebody's was removed"
        assert left or kind in ("tags", "collections data", "combined data", "combined items"), key


def on_disk(world: MemoryWorld, root: Path) -> Warehouse:
    """The same objects in a folder."""
    for key in (key for keys in objects(world).values() for key in keys):
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(world.store.read(key))
    return Warehouse(root)


# --- every byte


@pytest.mark.parametrize("key", ["_format.json", "tags/paper.json", "combined/global/log/00000000000000000002.json"])
def test_every_byte_of_a_sealed_file_counts(world: MemoryWorld, key: str) -> None:
    """Flipped in one bit, or cut off there."""
    read: Callable[[Warehouse], Any] = {
        "_format.json": lambda w: check_format(w.store),
        "tags/paper.json": lambda w: w.tags(),
    }.get(key, lambda w: Log(w.store, "combined/global").newest())
    for place in range(world.store.size(key)):
        for damage in (flip(place, 1 << place % 8), cut(place)):
            with pytest.raises(StacchipError, match=key):
                read(damaged(world, key, damage).warehouse)


def test_every_byte_of_a_parquet_file_counts(world: MemoryWorld) -> None:
    """Whichever byte of the smallest file of each kind is flipped: whoever reads its rows is told."""
    entries = [LogEntry.from_bytes(world.store.read(key), key) for key in world.store.list("collections/s2/log")]
    infos = [info for entry in entries for info in entry.added]
    for role in ("data", "items", "checkpoints"):
        info = min((info for info in infos if info.role == role), key=lambda info: info.size)
        for place in range(info.size):
            other = damaged(world, info.path, flip(place, 1 << place % 8))
            with pytest.raises(StacchipError, match=info.path):
                whole_table(other.store, info)
            with pytest.raises(StacchipError, match=info.path):
                read_whole(other.store, info)


def whole_table(store: DictStore, info: FileInfo) -> Any:
    with open_parquet(store, info) as file:
        return file.read()


def test_one_flipped_bit_in_a_large_file_is_found_by_whoever_reads_its_block(world: MemoryWorld) -> None:
    """Files above some megabytes are read in proven blocks, never whole."""
    other = world.copy()
    pieces = [Piece(number, rows=90_000) for number in range(60, 63)]
    commit_pieces(other.store, "large", pieces)
    (info,) = (i for e in Manifest.load(other.store, "large").log.entries() for i in e.added if i.role == "data")
    assert info.size > 2 * 2**20, "the file has several blocks"
    chance = random.Random(3)
    for _ in range(20):
        place = chance.randrange(info.size)
        broken = damaged(other, info.path, flip(place, 1 << chance.randrange(8)))
        with pytest.raises(StacchipError, match=info.path):
            whole_table(broken.store, info)
        assert any(p.path == info.path for p in broken.warehouse.verify(deep=True).problems)
