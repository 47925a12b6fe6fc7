"""Hand-made items of a warehouse: indexed items with a few chips each, no rasters needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.index.grid import GridSpec
from stacchip_core.index.schema import bbox_column, chip_schema
from stacchip_core.sources.profiles import Property
from stacchip_core.sources.scene import Scene
from stacchip_core.warehouse.batch import BatchResult, Indexed, write_batch
from stacchip_core.warehouse.commit import Commit, commit
from stacchip_core.warehouse.items import ItemState
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.work import read_work

PLATFORM = (Property(name="platform", type="text"),)


@dataclass(frozen=True, slots=True)
class Piece:
    """One item at one chip size, as a run would have indexed it.

    Attributes:
        number: which item; its place on the globe follows from it.
        form: of the item: its fingerprint.
        updated: day of June 2024 that the source dates this form, or None.
        failure: stage at which it failed, if it did.
    """

    number: int
    form: str = "a"
    updated: int | None = None
    recipe: str = "r1"
    size: int = 256
    rows: int = 3
    month: int = 6
    collection: str = "s2"
    failure: str = ""
    reason: str = "broken"
    is_transient: bool = False
    properties: tuple[Property, ...] = PLATFORM

    @property
    def item_id(self) -> str:
        """Id of the item."""
        return f"item-{self.number:04d}"

    @property
    def key(self) -> str:
        """Key of the item."""
        return f"{self.collection}/{self.item_id}"

    @property
    def moment(self) -> datetime:
        """Datetime of the item."""
        return datetime(2024, self.month, 1 + self.number % 28, 10, 30, tzinfo=UTC)

    @property
    def chip_ids(self) -> list[str]:
        """Ids of its chips; they tell form and recipe, so that a test sees which rows it reads."""
        return [f"{self.key}/{self.form}-{self.recipe}/{self.size}/{chip}" for chip in range(self.rows)]

    def table(self) -> pa.Table:
        """Its chips."""
        schema = chip_schema(self.properties)
        lon = (self.number * 37 % 360) - 180 + np.arange(self.rows) * 0.01
        lat = np.full(self.rows, (self.number * 17 % 160) - 80.0)
        geometry = shapely.box(lon, lat, lon + 0.01, lat + 0.01)
        values: dict[str, Any] = {
            "chip_id": self.chip_ids,
            "collection": [self.collection] * self.rows,
            "item_id": [self.item_id] * self.rows,
            "datetime": [self.moment] * self.rows,
            "size_px": [self.size] * self.rows,
            "nodata_fraction": [0.25] * self.rows,
            "geometry": shapely.to_wkb(geometry),
            "bbox": bbox_column(geometry),
        }
        columns = [
            pa.array(values[field.name], field.type) if field.name in values else pa.nulls(self.rows, field.type)
            for field in schema
        ]
        return pa.table(columns, schema=schema)

    def scene(self) -> Scene:
        """Its scene."""
        return Scene(
            item_id=self.item_id,
            collection=self.collection,
            datetime=self.moment,
            start_datetime=None,
            end_datetime=None,
            profile="p",
            grid=None,
            reference="red",
            assets=(),
            qa_asset=None,
            properties={"form": self.form},
        )

    def indexed(self) -> Indexed:
        """As a batch holds it."""
        day = None if self.updated is None else datetime(2024, 6, self.updated, tzinfo=UTC)
        state = ItemState(
            key=self.key,
            item_id=self.item_id,
            fingerprint=self.form,
            updated=day,
            recipe=self.recipe,
            size_px=self.size,
            stride_px=self.size,
            edge="drop",
            op="failed" if self.failure else "add",
            stage=self.failure or None,
            reason=self.reason if self.failure else None,
            is_transient=self.is_transient if self.failure else None,
            file=None,
            row_group=None,
            rows=0 if self.failure else self.rows,
        )
        item = {"id": self.item_id, "form": self.form}
        if self.failure:
            return Indexed(state, item)
        return Indexed(
            state, item, ChipIndex(self.table(), {self.key: self.scene()}, (GridSpec(self.size, self.size),))
        )


def part_of(store: Store, name: str, pieces: Sequence[Piece]) -> BatchResult:
    """Data files and part of a batch."""
    return write_batch(store, name, [piece.indexed() for piece in pieces])


def commit_parts(
    store: Store,
    name: str,
    parts: Sequence[str],
    *,
    read_version: int | None = None,
    sources: Sequence[Mapping[str, object]] = (),
) -> Commit:
    """Commit parts, as a run that read `read_version` (None: the newest)."""
    manifest = Manifest.load(store, name)
    version = manifest.version if read_version is None else read_version
    return commit(manifest, read_work(store, parts, read_version=version, sources=sources))


def commit_pieces(store: Store, name: str, pieces: Sequence[Piece], read_version: int | None = None) -> Commit:
    """Index and commit pieces in one batch."""
    return commit_parts(store, name, [part_of(store, name, pieces).part], read_version=read_version)


def chip_ids(dataset: Any) -> list[str]:
    """Sorted chip ids of a pyarrow dataset."""
    return sorted(dataset.to_table(columns=["chip_id"])["chip_id"].to_pylist())
