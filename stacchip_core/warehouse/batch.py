"""A batch of items: staged as a file, indexed one by one, left as data files and a part for the commit."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stacchip_core.errors import (
    InputError,
    ReadError,
    StacchipError,
    TransientError,
)
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.index.indexer import Indexer, IndexSettings
from stacchip_core.index.schema import conform, table_bounds
from stacchip_core.sources.access import unsigned_href
from stacchip_core.sources.cause import PASSING, cause_of, cause_of_words
from stacchip_core.sources.item import ItemSource, StagedItem, unsigned
from stacchip_core.sources.scene import Scene
from stacchip_core.warehouse.classify import candidate
from stacchip_core.warehouse.data import columns_of, schema_of, union, write_data
from stacchip_core.warehouse.entry import FileInfo
from stacchip_core.warehouse.files import naming, time_range
from stacchip_core.warehouse.items import ITEM_SCHEMA, ItemState
from stacchip_core.warehouse.store import STAGING, Store
from stacchip_core.warehouse.work import FILES_FOOTER

logger = logging.getLogger(__name__)

FAILURES_KEPT = 200  # named in a batch's result; all of them are rows of its part


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """An item that could not be indexed.

    Attributes:
        item: its id.
        stage: "discover", "item" (its JSON), "read" (an asset) or "index".
        reason: names item, asset, what was expected and found.
        cause: the same in a word, one of `CAUSES`.
    """

    item: str
    stage: str
    reason: str
    cause: str = "other"


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What indexing a batch made: small enough to travel between processes.

    Attributes:
        part: key of its item rows, for the commit.
        items: items indexed, without those that failed.
        chips: rows written.
        failed: items that failed.
        failures: the first of them.
    """

    part: str
    items: int
    chips: int
    failed: int
    failures: tuple[ItemFailure, ...] = ()


@dataclass(frozen=True, slots=True)
class Indexed:
    """One item of a batch: what is known of it, its JSON without signatures, and its chips unless it failed.

    Attributes:
        base: what its relative hrefs are relative to: a URL, or a folder below a local root.
    """

    state: ItemState
    item: Mapping[str, Any]
    index: ChipIndex | None = None
    base: str = ""

    @property
    def scene(self) -> Scene | None:
        """The item as a scene; None if it failed."""
        return next(iter(self.index.scenes.values())) if self.index is not None else None

    @property
    def month(self) -> str:
        """Year and month of its datetime, "YYYY-MM"; empty if it failed."""
        return self.scene.datetime.strftime("%Y-%m") if self.scene else ""

    @property
    def table(self) -> pa.Table:
        """Its chips."""
        return self.index.table if self.index is not None else pa.table({})


def stage(store: Store, items: Sequence[StagedItem]) -> str:
    """Write items down for a batch, without signatures; returns the key, which is all that needs to travel."""
    key = f"{STAGING}/{uuid.uuid4()}.jsonl"
    lines = [json.dumps({**asdict(staged), "item": unsigned(staged.item)}, default=str) for staged in items]
    store.write(key, "\n".join(lines).encode())
    return key


def read_staged(store: Store, key: str) -> list[StagedItem]:
    """Inverse of `stage`."""
    with naming(store, key):
        rows = [json.loads(line) for line in store.read(key).splitlines()]
    return [StagedItem(**{**row, "mends": tuple(row.get("mends", ()))}) for row in rows]


def index_batch(store: Store, name: str, items: Sequence[StagedItem], settings: IndexSettings) -> BatchResult:
    """Index items for collection `name`, and write what came of it; nothing is committed yet.

    An item that fails is a row with its stage and reason, and the others go on.

    Raises:
        StoreError, TransientStoreError: the warehouse could not be written.
    """
    done = [index_item(staged, settings) for staged in items]
    return write_batch(store, name, [*done, *(over for staged in items for over in mended(staged, settings))])


def write_batch(store: Store, name: str, done: Sequence[Indexed]) -> BatchResult:
    """Write what came of a batch's items: data files, and the part that a commit takes up."""
    txn = str(uuid.uuid4())
    files, places = _write_months(store, f"collections/{name}/data/{txn}", done)
    rows = [_row(one, *places.get(number, (None, None))) for number, one in enumerate(done)]
    failed = [one.state for one in done if one.state.op == "failed"]
    return BatchResult(
        part=_write_part(store, txn, pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), files),
        items=sum(one.state.op == "add" for one in done),
        chips=sum(info.rows for info in files),
        failed=len(failed),
        failures=tuple(map(failure_of, failed[:FAILURES_KEPT])),
    )


def failure_of(state: ItemState) -> ItemFailure:
    """What people are told of an item that failed."""
    return ItemFailure(state.item_id, str(state.stage), str(state.reason), state.cause or "other")


