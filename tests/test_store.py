"""Every store keeps the same contract: local disk, memory, and S3 servers over HTTP.

Google Cloud Storage and Azure are not run: there is no server of theirs to run here. `STACCHIP_TEST_S3=<endpoint>` adds
a server of your own, which must know the key "testing" with the secret "testing".
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core.errors import (
    InputError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreError,
    UnsafeStoreError,
)
from stacchip_core.sources.access import Storage
from stacchip_core.warehouse.store import STAGING, LocalStore, MemoryStore, Store, open_store
from tests.faulty_store import FaultyStore, memory_store
from tests.s3_buckets import Dialect
from tests.s3_fake import OWN_SERVER, S3Fake

KINDS = [
    *("local", "memory", "faulty", *Dialect),
    pytest.param("moto", marks=pytest.mark.server),
    *([pytest.param("own_server", marks=pytest.mark.server)] if OWN_SERVER else []),
]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    match request.param:
        case "local":
            return open_store(tmp_path / "root")
        case "memory":
            return memory_store()
        case "faulty":
            return FaultyStore(open_store(tmp_path / "root"))
        case Dialect() as dialect:
            fake: S3Fake = request.getfixturevalue("s3_fake")
            fake.buckets.dialect = dialect
            return fake.new_store()
    request.getfixturevalue("s3_credentials")
    endpoint = OWN_SERVER if request.param == "own_server" else request.getfixturevalue("s3_endpoint")
    found = open_store(f"s3://b{uuid.uuid4().hex}/some/prefix", Storage(endpoint=endpoint))
    found.fs.mkdir(found.path("x").split("/")[0])
    return found


# --- the contract


def test_what_is_written_is_read(store: Store) -> None:
    for data in (b"one", b"two", b""):
        store.write("a/b.bin", data)
        assert store.read("a/b.bin") == data
        assert store.size("a/b.bin") == len(data)


@pytest.mark.parametrize("data", [b"mine", b""])
def test_a_key_is_created_once(store: Store, data: bytes) -> None:
    store.create("log/1.json", data)
    with pytest.raises(ObjectExistsError, match=r"log/1\.json: already exists"):
        store.create("log/1.json", b"another's")
    assert store.read("log/1.json") == data


def test_what_is_not_there_is_missing(store: Store) -> None:
    assert not store.exists("a/b")
    for look in (store.read, store.size, store.modified):
        with pytest.raises(ObjectNotFoundError, match="a/b: no such object"):
            look("a/b")
    store.write("a/b", b"x")
    assert store.exists("a/b")
    for look in (store.read, store.size, store.modified):
        with pytest.raises(StoreError):
            look("a")
    assert not store.exists("a"), "a folder is no object"


def test_listing_gives_the_keys_of_one_folder(store: Store) -> None:
    assert store.list("c/log") == []
    assert store.folders("c") == []
    for key in ("c/log/2", "c/log/1", "c/log/deep/3", "c/log-old/1", "c/logs", "d/1"):
        store.write(key, b"x")
    assert store.list("c/log") == ["c/log/1", "c/log/2", "c/log/deep/3"]
    assert store.folders("c") == ["log", "log-old"]
    store.write("c/log/3", b"x")
    assert store.list("c/log")[2] == "c/log/3", "listings are never remembered"


def test_a_listing_tells_size_and_time_of_each_object(store: Store) -> None:
    assert store.listing("c") == {}
    for number in range(3):
        store.write(f"c/{number}/ö +&", b"x" * number)
    listing = store.listing("c")
    assert list(listing) == store.list("c") == [f"c/{number}/ö +&" for number in range(3)]
    assert [listed.size for listed in listing.values()] == [0, 1, 2]
    for key, listed in listing.items():
        assert listed.modified.utcoffset() == timedelta(0)
        assert abs(listed.modified - store.modified(key)) < timedelta(seconds=1)


def test_a_listing_is_as_fresh_as_the_last_change(store: Store) -> None:
    for number in range(20):
        store.create(f"c/log/{number:03d}", b"x")
        assert len(store.list("c/log")) == number + 1
    for number in range(20):
        store.delete(f"c/log/{number:03d}")
        assert len(store.list("c/log")) == 19 - number


def test_what_is_deleted_is_gone_and_its_key_free(store: Store) -> None:
    for key in ("a/1", "a/10", "a/1-old"):
        store.create(key, b"x")
    store.delete("a/1")
    assert not store.exists("a/1")
    with pytest.raises(ObjectNotFoundError):
        store.read("a/1")
    assert store.list("a") == ["a/1-old", "a/10"]
    store.create("a/1", b"again")
    assert store.read("a/1") == b"again"


def test_deleting_what_is_not_there_is_fine(store: Store) -> None:
    store.delete("a/1")
    store.write("a/1", b"x")
    for _ in range(2):
        store.delete("a/1")
    assert store.list("a") == []


def test_times_are_the_stores_own(store: Store) -> None:
    store.write("a", b"x")
    assert store.modified("a").utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - store.modified("a")) < timedelta(minutes=2)


def test_now_never_runs_behind_what_was_written_before(store: Store) -> None:
    store.write("a", b"x")
    first = store.now()
    assert first.utcoffset() == timedelta(0)
    assert first >= store.modified("a")
    time.sleep(0.01)
    assert store.now() >= first
    assert store.folders("data") == []


def test_ranges_end_with_the_object(store: Store) -> None:
    store.write("a", b"0123456789")
    assert store.read_range("a", 2, 5) == b"234"
    assert store.read_range("a", 8, 99) == b"89"
    assert store.read_range("a", 10, 20) == store.read_range("a", 12, 20) == b""
    store.write("empty", b"")
    assert store.read_range("empty", 0, 5) == b""
    with pytest.raises(ObjectNotFoundError, match="b: no such object"):
        store.read_range("b", 0, 1)
    assert store.read_range("a", 5, 5) == b""
    for start, stop in ((5, 4), (-2, 1)):
        with pytest.raises(StoreError, match="is no range of bytes"):
            store.read_range("a", start, stop)


def test_what_is_too_much_for_one_request_is_not_created(store: Store) -> None:
    with pytest.raises(StoreError, match=r"33554433 bytes are too many"):
        store.create("a", b"x" * (32 * 2**20 + 1))
    assert not store.exists("a")


def test_a_file_is_published_whole_or_not_at_all(store: Store) -> None:
    table = pa.table({"x": list(range(1000))})
    with store.writing("data/t.parquet") as local:
        pq.write_table(table, local)
        assert not store.exists("data/t.parquet")
    filesystem = store.arrow_filesystem
    assert pq.read_table(store.path("data/t.parquet"), filesystem=filesystem).equals(table)
    with pytest.raises(RuntimeError, match="stop"), store.writing("data/u.parquet") as local:
        local.write_bytes(b"half")
        raise RuntimeError("stop")
    assert store.list("data") == ["data/t.parquet"]


def test_the_probe_passes_and_leaves_nothing_but_staging(store: Store) -> None:
    store.probe()
    tops = {key.split("/")[0] for key in store.list(STAGING)}
    assert tops == {STAGING}
    assert store.folders("data") == []


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a\\b", "a\nb", "a/\x00"])
def test_keys_stay_below_the_root(key: str) -> None:
    with pytest.raises(StoreError, match="is no key"):
        memory_store().read(key)


@given(st.lists(st.text(st.characters(exclude_characters="/\\", exclude_categories=["C"]), min_size=1), min_size=1))
def test_any_key_leads_below_the_root_or_is_refused(parts: list[str]) -> None:
    store = LocalStore("/base", "/base", None)
    try:
        path = store.path("/".join(parts))
    except StoreError:
        return
    assert os.path.normpath(path).startswith("/base/")


def test_what_is_no_store_is_refused() -> None:
    for root in ("ftp://host/path", "s3://", "http://host/path"):
        with pytest.raises(InputError, match=r"expected a local path or <scheme>://<bucket>/<prefix>"):
            open_store(root)


# --- unsafe and failing stores


class Overwriting(MemoryStore):
    """A store that ignores the condition, as some S3 servers do."""

    def _create(self, path: str, data: bytes) -> None:
        self.fs.pipe_file(path, data)


class KeepsTheLast(MemoryStore):
    """A store that refuses the second create, and has its bytes all the same."""

    def _create(self, path: str, data: bytes) -> None:
        there = self.fs.exists(path)
        self.fs.pipe_file(path, data)
        if there:
            raise FileExistsError(path)


@pytest.mark.parametrize("kind", [Overwriting, KeepsTheLast])
def test_the_probe_refuses_a_store_that_overwrites(kind: type[MemoryStore]) -> None:
    plain = memory_store()
    with pytest.raises(UnsafeStoreError, match=r"created twice.*If-None-Match"):
        kind(plain.root, plain.path("x")[:-2], plain.fs).probe()


def test_a_disk_without_hard_links_is_an_error_and_no_lost_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    store = open_store(tmp_path)
    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match=r"could not be created: .*not permitted"):
        store.create("a", b"x")
    assert not store.exists("a")


def test_a_writer_killed_before_the_link_leaves_nothing_at_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", die)
    with pytest.raises(KeyboardInterrupt):
        store.create("log/1", b"whole")
    assert store.list("log") == []


# --- local disks


def test_bytes_and_names_are_synced_before_a_call_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync

    def record(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        sync(handle)

    store = open_store(tmp_path)
    monkeypatch.setattr(os, "fsync", record)
    for key, change in (("new/deep/1", store.create), ("new/deep/2", store.write)):
        change(key, b"x")
        assert synced[-1] == (tmp_path / "new/deep").stat().st_ino, "the name comes last"
        assert (tmp_path / key).stat().st_ino in synced
    assert {path.stat().st_ino for path in (tmp_path, tmp_path / "new")} <= {*synced}, "new folders too"
    synced.clear()
    store.delete("new/deep/1")
    assert synced == [(tmp_path / "new/deep").stat().st_ino]


def test_a_link_to_a_folder_leads_out_of_no_listing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "root")
    store.write("c/1", b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2").write_bytes(b"x")
    (tmp_path / "root/c/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/c/broken").symlink_to(tmp_path / "nowhere")
    assert store.list("c") == ["c/1"]


def test_a_folder_that_may_not_be_read_is_never_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StoreError, match=r"could not be listed: .*Permission denied"):
        open_store(tmp_path).listing("c")


def test_a_link_to_a_folder_is_a_folder_of_a_local_disk(tmp_path: Path) -> None:
    """Somebody has moved an index to a larger disk."""
    store = open_store(tmp_path / "root")
    for key in ("datasets/a/dataset.json", "datasets/b/dataset.json"):
        store.write(key, b"{}")
    (tmp_path / "root/datasets/b").rename(tmp_path / "elsewhere")
    (tmp_path / "root/datasets/b").symlink_to(tmp_path / "elsewhere")
    assert store.folders("datasets") == ["a", "b"]
    assert store.list("datasets/b") == ["datasets/b/dataset.json"]


def test_a_folder_that_may_not_be_read_is_an_error_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    store = open_store(tmp_path / "root")
    monkeypatch.setattr("stacchip_core.warehouse.disk.os.scandir", refused)
    for look in (store.folders, store.list):
        with pytest.raises(StoreError, match=r"datasets: could not be listed: .*Permission denied"):
            look("datasets")
