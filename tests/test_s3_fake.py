"""The S3 server of the tests answers as Amazon's would, to a client that is not ours, and fails when told to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError
from botocore.session import get_session

from tests.s3_buckets import Dialect
from tests.s3_fake import Fault, S3Fake

BUCKET = "bucket"


@pytest.fixture
def client(s3_fake: S3Fake) -> Any:
    """botocore without retries: each call is one request."""
    config = Config(retries={"total_max_attempts": 1})
    found = get_session().create_client("s3", endpoint_url=s3_fake.endpoint, region_name="us-east-1", config=config)
    found.create_bucket(Bucket=BUCKET)
    return found


def put(client: Any, key: str, body: bytes = b"x", **more: str) -> Any:
    return client.put_object(Bucket=BUCKET, Key=key, Body=body, **more)


def got(client: Any, key: str, **more: str) -> bytes:
    body: bytes = client.get_object(Bucket=BUCKET, Key=key, **more)["Body"].read()
    return body


def refusal(call: Callable[[], object]) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        call()
    response: dict[str, Any] = caught.value.response
    return {"status": response["ResponseMetadata"]["HTTPStatusCode"], **response["Error"]}


def test_objects_are_read_whole_and_in_ranges(client: Any) -> None:
    put(client, "a/ö +&<", b"0123456789")
    assert got(client, "a/ö +&<") == b"0123456789"
    assert [got(client, "a/ö +&<", Range=f"bytes={r}") for r in ("2-4", "7-", "-2", "8-99")] == [
        b"234",
        b"789",
        b"89",
        b"89",
    ]
    head = client.head_object(Bucket=BUCKET, Key="a/ö +&<")
    assert head["ContentLength"] == 10
    assert abs(head["LastModified"] - datetime.now(UTC)) < timedelta(minutes=1)
    assert refusal(lambda: got(client, "a/ö +&<", Range="bytes=10-"))["status"] == 416


def test_what_is_not_there_has_a_code(client: Any) -> None:
    assert refusal(lambda: got(client, "no"))["Code"] == "NoSuchKey"
    assert refusal(lambda: client.head_object(Bucket=BUCKET, Key="no"))["status"] == 404
    assert refusal(lambda: client.get_object(Bucket="other", Key="no"))["Code"] == "NoSuchBucket"
    client.delete_object(Bucket=BUCKET, Key="no")


@pytest.mark.parametrize("dialect", Dialect)
def test_a_key_is_created_once_until_it_is_deleted(client: Any, s3_fake: S3Fake, dialect: Dialect) -> None:
    s3_fake.buckets.dialect = dialect
    put(client, "k", b"first", IfNoneMatch="*")
    answer = refusal(lambda: put(client, "k", b"second", IfNoneMatch="*"))
    assert (answer["status"], answer["Code"]) == (412, "PreconditionFailed")
    assert answer.get("Condition") == ("If-None-Match" if dialect is Dialect.AWS else None)
    assert got(client, "k") == b"first"
    client.delete_object(Bucket=BUCKET, Key="k")
    put(client, "k", b"third", IfNoneMatch="*")
    assert got(client, "k") == b"third"


def test_of_racing_threads_one_creates(client: Any) -> None:
    winners: list[int] = []

    def race(racer: int, key: str) -> None:
        try:
            put(client, key, str(racer).encode(), IfNoneMatch="*")
        except ClientError:
            return
        winners.append(racer)

    for number in range(10):
        winners.clear()
        threads = [threading.Thread(target=race, args=(racer, f"k{number}")) for racer in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [str(racer).encode() for racer in winners] == [got(client, f"k{number}")]


def test_uploads_in_parts_appear_when_completed(client: Any, s3_fake: S3Fake) -> None:
    def upload(**more: str) -> str:
        names = {"Bucket": BUCKET, "Key": "big", "UploadId": ""}
        names["UploadId"] = client.create_multipart_upload(Bucket=BUCKET, Key="big")["UploadId"]
        for number in (2, 1):
            client.upload_part(**names, PartNumber=number, Body=bytes([number]) * 3)
        client.complete_multipart_upload(**names, MultipartUpload={"Parts": []}, **more)
        return names["UploadId"]

    upload(IfNoneMatch="*")
    assert got(client, "big") == b"\x01\x01\x01\x02\x02\x02"
    assert refusal(lambda: upload(IfNoneMatch="*"))["Code"] == "PreconditionFailed"
    s3_fake.buckets.dialect = Dialect.RADOSGW
    done = upload(IfNoneMatch="*")
    again = {"Bucket": BUCKET, "Key": "big", "UploadId": done}
    assert refusal(lambda: client.complete_multipart_upload(**again))["Code"] == "NoSuchUpload"
    client.abort_multipart_upload(**again)


def test_listings_have_prefixes_folders_and_pages(client: Any, s3_fake: S3Fake) -> None:
    keys = ["a/1", "a/b/1", "a/b/2", "a/c&d/1", "a/é", "a/z", "b"]
    for key in reversed(keys):
        put(client, key)
    for page_keys in (1000, 1, 2):
        s3_fake.buckets.page_keys = page_keys
        paginator = client.get_paginator("list_objects_v2")
        pages = list(paginator.paginate(Bucket=BUCKET, Prefix="a/"))
        assert [entry["Key"] for page in pages for entry in page["Contents"]] == [*sorted(keys)[:-1]]
        pages = list(paginator.paginate(Bucket=BUCKET, Prefix="a/", Delimiter="/"))
        assert [entry["Key"] for page in pages for entry in page.get("Contents", [])] == ["a/1", "a/z", "a/é"]
        assert [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])] == ["a/b/", "a/c&d/"]
    client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys[1:]]})
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET)["Contents"]] == ["a/1"]


def test_listings_show_what_was_there_some_changes_ago(client: Any, s3_fake: S3Fake) -> None:
    def listed() -> list[str]:
        return [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    for key in ("1", "2", "3"):
        put(client, key)
    client.delete_object(Bucket=BUCKET, Key="1")
    seen = []
    for s3_fake.buckets.lag_writes in range(5):
        seen.append(listed())
    assert seen == [["2", "3"], ["1", "2", "3"], ["1", "2"], ["1"], []]
    s3_fake.buckets.lag_writes, s3_fake.buckets.lag_seconds = 0, 60
    assert listed() == []
    assert got(client, "3") == b"x", "only listings are late"


def test_its_clock_is_its_own(client: Any, s3_fake: S3Fake) -> None:
    s3_fake.buckets.clock_offset = timedelta(days=-400)
    put(client, "old")
    (entry,) = client.list_objects_v2(Bucket=BUCKET)["Contents"]
    assert entry["LastModified"] == client.head_object(Bucket=BUCKET, Key="old")["LastModified"]
    assert timedelta(days=399) < datetime.now(UTC) - entry["LastModified"] < timedelta(days=401)


def test_a_fault_before_does_nothing_and_one_after_does_it(client: Any, s3_fake: S3Fake) -> None:
    s3_fake.faults = [Fault("PUT", "lost-*", "after"), Fault("PUT", "*", "before", (503, "SlowDown"), times=2)]
    with pytest.raises(ConnectionClosedError):
        put(client, "lost-1")
    for _ in range(2):
        assert refusal(lambda: put(client, "refused"))["Code"] == "SlowDown"
    assert s3_fake.faults == [], "each fault is met as often as it says"
    assert got(client, "lost-1") == b"x"
    assert refusal(lambda: got(client, "refused"))["Code"] == "NoSuchKey"
    put(client, "refused")
    assert s3_fake.requests[:2] == [("MAKE", ""), ("PUT", "lost-1")]
    assert (s3_fake.count("PUT"), s3_fake.count(key="refused"), s3_fake.count("GET", "lost-*")) == (4, 4, 1)


def test_a_body_cut_short_is_an_error_of_the_client(client: Any, s3_fake: S3Fake) -> None:
    put(client, "k", b"x" * 100)
    s3_fake.faults = [Fault("GET", when="half")]
    with pytest.raises(Exception, match=r"IncompleteRead|Connection broken"):
        got(client, "k")
    assert got(client, "k") == b"x" * 100


def test_silence_lasts_as_long_as_asked(client: Any, s3_fake: S3Fake) -> None:
    s3_fake.faults = [Fault("PUT", when="never", seconds=0.2)]
    before = datetime.now(UTC)
    put(client, "k")
    assert datetime.now(UTC) - before >= timedelta(seconds=0.2)
