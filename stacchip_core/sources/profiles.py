"""Sensors as data: which assets of a collection are bands, which one gives the grid, how its QA mask reads."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stacchip_core.errors import ProfileError, ProfileNotFoundError
from stacchip_core.sources.validation import explain
from stacchip_core.sources.yaml_text import read_mapping

logger = logging.getLogger(__name__)

PropertyType = Literal["text", "number", "boolean"]

# STAC fields that hold numbers, so that a profile may name them without a type. Source: the eo, view, sat, landsat
# and common-metadata field tables of the STAC extensions.
_NUMERIC_PROPERTIES = frozenset(
    {
        "gsd",
        "eo:cloud_cover",
        "eo:snow_cover",
        "landsat:cloud_cover_land",
        "sat:relative_orbit",
        "sat:absolute_orbit",
        "view:off_nadir",
        "view:azimuth",
        "view:incidence_angle",
        "view:sun_azimuth",
        "view:sun_elevation",
    }
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Band(_Frozen):
    """One asset that users ask for by name.

    A single-band file, or a file of several `layers`, each of which can be asked for by its own name too. `when` limits
    an entry to items whose collection or id matches one of its patterns (HLS gives "B05" two meanings); of several
    entries with one name, the first whose asset the item has is taken.
    """

    name: str = Field(description="What users call it.")
    asset: str = Field(description="Key of its asset in the item.")
    aliases: tuple[str, ...] = Field((), description="Other providers' keys for the asset.")
    layers: tuple[str, ...] = Field((), description="Names of the layers of a multi-band file, in order.")
    kind: Literal["continuous", "categorical"] = Field("continuous", description="Classes are never averaged.")
    nodata: float | None = Field(None, description="Value that means no measurement; fills padded edges and masks.")
    scale: float = Field(1.0, description="Physical value = stored value x scale + offset.")
    offset: float = Field(0.0, description="See scale.")
    when: tuple[str, ...] = Field((), description="Patterns of collection or item ids that the entry is for.")
    source: str = Field("", description="Where nodata, scale and offset are documented.")


class BitField(_Frozen):
    """Bits [shift, shift + width) of a QA value, and the values of that field that count."""

    shift: int = Field(ge=0, le=31, description="Lowest bit of the field; 0 is the lowest of the value.")
    width: int = Field(ge=1, le=16, description="Bits of the field.")
    values: tuple[int, ...] = Field(description="Values of the field that count.")


class QaRule(_Frozen):
    """How QA values read.

    Kinds: `classes` lists QA values; `bits` lists bit positions (0 = lowest), any of which marks the pixel; `field`
    gives bit fields; `nodata` takes GDAL's dataset mask of the reference asset; `none` reads no pixels.
    `fill` lists whole values that mean "no measurement", for `bits` and `field`. `reference_nodata` adds the pixels
    that the reference asset itself masks.
    """

    kind: Literal["classes", "bits", "field", "nodata", "none"] = Field(description="How the values read.")
    asset: str = Field("", description="Key of the QA asset.")
    aliases: tuple[str, ...] = Field((), description="Other providers' keys for it.")
    fill: tuple[int, ...] = Field((), description="Whole values that mean no measurement.")
    nodata: tuple[int | BitField, ...] = Field((), description="What means no measurement.")
    cloud: tuple[int | BitField, ...] = Field((), description="What means cloud.")
    shadow: tuple[int | BitField, ...] = Field((), description="What means cloud shadow.")
    snow: tuple[int | BitField, ...] = Field((), description="What means snow or ice.")
    water: tuple[int | BitField, ...] = Field((), description="What means water.")
    reference_nodata: bool = Field(False, description="Pixels that the reference asset masks are nodata too.")
    source: str = Field("", description="Where the meanings are documented.")

    @model_validator(mode="after")
    def _fits_kind(self) -> QaRule:
        meanings = (*self.nodata, *self.cloud, *self.shadow, *self.snow, *self.water)
        if self.kind in ("nodata", "none"):
            if self.asset or self.fill or meanings:
                raise ValueError(f"a rule of kind {self.kind!r} reads no QA asset: leave out asset, fill and meanings")
            return self
        if not self.asset:
            raise ValueError(f"a rule of kind {self.kind!r} needs the QA asset's key: asset")
        wanted = BitField if self.kind == "field" else int
        if not all(isinstance(meaning, wanted) for meaning in meanings):
            form = "{shift, width, values}" if self.kind == "field" else "whole numbers"
            raise ValueError(f"a rule of kind {self.kind!r} takes {form} for nodata, cloud, shadow, snow and water")
        if self.kind == "bits" and any(not 0 <= bit <= 31 for bit in meanings if isinstance(bit, int)):
            raise ValueError("bit positions are 0 to 31")
        return self


class Property(_Frozen):
    """An item field carried as a column of the index."""

    name: str = Field(description="Of the item's field, and of the column.")
    type: PropertyType = Field("text", description="Of the column.")


class CollectionProfile(_Frozen):
    """What stacchip-core must know of a collection; built-in ones are YAML files of the same form."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Of the profile.")
    collections: tuple[str, ...] = Field((), description="Ids of the STAC collections it serves.")
    reference: tuple[str, ...] = Field(
        min_length=1,
        description="The band whose shape, transform and CRS make the chip grid; of several, the first the item has.",
    )
    bands: tuple[Band, ...] = Field(min_length=1, description="What users can ask for, in order.")
    offset_rule: Literal["stated", "sentinel-2"] = Field(
        "stated",
        description="Where a band's offset comes from: what item or profile state, or Sentinel-2's processing baseline "
        "and whether the provider took it out.",
    )
    qa: QaRule = Field(QaRule(kind="nodata"), description="How nodata, cloud, shadow, snow and water are told.")
    properties: tuple[Property, ...] = Field((), description="Item fields carried as columns; a name alone is text.")
    alternate: tuple[str, ...] = Field(
        (), description="Names of alternate hrefs to take before an asset's own; the first that it has."
    )
    preview: tuple[str, ...] = Field((), max_length=3, description="Bands shown as red, green, blue.")

    @field_validator("reference", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("properties", mode="before")
    @classmethod
    def _typed(cls, value: Any) -> Any:
        def entry(item: Any) -> Any:
            if not isinstance(item, str):
                return item
            return {"name": item, "type": "number" if item in _NUMERIC_PROPERTIES else "text"}

        return tuple(entry(item) for item in value) if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _names_agree(self) -> CollectionProfile:
        always = [name for band in self.bands if not band.when for name in (band.name, *band.layers)]
        if twice := _first_twice(always):
            raise ValueError(f"band {twice!r} is listed twice; tell the entries apart with `when`")
        if twice := _first_twice([prop.name for prop in self.properties]):
            raise ValueError(f"property {twice!r} is listed twice")
        bands = {band.name for band in self.bands}
        for name, known in (*((n, bands) for n in self.reference), *((n, set(self.band_names)) for n in self.preview)):
            if name not in known:
                raise ValueError(f"{name!r} is not one of the bands: {', '.join(sorted(known))}")
        return self

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands and of the layers inside them, in order, each once."""
        return tuple(dict.fromkeys(name for band in self.bands for name in (band.name, *band.layers)))


def _first_twice(names: list[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


def parse_profile(data: Mapping[str, Any], where: str) -> CollectionProfile:
    """Build a profile from plain data; `extends` names a built-in profile whose keys it starts from.

    Raises:
        ProfileError: says where, which key, and what it may be.
    """
    try:
        merged = dict(data)
        base = merged.pop("extends", None)
        if base is not None:
            inherited = _builtin(str(base)).model_dump()
            merged = {**inherited, "collections": (), **merged}
        return CollectionProfile.model_validate(merged)
    except ValidationError as err:
        raise ProfileError(f"profile {where}: {explain(err, CollectionProfile, 'extends')}") from err


def load_profile(name_or_path: str | Path) -> CollectionProfile:
    """A built-in profile by name, or a user's by the path of its YAML file.

    Raises:
        ProfileNotFoundError: lists the built-in names.
        ProfileError: the file is not a profile.
    """
    text = str(name_or_path)
    if not text.endswith((".yaml", ".yml")):
        return _builtin(text)
    path = Path(text)
    if not path.is_file():
        raise ProfileNotFoundError(f"there is no profile file {path.name!r} in that folder")
    try:
        return _parse_yaml(path.read_text(encoding="utf-8"), where=path.name)
    except UnicodeDecodeError as err:
        raise ProfileError(f"profile {path.name}: not a UTF-8 text") from err


def profile_for(collection: str) -> CollectionProfile | None:
    """The built-in profile that serves a collection id, if any."""
    return _by_collection().get(collection)


@lru_cache(maxsize=1)
def profile_names() -> tuple[str, ...]:
    """Names of the built-in profiles."""
    folder = resources.files("stacchip_core.sources") / "builtin"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


@lru_cache(maxsize=64)
def _builtin(name: str) -> CollectionProfile:
    if name not in profile_names():
        close = difflib.get_close_matches(name, profile_names(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ProfileNotFoundError(
            f"there is no profile {name!r}; built in are {', '.join(profile_names())}."
            f"{hint} Or give the path of a YAML file."
        )
    text = (resources.files("stacchip_core.sources") / "builtin" / f"{name}.yaml").read_text(encoding="utf-8")
    return _parse_yaml(text, where=name)


@lru_cache(maxsize=1)
def _by_collection() -> dict[str, CollectionProfile]:
    return {id_: profile for name in profile_names() for profile in [_builtin(name)] for id_ in profile.collections}


def _parse_yaml(text: str, where: str) -> CollectionProfile:
    try:
        data = read_mapping(text)
    except ValueError as err:
        raise ProfileError(f"profile {where}: {err}") from err
    return parse_profile(data, where)
