"""From the chips of an index to their pixels, scene by scene and file by file, each block decoded once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stacchip_core.chips.bands import scenes_lacking
from stacchip_core.chips.blocks import read_in_strips
from stacchip_core.chips.files import Access, BandFile, open_files
from stacchip_core.chips.finish import Finish, bands_given
from stacchip_core.chips.handles import Handles
from stacchip_core.chips.labels import Nodata, labels_of, scene_key_of_rows
from stacchip_core.chips.lock import Failure
from stacchip_core.chips.radiometry import MASK, MASK_DTYPE
from stacchip_core.chips.shards import Pixels, Shard
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.chips.ways import padded
from stacchip_core.errors import ReadError, StacchipError, TransientReadError
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.sources.raster import Window
from stacchip_core.sources.scene import Scene

logger = logging.getLogger(__name__)

Shapes = tuple[tuple[str, tuple[int, ...]], ...]  # of the bands of a chip

PLACE = ("col_off", "row_off", "valid_width", "valid_height")


@dataclass(frozen=True, slots=True)
class SceneLayout:
    """How the chips of one scene look.

    Attributes:
        bands: band -> type, and shape (layers, height, width).
        nodata: band -> the value that means "no measurement".
    """

    bands: Mapping[str, tuple[np.dtype[np.generic], tuple[int, int, int]]]
    nodata: Nodata


class Sink(Protocol):
    """Takes chips as they are cut."""

    def begin(self, key: str, layout: SceneLayout) -> None:
        """The chips of this scene, `<collection>/<item_id>`, come next, and look so."""
        ...

    def put(self, row: int, band: str, pixels: Pixels) -> None:
        """Pixels (layer, y, x) of a band of the chip at a row; to be copied, and from several threads at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Cut:
    """Chips that could be read, and those that could not; `shard` is None where none could."""

    shard: Shard | None
    failures: tuple[Failure, ...]


def cut(index: ChipIndex, spec: ChipSpec, bands: tuple[str, ...], access: Access) -> Cut:
    """The chips of an index, all of one collection, in memory, in the order of its rows.

    Raises:
        TransientReadError: a source failed just now, and this is not the last try.
    """
    sink = _InMemory(scene_key_of_rows(index.table))
    reasons = cut_into(sink, index, spec, bands, access)
    reasons |= misfits({row: sink.shapes(row) for row in range(len(index)) if row not in reasons})
    rows = [row for row in range(len(index)) if row not in reasons]
    failures = failures_of(index, reasons)
    if not rows:
        return Cut(None, failures)
    given = bands_given(bands, spec)
    arrays: dict[str, Pixels] = {band: np.stack([sink.chips[row].pop(band) for row in rows]) for band in given}
    nodata = [sink.layouts[sink.keys[row]].nodata for row in rows]
    return Cut(Shard(labels_of(replace(index, table=index.table.take(rows)), arrays, nodata), arrays), failures)


def cut_into(sink: Sink, index: ChipIndex, spec: ChipSpec, bands: tuple[str, ...], access: Access) -> dict[int, str]:
    """Give the chips of an index, all of one collection, to a sink, scene by scene; a row that fails may be half given.

    Returns:
        Row -> why it could not be read.

    Raises:
        TransientReadError: a source failed just now, and this is not the last try.
    """
    lacking = scenes_lacking(index.scenes, bands)
    keys = np.asarray(scene_key_of_rows(index.table), dtype=object)
    places = np.stack([index.table[name].to_numpy().astype(np.int64) for name in PLACE], axis=1)
    reasons: dict[int, str] = {}
    handles = access.handles or Handles()
    try:
        for key in dict.fromkeys(keys.tolist()):
            rows = np.flatnonzero(keys == key)
            if key in lacking:
                reasons |= dict.fromkeys(map(int, rows), lacking[key])
                continue
            scene = _SceneCut(index.scenes[key], rows, places[rows], spec, bands, access)
            reasons |= scene.cut(sink, handles)
    finally:
        if access.handles is None:
            handles.close()
    return reasons


def misfits(shapes: Mapping[int, Shapes]) -> dict[int, str]:
    """Rows of chips that can't be stacked with most others, because a band of their item has other layers."""
    if len(set(shapes.values())) < 2:
        return {}
    usual = Counter(shapes.values()).most_common(1)[0][0]
    return {
        row: f"bands and shapes are {dict(shape)}, those of most chips of the shard {dict(usual)}"
        for row, shape in shapes.items()
        if shape != usual
    }


