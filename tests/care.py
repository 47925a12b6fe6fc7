"""Warehouses to take care of, in every kind of store; clocks that go on; damage."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from stacchip_core.sources.access import Storage
from stacchip_core.warehouse.care import expire, vacuum
from stacchip_core.warehouse.combined.merge import merge
from stacchip_core.warehouse.commit import commit
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.version import IndexVersion
from stacchip_core.warehouse.warehouse import Warehouse
from stacchip_core.warehouse.work import removal
from tests.s3_fake import S3Fake
from tests.warehouse_rows import Piece, commit_pieces

KINDS = ("local", "memory", pytest.param("s3", marks=pytest.mark.server))


def new_warehouse(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    """An empty warehouse in a store of one of `KINDS`."""
    if kind == "local":
        return Warehouse(tmp_path / "root", create=True)
    if kind == "memory":
        return memory_warehouse()
    fake: S3Fake = request.getfixturevalue("s3_fake")
    return Warehouse(fake.new_store().root, create=True, storage=Storage(endpoint=fake.endpoint))


def memory_warehouse() -> Warehouse:
    """An empty warehouse in memory, nobody else's."""
    return Warehouse(f"memory://{uuid.uuid4()}/warehouse", create=True)


def grow(store: Store, versions: int, *, name: str = "s2", collection: str = "s2", start: int = 0) -> None:
    """Commits of two items each: one is new, of the other the form changes with every commit."""
    for number in range(start, start + versions):
        changing = Piece(500, form=f"f{number:03d}", collection=collection)
        commit_pieces(store, name, [Piece(number, collection=collection, month=6 + number % 2), changing])


def filled(store: Store) -> None:
    """Two collections at 8 and 2 versions, with failures and a deletion, and a combined index at 3 versions."""
    grow(store, 3)
    grow(store, 2, name="naip", collection="naip")
    merge(store, "global", ["s2", "naip"])
    grow(store, 3, start=3)
    merge(store, "global", ["s2", "naip"])
    commit_pieces(store, "s2", [Piece(90, failure="read"), Piece(0, form="z", rows=5)])
    manifest = Manifest.load(store, "s2")
    commit(manifest, removal(manifest, ["item-0001"], "withdrawn"))
    merge(store, "global", ["s2", "naip"])


def content(version: IndexVersion) -> tuple[list[str], list[dict[str, object]]]:
    """What users see of a version: ids of all chips, and item rows."""
    chips = sorted(version.dataset().to_table(columns=["chip_id"])["chip_id"].to_pylist())
    items = version.items(["key", "fingerprint", "recipe", "size_px", "rows", "datetime"]).to_pylist()
    return chips, items


def contents(warehouse: Warehouse, indexes: Iterable[str]) -> dict[tuple[str, int], object]:
    """What users see of every version that can be read."""
    return {
        (index, one.version): content(warehouse.index(index, one.version))
        for index in indexes
        for one in warehouse.versions(index)
        if one.is_readable
    }


def later(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """The store's clock goes on, as far as expire and vacuum see."""

    def now(store: Store) -> datetime:
        return store.now() + timedelta(days=days)

    monkeypatch.setattr(vacuum, "_now", now)
    monkeypatch.setattr(expire, "_now", now)


def keys(
    store: Store, prefixes: Sequence[str] = ("collections", "combined", "_staging", "tags", "datasets")
) -> set[str]:
    """Keys of all objects."""
    return {key for prefix in prefixes for key in store.list(prefix)}


def flipped(body: bytes, place: int, bit: int = 0) -> bytes:
    """Bytes with one bit changed."""
    return body[:place] + bytes([body[place] ^ (1 << bit)]) + body[place + 1 :]
