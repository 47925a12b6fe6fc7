"""What a dataset was made from, exactly: the lock, and the plan and records that lead to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from stacchip_core.chips.spec import ChipSpec
from stacchip_core.chips.statistics import BandSummary
from stacchip_core.errors import CorruptWarehouseError, InputError
from stacchip_core.sources.cog import gdal_version

LOCK_FORMAT = 1

# Libraries that have a say in the bytes of a dataset.
_LIBRARIES = ("stacchip-core", "numpy", "pyarrow", "pyproj", "rasterio", "shapely", "zarr", "numcodecs")


_SHARDS_BYTES = 512 * 2**20
_COPIES = 3  # of its pixels, while a shard is written: as cut, as stacked, as encoded


Measured = dict[str, dict[str, bool | int | float | str]]  # name of a layer -> `Statistics.to_json()`


M = TypeVar("M", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class IndexPin(_Frozen):
    """A version of a combined index, and the checksum that names its bytes."""

    name: str
    version: int
    sha256: str

    def __str__(self) -> str:
        """As people write it."""
        return f"{self.name}@{self.version}"


class ShardInfo(_Frozen):
    """A written shard.

    Attributes:
        number: its place in the plan.
        key: below the dataset's folder; None where no chip of it could be read.
        chips: how many it holds.
        failures: how many of those planned could not be read.
        size: bytes of all its files.
        sha256: of its file, or of the `sha256sum` listing of its files.
        arrays_sha256: of chip ids and pixels, whatever the format.
        libraries: versions it was made with, in a lock that was finished with others; None: those of the lock.
    """

    number: int
    collection: str
    key: str | None
    chips: int
    failures: int
    size: int
    sha256: str | None
    arrays_sha256: str | None
    split: str | None = None
    libraries: dict[str, str] | None = None


class Failure(_Frozen):
    """A chip that could not be read, and why."""

    chip_id: str
    reason: str


class ShardRecord(_Frozen):
    """Kept beside the shards while a dataset is being made, so that a killed run carries on.

    Attributes:
        statistics: of its layers; none where it is of another split than train.
    """

    info: ShardInfo
    failures: tuple[Failure, ...]
    libraries: dict[str, str]
    statistics: Measured = {}


class PlannedShard(_Frozen):
    """Chips of one collection, and of one split, that go into one shard.

    Attributes:
        part: key of its chips and their scenes, below the dataset's folder.
        digest: of the ids of its chips, and of the items that they are cut from.
        record: of the shard, where an update keeps it as it is.
    """

    collection: str
    chips: int
    part: str
    digest: str
    split: str | None = None
    record: ShardRecord | None = None


class PlannedGroup(_Frozen):
    """Items of one collection that are cut together.

    Attributes:
        part: key of their chips and scenes, below the dataset's folder; an item's chips in the order of the dataset.
        scenes: keys of the items.
    """

    collection: str
    chips: int
    part: str
    scenes: tuple[str, ...]


class DatasetPlan(_Frozen):
    """What a dataset will hold: which chips in which shard, fixed before any pixel is read.

    Attributes:
        spec: with the index version filled in.
        is_latest: whether the spec asked for the latest version, not for this one.
        bands: per collection, resolved.
        null_fractions: column -> chips that pass its threshold because their fraction is null.
        rules: "<collection> <band>" -> what gives scale and offset of its items; empty where radiometry is raw.
        area_sha256: of the area file that the chips were chosen by, if the spec names one.
        chip_bytes: of the largest chips, all bands, as they are written; 0 where an earlier release did not say.
    """

    spec: ChipSpec
    is_latest: bool
    index: IndexPin
    profiles: dict[str, str]
    bands: dict[str, tuple[str, ...]]
    null_fractions: dict[str, int]
    rules: dict[str, tuple[str, ...]] = {}
    shards: tuple[PlannedShard, ...]
    groups: tuple[PlannedGroup, ...]
    revision: int = 1
    area_sha256: str | None = None
    chip_bytes: int = 0

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.spec.name

    @property
    def chips(self) -> int:
        """Chips in all shards."""
        return sum(shard.chips for shard in self.shards)

    @property
    def shards_at_a_time(self) -> int:
        """Shards that fit into memory together while they are written."""
        bands = max((len(bands) for bands in self.bands.values()), default=1)
        chip_bytes = self.chip_bytes or 2 * self.spec.size**2 * bands
        return max(1, _SHARDS_BYTES // (_COPIES * chip_bytes * max(1, min(self.spec.shard_size, self.chips))))


class Region(_Frozen):
    """Where the chips of a scene lie in the file of its group.

    Attributes:
        start: of the first one, bytes.
        bands: name, numpy type and shape (layers, height, width) of each, in their order in a chip.
        nodata: band -> value that means "no measurement"; NaN and infinities as text.
    """

    start: int
    bands: tuple[tuple[str, str, tuple[int, int, int]], ...]
    nodata: dict[str, float | str | None]


class GroupRecord(_Frozen):
    """A group of items that was cut.

    Attributes:
        key: of the file that holds its pixels, below the dataset's folder.
        regions: scene key -> where its chips lie; of the scenes whose files opened.
        failures: chips that could not be read.
    """

    number: int
    key: str
    regions: dict[str, Region]
    failures: tuple[Failure, ...]


class DatasetLock(_Frozen):
    """The lock, `dataset.json`: the same lock means the same pixels; with the same libraries, the same bytes.

    Attributes:
        libraries: versions that made the table of chips, and every shard that names no others.
        revision: 1, and one more for every update.
        radiometry: "raw": values as stored in the assets, neither scaled nor offset; or "reflectance".
        rules: "<collection> <band>" -> what gave scale and offset of its items; empty where radiometry is raw.
        chips_key: the table of chips, below the dataset's folder.
        chips_sha256: of that file.
        statistics: collection -> band, or layer of one -> statistics of the train split; of all chips without splits.
        area_sha256: of the area file that the chips were chosen by, if the spec names one.
    """

    format: int
    spec: ChipSpec
    spec_sha256: str
    index: IndexPin
    profiles: dict[str, str]
    bands: dict[str, tuple[str, ...]]
    libraries: dict[str, str]
    radiometry: str
    rules: dict[str, tuple[str, ...]] = {}
    chips: int
    failures: int
    null_fractions: dict[str, int]
    chips_key: str
    chips_sha256: str
    shards: tuple[ShardInfo, ...]
    statistics: dict[str, dict[str, BandSummary]] = {}
    revision: int = 1
    area_sha256: str | None = None

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.spec.name


def spec_sha256(spec: ChipSpec) -> str:
    """Checksum of a spec's canonical JSON."""
    return hashlib.sha256(canonical_json(spec.model_dump(mode="json"))).hexdigest()


