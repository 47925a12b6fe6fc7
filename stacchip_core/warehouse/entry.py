"""What a log entry says: a version's files, counts and sources, as canonical JSON."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

from stacchip_core.errors import CorruptWarehouseError, StoreError

ENTRY_FORMAT = 1
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
KINDS = ("collections", "combined")
ROLES = ("data", "items", "checkpoints")
OPERATIONS = ("append", "merge", "expire")

_FILE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_PATH = re.compile(rf"({'|'.join(KINDS)})/{NAME.pattern}/({'|'.join(ROLES)})/({_FILE}/)?{_FILE}\.parquet")
_SHA256 = re.compile(r"[0-9a-f]{64}")

JSON = Mapping[str, Any]
Role = Literal["data", "items", "checkpoints"]
Operation = Literal["append", "merge", "expire"]
BBox = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One immutable Parquet file that a log entry names.

    Attributes:
        path: key relative to the warehouse's root.
        role: "data": chip rows; "items": item rows; "checkpoints": the state of a collection at a version.
        size: bytes.
        rows: rows in the file, live or dead.
        bbox: (xmin, ymin, xmax, ymax) of its chips, degrees; None where it has none.
        start, end: first and last datetime of its items, UTC, ISO 8601.
        collection: name of the collection it holds rows of.
        month: "YYYY-MM" of its items, where the file holds one month only.
        columns: name and type ("text", "number", "boolean") of each carried property of a data file, in order.
        content: hash of the live items that the file was made from; combined indexes compare it.
        collection_id: STAC collection id of the items of a combined index's file.
        grids: "<size>-<stride>-<edge>" of the rows of an items file, sorted.
        blocks: CRC-32 of each MiB, big-endian, base64: readers take no byte that does not agree with it.
    """

    path: str
    role: Role
    size: int
    sha256: str
    rows: int
    bbox: BBox | None = None
    start: str | None = None
    end: str | None = None
    collection: str = ""
    month: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    content: str = ""
    collection_id: str = ""
    grids: tuple[str, ...] = ()
    blocks: str = ""

    @classmethod
    def from_json(cls, data: JSON) -> FileInfo:
        """Inverse of `asdict`; raises ValueError, KeyError or TypeError for what can't be one."""
        known = {name: data[name] for name in (f.name for f in fields(cls)) if name in data}
        info = cls(**known)
        is_whole = isinstance(info.size, int) and isinstance(info.rows, int) and info.size > 0 <= info.rows
        if not is_safe_path(info.path) or not is_whole or not _SHA256.fullmatch(info.sha256):
            raise ValueError(f"file {str(info.path)[:200]!r} has an unsafe path, or no size and sha256")
        box = None if info.bbox is None else cast(BBox, tuple(float(side) for side in info.bbox))
        columns = tuple((str(name), str(kind)) for name, kind in info.columns)
        return cls(**{**known, "bbox": box, "columns": columns, "grids": tuple(map(str, info.grids))})


