"""What a run did, as small values: they leave tasks and flows, and fill artifacts and reports."""

from __future__ import annotations

from dataclasses import dataclass, field

from stacchip_core import Dataset
from stacchip_core.warehouse.batch import FAILURES_KEPT, ItemFailure

FRESH_KEPT = 12


@dataclass(frozen=True, slots=True)
class Tally:
    """Items and chips of one collection in one run.

    Attributes:
        name: the collection's name in the warehouse.
        version: its version after the run; None where nothing was ever committed.
        new, updated, same, failed: items.
        chips: rows written for new and updated items.
    """

    name: str
    version: int | None = None
    new: int = 0
    updated: int = 0
    same: int = 0
    failed: int = 0
    chips: int = 0

    @property
    def tried(self) -> int:
        """Items that were not the same as before."""
        return self.new + self.updated + self.failed

    @property
    def found(self) -> int:
        """All items."""
        return self.tried + self.same

    def __add__(self, later: Tally) -> Tally:
        """Both together; the version is that of the later one."""
        return Tally(
            name=self.name,
            version=self.version if later.version is None else later.version,
            new=self.new + later.new,
            updated=self.updated + later.updated,
            same=self.same + later.same,
            failed=self.failed + later.failed,
            chips=self.chips + later.chips,
        )


@dataclass(frozen=True, slots=True)
class IndexOutcome:
    """What an indexing run did.

    Attributes:
        collections: one tally each, by name.
        failures: the first `FAILURES_KEPT`; all of them are counted.
        fresh: ids of the first `FRESH_KEPT` new or updated items of each collection, to show pictures of.
    """

    collections: tuple[Tally, ...] = ()
    failures: tuple[ItemFailure, ...] = ()
    fresh: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def total(self) -> Tally:
        """All collections together."""
        total = Tally("all")
        for tally in self.collections:
            total += tally
        return total

    def __add__(self, later: IndexOutcome) -> IndexOutcome:
        """Both together, as one run."""
        merged = {tally.name: tally for tally in self.collections}
        for tally in later.collections:
            merged[tally.name] = merged[tally.name] + tally if tally.name in merged else tally
        names = sorted({*self.fresh, *later.fresh})
        return IndexOutcome(
            tuple(merged[name] for name in sorted(merged)),
            (self.failures + later.failures)[:FAILURES_KEPT],
            {name: (self.fresh.get(name, ()) + later.fresh.get(name, ()))[:FRESH_KEPT] for name in names},
        )


@dataclass(frozen=True, slots=True)
class MergeOutcome:
    """A combined index after a merge.

    Attributes:
        changed: whether the merge made a version; else it was up to date.
        sources: collection -> the version that was merged.
    """

    name: str
    version: int
    sha256: str
    changed: bool
    items: int
    chips: int
    sources: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MaterializeOutcome:
    """A chip dataset after materializing.

    Attributes:
        path: of the dataset's folder, whole: local, or a URL.
        index: version it was made of, `<name>@<version>`.
        changed: whether this run finished it; else it was there already.
        failed: chips that could not be read; `failures` names the first of them, by chip id.
    """

    name: str
    path: str
    index: str
    changed: bool
    chips: int
    shards: int
    size_bytes: int
    failed: int
    failures: tuple[ItemFailure, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset, *, changed: bool) -> MaterializeOutcome:
        """What the lock of a dataset says."""
        lock = dataset.lock
        written = [shard for shard in lock.shards if shard.key is not None]
        first = dataset.failures.select(["chip_id", "reason"]).slice(0, FAILURES_KEPT).to_pylist()
        return cls(
            name=lock.name,
            path=dataset.path,
            index=str(lock.index),
            changed=changed,
            chips=lock.chips,
            shards=len(written),
            size_bytes=sum(shard.size for shard in written),
            failed=lock.failures,
            failures=tuple(ItemFailure(row["chip_id"], "read", row["reason"]) for row in first),
        )
