"""Following a source: what is to be read in a run, what of it is committed together, and what is remembered then.

The steps are decided here alone; `Warehouse.follow` and the flow carry them out, each in its own way. A page of items
is a step, so a run that is killed loses a page. What is remembered travels inside the commits: the last one of a
window moves the watermark, and a window that is not known to be whole leaves it where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from stacchip_core.errors import StacchipError
from stacchip_core.index.indexer import IndexSettings
from stacchip_core.sources.catalog import (
    PAGE_ITEMS,
    Finding,
    Items,
    OpenSource,
    chosen,
    newest_each,
    open_source,
)
from stacchip_core.sources.item import StagedItem
from stacchip_core.sources.source import Source
from stacchip_core.sources.windows import Covered, Gap, Window
from stacchip_core.warehouse.absence import Stock, judge
from stacchip_core.warehouse.care.retention import indexes
from stacchip_core.warehouse.classify import collection_of
from stacchip_core.warehouse.intake import safe_name
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.memory import MARKS_KEPT, Following, Memory, description, mark_of, moment, text_of
from stacchip_core.warehouse.store import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Ask(Protocol):
    """Carries out what asks the warehouse for something: a place for retries."""

    def __call__(self, work: Callable[[], T]) -> T:
        """The result of `work`."""
        ...


def _at_once(work: Callable[[], T]) -> T:
    return work()


@dataclass(frozen=True, slots=True)
class Step:
    """Something to commit to one collection: items, or the removal of some; and what is remembered with it.

    Attributes:
        name: of the collection; "" for failures whose collection can't be told, which are not committed.
        items: to classify, index and commit.
        removed: ids of items to remove.
        sources: for the log entry.
    """

    name: str
    items: tuple[StagedItem, ...] = ()
    removed: tuple[str, ...] = ()
    sources: tuple[Mapping[str, object], ...] = ()


@dataclass(slots=True)
class Follower:
    """One run over a source.

    Attributes:
        store: of the warehouse.
        source: what is followed.
        name: collection of the warehouse; None: made from each item's collection id.
        settings: how items are indexed: decides, with the profile, where an item without collection id goes.
        rules: how often it is swept, and when an item is deleted.
        ask: carries out what asks the warehouse for something.
        gaps: what could not be found out; none: the run is complete.
        notices: what people should know.
    """

    store: Store
    source: Source
    name: str | None
    settings: IndexSettings
    rules: Following = field(default_factory=Following)
    ask: Ask = _at_once
    gaps: list[Gap] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def steps(self) -> Iterator[Step]:
        """What is to be done, in order; each is to be done before the next is asked for.

        Raises:
            InputError: the source is no catalog, lacks a collection, or can't do what is asked.
            ReadError, TransientReadError: it can't be read at all.
        """
        for opened in self._parts():
            if opened.source.is_partial:
                yield from self._taken(opened)
            else:
                yield from _Round(self, opened).steps()

    def name_of(self, staged: StagedItem) -> str:
        """Collection of the warehouse that an item goes to; "" where that can't be told."""
        if self.name is not None:
            return self.name
        if staged.error is None:
            try:
                return safe_name(collection_of(staged.item, self.settings))
            except StacchipError:  # no id that could name a collection: this item's failure, not the run's
                return ""
        asked = self.source.collections
        collection = staged.item.get("collection") or (asked[0] if len(asked) == 1 else "")
        return safe_name(str(collection)) if collection else ""

    def manifest(self, name: str) -> Manifest:
        """A collection as it is by now."""
        return self.ask(lambda: Manifest.load(self.store, name))

    def _parts(self) -> Iterator[OpenSource]:
        """The source, or of an API each collection as a source of its own, with its own memory."""
        whole = open_source(self.source, self._known(self.source))
        names = self.source.collections
        if whole.api is not None and whole.api.has_collections and not names:
            names = tuple(whole.api.listed())
        if whole.api is None or self.source.is_partial or len(names) < 1 or names == self.source.collections[:1]:
            yield whole
            return
        for name in names:
            part = self.source.model_copy(update={"collections": (name,)})
            yield open_source(part, self._known(part), whole.transport)

    def _known(self, source: Source) -> Mapping[str, object]:
        """What was found out about the server in earlier runs."""
        if source.url is None or self.source.is_partial:
            return {}
        summary = source.summary()
        for name in self.names_for(source):
            memory = Memory.of(self.manifest(name).sources, summary)
            if memory.known:
                return memory.known
        return {}

    def names_for(self, source: Source) -> list[str]:
        """Collections that items of a source may be in already."""
        if self.name is not None:
            return [self.name]
        if source.collections:
            return [safe_name(one) for one in source.collections]
        return self.ask(lambda: [one.rpartition("/")[2] for one in indexes(self.store, ("collections",))])

    def _taken(self, opened: OpenSource) -> Iterator[Step]:
        """Of a source that only some items are taken of: those, and nothing is remembered."""
        page, summary = list[StagedItem](), opened.source.summary()
        for staged in chosen(opened.whole(), opened.source, self.gaps):
            page.append(staged)
            if len(page) == PAGE_ITEMS:
                yield from self.pages(page, lambda _: summary)
                page = []
        yield from self.pages(page, lambda _: summary)

    def pages(
        self, items: list[StagedItem], told: Callable[[str], Mapping[str, object]], names: Iterable[str] = ()
    ) -> Iterator[Step]:
        """Items by the collection they go to, with what is remembered there; `names`: also without items."""
        groups: dict[str, list[StagedItem]] = {name: [] for name in names}
        for staged in newest_each(items):
            groups.setdefault(self.name_of(staged), []).append(staged)
        for name, own in groups.items():
            yield Step(name, tuple(own), sources=(told(name),) if name else ())


