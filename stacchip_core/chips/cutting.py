"""From the chips planned for a shard to their pixels in memory."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from stacchip_core.chips.chipper import Chipper
from stacchip_core.chips.lock import Failure
from stacchip_core.chips.shards import Pixels, Shard, ShardLabels
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.errors import InvalidItemError, SpecError, StacchipError, TransientReadError
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.sources.access import Storage
from stacchip_core.sources.raster import Grid
from stacchip_core.sources.scene import Scene, SceneAsset

logger = logging.getLogger(__name__)

Transform = tuple[float, float, float, float, float, float]
Nodata = Mapping[str, float | None]  # by band


@dataclass(frozen=True, slots=True)
class Access:
    """How the pixels of items may be reached.

    Attributes:
        storage: endpoint and account of the items' assets, which need not be the warehouse's.
        local_roots: folders below which local assets may be read.
        is_last_try: whether a transient error becomes a failure, instead of being raised to be tried again.
    """

    storage: Storage | None = None
    local_roots: tuple[str, ...] = ()
    is_last_try: bool = True


@dataclass(frozen=True, slots=True)
class Cut:
    """Chips that could be read, and those that could not; `shard` is None where none could."""

    shard: Shard | None
    failures: tuple[Failure, ...]


def resolve_bands(scenes: Iterable[Scene], spec: ChipSpec) -> dict[str, tuple[str, ...]]:
    """Bands to cut, per collection: those asked for, or else all that every chosen scene has.

    Raises:
        SpecError: none were asked for, and the scenes have none in common.
    """
    common: dict[str, list[str]] = {}
    for scene in scenes:
        names = [asset.band for asset in scene.assets]
        known = common.setdefault(scene.collection, names)
        common[scene.collection] = [name for name in known if name in names]
    resolved = {name: spec.bands_of(name) or tuple(bands) for name, bands in sorted(common.items())}
    for name, bands in resolved.items():
        if not bands:
            raise SpecError(
                f"chip spec {spec.name!r}: the chosen scenes of {name} have no band in common; "
                "name the bands you want, and scenes that lack one become failures"
            )
    return resolved


def check_native(scenes: Iterable[Scene], bands: Mapping[str, tuple[str, ...]], spec: ChipSpec) -> None:
    """Refuse native pixels where chips don't start and end on whole pixels of a band, as far as items tell.

    Raises:
        SpecError: names the band and the nearest chip sizes.
    """
    for scene in scenes if spec.native else ():
        downs = {band: _pixels_below(scene, band) for band in bands[scene.collection]}
        step = math.lcm(*downs.values())
        for band, down in downs.items():
            if spec.grid.size % down or spec.grid.stride % down:
                near = {spec.size // step * step, -(-spec.size // step) * step} - {0}
                raise SpecError(
                    f"chip spec {spec.name!r}: native pixels need chip size and stride to be whole pixels of every "
                    f"band; {scene.collection} has {band!r} with {down} pixels of the grid in one of its own, and "
                    f"size {spec.grid.size}, stride {spec.grid.stride} are asked for: "
                    f"take {' or '.join(map(str, sorted(near)))}, or leave native out"
                )


def cut(index: ChipIndex, spec: ChipSpec, bands: tuple[str, ...], access: Access) -> Cut:
    """Read the chips of an index, all of one collection, in the order in which their files serve them best.

    Raises:
        TransientReadError: a source failed just now, and this is not the last try.
    """
    lacking = _scenes_lacking(index.scenes, bands)
    whole = replace(index, scenes={key: index.scenes[key] for key in index.scenes if key not in lacking})
    chipper = Chipper(
        whole,
        bands,
        resampling=spec.resampling,
        native=spec.native,
        local_roots=access.local_roots,
        storage=access.storage,
    )
    with chipper:
        reading = _Reading(chipper, bands, broken=dict(lacking))
        reading.read(is_last_try=access.is_last_try)
    reasons = reading.reasons | _misfits(reading.chips)
    chips = {row: reading.chips[row] for row in sorted(reading.chips) if row not in reasons}
    return Cut(_stacked(index, bands, chips, reading.nodata), _failures(index, reasons))


@dataclass(slots=True)
class _Reading:
    """The chips of a shard while they are read.

    Attributes:
        chipper: cuts them.
        bands: of each chip.
        broken: scene key -> why no chip of it can be read; they are not tried.
        nodata: scene key -> band -> the value that stands for "no measurement"; of the scenes whose files all opened.
        chips: row -> band -> pixels.
        reasons: row -> why it could not be read.
    """

    chipper: Chipper
    bands: tuple[str, ...]
    broken: dict[str, str]
    nodata: dict[str, Nodata] = field(default_factory=dict)
    chips: dict[int, dict[str, Pixels]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)

    def read(self, *, is_last_try: bool) -> None:
        """Read all chips, one by one: each may fail by itself.

        Raises:
            TransientReadError: a source failed just now, and this is not the last try.
        """
        keys = _keys(self.chipper.index.table)
        for row in reading_order(self.chipper.index.table):
            try:
                self._read(row, keys[row])
            except TransientReadError as err:
                if not is_last_try:
                    raise
                self.reasons[row] = str(err)
            except StacchipError as err:
                self.reasons[row] = str(err)
                if keys[row] not in self.nodata:  # a file of it does not open: asked again, it would say the same
                    self.broken[keys[row]] = str(err)

    def _read(self, row: int, key: str) -> None:
        if key in self.broken:
            self.reasons[row] = self.broken[key]
            return
        if key not in self.nodata:
            scene = self.chipper.index.scenes[key]
            self.nodata[key] = {band: self.chipper.nodata_of(scene, band) for band in self.bands}
        self.chips[row] = self.chipper[row]


def reading_order(table: pa.Table) -> list[int]:
    """Rows by item, then from top to bottom, so that an open file and its decoded blocks serve many chips."""
    items = np.unique(table["item_id"].to_numpy(), return_inverse=True)[1]
    order = np.lexsort((table["chip_x"].to_numpy(), table["chip_y"].to_numpy(), items))
    return [int(row) for row in order]


def _pixels_below(scene: Scene, band: str) -> int:
    """Pixels of the reference grid along one pixel of a band; 1 where the item does not tell."""
    grid = scene.asset(band).grid if band in scene.band_names else None
    ratio = scene.grid.ratio_of(grid) if scene.grid is not None and grid is not None else None
    return ratio.down if ratio is not None else 1


def _scenes_lacking(scenes: Mapping[str, Scene], bands: tuple[str, ...]) -> dict[str, str]:
    """Scene key -> which of the bands it has not."""
    lacking = {}
    for key, scene in scenes.items():
        missing = [band for band in bands if band not in scene.band_names]
        if missing:
            lacking[key] = (
                f"item {scene.item_id}: no band {', '.join(map(repr, missing))}; it has {', '.join(scene.band_names)}"
            )
    return lacking


def _failures(index: ChipIndex, reasons: Mapping[int, str]) -> tuple[Failure, ...]:
    ids = index.table["chip_id"].to_pylist()
    failures = tuple(Failure(chip_id=ids[row], reason=reason) for row, reason in sorted(reasons.items()))
    for failure in failures:
        logger.warning("chip %s is left out: %s", failure.chip_id, failure.reason)
    return failures


def _misfits(chips: Mapping[int, Mapping[str, Pixels]]) -> dict[int, str]:
    """Chips that can't be stacked with most others, because a band of their item has other layers."""
    shapes = {row: tuple((band, pixels.shape) for band, pixels in chip.items()) for row, chip in chips.items()}
    if len(set(shapes.values())) < 2:
        return {}
    usual = Counter(shapes.values()).most_common(1)[0][0]
    return {
        row: f"bands and shapes are {dict(shape)}, those of most chips of the shard {dict(usual)}"
        for row, shape in shapes.items()
        if shape != usual
    }


