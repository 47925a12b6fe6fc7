"""Searches cut into windows of time, each read until it is known to be whole, or said not to be."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from stacchip_core.errors import ReadError, TransientReadError
from stacchip_core.sources.interval import Interval, format_interval
from stacchip_core.sources.paging import Walk, digest, key_of, read_pages
from stacchip_core.sources.transport import Document, Query, RefusedError

logger = logging.getLogger(__name__)

WALK_ITEMS_MAX = 10_000  # of one search: Elasticsearch, behind many APIs, pages no deeper (stac-server issue 228)
SPLIT_ABOVE = 5_000  # announced items: split before paging at all
SPLITS_MAX = 5_000  # of a run, because there are many items
RESCUES_MAX = 64  # splits of a run because something was wrong: what that many don't mend, more won't
PAGE_MIN = 10  # items; a server that fails at large pages is asked for smaller ones, down to this
_EARLIEST = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)  # where a window without a start is split as if it began
_SHORTEST = dt.timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, both ends included, None where it is open; of `datetime`, or of the source's `updated`."""

    start: dt.datetime | None = None
    end: dt.datetime | None = None
    by: Literal["datetime", "updated"] = "datetime"

    def __str__(self) -> str:
        """For people: which property, from when to when."""
        return f"{self.by} {format_interval((self.start, self.end))}" if self.start or self.end else "all times"

    @property
    def interval(self) -> Interval:
        """Both ends."""
        return self.start, self.end

    def halves(self) -> tuple[Window, Window] | None:
        """The first and the second half, which share an instant so that nothing falls between; None: too short."""
        last = self.end or dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
        if self.start is None and last <= _EARLIEST:
            return None
        first = self.start or _EARLIEST
        if last - first < _SHORTEST:
            return None
        middle = (first + (last - first) / 2).replace(microsecond=0)
        return Window(self.start, middle, self.by), Window(middle, self.end, self.by)


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that could not be found out.

    Attributes:
        where: which window, file or item.
        reason: what went wrong.
    """

    where: str
    reason: str

    def __str__(self) -> str:
        """In one line."""
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Covered:
    """A window that is known to be whole, with "collection/id" of every item in it."""

    window: Window
    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class Page:
    """Features, and the address they were read at."""

    features: list[object]
    href: str


Finding = Page | Covered | Gap


class Searched(Protocol):
    """What is asked of an API here."""

    page_size: int

    @property
    def is_out_of_time(self) -> bool:
        """Whether no request may be sent any more."""
        ...

    def query(self, window: Window, limit: int) -> Query:
        """The search for a window."""
        ...

    def fetch(self, query: Query) -> Document:
        """The page a query gives."""
        ...

    def can_split(self, window: Window) -> bool:
        """Whether the server keeps to times, so that parts of a window can be asked for."""
        ...

    def counts(self) -> bool:
        """Whether the number of items that the server announces is that of the whole search."""
        ...

    def pages(self) -> bool:
        """Whether small pages together hold what a large one holds."""
        ...


@dataclass(slots=True)
class Coverage:
    """Reads windows of one API.

    Attributes:
        api: whom to ask.
        splits, rescues: how many more there may be in this run.
    """

    api: Searched
    splits: int = field(default_factory=lambda: SPLITS_MAX)
    rescues: int = field(default_factory=lambda: RESCUES_MAX)

    def cover(self, window: Window) -> Iterator[Finding]:
        """All pages of a window; then `Covered` for each part of it that is whole, and a `Gap` for each that is not.

        An end of paging is believed where the announced number of items came, or where the pages show it; else the
        search is walked once more in smaller pages. What remains in doubt is split by time.
        """
        first, known = Walk(), set[bytes]()
        yield from self._pages(window, self.api.page_size, first, known)
        if (keys := self._whole_of(first)) is not None:
            yield Covered(window, keys)
            return
        if not self._is_too_long(first):
            second = Walk()
            yield from self._pages(window, self._smaller(first), second, known)
            keys = self._agreed(first, second)
            if keys is not None and self._is_doubtful(first, second):
                third = Walk()
                yield from self._pages(window, self._smaller(first), third, known)
                keys = self._agreed(second, third)
                second.keys |= third.keys
            if keys is not None:
                yield Covered(window, keys)
                return
            first.keys |= second.keys
            first.error = first.error or second.error
        yield from self._split(window, first)

    def _pages(self, window: Window, limit: int, walk: Walk, known: set[bytes]) -> Iterator[Page]:
        """Pages of one walk, without what is `known`, which grows; what ends it early is kept in `walk`."""
        try:
            for query, page in read_pages(self.api.query(window, limit), self.api.fetch, walk):
                forms = {digest(feature): feature for feature in page["features"]}
                fresh = [feature for mark, feature in forms.items() if mark not in known]
                known |= forms.keys()
                yield Page(fresh, query.href)
                if self._is_too_long(walk) and self.api.can_split(window):
                    return
        except ReadError as err:
            walk.error = err

    def _is_too_long(self, walk: Walk) -> bool:
        """Whether there is more in a window than one search should give."""
        return not walk.has_ended and ((walk.count or 0) > SPLIT_ABOVE or len(walk.keys) > WALK_ITEMS_MAX)

    def _whole_of(self, walk: Walk) -> frozenset[str] | None:
        """The keys of a walk that shows itself that it is whole."""
        if walk.error is not None or not walk.has_ended:
            return None
        if walk.announced:
            is_whole = walk.count == len(walk.keys) and (len(walk.lengths) > 1 or self.api.counts())
        else:
            is_whole = walk.is_regular and self.api.pages()
        return frozenset(walk.keys) if is_whole else None

    def _smaller(self, walk: Walk) -> int:
        """Page size for another walk: one at which a page that ended the first can not be the last again."""
        if isinstance(walk.error, TransientReadError):
            return max(min(PAGE_MIN, self.api.page_size), self.api.page_size // 4)
        longest = max(walk.lengths, default=0)
        return max(1, min(longest, self.api.page_size) // 2) if longest > 1 else self.api.page_size

    def _agreed(self, first: Walk, second: Walk) -> frozenset[str] | None:
        """The keys of two walks that make one whole together."""
        if (keys := self._whole_of(second)) is not None and first.keys <= second.keys:
            return keys
        both = first.keys | second.keys
        is_ended = all(walk.has_ended and walk.error is None for walk in (first, second))
        if is_ended and first.count is not None and first.count == second.count and self.api.counts():
            return frozenset(both) if len(both) == first.count else None
        is_counted = (first.announced or second.announced) and self.api.counts()
        has_paged = len(second.lengths) > 1 or len(both) <= 1
        return frozenset(both) if is_ended and first.keys == second.keys and has_paged and not is_counted else None

    @staticmethod
    def _is_doubtful(first: Walk, second: Walk) -> bool:
        """Whether two walks that make one whole may be those of a server in trouble.

        Two answers of nothing are soon alike; and where the first ended early without an error, so may the second.
        """
        has_lied = first.has_ended and first.error is None and first.keys != second.keys
        return not second.announced and (len(first.keys | second.keys) <= 1 or has_lied)

    def _split(self, window: Window, walk: Walk) -> Iterator[Finding]:
        """A window that is not known to be whole, in halves; or what is wrong with it."""
        reason = _reason(walk)
        halves = window.halves()
        is_long = self._is_too_long(walk)
        is_refused = isinstance(walk.error, RefusedError) and not walk.lengths
        is_allowed = (self.splits if is_long else self.rescues) > 0 and not (is_refused or self.api.is_out_of_time)
        if halves is None or not is_allowed or not self.api.can_split(window):
            yield Gap(str(window), reason)
            return
        if is_long:
            self.splits -= 1
        else:
            self.rescues -= 1
            logger.warning("%s: %s; looking at its halves", window, reason)
        found = set(walk.keys)
        for half in halves:
            for finding in self.cover(half):
                if isinstance(finding, Page):
                    found |= set(map(key_of, finding.features))
                yield finding
        if walk.count is not None and len(found) < walk.count and self.api.counts():
            yield Gap(str(window), f"the server announced {walk.count} items and gave {len(found)}, in its halves too")


def _reason(walk: Walk) -> str:
    """Why a walk is not known to be whole."""
    if walk.error is not None:
        return str(walk.error)
    if walk.count is not None:
        return f"the server announced {walk.count} items and gave {len(walk.keys)}"
    if walk.announced:
        return f"the server announced {' and '.join(map(str, sorted(walk.announced)))} items for one search"
    if not walk.has_ended:
        return f"more than {WALK_ITEMS_MAX} items, and the server can't be asked for parts of a time"
    return f"the server gave {len(walk.keys)} items without saying how many there are, and its pages don't show an end"
