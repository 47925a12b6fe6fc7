"""What a run did, as small values: they leave tasks and flows, and fill artifacts and reports."""

from __future__ import annotations

from dataclasses import dataclass, field

from stacchip_core import Dataset
from stacchip_core.warehouse.batch import FAILURES_KEPT, ItemFailure
from stacchip_core.warehouse.care.problems import Problem

FRESH_KEPT = 12


@dataclass(frozen=True, slots=True)
class Tally:
    """Items and chips of one collection in one run.

    Attributes:
        name: the collection's name in the warehouse.
        version: its version after the run; None where nothing was ever committed.
        new, updated, same, deleted, failed: items.
        chips: rows written for new and updated items.
        failed_again: of those that failed, how many had failed before.
        waiting: items that failed before and are to be tried again later.
    """

    name: str
    version: int | None = None
    new: int = 0
    updated: int = 0
    same: int = 0
    failed: int = 0
    chips: int = 0
    failed_again: int = 0
    waiting: int = 0
    deleted: int = 0

    @property
    def tried(self) -> int:
        """Items that were not the same as before."""
        return self.new + self.updated + self.failed

    @property
    def found(self) -> int:
        """All items."""
        return self.tried + self.same + self.waiting

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
            failed_again=self.failed_again + later.failed_again,
            waiting=self.waiting + later.waiting,
            deleted=self.deleted + later.deleted,
        )


@dataclass(frozen=True, slots=True)
class IndexOutcome:
    """What an indexing run did.

    Attributes:
        collections: one tally each, by name.
        failures: the first `FAILURES_KEPT`; all of them are counted.
        fresh: ids of the first `FRESH_KEPT` new or updated items of each collection, to show pictures of.
        gaps: parts of the source that could not be read, with the reason; the next run tries them again.
        notices: what people should know, as of items that were not deleted because they were too many.
    """

    collections: tuple[Tally, ...] = ()
    failures: tuple[ItemFailure, ...] = ()
    fresh: dict[str, tuple[str, ...]] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is known to be missing."""
        return not self.gaps

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
            (self.gaps + later.gaps)[:FAILURES_KEPT],
            (self.notices + later.notices)[:FAILURES_KEPT],
        )


@dataclass(frozen=True, slots=True)
class ReindexOutcome:
    """What indexing items once more did, or in a dry run would do.

    Attributes:
        reason: why it was asked for.
        items: that were chosen.
        grids: size, stride and edge that they were chosen at.
        done: what came of it; in a dry run, what would be tried.
    """

    reason: str
    is_dry_run: bool
    items: int
    grids: tuple[str, ...]
    done: IndexOutcome


@dataclass(frozen=True, slots=True)
class MaintainOutcome:
    """What was done for a warehouse, or in a dry run would be.

    Attributes:
        problems: what is not as the log says.
        checked: how many of what were looked at.
        mended: what was.
        expired: versions let go, by index.
        removable: path, size and kind of the first files that no version needs; all are counted.
    """

    root: str
    is_dry_run: bool = False
    problems: tuple[Problem, ...] = ()
    checked: dict[str, int] = field(default_factory=dict)
    mended: tuple[str, ...] = ()
    expired: dict[str, int] = field(default_factory=dict)
    removable: tuple[tuple[str, int, str], ...] = ()
    removable_files: int = 0
    removable_bytes: int = 0

    def __add__(self, later: MaintainOutcome) -> MaintainOutcome:
        """Both together, as one run."""
        return MaintainOutcome(
            self.root,
            self.is_dry_run,
            self.problems + later.problems,
            {**self.checked, **later.checked},
            self.mended + later.mended,
            {**self.expired, **later.expired},
            self.removable + later.removable,
            self.removable_files + later.removable_files,
            self.removable_bytes + later.removable_bytes,
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
