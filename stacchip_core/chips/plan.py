"""What a dataset will cost, before any pixel is read: chips, blocks, requests, bytes and time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stacchip_core.chips.blocks import Blocks, strips
from stacchip_core.chips.cutting import PLACE
from stacchip_core.chips.files import Access, BandFile, open_files
from stacchip_core.chips.finish import Finish, pixel_type
from stacchip_core.chips.handles import Handles
from stacchip_core.chips.labels import scene_key_of_rows
from stacchip_core.chips.preparing import Chosen, Part, choose, parts_of
from stacchip_core.chips.radiometry import MASK_DTYPE
from stacchip_core.chips.selection import null_fractions
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.chips.work import in_threads
from stacchip_core.errors import StacchipError
from stacchip_core.sources.access import Storage, is_remote
from stacchip_core.sources.raster import Window
from stacchip_core.sources.scene import Scene
from stacchip_core.warehouse.warehouse import Warehouse

# Items of a collection whose headers are read; where there are more, the others are taken to be like these.
_ITEMS_READ = 64
_TOLD = 10  # items that can't be read, in what is printed

# What a worker does in a second, on one core; docs/performance.md says how it was measured. Sixteen requests of 30 ms
# are under way at a time, on a line of 25 MB/s.
_DECODED_BYTES = 250e6
_WRITTEN_BYTES = 150e6
_FETCHED_BYTES = 25e6
_REQUEST_SECONDS = 0.03 / 16


@dataclass(frozen=True, slots=True)
class PlanPart:
    """Chips of one collection and one split; `split` is None where the spec has none."""

    collection: str
    split: str | None
    chips: int
    shards: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read for some items, and what comes of it.

    Attributes:
        blocks: decoded, each once.
        requests: to remote files, those for their headers among them.
        bytes_in: of blocks and headers, as they are stored.
        bytes_remote: of these, those that come over a network.
        bytes_decoded: of blocks.
        bytes_out: of chips, uncompressed.
    """

    blocks: int = 0
    requests: int = 0
    bytes_in: int = 0
    bytes_remote: int = 0
    bytes_decoded: int = 0
    bytes_out: int = 0

    def __add__(self, other: Reading) -> Reading:
        """Both together."""
        mine, others = asdict(self), asdict(other)
        return Reading(**{name: mine[name] + others[name] for name in mine})

    def times(self, factor: float) -> Reading:
        """So many times as much."""
        return Reading(**{name: round(value * factor) for name, value in asdict(self).items()})

    @property
    def seconds(self) -> float:
        """Roughly, of one worker."""
        fetching = max(self.requests * _REQUEST_SECONDS, self.bytes_remote / _FETCHED_BYTES)
        return fetching + self.bytes_decoded / _DECODED_BYTES + self.bytes_out / _WRITTEN_BYTES


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What a spec will make, and what that takes; printed, it is a table.

    Attributes:
        name: of the dataset.
        index: `<name>@<version>`, resolved.
        parts: chips by collection and split.
        items: that chips are cut from.
        blocks: of files, decoded once each.
        requests: to remote files, in which these blocks and the files' headers come.
        bytes_in: of blocks and headers, as they are stored.
        bytes_out: of chips, before they are compressed.
        seconds: roughly, of one worker.
        is_exact: whether the headers of all items were read; else the others are taken to be like those that were.
        null_fractions: column -> chips that pass its threshold because their fraction is null.
        unreadable: item -> why its files can't be used, or not as the spec asks: its chips would be failures.
    """

    name: str
    index: str
    parts: tuple[PlanPart, ...]
    items: int
    blocks: int
    requests: int
    bytes_in: int
    bytes_out: int
    seconds: float
    is_exact: bool = True
    null_fractions: Mapping[str, int] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def chips(self) -> int:
        """Of all collections and splits."""
        return sum(part.chips for part in self.parts)

    @property
    def shards(self) -> int:
        """Of all collections and splits."""
        return sum(part.shards for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "chips": self.chips, "shards": self.shards}

    def __str__(self) -> str:
        """A table for people."""
        about = "" if self.is_exact else "about "
        lines = [f"{self.name}: {self.chips:,} chips of {self.items:,} items of {self.index}"]
        for part in self.parts:
            whose = part.collection if part.split is None else f"{part.collection}, {part.split}"
            lines.append(f"  {whose}: {part.chips:,} chips in {part.shards:,} shards")
        lines.append(
            f"  reads {about}{self.blocks:,} blocks: {_size(self.bytes_in)} in {about}{self.requests:,} requests"
        )
        lines.append(f"  writes {about}{_size(self.bytes_out)}, uncompressed, in {self.shards:,} shards")
        lines.append(f"  takes roughly {_time(self.seconds)} of one worker")
        lines += [f"  {count:,} chips pass with no {column}" for column, count in self.null_fractions.items()]
        reasons = list(self.unreadable.values())
        lines += [f"  can't be read: {reason}" for reason in reasons[:_TOLD]]
        lines += [f"  and {len(reasons) - _TOLD:,} items more; `unreadable` has all"] if len(reasons) > _TOLD else []
        return "\n".join(lines)


def plan(warehouse: Warehouse, spec: ChipSpec, *, storage: Storage | None = None) -> ReadPlan:
    """What `materialize` would do with a spec; reads headers of files, and no pixel.

    Args:
        warehouse: holds the index.
        spec: which chips, of which bands, in which form.
        storage: how to reach the items' assets; None: as the warehouse is reached.

    Raises:
        SpecError: see `select`.
    """
    chosen = choose(warehouse.combined(spec.index, spec.version), spec)
    access = Access(storage or warehouse.storage, tuple(warehouse.local_roots))
    places = _places(chosen)
    total, is_exact, unreadable = Reading(), True, dict[str, str]()
    for collection in chosen.bands:
        keys = sorted(key for key, scene in chosen.index.scenes.items() if scene.collection == collection)
        looked_at = keys[:: -(-len(keys) // _ITEMS_READ)]
        found = _readings(chosen, looked_at, places, access)
        unreadable |= {key: reason for key, reason in found.items() if isinstance(reason, str)}
        read = sum((one for one in found.values() if isinstance(one, Reading)), Reading())
        share = sum(len(places[key]) for key in keys) / sum(len(places[key]) for key in looked_at)
        total += read.times(share)
        is_exact &= len(looked_at) == len(keys)
    return ReadPlan(
        name=spec.name,
        index=f"{chosen.version.name}@{chosen.version.version}",
        parts=tuple(_summed(parts_of(chosen.index, spec.shard_size))),
        items=len(chosen.index.scenes),
        **{name: getattr(total, name) for name in ("blocks", "requests", "bytes_in", "bytes_out", "seconds")},
        is_exact=is_exact,
        null_fractions=null_fractions(chosen.index.table, spec),
        unreadable=unreadable,
    )


def _places(chosen: Chosen) -> dict[str, NDArray[np.int64]]:
    """Per scene where its chips lie, (n, 4): column, row, and how much is inside the raster."""
    keys = np.asarray(scene_key_of_rows(chosen.index.table), dtype=object)
    columns = np.stack([chosen.index.table[name].to_numpy().astype(np.int64) for name in PLACE], axis=1)
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], keys[order][1:] != keys[order][:-1]]))
    return {str(keys[own[0]]): columns[own] for own in np.split(order, starts[1:])}


def _readings(
    chosen: Chosen, keys: Sequence[str], places: Mapping[str, NDArray[np.int64]], access: Access
) -> dict[str, Reading | str]:
    """Per item what is read of it, or why it can't be."""

    def look(number: int) -> Reading | str:
        scene = chosen.index.scenes[keys[number]]
        try:
            return _reading(scene, chosen.bands[scene.collection], chosen.spec, places[keys[number]], access)
        except StacchipError as err:
            return str(err)

    return dict(zip(keys, in_threads(look, len(keys)), strict=True))


