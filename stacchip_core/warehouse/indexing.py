"""A run without Prefect: page by page, items are compared, indexed and committed, until too many have failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

from stacchip_core.index.indexer import IndexSettings
from stacchip_core.sources.item import StagedItem
from stacchip_core.sources.source import Source
from stacchip_core.warehouse.again import failed_items, failed_specs
from stacchip_core.warehouse.backoff import DEFAULT_BACKOFF, Backoff
from stacchip_core.warehouse.batch import index_batch
from stacchip_core.warehouse.budget import FailureBudget
from stacchip_core.warehouse.classify import classify
from stacchip_core.warehouse.commit import Commit, commit
from stacchip_core.warehouse.intake import Found, Grouping
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.work import read_work

PAGE_ITEMS = 2000  # items of a commit: what a run that is killed may lose
_BATCH_ITEMS = 16
_THREADS = 4  # for the waiting on remote files; indexing local ones is work for the CPU, and gains nothing from threads


@dataclass(frozen=True, slots=True)
class Patient:
    """How a run bears failures: when it tries them again, and how many it takes."""

    backoff: Backoff = DEFAULT_BACKOFF
    budget: FailureBudget = field(default_factory=FailureBudget)


@dataclass(frozen=True, slots=True)
class IndexRun:
    """A run into one warehouse, with what it has committed so far, by collection."""

    store: Store
    settings: IndexSettings
    patient: Patient
    commits: dict[str, Commit] = field(default_factory=dict)

    def index_found(self, found: Iterator[Found], grouping: Grouping) -> list[Commit]:
        """Index items of any collections.

        Raises:
            FailureBudgetError: too many failed; what was committed stays.
            InputError: items of which nothing tells the collection.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            while page := list(islice(found, PAGE_ITEMS)):
                for (name, roots), staged in grouping.groups(page).items():
                    self._index(pool, name, staged, self.settings.model_copy(update={"local_roots": roots}))
                self.patient.budget.check(self.commits.values())
        grouping.check()
        return [self.commits[name] for name in sorted(self.commits)]

    def retry(self, manifest: Manifest) -> Commit:
        """Index the failures of a collection that are due, each at the chip size it failed at."""
        with ThreadPoolExecutor(_THREADS) as pool:
            for spec in failed_specs(manifest):
                cut = {"chip_size": spec.size, "stride": spec.stride, "edge": spec.edge}
                settings = self.settings.model_copy(update=cut)
                due = failed_items(manifest, settings, self.patient.backoff)
                while page := list(islice(due, PAGE_ITEMS)):
                    self._index(pool, manifest.name, page, settings)
        return self.commits.get(manifest.name) or Commit(manifest.name, manifest.version, manifest.sha256)

    def retry_due(self, manifest: Manifest, source: Source) -> None:
        """Index the failures of a source that are due: what has not changed since is not found again."""
        due = failed_items(manifest, self.settings, self.patient.backoff, source)
        while page := list(islice(due, PAGE_ITEMS)):
            self.index(manifest.name, page)

    def index(self, name: str, items: Sequence[StagedItem], *told: Mapping[str, object]) -> None:
        """Index items of one collection, and commit them with what is told of their sources."""
        with ThreadPoolExecutor(_THREADS) as pool:
            self._index(pool, name, items, self.settings, *told)

    def note(self, done: Commit) -> None:
        """Count something that was committed otherwise."""
        self.commits[done.name] = together(self.commits.get(done.name), done)

    def _index(
        self,
        pool: ThreadPoolExecutor,
        name: str,
        items: Sequence[StagedItem],
        settings: IndexSettings,
        *told: Mapping[str, object],
    ) -> None:
        found = classify(Manifest.load(self.store, name), items, settings, backoff=self.patient.backoff)
        todo = (*found.new, *found.updated)
        batches = [todo[start : start + _BATCH_ITEMS] for start in range(0, len(todo), _BATCH_ITEMS)]
        parts = list(pool.map(lambda own: index_batch(self.store, name, own, settings).part, batches))
        work = read_work(self.store, parts, read_version=found.version, sources=told)
        done = replace(commit(Manifest.load(self.store, name), work), waiting=found.waiting)
        self.note(done)


def together(before: Commit | None, after: Commit) -> Commit:
    if before is None:
        return after
    counts = ("new", "updated", "deleted", "failed", "chips", "failed_again", "waiting")
    sums = {field: getattr(before, field) + getattr(after, field) for field in counts}
    causes = Counter(dict(before.causes)) + Counter(dict(after.causes))
    return replace(after, **sums, causes=tuple(sorted(causes.items())))
