"""Every store keeps the same contract: local disk, memory, and a real S3 server over HTTP."""

from __future__ import annotations

import multiprocessing
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Barrier
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
    TransientStoreError,
    UnsafeStoreError,
)
from stacchip_core.sources.access import Storage
from stacchip_core.warehouse.store import STAGING, LocalStore, MemoryStore, Store, open_store
from tests.faulty_store import memory_store

RACERS, ROUNDS = 8, 25


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.server)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "local":
        return open_store(tmp_path / "root")
    if request.param == "memory":
        return memory_store()
    endpoint = request.getfixturevalue("s3_endpoint")
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


def test_times_are_the_stores_own(store: Store) -> None:
    store.write("a", b"x")
    assert store.modified("a").tzinfo is UTC or store.modified("a").utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - store.modified("a")) < timedelta(minutes=2)


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


# --- races


def test_one_of_many_threads_creates(store: Store) -> None:
    if store.root.startswith("s3://"):
        pytest.skip("moto looks first and writes then: its races prove nothing")
    for number in range(ROUNDS):
        barrier, winners = threading.Barrier(RACERS), list[int]()

        def race(racer: int, key: str, barrier: threading.Barrier = barrier, winners: list[int] = winners) -> None:
            barrier.wait()
            try:
                store.create(key, str(racer).encode())
            except ObjectExistsError:
                return
            winners.append(racer)

        threads = [threading.Thread(target=race, args=(racer, f"k/{number}")) for racer in range(RACERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        assert store.read(f"k/{number}") == str(winners[0]).encode()


def _race(root: str, racer: int, barrier: Barrier, rounds: int) -> None:
    store = open_store(root)
    for number in range(rounds):
        barrier.wait()
        try:
            store.create(f"k/{number}", str(racer).encode() * 1000)
        except ObjectExistsError:
            continue
        store.write(f"won/{number}-{racer}", b"")


@pytest.mark.slow
def test_one_of_many_processes_creates(tmp_path: Path) -> None:
    rounds = 100
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(RACERS)
    racers = [context.Process(target=_race, args=(str(tmp_path), n, barrier, rounds)) for n in range(RACERS)]
    for process in racers:
        process.start()
    for process in racers:
        process.join(120)
        assert process.exitcode == 0
    store = open_store(tmp_path)
    winners = [key.removeprefix("won/").split("-") for key in store.list("won")]
    assert sorted(int(number) for number, _ in winners) == list(range(rounds))
    assert all(store.read(f"k/{number}") == racer.encode() * 1000 for number, racer in winners)


# --- what S3 servers answer, through the real client


Answer = tuple[int, str]


@pytest.fixture
def answering() -> Iterator[Callable[[Answer], Store]]:
    """A store on an HTTP server that gives one answer to everything."""
    servers = []

    def start(answer: Answer) -> Store:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # uploads wait for "100 Continue"

            def _reply(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, code = answer
                body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body if self.command != "HEAD" else b"")

            do_GET = do_PUT = do_HEAD = _reply

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return open_store("s3://bucket/root", Storage(endpoint=f"http://127.0.0.1:{server.server_port}"))

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.server
@pytest.mark.usefixtures("s3_endpoint")
@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((412, "PreconditionFailed"), ObjectExistsError, "already exists"),  # radosgw: without <Condition>
        ((409, "ConditionalRequestConflict"), TransientStoreError, "409 ConditionalRequestConflict"),
        ((403, "AccessDenied"), StoreError, "could not be created: 403 AccessDenied"),
        ((501, "NotImplemented"), StoreError, "501 NotImplemented"),
        ((404, "NoSuchBucket"), StoreError, "404 NoSuchBucket"),
    ],
)
def test_the_answer_decides_and_never_the_class(
    answering: Callable[[Answer], Store], answer: Answer, error: type[StoreError], message: str
) -> None:
    store = answering(answer)
    with pytest.raises(StoreError, match=message) as caught:
        store.create("log/1.json", b"x")
    assert type(caught.value) is error


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.usefixtures("s3_endpoint")
def test_a_failing_server_is_transient(answering: Callable[[Answer], Store]) -> None:
    with pytest.raises(TransientStoreError, match="500 InternalError"):
        answering((500, "InternalError")).create("log/1.json", b"x")


@pytest.mark.server
@pytest.mark.usefixtures("s3_endpoint")
def test_refused_access_is_never_missing(answering: Callable[[Answer], Store]) -> None:
    store = answering((403, "AccessDenied"))
    for look in (store.read, store.exists, store.list, store.folders):
        with pytest.raises(StoreError, match="403") as caught:
            look("log")
        assert type(caught.value) is StoreError


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.usefixtures("s3_endpoint")
def test_nobody_answering_is_transient() -> None:
    store = open_store("s3://bucket/root", Storage(endpoint="http://127.0.0.1:9"))
    with pytest.raises(TransientStoreError, match="could not be read just now"):
        store.read("log/1.json")