def _reading(
    scene: Scene, bands: tuple[str, ...], spec: ChipSpec, places: NDArray[np.int64], access: Access
) -> Reading:
    handles = Handles()
    try:
        files = open_files(scene, bands, spec, access, handles)
        finish = Finish.of(scene, files, spec)
        mask = Reading(bytes_out=len(places) * MASK_DTYPE.itemsize * (finish.side or 0) ** 2)
        return sum((_of_file(file, spec, places, finish) for file in files), mask)
    finally:
        handles.close()


def _of_file(file: BandFile, spec: ChipSpec, places: NDArray[np.int64], finish: Finish) -> Reading:
    raster, way = file.raster, file.way
    header = raster.header
    is_far = is_remote(raster.ref.href)
    fetched = list(_fetched(file, places))
    ranges = [one for blocks in fetched for one in raster.ranges(blocks, file.layers)]
    layers = header.layers if file.layers is None else len(file.layers)
    size = sum(one.size for one in ranges) + raster.traffic.received
    chip_bytes = (
        sum(file.count(band) * finish.bands[band].dtype.itemsize for band in file.bands) * way.side(spec.size) ** 2
    )
    return Reading(
        blocks=sum(map(len, fetched)),
        requests=len(ranges) + max(1, raster.traffic.requests) if is_far else 0,
        bytes_in=size,
        bytes_remote=size if is_far else 0,
        bytes_decoded=sum(one.width * one.height for blocks in fetched for one in blocks)
        * layers
        * pixel_type(file).itemsize,
        bytes_out=len(places) * chip_bytes,
    )


def _fetched(file: BandFile, places: NDArray[np.int64]) -> Iterator[list[Window]]:
    """Blocks of a file that are fetched together, strip by strip; what an earlier strip had is not fetched again."""
    header = file.raster.header
    own, seen = Blocks(header.height, header.width, *header.block_shape), set[Window]()
    for strip in strips(file.way.sources(file.way.on_grid(places)), file.way.blocks(file.raster)):
        touched = [block for window in file.way.under(file.raster, strip.runs) for block in own.under(window)]
        yield [block for block in dict.fromkeys(touched) if block not in seen]
        seen.update(touched)


def _summed(parts: Iterable[Part]) -> Iterable[PlanPart]:
    """Chips and shards by collection and split."""
    found: dict[tuple[str, str | None], list[int]] = {}
    for part in parts:
        found.setdefault((part.collection, part.split), []).append(len(part.index))
    return (PlanPart(*key, chips=sum(sizes), shards=len(sizes)) for key, sizes in found.items())


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
