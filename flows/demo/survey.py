"""What a warehouse holds, gathered for the report."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from flows.demo.report import CollectionCard, CombinedRow
from flows.pictures import PAGE_STYLE, Reading, sheet_of_version
from stacchip_core import IndexVersion, Warehouse
from stacchip_core.chips.charts import Histogram
from stacchip_core.chips.pictures import png_uri

VERSIONS_SHOWN = 20


def collection_cards(warehouse: Warehouse, reading: Reading) -> tuple[CollectionCard, ...]:
    """A card for each collection, by name."""
    return tuple(collection_card(warehouse.collection(name), reading) for name in warehouse.collections())


def collection_card(version: IndexVersion, reading: Reading) -> CollectionCard:
    """Counts, fractions and a contact sheet of a collection."""
    columns = ["datetime", "gsd_m", "nodata_fraction", "cloud_fraction"]
    chips = version.dataset().to_table(columns=columns)
    sheet = sheet_of_version(version, reading, PAGE_STYLE)
    return CollectionCard(
        name=version.name,
        items=version.entry.totals.items,
        chips=chips.num_rows,
        details=(_days(chips["datetime"]), _gsd(chips["gsd_m"])),
        nodata=Histogram.of(chips["nodata_fraction"]),
        cloud=Histogram.of(chips["cloud_fraction"]),
        sheet=png_uri(sheet.png) if sheet else None,
        sheet_text=sheet.text if sheet else "",
    )


def combined_rows(warehouse: Warehouse, name: str) -> tuple[CombinedRow, ...]:
    """The latest versions of a combined index, newest first."""
    head = warehouse.combined(name).version
    numbers = range(head, max(0, head - VERSIONS_SHOWN), -1)
    return tuple(_combined_row(warehouse.combined(name, number)) for number in numbers)


def _combined_row(version: IndexVersion) -> CombinedRow:
    made_of = [f"{source['collection']}@{source['version']}" for source in version.sources]
    return CombinedRow(
        name=version.name,
        version=version.version,
        sha256=version.sha256,
        sources=", ".join(made_of),
        items=version.entry.totals.items,
        chips=version.count(),
        files=len(version.files),
        size_bytes=sum(info.size for info in version.files),
    )


def _days(times: pa.ChunkedArray) -> str:
    """First and last day."""
    ends = pc.min_max(times).as_py()
    if ends["min"] is None:
        return ""
    first, last = (f"{ends[end]:%Y-%m-%d}" for end in ("min", "max"))
    return first if first == last else f"{first} to {last}"


def _gsd(metres: pa.ChunkedArray) -> str:
    """Ground sample distances found."""
    return ", ".join(f"{value:g} m" for value in sorted({round(value, 2) for value in metres.unique().to_pylist()}))
