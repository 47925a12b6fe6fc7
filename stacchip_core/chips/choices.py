"""Parts of a ChipSpec with keys of their own: bands of a collection, and the split."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from stacchip_core.sources.validation import numbered

EVERY_COLLECTION = "*"  # in place of a collection id; STAC ids are never that

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class BandChoice(BaseModel):
    """Bands to cut from one collection, or from every collection that has no entry of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    collection: str = Field(
        EVERY_COLLECTION,
        title="Collection",
        description="Collection id in the index; '*' (or nothing): every collection without an entry of its own.",
        min_length=1,
    )
    bands: tuple[str, ...] = Field(
        title="Bands",
        description="Band names of its profile, in the order wanted.",
        min_length=1,
        max_length=64,
    )

    @model_validator(mode="before")
    @classmethod
    def _is_no_name(cls, given: object) -> object:
        if isinstance(given, str):
            raise ValueError("expected keys 'collection' and 'bands', or only 'bands'")
        return given

    @field_validator("bands")
    @classmethod
    def _once_each(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [band for band in bands if bands.count(band) > 1]:
            raise ValueError(f"band {twice[0]!r} is listed twice")
        return bands


class SplitSpec(BaseModel):
    """How chips are given to train, validation and test.

    Shares are of blocks of ground (or of chips, where `by` is "chip"), so chips come close to them only where there
    are many blocks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    train: float = Field(0.8, title="Train", description="Share of train, relative to the others.", ge=0, le=1e6)
    validation: float = Field(
        0.1, title="Validation", description="Share of validation, relative to the others.", ge=0, le=1e6
    )
    test: float = Field(0.1, title="Test", description="Share of test, relative to the others.", ge=0, le=1e6)
    by: Literal["block", "chip"] = Field(
        "block",
        title="By",
        description="What the dice are thrown for: blocks of ground, or single chips, whose neighbours and other dates "
        "then fall into other splits.",
    )
    split_km: int = Field(
        100,
        title="Block",
        description="Side of a block of ground in km, a multiple of 10; at least 4 times the side of a chip.",
        ge=10,
        le=2000,
        multiple_of=10,
    )
    buffer: bool = Field(
        True,
        title="Buffer",
        description="Leave out chips that reach into the ground of another split; with blocks only.",
    )
    seed: int = Field(0, title="Seed", description="Decides which block goes where.", ge=0, lt=2**63)
    force: bool = Field(
        False, title="Force", description="Split single chips although their strides make them overlap."
    )

    @model_validator(mode="after")
    def _something_is_shared_out(self) -> Self:
        if not self.train + self.validation + self.test > 0:
            raise ValueError("train, validation and test are all 0; one of them must be more")
        return self