def failures_of(index: ChipIndex, reasons: Mapping[int, str]) -> tuple[Failure, ...]:
    """Rows that could not be read as failures of their chips, each told to the log."""
    ids = index.table["chip_id"].to_pylist()
    failures = tuple(Failure(chip_id=ids[row], reason=reason) for row, reason in sorted(reasons.items()))
    for failure in failures:
        logger.warning("chip %s is left out: %s", failure.chip_id, failure.reason)
    return failures


@dataclass(frozen=True, slots=True)
class _SceneCut:
    """Chips of one scene: their rows, and where they lie (n, 4): column, row, and how much is inside the raster."""

    scene: Scene
    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    spec: ChipSpec
    bands: tuple[str, ...]
    access: Access

    def cut(self, sink: Sink, handles: Handles) -> dict[int, str]:
        """Why chips could not be read, by row."""
        try:
            files = open_files(self.scene, self.bands, self.spec, self.access, handles)
            finish = Finish.of(self.scene, files, self.spec)
        except StacchipError as err:
            if isinstance(err, TransientReadError) and not self.access.is_last_try:
                raise
            return dict.fromkeys(map(int, self.rows), str(err))
        sink.begin(self.scene.key, self._layout(files, finish))
        reasons: dict[int, str] = {}
        if self.access.threads == 1:
            for file in files:
                self._read(file, finish, sink, reasons)
        else:
            with ThreadPoolExecutor(self.access.threads) as pool:  # each file is used by one thread at a time
                list(pool.map(lambda file: self._read(file, finish, sink, reasons), files))
        for row in map(int, self.rows):
            mask = finish.mask(row)
            if mask is not None and row not in reasons:
                sink.put(row, MASK, mask)
        return reasons

    def _layout(self, files: list[BandFile], finish: Finish) -> SceneLayout:
        found: dict[str, tuple[np.dtype[np.generic], tuple[int, int, int]]] = {}
        nodata: dict[str, float | None] = {MASK: None}
        for file in files:
            side = file.way.side(self.spec.size)
            found[MASK] = (MASK_DTYPE, (1, side, side))
            for band in file.bands:
                told = finish.bands[band]
                found[band] = (told.dtype, (file.count(band), side, side))
                nodata[band] = as_pixels_hold(told.nodata, told.dtype)
        given = bands_given(self.bands, self.spec)
        return SceneLayout({band: found[band] for band in given}, {band: nodata[band] for band in given})

    def _read(self, file: BandFile, finish: Finish, sink: Sink, reasons: dict[int, str]) -> None:
        """Give the chips of one file to the sink; those that failed in another are left out."""
        is_left = np.array([int(row) not in reasons for row in self.rows])
        rows, places = self.rows[is_left], self.places[is_left]
        side = file.way.side(self.spec.size)
        insides = file.way.on_grid(places)
        found = read_in_strips(
            file.way.sources(insides), file.way.blocks(file.raster), file, is_last_try=self.access.is_last_try
        )
        for number, pixels in found:
            row, inside = int(rows[number]), Window(*map(int, insides[number]))
            if isinstance(pixels, ReadError):
                reasons.setdefault(row, str(pixels))
                continue
            taken = file.way.take(pixels, inside)
            whole = padded(taken, None, file.raster.nodata, side)
            try:
                valid = finish.validity(file, inside, taken.shape[1:], side)
                for band, own in file.bands.items():
                    sink.put(row, band, finish.apply(row, band, whole[own], valid))
            except ReadError as err:
                if isinstance(err, TransientReadError) and not self.access.is_last_try:
                    raise
                reasons.setdefault(row, str(err))


def as_pixels_hold(nodata: float | None, dtype: np.dtype[np.generic]) -> float | None:
    """Nodata as pixels of a type hold it: there is no 0.1 in float32."""
    return nodata if nodata is None or dtype.kind != "f" else float(dtype.type(nodata))


@dataclass(slots=True)
class _InMemory:
    """Keeps chips: row -> band -> pixels."""

    keys: list[str]
    chips: dict[int, dict[str, Pixels]] = field(default_factory=dict)
    layouts: dict[str, SceneLayout] = field(default_factory=dict)

    def begin(self, key: str, layout: SceneLayout) -> None:
        self.layouts[key] = layout
        self.chips |= {row: {} for row, own in enumerate(self.keys) if own == key}

    def put(self, row: int, band: str, pixels: Pixels) -> None:
        self.chips[row][band] = pixels.copy()

    def shapes(self, row: int) -> Shapes:
        return tuple((band, shape) for band, (_, shape) in self.layouts[self.keys[row]].bands.items())