def canonical_json(value: Mapping[str, object]) -> bytes:
    """JSON with sorted keys and no spaces: equal values, equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def readable_json(value: BaseModel) -> bytes:
    """Indented JSON in the order of the fields, for files that people open."""
    return (value.model_dump_json(indent=2) + "\n").encode()


@lru_cache(maxsize=1)
def library_versions() -> dict[str, str]:
    """Version of each library that has a say in the bytes of a dataset."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return {**found, "gdal": gdal_version()}


def parsed(kind: type[M], body: bytes, where: str) -> M:
    """A lock, plan or record from its bytes.

    Raises:
        InputError: a later release wrote it.
        CorruptWarehouseError: it is none.
    """
    if (number := _format_of(body)) > LOCK_FORMAT:
        raise InputError(
            f"{where} has format {number}, and this release of stacchip-core reads {LOCK_FORMAT}: install a newer one"
        )
    try:
        return kind.model_validate_json(body)
    except ValidationError as err:
        wrong = err.errors(include_url=False)[0]
        place = ".".join(map(str, wrong["loc"]))
        raise CorruptWarehouseError(f"{where} is damaged: {place}{': ' if place else ''}{wrong['msg']}") from err


def _format_of(body: bytes) -> int:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return 0
    number = found.get("format") if isinstance(found, dict) else None
    return number if isinstance(number, int) else 0