@dataclass(slots=True)
class _Round:
    """One run over a source that all items are taken of.

    Attributes:
        run: what the whole run shares.
        opened: the source.
        memories: what is remembered of it, by the name of the collection.
        stocks: live items, by the name of the collection; only while a sweep is under way.
    """

    run: Follower
    opened: OpenSource
    memories: dict[str, Memory] = field(default_factory=dict)
    stocks: dict[str, Stock] = field(default_factory=dict)
    summary: Mapping[str, object] = field(init=False)
    now: datetime = field(init=False)
    page: list[StagedItem] = field(default_factory=list)
    read: int = 0
    is_running: bool = True

    def __post_init__(self) -> None:
        self.summary = self.opened.source.summary()
        self.now = datetime.now(UTC)
        is_certain = self.run.name is not None or bool(self.opened.source.collections)
        for name in self.run.names_for(self.opened.source):
            sources = self.run.manifest(name).sources
            if is_certain or any(description(source) == self.summary for source in sources):
                self._remember(name, sources)

    def steps(self) -> Iterator[Step]:
        """Changes since the last run, then a sweep if one is due."""
        yield from self._changes()
        if self._is_sweep_due():
            yield from self._sweep()
        self.is_running = False
        yield from self._flush(self.memories)

    def _changes(self) -> Iterator[Step]:
        """What changed by the source's own account, or else what is dated lately."""
        marks = [memory.watermark for memory in self.memories.values()]
        if self.opened.api is None or not marks or not all(marks):
            return
        clock = self.opened.clock
        if self.opened.has_updates:
            start = moment(min(marks)) - timedelta(hours=self.run.rules.overlap_hours)
            window = Window(start, by="updated")
        elif self.opened.has_windows:
            window = Window(clock - timedelta(days=self.run.rules.lookback_days))
        else:
            return
        before = len(self.run.gaps)
        for found in self.opened.window(window):
            yield from self._take(found)
        if self.opened.has_updates and len(self.run.gaps) == before:
            self._each(lambda memory: replace(memory, watermark=max(memory.watermark, text_of(clock))))

    def _is_sweep_due(self) -> bool:
        """Whether the whole source is to be read: always where there is no other way to learn of anything."""
        if self.opened.api is None or not self.memories:
            return True
        if not (self.opened.has_updates or self.opened.has_windows):
            return True
        last = self.now - timedelta(hours=self.run.rules.sweep_hours)
        return any(
            not memory.watermark or memory.sweep_at or not memory.swept_at or moment(memory.swept_at) <= last
            for memory in self.memories.values()
        )

    def _sweep(self) -> Iterator[Step]:
        """Read the whole source, or on from where the last run left off, and see what is gone."""
        self._each(self._begun)
        starts = {memory.sweep_from for memory in self.memories.values()}
        start = moment(min(starts)) if starts and all(starts) else None
        is_first = any(not memory.watermark for memory in self.memories.values())
        self.read, is_over, is_told = 0, True, False
        for found in self.opened.whole(start):
            yield from self._take(found)
            if isinstance(found, Items):
                continue
            is_told = True
            yield from self._judged(found)
            end = found.window.end if isinstance(found, Covered) else None
            if end is None:
                continue
            self._each(lambda memory, at=end: replace(memory, sweep_from=text_of(at)))  # type: ignore[misc]
            if self.read >= self.run.rules.sweep_items and not is_first:
                is_over = False
                break
        if not is_told:  # failures of single files are on record: nothing is missing, but nothing can be called gone
            self._each(lambda memory: replace(memory, holes=memory.holes + 1))
        if is_over:
            yield from self._finish()

    def _begun(self, memory: Memory) -> Memory:
        if memory.sweep_at:
            return memory
        return replace(memory, sweep_at=text_of(self.now), sweep_to=text_of(self.opened.clock))

    def _judged(self, found: Finding) -> Iterator[Step]:
        """What a part of the sweep that is over means for the items that were live before."""
        if isinstance(found, Gap):
            self._each(lambda memory: replace(memory, holes=memory.holes + 1))
        if not isinstance(found, Covered):
            return
        for name in list(self.memories):
            for one in self._stock(name).absent(found, self.opened):
                if isinstance(one, str):
                    memory = self.memories[name]
                    if len(memory.absent) < MARKS_KEPT and mark_of(one) not in memory.absent:
                        self.memories[name] = replace(memory, absent=(*memory.absent, mark_of(one)))
                    continue
                if isinstance(one, Gap):
                    self.memories[name] = replace(self.memories[name], holes=self.memories[name].holes + 1)
                yield from self._take(Items([one]) if isinstance(one, StagedItem) else one)

    def _finish(self) -> Iterator[Step]:
        """After the last part: where nothing was missing, delete what two sweeps did not have."""
        gone = dict[str, tuple[str, ...]]()
        for name, memory in list(self.memories.items()):
            if memory.holes:
                continue
            now = self.run.ask(self.run.store.now) if memory.absent else self.now
            verdict = judge(self._stock(name), memory, self.run.rules, now)
            gone[name], self.memories[name] = verdict.gone, verdict.memory
            self.run.notices += [verdict.notice] if verdict.notice else []
        self._each(lambda memory: memory.swept(has_updates=self.opened.has_updates))
        if any(gone.values()):
            yield from self._flush()
        for name, ids in gone.items():
            if ids:
                yield Step(name, removed=ids, sources=(self._told(name),))

    def _take(self, found: Finding) -> Iterator[Step]:
        """Put items on the page, and hand it over when it is full; put gaps down."""
        if isinstance(found, Gap):
            self.run.gaps.append(found)
        if not isinstance(found, Items):
            return
        self.read += len(found.items)
        for staged in found.items:
            name = self.run.name_of(staged)
            if name and name not in self.memories:
                self._remember(name, self.run.manifest(name).sources)
                self.memories[name] = self._begun(self.memories[name])
        self.page += found.items
        if len(self.page) >= PAGE_ITEMS:
            yield from self._flush()

    def _flush(self, names: Iterable[str] = ()) -> Iterator[Step]:
        """Hand over what is on the page."""
        page, self.page = self.page, []
        for start in range(0, max(len(page), 1), PAGE_ITEMS):
            yield from self.run.pages(page[start : start + PAGE_ITEMS], self._told, names)

    def _remember(self, name: str, sources: Sequence[Mapping[str, object]]) -> None:
        self.memories[name] = replace(Memory.of(sources, self.summary), at=text_of(self.now))

    def _told(self, name: str) -> Mapping[str, object]:
        memory = replace(self.memories[name], known=self.opened.known, is_running=self.is_running)
        return memory.entry(self.summary)

    def _stock(self, name: str) -> Stock:
        """Live items as they were when the first part of the sweep was judged: what came since was seen."""
        if name not in self.stocks:
            self.stocks[name] = self.run.ask(lambda: Stock.of(Manifest.load(self.run.store, name)))
        return self.stocks[name]

    def _each(self, change: Callable[[Memory], Memory]) -> None:
        self.memories = {name: change(memory) for name, memory in self.memories.items()}
