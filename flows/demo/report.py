"""The report: one self-contained page about a warehouse, what runs did to it, and a dataset made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from flows.pages import page_of, write_page
from stacchip_core.chips.charts import Histogram, histogram_svg, size_text
from stacchip_core.chips.lock import DatasetLock, ShardInfo
from stacchip_core.warehouse.batch import ItemFailure

SHARDS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Figure:
    """One key figure."""

    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Step:
    """A run as a row of the table.

    Attributes:
        numbers: new, updated, same, failed items, and chips; None where the column means nothing.
        outcome: in a few words.
        is_good: whether it came out as it should.
    """

    title: str
    numbers: tuple[int | None, int | None, int | None, int | None, int | None]
    seconds: float
    outcome: str
    is_good: bool


@dataclass(frozen=True, slots=True)
class MapCard:
    """A map: what it shows, and its SVG, which is ours and therefore taken as it is."""

    title: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class CollectionCard:
    """A collection: counts, how its chips spread over nodata and cloud, a picture of some of them."""

    name: str
    items: int
    chips: int
    details: tuple[str, ...]
    nodata: Histogram
    cloud: Histogram
    sheet: str | None = None
    sheet_text: str = ""

    @property
    def nodata_svg(self) -> Markup:
        """Histogram of the nodata fractions."""
        return Markup(histogram_svg(self.nodata, label=f"{self.name} nodata", tone="var(--nodata)"))

    @property
    def cloud_svg(self) -> Markup:
        """Histogram of the cloud fractions."""
        return Markup(histogram_svg(self.cloud, label=f"{self.name} cloud", tone="var(--cloud)"))

    @property
    def nodata_text(self) -> str:
        """Mean of the nodata fractions."""
        return _mean_text(self.nodata)

    @property
    def cloud_text(self) -> str:
        """Mean of the cloud fractions, and how many chips have none."""
        return _mean_text(self.cloud)


@dataclass(frozen=True, slots=True)
class CombinedRow:
    """A version of a combined index."""

    name: str
    version: int
    sha256: str
    sources: str
    items: int
    chips: int
    files: int
    size_bytes: int

    @property
    def size(self) -> str:
        """Of its files."""
        return size_text(self.size_bytes)


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of a list of facts."""

    label: str
    value: str
    is_code: bool = False


@dataclass(frozen=True, slots=True)
class ShardRow:
    """A shard of a dataset."""

    path: str
    chips: int
    size: str
    sha256: str


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """What a dataset's lock says."""

    name: str
    facts: tuple[Fact, ...]
    shards: tuple[ShardRow, ...]
    more_shards: int

    @classmethod
    def of(cls, lock: DatasetLock, path: str) -> DatasetCard:
        """The card of a lock; `path` is where the dataset lies."""
        written = [shard for shard in lock.shards if shard.key is not None]
        return cls(
            name=lock.spec.name,
            facts=_facts(lock, path, written),
            shards=tuple(
                ShardRow((shard.key or "").rpartition("/")[2], shard.chips, size_text(shard.size), shard.sha256 or "")
                for shard in written[:SHARDS_SHOWN]
            ),
            more_shards=max(0, len(written) - SHARDS_SHOWN),
        )


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page shows; what is empty is left out."""

    title: str
    lead: str
    figures: tuple[Figure, ...] = ()
    steps: tuple[Step, ...] = ()
    maps: tuple[MapCard, ...] = ()
    collections: tuple[CollectionCard, ...] = ()
    combined: tuple[CombinedRow, ...] = ()
    dataset: DatasetCard | None = None
    failures: tuple[ItemFailure, ...] = ()
    snippet: str = ""
    footer: str = ""


def render(report: Report) -> str:
    """The page as HTML; text from outside is escaped, and nothing is fetched from anywhere."""
    return page_of("flows.demo", "report.html.j2", report=report)


def write_report(path: Path, report: Report) -> Path:
    """Write the page; a reader sees the old one or the new one, never a part."""
    return write_page(path, render(report))


def _mean_text(histogram: Histogram) -> str:
    if histogram.mean is None:
        return f"unknown for all {histogram.unknown:,} chips"
    unknown = f", unknown for {histogram.unknown:,} chips without a valid pixel" if histogram.unknown else ""
    return f"mean {histogram.mean:.1%}{unknown}"


def _facts(lock: DatasetLock, path: str, written: list[ShardInfo]) -> tuple[Fact, ...]:
    chips = f"{sum(shard.chips for shard in written):,} of {lock.spec.size} px"
    bands = "; ".join(f"{name}: {', '.join(names)}" for name, names in sorted(lock.bands.items()))
    size = size_text(sum(shard.size for shard in written))
    versions = ", ".join(f"{name} {version}" for name, version in sorted(lock.libraries.items()))
    return (
        Fact("Made of", str(lock.index), is_code=True),
        Fact("Index sha256", lock.index.sha256, is_code=True),
        Fact("Spec sha256", lock.spec_sha256, is_code=True),
        Fact("Chips", f"{chips}, {size} in {lock.spec.format} shards"),
        Fact("Bands", bands),
        Fact("Pixels", f"{lock.radiometry}; resampling {lock.spec.resampling}; seed {lock.spec.seed}"),
        Fact("Failed", f"{sum(shard.failures for shard in lock.shards):,} chips"),
        Fact("Written by", versions),
        Fact("Path", path, is_code=True),
    )
