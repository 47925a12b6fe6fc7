"""What a chip dataset shall be made of, said once: the configuration of `select` and `materialize`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stacchip_core.chips.agreement import first_disagreement
from stacchip_core.chips.choices import EVERY_COLLECTION, BandChoice, SplitSpec
from stacchip_core.errors import SpecError
from stacchip_core.index.grid import Edge, GridSpec
from stacchip_core.sources.interval import parse_interval
from stacchip_core.sources.validation import explain, numbered
from stacchip_core.sources.yaml_text import read_mapping

LARGEST_PX = 8192  # side of a chip, as it is indexed or resampled: 128 MiB for a band of 16 bits
NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"

DType = Literal["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


class ChipSpec(BaseModel):
    """Which chips, of which bands, in which form; checked against the index before any pixel is read.

    A threshold of 0 means 0. A chip whose fraction is null (clouds do not apply to radar) passes every
    threshold.

    Raises:
        SpecError: (also a ValueError) names each wrong key and what it may be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    name: str = Field(
        title="Name",
        description="Name of the dataset: lower case letters, digits, hyphens.",
        pattern=NAME_PATTERN,
    )
    index: str = Field(title="Index", description="Combined index to choose from.", pattern=NAME_PATTERN)
    version: int | None = Field(
        None,
        title="Index version",
        description="None takes the latest, and the lock says which that was.",
        ge=1,
    )
    collections: tuple[str, ...] = Field(
        (),
        title="Collections",
        description="Collection ids; empty takes those named under bands, or else all of the index.",
        max_length=64,
    )
    datetime: str | None = Field(
        None,
        title="Time",
        description="Instant, day, month, year or 'start/end', both ends included; '..' is an open end.",
        max_length=80,
    )
    bbox: tuple[float, float, float, float] | None = Field(
        None,
        title="Area",
        description="west, south, east, north in degrees; west > east crosses the antimeridian.",
    )
    area: str | None = Field(
        None,
        title="Area file",
        description="Local file of polygons, lines or points (GeoJSON, GeoPackage, Shapefile, FlatGeobuf, GeoParquet) "
        "that chips must meet; a relative path starts in the working directory.",
        min_length=1,
        max_length=1024,
    )
    max_nodata: float | None = Field(
        None, title="Most nodata", description="Largest nodata fraction, of all pixels.", ge=0, le=1
    )
    max_cloud: float | None = Field(
        None, title="Most cloud", description="Largest cloud fraction, of valid pixels.", ge=0, le=1
    )
    max_shadow: float | None = Field(
        None, title="Most shadow", description="Largest cloud shadow fraction, of valid pixels.", ge=0, le=1
    )
    max_snow: float | None = Field(
        None, title="Most snow", description="Largest snow fraction, of valid pixels.", ge=0, le=1
    )
    max_water: float | None = Field(
        None, title="Most water", description="Largest water fraction, of valid pixels.", ge=0, le=1
    )
    where: str | None = Field(
        None,
        title="Where",
        description='Condition over the columns of the index, such as "snow_fraction < 0.1 and '
        "platform == 'sentinel-2a' or month(datetime) in (6, 7, 8)\"; a comparison with null is not met.",
        min_length=1,
        max_length=2000,
    )
    per_item: int | None = Field(
        None, title="Chips per item", description="At most this many chips of an item, drawn by the seed.", ge=1
    )
    per_cell: int | None = Field(
        None,
        title="Chips per cell",
        description="At most this many chips of a collection in a 10 km cell, drawn by the seed after `per_item`.",
        ge=1,
    )
    limit: int | None = Field(
        None, title="Limit", description="At most this many chips, drawn without replacement after the caps.", ge=1
    )
    seed: int = Field(0, title="Seed", description="Decides which chips are drawn, and their order.", ge=0, lt=2**63)
    size: int = Field(256, title="Chip size", description="Pixels of the reference grid.", ge=1, le=LARGEST_PX)
    stride: int | None = Field(
        None, title="Stride", description="Pixels between chip starts; none: the chip size.", ge=1, le=LARGEST_PX
    )
    edge: Edge = Field(
        "drop", title="Edges", description="How the indexed grid treats the last, incomplete column and row."
    )
    bands: tuple[BandChoice, ...] = Field(
        (),
        title="Bands",
        description="Bands per collection, or by common name for every collection that has no entry of its own; a "
        "collection left out gives all bands of its profile.",
        max_length=64,
    )
    resampling: Literal["nearest", "bilinear", "cubic", "average"] = Field(
        "nearest",
        title="Resampling",
        description="How continuous bands of another resolution come to chip pixels.",
    )
    resampling_classes: Literal["nearest", "mode"] = Field(
        "nearest",
        title="Resampling of classes",
        description="How categorical bands of another resolution come to chip pixels.",
    )
    gsd: float | None = Field(
        None,
        title="Pixel size",
        description="Metres a pixel, for all bands; none: that of each collection's own grid.",
        gt=0,
        le=100_000,
    )
    native: bool = Field(
        False,
        title="Native pixels",
        description="Leave each band at its own resolution instead of resampling it.",
    )
    radiometry: Literal["raw", "reflectance"] = Field(
        "raw",
        title="Radiometry",
        description="Values as stored, or scaled and offset to reflectance (or kelvin) where the item or its profile "
        "says how.",
    )
    dtype: DType | None = Field(
        None,
        title="Number type",
        description="Of all bands, checked to hold every value; none: as stored, or float32 for reflectance.",
    )
    fill: float | None = Field(
        None,
        allow_inf_nan=False,
        title="Fill",
        description="What nodata becomes in continuous bands; none: the stored nodata, or NaN for reflectance.",
    )
    mask: bool = Field(
        False,
        title="Mask",
        description="Add a band 'mask': 1 where every continuous band of the chip has a measurement, else 0.",
    )
    split: SplitSpec | None = Field(
        None, title="Split", description="Give each chip to train, validation or test, without leaking between them."
    )
    max_failed: int | None = Field(
        None,
        title="Most failures",
        description="A run that leaves more chips than this unread ends as failed; the others are written.",
        ge=0,
    )
    max_failed_share: float | None = Field(
        None,
        title="Largest share of failures",
        description="A run that leaves a larger share of its chips unread ends as failed; the others are written.",
        ge=0,
        le=1,
    )
    format: Literal["zarr", "safetensors", "webdataset", "npz", "geotiff"] = Field(
        "zarr", title="Format", description="Form of the shards."
    )
    compress: bool = Field(
        True,
        title="Compress",
        description="Without loss, where the format can: Zarr and GeoTIFF; the others always store plain arrays.",
    )
    clay_v1_swap: bool = Field(
        False,
        title="Swap as Clay v1",
        description="In npz: latitude and longitude encodings change places, as Clay v1 was trained.",
    )
    shard_size: int = Field(
        128,
        title="Shard size",
        description="Chips per shard; a shard is held in memory while written.",
        ge=1,
        le=4096,
    )

    if not TYPE_CHECKING:  # type checkers and editors keep the signature made from the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as err:
                name = values.get("name")
                whose = f"chip spec {name!r}" if isinstance(name, str) else "chip spec"
                raise SpecError(f"{whose}: {explain(err, ChipSpec)}") from err

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any]) -> Self:
        """Build a spec from a mapping, or from the path of a YAML or JSON file that holds one.

        Raises:
            SpecError: no such file, no mapping in it, or wrong keys and values.
        """
        values = source if isinstance(source, Mapping) else _read_mapping(Path(source))
        return cls(**{str(key): value for key, value in values.items()})

    @property
    def grid(self) -> GridSpec:
        """How scenes must have been cut; the stride is the chip size where none was given."""
        return GridSpec(self.size, self.size if self.stride is None else self.stride, self.edge)

    @property
    def chosen_collections(self) -> tuple[str, ...]:
        """Collections asked for, by `collections` or by `bands`; empty means all of the index."""
        named = tuple(choice.collection for choice in self.bands)
        return self.collections or (() if EVERY_COLLECTION in named else named)

    def bands_of(self, collection: str) -> tuple[str, ...] | None:
        """Bands asked of a collection, by its own entry or by the one for every collection; None means all it has."""
        asked = {choice.collection: choice.bands for choice in self.bands}
        return asked.get(collection, asked.get(EVERY_COLLECTION))

    def resampling_of(self, kind: str) -> str | None:
        """How bands of a kind come onto other pixels; None: by picking or repeating theirs, which must line up."""
        named = self.resampling if kind == "continuous" else self.resampling_classes
        return None if named == "nearest" else named

    @field_validator("collections")
    @classmethod
    def _collections_once_each(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"collection {twice[0]!r} is listed twice")
        return names

    @field_validator("datetime", mode="before")
    @classmethod
    def _yaml_dates_as_text(cls, value: Any) -> Any:
        """YAML reads 2024-01-01 as a date, and 2024 as a number."""
        is_year = isinstance(value, int) and 1000 <= value <= 9999
        return value.isoformat() if isinstance(value, dt.date) else str(value) if is_year else value

    @field_validator("datetime")
    @classmethod
    def _interval_is_readable(cls, text: str | None) -> str | None:
        if text is not None:
            parse_interval(text)
        return text

    @field_validator("bbox")
    @classmethod
    def _bbox_lies_on_earth(
        cls, bbox: tuple[float, float, float, float] | None
    ) -> tuple[float, float, float, float] | None:
        if bbox is None:
            return None
        west, south, east, north = bbox
        if not (abs(west) <= 180 and abs(east) <= 180 and -90 <= south < north <= 90 and west != east):
            raise ValueError(
                "expected west, south, east, north in degrees, longitudes within -180..180, latitudes "
                f"within -90..90, south < north, west and east apart; found {bbox}"
            )
        return bbox

    @model_validator(mode="after")
    def _bands_belong_to_collections(self) -> Self:
        named = [choice.collection for choice in self.bands]
        if twice := [name for name in named if named.count(name) > 1]:
            raise ValueError(f"bands: collection {twice[0]!r} is listed twice; list all its bands in one entry")
        if self.collections and (left_out := sorted({*named} - {*self.collections, EVERY_COLLECTION})):
            raise ValueError(
                f"bands: collection {left_out[0]!r} is not among the collections "
                f"{', '.join(self.collections)}; add it there, or leave it out here"
            )
        return self

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        if problem := first_disagreement(self):
            raise ValueError(problem)
        return self


def chip_spec_schema() -> dict[str, Any]:
    """The JSON Schema of a spec file, for editors and forms."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ChipSpec.model_json_schema()}


def _read_mapping(path: Path) -> Mapping[str, Any]:
    try:
        return read_mapping(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise SpecError(f"there is no chip spec file {str(path)!r}") from err
    except (OSError, ValueError) as err:
        raise SpecError(f"chip spec {path.name}: {err}") from err
