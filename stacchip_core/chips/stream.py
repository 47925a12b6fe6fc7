"""The chips a spec means, cut from their scenes when they are asked for, and kept nowhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import pyarrow as pa

from stacchip_core.chips.cutting import SceneLayout, cut_into
from stacchip_core.chips.epoch import Deal, Rows
from stacchip_core.chips.feed import Chip, Feed
from stacchip_core.chips.files import Access
from stacchip_core.chips.finish import bands_given
from stacchip_core.chips.handles import Handles, OwnThread
from stacchip_core.chips.preparing import choose, parts_of
from stacchip_core.chips.selection import scene_keys
from stacchip_core.chips.shards import Pixels, row_of
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.errors import ReadError, StacchipError
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.sources.access import Storage
from stacchip_core.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from stacchip_core.chips.torch import Wish

# Chips whose corners share a square of so many pixels of the reference grid are read together. The blocks of published
# scenes are 1024 pixels (Sentinel-2 at Earth Search), 512 (Landsat, Sentinel-1 RTC) and 256 (HLS).
_PLACE_PX = 1024


def stream(warehouse: Warehouse, spec: ChipSpec, *, storage: Storage | None = None) -> ChipStream:
    """Choose the chips of a spec, as `materialize` does, to cut them when they are asked for.

    Args:
        warehouse: holds the index.
        spec: which chips, of which bands, in which form; format and shard size mean nothing here.
        storage: how to reach the items' assets; None: as the warehouse is reached.

    Raises:
        SpecError: see `select`.
    """
    chosen = choose(warehouse.combined(spec.index, spec.version), spec)
    pinned = spec.model_copy(update={"version": chosen.version.version})
    access = Access(storage or warehouse.storage, tuple(warehouse.local_roots), handles=Handles())
    return ChipStream(chosen.index, pinned, chosen.bands, access)


class ChipStream:
    """Twin of a `Dataset`: the same chips, pixel for pixel, none of them stored; in its order, until that is updated.

    `stream[i]` is the chip of row i of `chips`; iterating goes from place to place, so that each block of a file is
    decoded once, and reads ahead. It may be handed to threads and to other processes, which open files of their own.

    Attributes:
        spec: with the index version filled in.
        bands: per collection.
        chips: one row per chip.
        failures: id -> why a chip could not be read, of those met while iterating.
    """

    def __init__(self, index: ChipIndex, spec: ChipSpec, bands: Mapping[str, tuple[str, ...]], access: Access) -> None:
        """Take the chosen chips; use `stream`."""
        ordered = [part.index.table for part in parts_of(index, spec.shard_size)]
        self.spec, self.bands, self.chips = spec, bands, pa.concat_tables(ordered).combine_chunks()
        self.failures: dict[str, str] = {}
        self._index, self._access = replace(index, table=self.chips), access
        self._thread = OwnThread()

    def __repr__(self) -> str:
        """Name, index version and size."""
        return f"ChipStream({self.spec.name!r}, {self.spec.index}@{self.spec.version}, {len(self)} chips)"

    def __len__(self) -> int:
        """Number of chips."""
        return int(self.chips.num_rows)

    def __getitem__(self, place: SupportsIndex) -> Chip:
        """The chip of row `place`.

        Raises:
            TypeError, ChipNotFoundError: there is no such row.
            ReadError, TransientReadError: an asset can't be read.
        """
        row = row_of(place, len(self), f"stream {self.spec.name!r}")
        found = self.read([row])[row]
        if isinstance(found, StacchipError):
            raise found
        return found

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Chip]]:
        """Rows of `chips` (columns to values, without geometry) and their chips, place by place.

        A chip that can't be read is left out, as it is of a dataset: `failures` and the log say why.

        Raises:
            ReadError: more chips could not be read than the spec allows, or none could.
        """
        self.failures.clear()
        rows = self.chips.drop_columns(["geometry", "bbox"])
        for _, row, chip in Feed(self, Deal(shuffle=False), on_error="skip"):
            self._check_budget()
            yield rows.slice(row, 1).to_pylist()[0], chip
        self._check_budget()

    def _check_budget(self) -> None:
        """Refuse to go on where too many chips could not be read."""
        count, share = self.spec.max_failed, self.spec.max_failed_share
        most = min(
            len(self) - 1, len(self) if count is None else count, len(self) if share is None else share * len(self)
        )
        if len(self.failures) > most:
            raise ReadError(
                f"stream {self.spec.name!r}: {len(self.failures)} of its {len(self)} chips could not be read, and no "
                f"more than {most:g} may fail. The first: {next(iter(self.failures.values()))}"
            )

    @cached_property
    def groups(self) -> Rows:
        """Per chip, the number of the place of its item that it is read with."""
        items = self.chips["collection"].to_numpy() + "/" + self.chips["item_id"].to_numpy()
        corners = [self.chips[name].to_numpy() // _PLACE_PX for name in ("row_off", "col_off")]
        places = np.stack([np.unique(items, return_inverse=True)[1], *corners])
        return np.asarray(np.unique(places, axis=1, return_inverse=True)[1], np.int64).reshape(-1)

    def read(self, rows: Iterable[int]) -> dict[int, Chip | StacchipError]:
        """Row -> its chip, or why it can't be read."""
        own = np.array(list(rows), np.int64)
        if threading.current_thread() is threading.main_thread():
            return self._thread.run(lambda: self._read(own))
        return self._read(own)

    def _read(self, own: Rows) -> dict[int, Chip | StacchipError]:
        found: dict[int, Chip | StacchipError] = {}
        collections = self.chips["collection"].take(own).to_numpy()
        for name in np.unique(collections):
            found |= self._cut(str(name), own[collections == name])
        return found

    def to_torch(self, *, split: str | None = None, transform: Callable[[dict[str, Any]], Any] | None = None) -> Any:
        """A map-style `torch.utils.data.Dataset` of the chips of a split: band -> tensor, and `chip_id`."""
        from stacchip_core.chips.torch import by_row

        return by_row(self, split=split, transform=transform)

    def to_torch_iterable(self, deal: Deal | None = None, wish: Wish | None = None) -> Any:
        """A `torch.utils.data.IterableDataset` of epochs, for several ranks and workers, which resumes in mid-epoch."""
        from stacchip_core.chips.torch import by_epoch

        return by_epoch(self, deal, wish)

    def _cut(self, collection: str, rows: Rows) -> dict[int, Chip | StacchipError]:
        """Chips of one collection, item by item."""
        table = self.chips.take(rows)
        scenes = {key: self._index.scenes[key] for key in scene_keys(table)}
        kept, bands = _Kept([{} for _ in rows]), self.bands[collection]
        given = bands_given(bands, self.spec)
        reasons = cut_into(kept, replace(self._index, table=table, scenes=scenes), self.spec, bands, self._access)
        ids = table["chip_id"].to_pylist()
        self.failures |= {ids[number]: reason for number, reason in reasons.items()}
        return {
            int(row): ReadError(reasons[number]) if number in reasons else {band: chip[band] for band in given}
            for number, (row, chip) in enumerate(zip(rows, kept.chips, strict=True))
        }


@dataclass(frozen=True, slots=True)
class _Kept:
    """Chips of few rows in memory: per row, band -> pixels."""

    chips: list[Chip]

    def begin(self, key: str, layout: SceneLayout) -> None:
        """Chips say themselves how they look."""

    def put(self, row: int, band: str, pixels: Pixels) -> None:
        self.chips[row][band] = pixels.copy()
