"""The buckets of an S3 server for tests: requests in, answers out, one at a time under a lock.

As Amazon's API reference has it ("Conditional writes", "ListObjectsV2", "Error responses"), as far as s3fs, pyarrow and
GDAL ask.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from enum import Enum
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

PAGE_KEYS = 1000
_REASONS = {  # status and message of the codes that the server itself gives
    "NoSuchKey": (404, "The specified key does not exist."),
    "NoSuchBucket": (404, "The specified bucket does not exist."),
    "NoSuchUpload": (404, "The specified multipart upload does not exist."),
    "PreconditionFailed": (412, "At least one of the pre-conditions you specified did not hold"),
    "InvalidRange": (416, "The requested range is not satisfiable"),
    "NotImplemented": (501, "A header or query you provided implies functionality that is not implemented."),
}


class Dialect(Enum):
    """Whose habits the server has."""

    AWS = "aws"  # names the failed condition in the body of a 412
    RADOSGW = "radosgw"  # does not, and ignores the condition when an upload in parts is completed


@dataclass(frozen=True)
class Call:
    """A request, understood; `key` of a listing is its prefix."""

    operation: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """An object at one time; `body` is None where it was deleted then."""

    body: bytes | None
    etag: str
    modified: datetime
    number: int
    moment: float


class Refusal(Exception):
    """An error answer of the server itself; `code` is one of `_REASONS`."""

    def __init__(self, code: str, extra: str = "") -> None:
        super().__init__(code)
        self.code, self.extra = code, extra


class Buckets:
    """All that an S3 server keeps.

    Attributes:
        dialect: whose habits it has.
        ignores_conditions: whether every write is let through, as by servers that know no If-None-Match.
        lag_writes, lag_seconds: listings show what was there so many changes, or seconds, ago.
        clock_offset: its clock against the true time.
        page_keys: keys in a page of a listing.
    """

    def __init__(self, dialect: Dialect = Dialect.AWS) -> None:
        self._lock = threading.Lock()
        self.dialect = dialect
        self.ignores_conditions = False
        self.lag_writes, self.lag_seconds = 0, 0.0
        self.clock_offset, self.page_keys = timedelta(0), PAGE_KEYS
        self._buckets: dict[str, dict[str, list[Stored]]] = {}
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._changes = 0

    def make(self, bucket: str) -> None:
        """Make a bucket, unless it is there."""
        with self._lock:
            self._buckets.setdefault(bucket, {})

    def answer(self, call: Call) -> Reply:
        """Do what is asked, alone."""
        work = getattr(self, f"_do_{call.operation.lower()}", None)
        with self._lock:
            try:
                if work is None or "aws-chunked" in call.headers.get("Content-Encoding", ""):
                    raise Refusal("NotImplemented")
                if call.operation != "MAKE" and call.bucket not in self._buckets:
                    raise Refusal("NoSuchBucket")
                reply: Reply = work(call)
            except Refusal as refusal:
                return refused(*_REASONS[refusal.code], refusal.code, refusal.extra)
        return reply

    def _find(self, call: Call) -> Stored:
        history = self._buckets[call.bucket].get(call.key)
        if not history or history[-1].body is None:
            raise Refusal("NoSuchKey")
        return history[-1]

    def _put(self, bucket: str, key: str, body: bytes | None, etag: str) -> None:
        self._changes += 1
        now = datetime.now(UTC).replace(microsecond=0) + self.clock_offset
        history = self._buckets[bucket].setdefault(key, [])
        history.append(Stored(body, etag, now, self._changes, time.monotonic()))

    def _demand_nothing_there(self, call: Call) -> None:
        history = self._buckets[call.bucket].get(call.key) if not self.ignores_conditions else None
        if call.headers.get("If-None-Match") == "*" and history and history[-1].body is not None:
            named = "<Condition>If-None-Match</Condition>" if self.dialect is Dialect.AWS else ""
            raise Refusal("PreconditionFailed", named)

    def _do_make(self, call: Call) -> Reply:
        self._buckets.setdefault(call.bucket, {})
        return Reply()

    def _do_look(self, call: Call) -> Reply:
        return Reply()

    def _do_get(self, call: Call) -> Reply:
        found = self._find(call)
        body = found.body or b""
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range", ""))
        if wanted is None:
            return Reply(200, body, _facts(found))
        first = int(wanted[1]) if wanted[1] else max(0, len(body) - int(wanted[2]))
        last = min(int(wanted[2]), len(body) - 1) if wanted[1] and wanted[2] else len(body) - 1
        if first > last:
            raise Refusal("InvalidRange")
        return Reply(
            206, body[first : last + 1], {**_facts(found), "Content-Range": f"bytes {first}-{last}/{len(body)}"}
        )

    _do_head = _do_get

    def _do_put(self, call: Call) -> Reply:
        if "x-amz-copy-source" in call.headers:
            raise Refusal("NotImplemented")
        self._demand_nothing_there(call)
        etag = f'"{hashlib.md5(call.body).hexdigest()}"'
        self._put(call.bucket, call.key, call.body, etag)
        return Reply(headers={"ETag": etag})

    def _do_delete(self, call: Call) -> Reply:
        self._put(call.bucket, call.key, None, "")
        return Reply(204)

    def _do_delete_many(self, call: Call) -> Reply:
        keys = [text.text or "" for text in ElementTree.fromstring(call.body).iterfind(".//{*}Key")]
        for key in keys:
            self._put(call.bucket, key, None, "")
        return _xml("DeleteResult", "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys))

    def _do_start(self, call: Call) -> Reply:
        upload = uuid.uuid4().hex
        self._uploads[upload] = {}
        names = f"<Bucket>{call.bucket}</Bucket><Key>{escape(call.key)}</Key><UploadId>{upload}</UploadId>"
        return _xml("InitiateMultipartUploadResult", names)

    def _parts(self, call: Call) -> dict[int, bytes]:
        if call.query["uploadId"] not in self._uploads:
            raise Refusal("NoSuchUpload")
        return self._uploads[call.query["uploadId"]]

    def _do_part(self, call: Call) -> Reply:
        self._parts(call)[int(call.query["partNumber"])] = call.body
        return Reply(headers={"ETag": f'"{hashlib.md5(call.body).hexdigest()}"'})

    def _do_complete(self, call: Call) -> Reply:
        parts = self._parts(call)
        if self.dialect is Dialect.AWS:
            self._demand_nothing_there(call)
        body = b"".join(parts[number] for number in sorted(parts))
        etag = f'"{hashlib.md5(body).hexdigest()}-{len(parts)}"'
        self._put(call.bucket, call.key, body, etag)
        del self._uploads[call.query["uploadId"]]
        return _xml("CompleteMultipartUploadResult", f"<Key>{escape(call.key)}</Key><ETag>{escape(etag)}</ETag>")

    def _do_abort(self, call: Call) -> Reply:
        self._uploads.pop(call.query["uploadId"], None)
        return Reply(204)

    def _seen(self, bucket: str) -> Iterator[tuple[str, Stored]]:
        """What a listing shows, sorted: what was there `lag_writes` changes and `lag_seconds` ago."""
        number, moment = self._changes - self.lag_writes, time.monotonic() - self.lag_seconds
        for key, history in sorted(self._buckets[bucket].items()):
            then = [stored for stored in history if stored.number <= number and stored.moment <= moment]
            if then and then[-1].body is not None:
                yield key, then[-1]

    def _do_list(self, call: Call) -> Reply:
        if call.query.get("list-type") != "2":
            raise Refusal("NotImplemented")
        after = call.query.get("continuation-token") or call.query.get("start-after", "")
        encoding = call.query.get("encoding-type", "")
        quoted = quote if encoding else escape
        groups: dict[str, list[Stored]] = defaultdict(list)
        for key, stored in self._seen(call.bucket):
            if key.startswith(call.key) and (name := _cut(key, call.key, call.query.get("delimiter", ""))) > after:
                groups[name].append(stored)
        page = sorted(groups)[: min(self.page_keys, int(call.query.get("max-keys", PAGE_KEYS)))]
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(page) < len(groups) else ""
        is_cut = {name for name in page if call.query.get("delimiter") and name.endswith(call.query["delimiter"])}
        rows = "".join(
            f"<CommonPrefixes><Prefix>{quoted(name)}</Prefix></CommonPrefixes>"
            if name in is_cut
            else _content(quoted(name), groups[name][0])
            for name in page
        )
        head = f"<Name>{call.bucket}</Name><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}"
        named = f"<EncodingType>{encoding}</EncodingType>" if encoding else ""
        return _xml("ListBucketResult", f"{head}{named}<KeyCount>{len(page)}</KeyCount>{rows}")


def refused(status: int, message: str, code: str, extra: str = "") -> Reply:
    """An error as S3 words it."""
    text = f"<Code>{code}</Code><Message>{escape(message)}</Message>{extra}<RequestId>0</RequestId>"
    return Reply(status, _xml("Error", text).body, {"Content-Type": "application/xml"})


def _cut(key: str, prefix: str, delimiter: str) -> str:
    """The key, or its part up to the first delimiter after the prefix."""
    rest, found, _ = key.removeprefix(prefix).partition(delimiter) if delimiter else (key.removeprefix(prefix), "", "")
    return prefix + rest + found


def _content(name: str, stored: Stored) -> str:
    return (
        f"<Contents><Key>{name}</Key><LastModified>{stored.modified:%Y-%m-%dT%H:%M:%S}.000Z</LastModified>"
        f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.body or b'')}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def _facts(stored: Stored) -> dict[str, str]:
    return {
        "ETag": stored.etag,
        "Last-Modified": format_datetime(stored.modified, usegmt=True),
        "Content-Type": "binary/octet-stream",
        "Accept-Ranges": "bytes",
    }


def _xml(name: str, inner: str) -> Reply:
    space = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"' if name != "Error" else ""
    text = f'<?xml version="1.0" encoding="UTF-8"?><{name}{space}>{inner}</{name}>'
    return Reply(200, text.encode(), {"Content-Type": "application/xml"})