def mended(staged: StagedItem, settings: IndexSettings) -> list[Indexed]:
    """What takes failures of the item's file off the list."""
    state = candidate(staged, settings).state
    gone = replace(state, item_id=staged.found_as, op="delete", reason="its file could be read", cause=None)
    return [Indexed(replace(gone, key=key), {}) for key in staged.mends]


def index_item(staged: StagedItem, settings: IndexSettings) -> Indexed:
    """Index one item; whatever is wrong with it comes back as data.

    An error that the item came with is of stage "item" where its JSON had been read, else of stage "discover".
    """
    state, item = candidate(staged, settings).state, unsigned(staged.item)
    state = replace(state, attempts=staged.attempts + 1)  # of a failure; what succeeds has none
    if staged.error is not None:
        cause = staged.cause or cause_of_words(staged.error)
        stage = "item" if "type" in item else "discover"
        return Indexed(_failed(state, stage, staged.error, cause), item, base=staged.base)
    try:
        source = ItemSource(staged.item, staged.base, settings.local_roots, staged.host)
        index = Indexer.from_settings(source, settings).create_index()
    except StacchipError as err:
        return Indexed(_failed_by(err, state), item, base=staged.base)
    except Exception as err:  # a defect of ours that one scene brings to light must not cost the others
        logger.exception("item %s could not be indexed", state.item_id)
        reason = f"item {state.item_id}: {type(err).__name__}: {err}"
        return Indexed(_failed(state, "index", reason, "defect"), item, base=staged.base)
    return Indexed(replace(state, rows=len(index), attempts=None, found_as=None), item, index, staged.base)


def _failed_by(error: StacchipError, state: ItemState) -> ItemState:
    failed = _failed(state, _stage_of(error), str(error), cause_of(error))
    return replace(failed, is_transient=failed.is_transient or isinstance(error, TransientError))


def _failed(state: ItemState, stage: str, reason: str, cause: str) -> ItemState:
    return replace(state, op="failed", stage=stage, reason=reason, cause=cause, is_transient=cause in PASSING)


def _stage_of(error: StacchipError) -> str:
    if isinstance(error, ReadError):
        return "read"
    return "item" if isinstance(error, InputError) else "index"


def _write_months(
    store: Store, stem: str, done: Sequence[Indexed]
) -> tuple[list[FileInfo], dict[int, tuple[str, int]]]:
    """Write the chips, a file per month and a row group per item; also says by item where its chips went."""
    files, places = list[FileInfo](), dict[int, tuple[str, int]]()
    for month in sorted({one.month for one in done if one.state.rows}):
        own = [number for number, one in enumerate(done) if one.state.rows and one.month == month]
        path = f"{stem}-{len(files)}.parquet"
        tables = [done[number].table for number in own]
        columns = union(columns_of(table.schema) for table in tables)
        start, end = time_range(pa.chunked_array([table["datetime"][:1].chunk(0) for table in tables]))
        draft = FileInfo(
            path,
            "data",
            0,
            "",
            0,
            bbox=table_bounds(tables),
            start=start,
            end=end,
            collection=path.split("/")[1],
            month=month,
            columns=columns,
        )
        schema = schema_of(columns)
        files.append(write_data(store, draft, (conform(table, schema) for table in tables)))
        places |= {number: (path, group) for group, number in enumerate(own)}
    return files, places


def _row(one: Indexed, file: str | None, row_group: int | None) -> dict[str, object]:
    """The item's row of `ITEM_SCHEMA`."""
    scene = one.scene
    bounds = table_bounds([one.table]) if one.state.rows else None
    return {
        **{name: getattr(one.state, name) for name in ItemState.__dataclass_fields__ if name != "version"},
        "base": _kept(one.base),
        "profile": scene.profile if scene else None,
        "item": json.dumps(one.item, separators=(",", ":"), default=str),
        "scene": scene.to_json() if scene else None,
        "file": file,
        "row_group": row_group,
        "offset": 0,
        "datetime": scene.datetime if scene else None,
        "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), bounds, strict=True)) if bounds else None,
    }


def _kept(base: str) -> str | None:
    """A base as it is kept: without signature, and never a path of this machine."""
    is_local = base.lower().startswith("file:") or PurePath(base).is_absolute()
    return None if is_local else unsigned_href(base)


def _write_part(store: Store, txn: str, rows: pa.Table, files: Sequence[FileInfo]) -> str:
    key = f"{STAGING}/{txn}.parquet"
    footer = {FILES_FOOTER: json.dumps([asdict(info) for info in files])}
    with store.writing(key) as local:
        pq.write_table(rows.replace_schema_metadata(footer), local, compression="zstd")
    return key