def _stacked(
    index: ChipIndex,
    bands: tuple[str, ...],
    chips: Mapping[int, dict[str, Pixels]],
    nodata: Mapping[str, Nodata],
) -> Shard | None:
    """Put chips at their offsets, letting go of each band of a chip as it is copied; None where there are none.

    Pixels of items that differ in type come to the smallest type that holds them all.
    """
    if not chips:
        return None
    rows = list(chips)
    arrays: dict[str, Pixels] = {band: np.stack([chips[row].pop(band) for row in rows]) for band in bands}
    table = index.table.take(rows)
    keys = _keys(table)
    scenes = [index.scenes[key] for key in keys]
    assets = {band: scenes[0].asset(band) for band in bands}
    columns = (table[name].to_pylist() for name in ("col_off", "row_off"))
    labels = ShardLabels(
        collection=scenes[0].collection,
        chip_ids=tuple(table["chip_id"].to_pylist()),
        crs=tuple(_grid(scene).crs for scene in scenes),
        transforms=tuple(
            _moved(_grid(scene).transform, col, row) for scene, col, row in zip(scenes, *columns, strict=True)
        ),
        size_px=table["size_px"][0].as_py(),
        layers={band: _layer_names(assets[band], band, pixels.shape[1]) for band, pixels in arrays.items()},
        nodata={band: tuple(nodata[key][band] for key in keys) for band in arrays},
    )
    return Shard(labels, arrays)


def _keys(table: pa.Table) -> list[str]:
    """Scene key of each row."""
    pairs = zip(table["collection"].to_pylist(), table["item_id"].to_pylist(), strict=True)
    return [f"{collection}/{item_id}" for collection, item_id in pairs]


def _grid(scene: Scene) -> Grid:
    if scene.grid is None:
        raise InvalidItemError(f"item {scene.item_id}: its scene in the index has no grid; index it again")
    return scene.grid


def _moved(transform: Transform, col: int, row: int) -> Transform:
    """The transform of the part of a raster that starts at a pixel."""
    a, b, c, d, e, f = transform
    return (a, b, a * col + b * row + c, d, e, d * col + e * row + f)


def _layer_names(asset: SceneAsset, band: str, count: int) -> tuple[str, ...]:
    """Names of a band's layers: its own where there is one, else the asset's, else numbered."""
    if count == 1:
        return (band,)
    if len(asset.layers) == count:
        return asset.layers
    return tuple(f"{band}-{number}" for number in range(1, count + 1))