@dataclass(frozen=True, slots=True)
class Counts:
    """Items by what a commit did with them, and the chip rows it brought."""

    new: int = 0
    updated: int = 0
    deleted: int = 0
    failed: int = 0
    chips: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """Live items and chips of a version; an item at two chip sizes counts twice."""

    items: int = 0
    chips: int = 0


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One version of a collection or of a combined index.

    Attributes:
        version: its number, from 1.
        prev_sha256: hash of the entry before it; "" for the first.
        txn: uuid of the attempt that wrote it: how a writer knows its own commit again.
        operation: "append": items of a collection added, updated, deleted or failed; "merge": a version of a combined
            index; "expire": versions that may no longer be opened.
        read_version: the version that the writer had looked at before it did its work.
        added: files that this version brings.
        kept: files of earlier versions that it lists again (combined indexes, whose versions list all their files).
        removed: paths that the version before listed and this one does not.
        collection: STAC collection id; "" in combined indexes.
        sources: where its items came from; for a combined index, the collection versions it is made of.
        checkpoint: version of the newest entry, up to this one, that adds a checkpoint; 0: none does.
        expired: versions up to this one may no longer be opened, unless tagged or pinned.
        stored_at: when its items file was written, by the store's clock, UTC, ISO 8601.
        created_at, writer: for people; nothing is decided by them.
        sha256: hash of the entry's bytes: the identity of the version. "" until written.
    """

    version: int
    prev_sha256: str
    txn: str
    operation: Operation
    read_version: int
    added: tuple[FileInfo, ...]
    kept: tuple[FileInfo, ...] = ()
    removed: tuple[str, ...] = ()
    collection: str = ""
    sources: tuple[JSON, ...] = ()
    counts: Counts = Counts()
    totals: Totals = Totals()
    schema_version: int = 1
    checkpoint: int = 0
    expired: int = 0
    stored_at: str = ""
    created_at: str = ""
    writer: JSON = field(default_factory=dict)
    format: int = ENTRY_FORMAT
    sha256: str = ""

    def files(self, role: Role) -> tuple[FileInfo, ...]:
        """Files listed by this entry, old ones first."""
        return tuple(info for info in (*self.kept, *self.added) if info.role == role)

    def successor(self, writer: JSON) -> LogEntry:
        """The entry after this one, with the same state; `replace` says what it changes."""
        return replace(
            self,
            version=self.version + 1,
            prev_sha256=self.sha256,
            txn=str(uuid.uuid4()),
            operation="append",
            read_version=self.version,
            added=(),
            removed=(),
            counts=Counts(),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            writer=writer,
            sha256="",
        )

    def to_bytes(self) -> bytes:
        """Canonical JSON: the same entry always gives the same bytes."""
        data = asdict(self)
        del data["sha256"]
        return sealed(data)

    @classmethod
    def from_bytes(cls, body: bytes, where: str) -> LogEntry:
        """Inverse of `to_bytes`.

        Args:
            body: the stored bytes.
            where: the entry's key, for messages; files outside its folder are refused.

        Raises:
            CorruptWarehouseError: not an entry, or not the bytes that were written.
            StoreError: written by a later release.
        """
        try:
            data = json.loads(body)
            is_whole = isinstance(data, dict) and sealed(data) == body
        except (ValueError, RecursionError) as err:
            raise CorruptWarehouseError(f"log entry {where} is not JSON: {err}") from err
        if not is_whole:
            raise CorruptWarehouseError(f"log entry {where} was changed: it does not agree with its own checksum")
        if data.get("format") != ENTRY_FORMAT or data.get("operation") not in OPERATIONS:
            raise StoreError(
                f"log entry {where} has format {data.get('format')!r} and operation {data.get('operation')!r}; "
                f"this release reads format {ENTRY_FORMAT} with {', '.join(OPERATIONS)}: install a newer stacchip-core"
            )
        try:
            return cls._from_json(data, body, where)
        except (KeyError, TypeError, ValueError) as err:
            raise CorruptWarehouseError(f"log entry {where} is damaged: {err}") from err

    @classmethod
    def _from_json(cls, data: JSON, body: bytes, where: str) -> LogEntry:
        folder = where.rpartition("/log/")[0]
        added, kept = (tuple(map(FileInfo.from_json, data[name])) for name in ("added", "kept"))
        strays = [
            path for path in (*(i.path for i in (*added, *kept)), *data["removed"]) if not _is_below(path, folder)
        ]
        if strays:
            raise ValueError(f"it names {str(strays[0])[:200]!r}, which is no file of {folder}")
        known = {name: data[name] for name in (f.name for f in fields(cls)) if name in data}
        parsed = {
            "added": added,
            "kept": kept,
            "removed": tuple(data["removed"]),
            "sources": tuple(data["sources"]),
            "counts": Counts(**data["counts"]),
            "totals": Totals(**data["totals"]),
            "sha256": sha256_of(body),
        }
        return cls(**{**known, **parsed})


def sealed(data: JSON) -> bytes:
    """Canonical JSON with a checksum of the rest: the newest entry has no successor to vouch for it."""
    rest = {name: value for name, value in data.items() if name != "checksum"}
    return canonical({**rest, "checksum": sha256_of(canonical(rest))})


def canonical(data: object) -> bytes:
    """JSON with sorted keys and no spaces."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def sha256_of(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def is_safe_path(path: object) -> bool:
    """Whether a stored path is relative, of the form that we write, and so stays below the root."""
    return isinstance(path, str) and _PATH.fullmatch(path) is not None


def _is_below(path: object, folder: str) -> bool:
    return is_safe_path(path) and str(path).startswith(f"{folder}/")
