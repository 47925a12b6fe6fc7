"""What a run made and wants committed: the parts of its batches, or items to take out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stacchip_core.errors import LookupFailedError
from stacchip_core.warehouse.entry import FileInfo, canonical
from stacchip_core.warehouse.files import naming
from stacchip_core.warehouse.items import ITEM_SCHEMA, OF_FAILURES, last_of_each, with_all
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.memory import Source, description
from stacchip_core.warehouse.store import Store

FILES_FOOTER = b"stacchip:files"  # footer entry of a part: the data files that its rows point to


@dataclass(frozen=True, slots=True)
class Work:
    """What a run made and wants committed.

    Attributes:
        rows: item rows, all columns.
        files: the data files they point to, by path.
        written_at: when the oldest of it was written, by the store's clock.
        read_version: of the manifest that the run compared its items with.
        sources: where the items came from; goes into the log.
        is_rebuilt: items that are live as they are were made anew on purpose, and are news.
    """

    rows: pa.Table
    files: Mapping[str, FileInfo]
    written_at: datetime | None
    read_version: int
    sources: tuple[Source, ...] = ()
    is_rebuilt: bool = False


def read_work(
    store: Store, parts: Sequence[str], *, read_version: int, sources: Iterable[Mapping[str, object]] = ()
) -> Work:
    """Gather the parts that batches have staged."""
    tables, files = [ITEM_SCHEMA.empty_table()], dict[str, FileInfo]()
    for key in parts:
        with naming(store, key):
            with pq.ParquetFile(pa.BufferReader(store.read(key))) as file:
                table = file.read()
            listed = json.loads((table.schema.metadata or {})[FILES_FOOTER])
            files |= {info.path: info for info in map(FileInfo.from_json, listed)}
        tables.append(with_all(table))
    return Work(
        rows=pa.concat_tables(tables).combine_chunks(),
        files=files,
        written_at=min((store.modified(key) for key in parts), default=None),
        read_version=read_version,
        sources=tuple(sources),
    )


def removal(manifest: Manifest, item_ids: Collection[str], reason: str) -> Work:
    """What takes items out of a collection, at every chip size that they have, and off its list of failures.

    Raises:
        LookupFailedError: the collection knows no such item.
    """
    states = manifest.states({f"{manifest.collection}/{item_id}" for item_id in item_ids})
    known = pa.concat_tables([states.failed, states.live])
    if strange := set(item_ids) - set(known["item_id"].to_pylist()):  # failures of items that are none of its own
        failed = manifest.states().failed
        known = pa.concat_tables([known, failed.filter(pc.is_in(failed["item_id"], pa.array(sorted(strange))))])
    if missing := sorted(set(item_ids) - set(known["item_id"].to_pylist())):
        raise LookupFailedError(f"collection {manifest.name!r} has no item {', '.join(missing[:5])}")
    nothing = dict.fromkeys((*OF_FAILURES, "file", "row_group"))
    values = {**nothing, "op": "delete", "reason": reason, "rows": 0}
    rows = with_all(last_of_each(known))
    for name, value in values.items():
        field = ITEM_SCHEMA.field(name)
        rows = rows.set_column(
            ITEM_SCHEMA.get_field_index(name), field, pa.repeat(pa.scalar(value, field.type), len(rows))
        )
    return Work(rows, {}, None, manifest.version)


def followed(before: Sequence[Source], mine: Sequence[Source]) -> tuple[Source, ...]:
    """A run's sources, and those that others follow; of one source the later watermark stays, then the later memory.

    A source is all that describes it but its `watermark` and `memory`; one without them is only told by its own commit.
    """
    found: dict[bytes, Source] = {}
    for source in (*(one for one in before if one.get("watermark") or one.get("memory")), *mine):
        place = canonical(description(source))
        other = found.get(place, source)
        found[place] = max(source, other, key=_reached)
    return tuple(found.values())


def _reached(source: Source) -> tuple[str, str]:
    memory = source.get("memory")
    return str(source.get("watermark") or ""), str(memory.get("at") or "") if isinstance(memory, Mapping) else ""
