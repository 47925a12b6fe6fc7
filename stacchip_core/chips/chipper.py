"""From rows of an index to pixels: exact windows, one chip at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stacchip_core.chips.handles import Handles, ref_of
from stacchip_core.chips.ways import Way, layers_of, padded, way_of
from stacchip_core.errors import BandNotFoundError, ChipNotFoundError, InputError
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.sources.access import Storage, as_roots
from stacchip_core.sources.cog import CLASS_RESAMPLINGS, Raster, check_resampling
from stacchip_core.sources.raster import Window
from stacchip_core.sources.scene import Scene, SceneAsset

Chip = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a chip lies: its window in the reference grid, and how much of it is inside the raster."""

    window: Window
    valid_width: int
    valid_height: int


class Chipper:
    """Cuts the chips of an index; `chips[i]` is the chip of row i.

    Opened files are kept, one handle per thread, so that it may be shared by threads; `close`, or leaving a `with`
    block, lets go of them.
    """

    def __init__(
        self,
        index: ChipIndex,
        bands: Sequence[str] | None = None,
        *,
        resampling: str | Mapping[str, str] = "nearest",
        native: bool = False,
        masked: bool = False,
        local_roots: str | Path | Sequence[str | Path] = (),
        storage: Storage | None = None,
    ) -> None:
        """Prepare to cut; nothing is read yet.

        Args:
            index: the rows to cut and their scenes.
            bands: names of bands, or of layers inside a multi-band asset; None: every band of a scene.
            resampling: how bands of another pixel size come onto the reference grid: one name for all continuous bands
                (categorical ones stay "nearest"), or a name per band. "nearest" repeats or picks pixels exactly. A band
                that is not aligned with the grid is resampled only where this names a way for it.
            native: give each band its own pixels instead.
            masked: give masked arrays, masked where a band has no measurement.
            local_roots: folders that relative hrefs are looked up in, besides the index's own.
            storage: endpoint, region and account for the pixels.

        Raises:
            BandNotFoundError: a scene has no such band, or `resampling` names one that is not cut; lists what there is.
            InputError: unknown resampling, or one that would average classes.
        """
        self.index = index
        self.bands = tuple(bands) if bands is not None else None
        self._resampling = resampling if isinstance(resampling, str) else dict(resampling)
        self._native, self._masked = native, masked
        self._roots = tuple(dict.fromkeys((*index.local_roots, *as_roots(local_roots))))
        self._storage = storage or Storage()
        self._handles = Handles()
        for scene in index.scenes.values():
            for band in self.bands_of(scene):
                scene.asset(band)
        self._check_resampling()

    def bands_of(self, scene: Scene) -> tuple[str, ...]:
        """The bands that a chip of `scene` has."""
        return self.bands if self.bands is not None else tuple(asset.band for asset in scene.assets)

    def __len__(self) -> int:
        """Number of chips: the rows of the index."""
        return len(self.index)

    def __getitem__(self, i: int) -> Chip:
        """The chip of row `i`.

        Raises:
            ChipNotFoundError: no such row.
        """
        if not -len(self) <= i < len(self):
            raise ChipNotFoundError(f"no row {i}: the index has {len(self)} rows")
        return self._cut(i % len(self))

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Chip]]:
        """Rows (columns to values, without geometry) and their chips, in the table's order."""
        table = self.index.table.drop_columns(["geometry", "bbox"])
        for i in range(len(self)):  # one chip is one read of pixels: there is nothing to do at once
            yield table.slice(i, 1).to_pylist()[0], self._cut(i)

    def chip(self, x: int, y: int, item_id: str | None = None) -> Chip:
        """Cut one chip.

        Args:
            x: column in the chip grid, `chip_x`.
            y: row in the chip grid, `chip_y`.
            item_id: which scene, where the index has several.

        Returns:
            Band name to array (layers, size, size) in the file's dtype.

        Raises:
            ChipNotFoundError: no such chip in the index; says which there are.
            InputError: several chips fit.
            ReadError, TransientReadError: an asset can't be read.
        """
        found = self._rows_by_place.get((x, y), [])
        rows = found if item_id is None else [i for i in found if self._item_ids[i] == item_id]
        if not rows:
            raise ChipNotFoundError(self._missing(x, y, item_id))
        if len(rows) > 1:
            items = sorted({str(self._item_ids[i]) for i in rows})
            raise InputError(
                f"{len(rows)} chips are at ({x}, {y}), of items {', '.join(items[:5])}: pass item_id, or narrow the "
                "index to one collection and chip size"
            )
        return self._cut(rows[0])

    def nodata_of(self, scene: Scene, band: str) -> float | None:
        """The value that stands for "no measurement" in the chips of a band, and beyond the edge of its raster.

        It is the profile's, or else that of the file's header; None: there is none, and 0 is beyond the edge.

        Raises:
            BandNotFoundError: the scene has no such band.
            HrefRefusedError, ReadError, TransientReadError: its file can't be opened.
        """
        raster = self._raster(scene, scene.asset(band))
        if raster.nodata is None or not raster.header.dtype.startswith("float"):
            return raster.nodata
        return float(np.dtype(raster.header.dtype).type(raster.nodata))  # as pixels hold it: there is no 0.1 in float32

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its files."""
        self.close()

    def close(self) -> None:
        """Close the files of all threads, once none of them is cutting; those needed later are opened anew."""
        self._handles.close()

    def _check_resampling(self) -> None:
        """Refuse unknown names, and ways to resample classes that would make classes up."""
        if isinstance(self._resampling, str):
            check_resampling(self._resampling)
            return
        assets = {band: scene.asset(band) for scene in self.index.scenes.values() for band in self.bands_of(scene)}
        kinds = {name: asset.kind for band, asset in assets.items() for name in (band, asset.band)}
        for band, name in self._resampling.items():
            if band not in kinds:
                raise BandNotFoundError(f"resampling names band {band!r}; bands of the chips are {', '.join(kinds)}")
            if check_resampling(name) not in CLASS_RESAMPLINGS and kinds[band] == "categorical":
                raise InputError(
                    f"resampling {name!r} would average the classes of band {band!r}; it may be "
                    f"{', '.join(CLASS_RESAMPLINGS)}"
                )

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.int64]]:
        names = ("chip_x", "chip_y", "col_off", "row_off", "size_px", "stride_px", "valid_width", "valid_height")
        return {name: self.index.table[name].to_numpy().astype(np.int64) for name in names}

    @cached_property
    def _item_ids(self) -> NDArray[np.object_]:
        return np.asarray(self.index.table["item_id"].to_pylist(), dtype=object)

    @cached_property
    def _keys(self) -> list[str]:
        collections = self.index.table["collection"].to_pylist()
        return [f"{collection}/{item}" for collection, item in zip(collections, self._item_ids, strict=True)]

    @cached_property
    def _rows_by_place(self) -> dict[tuple[int, int], list[int]]:
        rows: dict[tuple[int, int], list[int]] = {}
        for i, place in enumerate(zip(self._columns["chip_x"], self._columns["chip_y"], strict=True)):
            rows.setdefault(place, []).append(i)
        return rows

    def _missing(self, x: int, y: int, item_id: str | None) -> str:
        if not len(self):
            return "the index has no chips"
        is_meant = np.ones(len(self), dtype=bool) if item_id is None else self._item_ids == item_id
        if not is_meant.any():
            ids = sorted(set(self._item_ids.tolist()))
            return f"no item {item_id!r} in the index; it has {len(ids)}: {', '.join(ids[:5])}"
        xs, ys = self._columns["chip_x"][is_meant], self._columns["chip_y"][is_meant]
        whose = f"item {item_id}: " if item_id else ""
        return (
            f"{whose}no chip ({x}, {y}) in the index: chip_x runs from {xs.min()} to {xs.max()}, chip_y from "
            f"{ys.min()} to {ys.max()}, and chips may have been left out by a filter"
        )

    def _cut(self, i: int) -> Chip:
        c = {name: int(column[i]) for name, column in self._columns.items()}
        place = _Place(
            Window(c["col_off"], c["row_off"], c["size_px"], c["size_px"]), c["valid_width"], c["valid_height"]
        )
        scene = self.index.scenes[self._keys[i]]
        if self._native:
            self._check_native(scene, c["size_px"], c["stride_px"])
        return {band: self._read(scene, band, place) for band in self.bands_of(scene)}

    def _read(self, scene: Scene, band: str, place: _Place) -> NDArray[Any]:
        asset = scene.asset(band)
        raster = self._raster(scene, asset)
        layers = layers_of(scene, asset, band, raster)
        way = self._way(scene, band, raster)
        inside = Window(place.window.col, place.window.row, place.valid_width, place.valid_height)
        source = way.source(inside)
        pixels = way.take(way.read(raster, source, layers), inside)
        is_valid = way.take(way.read_valid(raster, source)[None], inside)[0] if self._masked else None
        return padded(pixels, is_valid, raster.nodata, way.side(place.window.width))

    def _way(self, scene: Scene, band: str, raster: Raster) -> Way:
        """How a band comes onto the grid."""
        asset = scene.asset(band)
        if isinstance(self._resampling, str):
            wish = self._resampling if asset.kind == "continuous" and self._resampling != "nearest" else None
        else:
            wish = self._resampling.get(band, self._resampling.get(asset.band))
        return way_of(scene, asset, raster, wish, native=self._native)

    def _check_native(self, scene: Scene, size: int, stride: int) -> None:
        """Refuse native pixels where a chip does not start and end on whole pixels of every band."""
        downs: dict[str, int] = {}
        for band in self.bands_of(scene):
            ratio = self._way(scene, band, self._raster(scene, scene.asset(band))).ratio
            downs[band] = ratio.down if ratio else 1
        step = math.lcm(*downs.values())
        for band, down in downs.items():
            if size % down or stride % down:
                near = [n for n in (size // step * step, -(-size // step) * step) if n]
                raise InputError(
                    f"item {scene.item_id}: native=True needs chip size and stride to be whole pixels of band "
                    f"{band!r}, of which one is {down} pixels of the grid; size {size} and stride {stride} are not. "
                    f"Index with {' or '.join(map(str, dict.fromkeys(near)))}"
                )

    def _raster(self, scene: Scene, asset: SceneAsset) -> Raster:
        return self._handles.open(ref_of(scene, asset, self._storage, self._roots))
