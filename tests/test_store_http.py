"""What S3 servers answer, and don't answer, through the real client: s3fs against a server that fails on request."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import cycle

import pytest

from stacchip_core.errors import (
    ObjectExistsError,
    ObjectNotFoundError,
    StoreError,
    TransientStoreError,
)
from stacchip_core.sources.access import Storage
from stacchip_core.warehouse.store import Store, open_store
from tests.s3_buckets import Dialect
from tests.s3_fake import Fault, S3Fake

ALWAYS = 10**6  # requests
UNANSWERED = (None, (500, "InternalError"), (503, "SlowDown"))


@pytest.fixture
def store(s3_fake: S3Fake) -> Store:
    """An empty store on it."""
    return s3_fake.new_store()


def publish(store: Store, key: str) -> None:
    with store.writing(key) as local:
        local.write_bytes(b"x")


OPERATIONS: dict[str, Callable[[Store], object]] = {
    "read": lambda store: store.read("log/1"),
    "read_range": lambda store: store.read_range("log/1", 0, 1),
    "write": lambda store: store.write("log/1", b"x"),
    "create": lambda store: store.create("log/2", b"x"),
    "delete": lambda store: store.delete("log/1"),
    "exists": lambda store: store.exists("log/1"),
    "size": lambda store: store.size("log/1"),
    "modified": lambda store: store.modified("log/1"),
    "now": lambda store: store.now(),
    "listing": lambda store: store.listing("log"),
    "folders": lambda store: store.folders("log"),
    "writing": lambda store: publish(store, "log/1"),
}
EACH_WAY = list(zip(OPERATIONS, cycle(UNANSWERED), strict=False))  # the client waits between attempts: not every pair


# --- answers


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((409, "ConditionalRequestConflict"), TransientStoreError, "409 ConditionalRequestConflict"),
        ((403, "AccessDenied"), StoreError, "could not be created: 403 AccessDenied"),
        ((501, "NotImplemented"), StoreError, "501 NotImplemented"),
        ((404, "NoSuchBucket"), StoreError, "404 NoSuchBucket"),
        ((412, "PreconditionFailed"), ObjectExistsError, "already exists"),
    ],
)
def test_the_answer_decides_and_never_the_class(
    store: Store, s3_fake: S3Fake, answer: tuple[int, str], error: type[StoreError], message: str
) -> None:
    s3_fake.inject(Fault("PUT", answer=answer, times=ALWAYS))
    with pytest.raises(StoreError, match=message) as caught:
        store.create("log/1.json", b"x")
    assert type(caught.value) is error
    s3_fake.faults = []
    assert not store.exists("log/1.json")


@pytest.mark.parametrize("dialect", Dialect)
def test_a_taken_key_exists_in_every_dialect(store: Store, s3_fake: S3Fake, dialect: Dialect) -> None:
    s3_fake.buckets.dialect = dialect
    store.create("log/1", b"x")
    with pytest.raises(ObjectExistsError):
        store.create("log/1", b"y")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_refused_access_is_never_missing_nor_passing(store: Store, s3_fake: S3Fake, operation: str) -> None:
    s3_fake.inject(Fault(answer=(403, "AccessDenied"), times=ALWAYS))
    with pytest.raises(StoreError, match="403") as caught:
        OPERATIONS[operation](store)
    assert type(caught.value) is StoreError


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "answer"), EACH_WAY)
def test_one_failure_is_got_over(store: Store, s3_fake: S3Fake, operation: str, answer: tuple[int, str] | None) -> None:
    store.write("log/1", b"x")
    s3_fake.inject(Fault(answer=answer))
    OPERATIONS[operation](store)
    assert s3_fake.faults == []


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "answer"), EACH_WAY)
def test_lasting_failure_is_transient(
    store: Store, s3_fake: S3Fake, operation: str, answer: tuple[int, str] | None
) -> None:
    s3_fake.inject(Fault(answer=answer, times=ALWAYS))
    with pytest.raises(TransientStoreError, match=r"just now: .*"):
        OPERATIONS[operation](store)


@pytest.mark.slow
@pytest.mark.usefixtures("s3_credentials")
def test_nobody_answering_is_transient() -> None:
    store = open_store("s3://bucket/root", Storage(endpoint="http://127.0.0.1:9"))
    with pytest.raises(TransientStoreError, match="could not be read just now"):
        store.read("log/1.json")


def test_a_body_cut_short_is_never_taken_for_the_whole(store: Store, s3_fake: S3Fake) -> None:
    store.write("a", b"0123456789")
    for read in (store.read, lambda key: store.read_range(key, 0, 10)):
        s3_fake.inject(Fault("GET", when="half"))
        with suppress(TransientStoreError):
            assert read("a") == b"0123456789"
        assert s3_fake.faults == []


# --- lost answers


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("answer", UNANSWERED)
def test_a_create_whose_answer_was_lost_is_never_told_as_done_nor_refused(
    store: Store, s3_fake: S3Fake, answer: tuple[int, str] | None, dialect: Dialect
) -> None:
    s3_fake.buckets.dialect = dialect
    s3_fake.inject(Fault("PUT", when="after", answer=answer))
    with pytest.raises(ObjectExistsError, match="already exists"):  # the client's own second attempt
        store.create("log/1", b"mine")
    assert store.read("log/1") == b"mine"
    assert s3_fake.lost == 1


@pytest.mark.slow
@pytest.mark.parametrize("answer", UNANSWERED)
def test_a_create_whose_answers_are_all_lost_is_transient(
    store: Store, s3_fake: S3Fake, answer: tuple[int, str] | None
) -> None:
    s3_fake.inject(Fault("PUT", when="after", answer=answer, times=ALWAYS))
    with pytest.raises(TransientStoreError):
        store.create("log/1", b"mine")
    s3_fake.faults = []
    assert store.read("log/1") == b"mine"


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "answer"), [case for case in EACH_WAY if case[0] != "create"])
def test_what_may_be_done_twice_gets_over_a_lost_answer(
    store: Store, s3_fake: S3Fake, operation: str, answer: tuple[int, str] | None
) -> None:
    store.write("log/1", b"x")
    s3_fake.inject(Fault(when="after", answer=answer))
    OPERATIONS[operation](store)
    assert s3_fake.faults == []


@pytest.mark.parametrize("dialect", Dialect)
def test_the_probe_gets_over_lost_answers(store: Store, s3_fake: S3Fake, dialect: Dialect) -> None:
    s3_fake.buckets.dialect = dialect
    s3_fake.inject(Fault("PUT", when="after"))
    store.probe()


# --- requests


def test_empty_folders_that_a_console_made_are_no_objects(s3_fake: S3Fake) -> None:
    store = s3_fake.new_store()
    store.write("c/log/1", b"x")
    bucket, _, base = store.path("c").partition("/")
    for marker in (f"{base}/", f"{base}/log/", f"{base}/other/", f"{base}//odd"):
        store.fs.call_s3("put_object", Bucket=bucket, Key=marker, Body=b"")
    assert store.list("c") == ["c/log/1"]
    assert store.list("c/log") == ["c/log/1"]
    assert store.folders("c/log") == []
    assert store.folders("c") == ["log", "other"]


def test_an_operation_is_one_request(s3_fake: S3Fake) -> None:
    store = s3_fake.new_store()

    def requests(operation: Callable[[], object]) -> list[str]:
        done = len(s3_fake.requests)
        with suppress(ObjectNotFoundError, ObjectExistsError):
            operation()
        return [name for name, _ in s3_fake.requests[done:]]

    assert requests(lambda: store.create("a/1", b"x")) == ["PUT"]
    assert requests(lambda: store.create("a/1", b"x")) == ["PUT"]
    assert requests(lambda: store.write("a/2", b"x")) == ["PUT"]
    assert requests(lambda: store.read("a/1")) == ["GET"]
    assert requests(lambda: store.read("a/missing")) == ["GET"]
    assert requests(lambda: store.read_range("a/1", 0, 1)) == ["GET"]
    assert requests(lambda: store.size("a/1")) == requests(lambda: store.modified("a/1")) == ["HEAD"]
    assert requests(lambda: store.listing("a")) == requests(lambda: store.listing("b")) == ["LIST"]
    assert requests(lambda: store.delete("a/1")) == ["DELETE"]
    assert requests(store.now) == ["PUT", "HEAD"]


def test_a_listing_takes_a_request_for_each_page(s3_fake: S3Fake) -> None:
    store = s3_fake.new_store()
    for number in range(7):
        store.write(f"a/{number}", b"x")
    s3_fake.buckets.page_keys = 2
    assert len(store.listing("a")) == 7
    assert s3_fake.count("LIST") == 4
