"""From a STAC item to its chip index: the grid by arithmetic, the fractions from one read of the QA mask."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from stacchip_core.errors import InputError, InvalidItemError, UnsupportedGridError
from stacchip_core.index.cells import grid_cells
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.index.files import ItemFiles
from stacchip_core.index.footprint import centres, footprints
from stacchip_core.index.grid import ChipGrid, Edge, GridSpec
from stacchip_core.index.quality import (
    CLASSES,
    Fractions,
    fractions,
    known_classes,
    lanes_of_qa,
    lanes_of_valid,
    unknown_fractions,
)
from stacchip_core.index.schema import SCHEMA_VERSION, bbox_column, chip_schema
from stacchip_core.sources.access import Storage, as_roots
from stacchip_core.sources.cog import Header, Raster
from stacchip_core.sources.generic import profile_of
from stacchip_core.sources.identity import declared_sizes
from stacchip_core.sources.item import ItemSource, StacObject, read_item
from stacchip_core.sources.profiles import CollectionProfile, load_profile
from stacchip_core.sources.raster import Ratio, Window
from stacchip_core.sources.scene import Scene, SceneAsset
from stacchip_core.sources.validation import explain

logger = logging.getLogger(__name__)

# Rows of a mask read at once, rounded up to whole blocks: a few MB, whatever the scene.
_STRIP_ROWS = 512
_STRIP_PIXELS = 2**22  # at most, of a wide mask: 32 MiB as packed classes, and some times that while they are counted


class IndexSettings(BaseModel):
    """How items become chips; the same for every item of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chip_size: int = Field(256, ge=1, le=65_536, description="Side of a chip, pixels of the reference grid.")
    stride: int | None = Field(None, ge=1, le=65_536, description="Pixels between chips; none: the chip size.")
    edge: Edge = Field("drop", description="drop: whole chips only; pad: keep the last column and row.")
    profile: CollectionProfile | None = Field(
        None, description="Given as a profile, its name or its YAML path, and read at once; none: by collection."
    )
    max_nodata: float | None = Field(None, ge=0, le=1, description="Leave out chips with a larger share of nodata.")
    grid: Literal["item", "asset"] = Field(
        "item", description="Grid from the item, or from the reference asset's header."
    )
    ask_files: bool = Field(
        False,
        description="Ask each remote file for its size and ETag, one request each, so that a change is noticed.",
    )
    local_roots: tuple[str, ...] = Field((), description="Local folders that may be read.", exclude=True)
    storage: Storage = Field(Storage(), description="How to reach the pixels.")

    @field_validator("profile", mode="before")
    @classmethod
    def _read_once(cls, value: Any) -> Any:
        return load_profile(value) if isinstance(value, str | Path) else value

    @classmethod
    def of(cls, **keywords: Any) -> IndexSettings:
        """Settings from a call's keywords.

        Raises:
            InputError: names each wrong keyword, with the nearest one where it is unknown.
            ProfileNotFoundError: lists the built-in profiles.
        """
        try:
            return cls(**keywords)
        except ValidationError as err:
            raise InputError(explain(err, cls)) from err

    @property
    def spec(self) -> GridSpec:
        """Size, stride and edge."""
        return GridSpec(self.chip_size, self.stride or self.chip_size, self.edge)

    def profile_of(self, item: Mapping[str, Any]) -> CollectionProfile:
        """The profile asked for, else the one that serves the item's collection, else a generic one."""
        if self.profile is not None:
            return self.profile
        return profile_of(dict(item))

    def recipe(self, profile: CollectionProfile) -> str:
        """32 hex digits of what decides an item's rows; never aliases, signing, scale or wording."""
        decides = {
            "schema": SCHEMA_VERSION,
            "spec": str(self.spec),
            "max_nodata": self.max_nodata,
            "grid": self.grid,
            "reference": [
                (band.asset, band.nodata, len(band.layers))
                for name in profile.reference  # in its order: the first that an item has is taken
                for band in profile.bands
                if band.name == name
            ],
            "qa": profile.qa.model_dump(exclude={"aliases", "source"}),
            "properties": [(prop.name, prop.type) for prop in profile.properties],
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


class Indexer:
    """Turns one item into a `ChipIndex`.

    Opens the QA asset (or the reference asset, where nodata comes from its mask), and the reference asset's header
    where the item does not describe its grid; no other pixels.
    """

    def __init__(  # noqa: PLR0913 - the public keywords
        self,
        item: StacObject | Mapping[str, Any] | str | Path | ItemSource,
        *,
        chip_size: int = 256,
        stride: int | None = None,
        edge: Edge = "drop",
        profile: str | Path | CollectionProfile | None = None,
        max_nodata: float | None = None,
        grid: Literal["item", "asset"] = "item",
        local_roots: str | Path | Sequence[str | Path] = (),
        storage: Storage | None = None,
    ) -> None:
        """Reduce the item to a scene; nothing is read yet but an item given by path or URL.

        Args:
            item: `pystac.Item`, its JSON, or the path or http(s) URL of a JSON file; never changed.
            chip_size: side of a chip, pixels of the reference grid.
            stride: pixels between chips; None: the chip size.
            edge: "drop": whole chips only; "pad": the last column and row are kept, pixels past the raster are nodata.
            profile: a `CollectionProfile`, a built-in name or a YAML path; None: by the item's collection.
            max_nodata: leave out chips with a larger `nodata_fraction`; recorded in the recipe.
            grid: "item": from the projection fields, or the header where there are none; "asset": from the header.
            local_roots: local folders that may be read; the folder of an item given as a path is one.
            storage: endpoint, region and account for the pixels.

        Raises:
            InputError, ProfileNotFoundError: a setting is out of bounds, or there is no such profile.
            InvalidItemError, UnsupportedGridError: the item can't be indexed; names item and field.
        """
        settings = IndexSettings.of(
            chip_size=chip_size,
            stride=stride,
            edge=edge,
            profile=profile,
            max_nodata=max_nodata,
            grid=grid,
            local_roots=as_roots(local_roots),
            storage=storage or Storage(),
        )
        self._prepare(item if isinstance(item, ItemSource) else read_item(item, settings.local_roots), settings)

    @classmethod
    def from_settings(cls, source: ItemSource, settings: IndexSettings) -> Indexer:
        """The same, from settings that many items share."""
        self = cls.__new__(cls)
        self._prepare(source, settings)
        return self

    def _prepare(self, source: ItemSource, settings: IndexSettings) -> None:
        self.settings = settings
        self.profile = settings.profile_of(source.item)
        self.scene = Scene.from_item(source, self.profile, grid=settings.grid)
        self._roots = tuple(dict.fromkeys((*source.local_roots, *settings.local_roots)))
        sizes = {} if self.profile.alternate else declared_sizes(source.item)
        self._files = ItemFiles(self.scene, sizes, settings.storage, self._roots)

    @property
    def recipe(self) -> str:
        """Hash of what decides this item's rows."""
        return self.settings.recipe(self.profile)

    def create_index(self) -> ChipIndex:
        """Index the item: one row for every chip that could be cut.

        Raises:
            UnsupportedGridError: no usable grid, or the QA asset does not fit it.
            ReadError, TransientReadError: an asset can't be read.
        """
        scene = self._with_grid()
        if scene.grid is None:
            raise UnsupportedGridError(f"item {scene.item_id}: no grid")
        chips = ChipGrid(scene.grid, self.settings.spec)
        table = chip_table(scene, chips, self._fractions(scene, chips), self.profile)
        scene = scene.with_files(self._files.identities(is_asking=self.settings.ask_files))
        if self.settings.max_nodata is not None:
            kept = np.nan_to_num(table["nodata_fraction"].to_numpy()) <= self.settings.max_nodata
            table = table.filter(pa.array(kept))
        return ChipIndex(table, {scene.key: scene}, (self.settings.spec,), self._roots)

    def _with_grid(self) -> Scene:
        """The scene on its reference grid, read from the reference asset where the item does not say it."""
        if self.scene.grid is not None:
            return self.scene
        asset = self.scene.asset(self.scene.reference)
        with self._files.open(asset) as raster:
            header = raster.header
        if header.grid is None:
            raise UnsupportedGridError(
                f"item {self.scene.item_id}: asset {asset.key!r} has no CRS and transform of its own (ground control "
                "points only, or none): it must be geocoded first"
            )
        if asset.grid is not None and asset.grid.ratio_of(header.grid) != Ratio(1, 1):
            logger.warning(
                "item %s: asset %r: the item says %s, the file's header %s; the header is used",
                *(self.scene.item_id, asset.key, asset.grid, header.grid),
            )
        return self.scene.with_grid(header.grid)

    def _fractions(self, scene: Scene, chips: ChipGrid) -> Fractions:
        rule = self.profile.qa
        if rule.kind == "none":
            return unknown_fractions(chips)
        reference = scene.asset(scene.reference)
        if rule.kind == "nodata" or scene.qa_asset is None:
            with self._files.open(reference) as raster:
                ratio = self._ratio(scene, reference, raster.header)
                return fractions(chips, ratio, _strips(raster, _valid_lanes), known_classes(rule))
        with self._files.open(scene.qa_asset) as raster:
            ratio = self._ratio(scene, scene.qa_asset, raster.header)
            if np.dtype(raster.header.dtype).kind not in "ui":
                raise UnsupportedGridError(
                    f"item {scene.item_id}: QA asset {scene.qa_asset.key!r} is {raster.header.dtype}, not whole numbers"
                )
            strips = _strips(raster, lambda r, w: lanes_of_qa(r.read(w, [1])[0], rule))
            if not rule.reference_nodata:
                return fractions(chips, ratio, strips, known_classes(rule))
            with self._files.open(reference) as pixels:
                self._same_grid(scene, scene.qa_asset, ratio, self._ratio(scene, reference, pixels.header))
                masked = _masked(strips, pixels)
                return fractions(chips, ratio, masked, known_classes(rule))

    def _ratio(self, scene: Scene, asset: SceneAsset, header: Header) -> Ratio:
        """How an asset divides the reference grid; an error that says both where it does not."""
        ratio = scene.ratio_of(asset, header.grid)
        if ratio is None:
            raise UnsupportedGridError(
                f"item {scene.item_id}: asset {asset.key!r} is {header.grid}, which does not divide the reference grid "
                f"{scene.grid} evenly"
            )
        return ratio

    def _same_grid(self, scene: Scene, asset: SceneAsset, one: Ratio, other: Ratio) -> None:
        if one != other:
            raise UnsupportedGridError(
                f"item {scene.item_id}: QA asset {asset.key!r} and reference asset differ in pixel size, so the "
                "profile's reference_nodata can't be used"
            )


def chip_table(scene: Scene, chips: ChipGrid, shares: Fractions, profile: CollectionProfile) -> pa.Table:
    """Rows of all chips of a scene, row by row from the top left; chips that lie wholly off the globe are left out.

    Raises:
        InvalidItemError: no chip lies on the globe.
    """
    chip_x, chip_y = chips.positions()
    cols, rows = chip_x * chips.spec.stride, chip_y * chips.spec.stride
    geometry = footprints(chips.grid, cols, rows, chips.spec.size)
    lon, lat = centres(chips.grid, cols, rows, chips.spec.size)
    is_on = np.array([shape is not None for shape in geometry], dtype=np.bool_)
    if len(chips) and not is_on.any():
        raise InvalidItemError(f"item {scene.item_id}: its grid {chips.grid} lies nowhere on the Earth")
    prefix = f"{scene.key}/{chips.spec}/"
    columns = {
        "chip_id": [f"{prefix}{x}-{y}" for x, y in zip(chip_x.tolist(), chip_y.tolist(), strict=True)],
        "chip_x": chip_x,
        "chip_y": chip_y,
        "col_off": cols,
        "row_off": rows,
        "valid_width": (chips.stops(1) - chips.starts(1))[chip_x],
        "valid_height": (chips.stops(0) - chips.starts(0))[chip_y],
        "grid_cell": grid_cells(lon, lat),
        "geometry": shapely.to_wkb(geometry),
        "bbox": bbox_column(geometry),
        **_constants(scene, chips),
        **{
            f"{name}_fraction": pa.array(getattr(shares, name).ravel(), pa.float32(), from_pandas=True)
            for name in CLASSES
        },
    }
    schema = chip_schema(profile.properties)
    arrays = [_column(columns[field.name], field.type, len(chips)) for field in schema]
    table = pa.table(arrays, schema=schema)
    return table if is_on.all() else table.filter(pa.array(is_on))


def _constants(scene: Scene, chips: ChipGrid) -> dict[str, Any]:
    return {
        "collection": pa.scalar(scene.collection),
        "item_id": pa.scalar(scene.item_id),
        **{name: pa.scalar(getattr(scene, name)) for name in ("datetime", "start_datetime", "end_datetime")},
        "size_px": pa.scalar(chips.spec.size),
        "stride_px": pa.scalar(chips.spec.stride),
        "gsd_m": pa.scalar(chips.grid.gsd_m),
        **{name: pa.scalar(value) for name, value in scene.properties.items()},
    }


def _column(value: Any, kind: pa.DataType, length: int) -> pa.Array:
    if isinstance(value, pa.Scalar):
        return pa.repeat(value.cast(kind), length)
    return value if isinstance(value, pa.Array) else pa.array(value, kind)


def _strips(raster: Raster, lanes: Callable[[Raster, Window], NDArray[np.uint64]]) -> Iterator[NDArray[np.uint64]]:
    """Packed classes of a mask from top to bottom, a few rows of whole blocks at a time."""
    header = raster.header
    step = header.block_shape[0] * max(1, -(-_STRIP_ROWS // header.block_shape[0]))
    step = max(1, min(step if step <= 4 * _STRIP_ROWS else _STRIP_ROWS, _STRIP_PIXELS // header.width))
    for top in range(0, header.height, step):
        yield lanes(raster, Window(0, top, header.width, min(step, header.height - top)))


def _valid_lanes(raster: Raster, window: Window) -> NDArray[np.uint64]:
    return lanes_of_valid(raster.read_valid(window))


def _masked(strips: Iterator[NDArray[np.uint64]], pixels: Raster) -> Iterator[NDArray[np.uint64]]:
    """The strips, with nodata wherever the reference asset itself has none."""
    top = 0
    for strip in strips:
        is_valid = pixels.read_valid(Window(0, top, strip.shape[1], len(strip)))
        yield np.where(is_valid, strip, np.uint64(1))
        top += len(strip)
