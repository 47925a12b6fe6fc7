"""Which live items a source does not have any more, and when that is sure enough to delete them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from stacchip_core.errors import ReadError
from stacchip_core.sources.catalog import OpenSource
from stacchip_core.sources.item import StagedItem
from stacchip_core.sources.windows import Covered, Gap, Window
from stacchip_core.warehouse.again import could_hold
from stacchip_core.warehouse.manifest import Manifest
from stacchip_core.warehouse.memory import MARKS_KEPT, Following, Memory, mark_of, moment, text_of

ALWAYS_DELETED = 10  # items: a share of a small collection is soon more than a hundredth


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done after a whole sweep.

    Attributes:
        gone: ids of items to delete.
        memory: what is remembered then.
        notice: what people should know, or "".
    """

    gone: tuple[str, ...]
    memory: Memory
    notice: str = ""


@dataclass(slots=True)
class Stock:
    """The items of a collection as a sweep begins: the live ones, and those that have failed and never were.

    Attributes:
        rows: light item rows with version, each item once.
    """

    manifest: Manifest
    rows: pa.Table

    @classmethod
    def of(cls, manifest: Manifest) -> Stock:
        """The items of a collection's version."""
        states = manifest.states()
        is_news = pc.invert(pc.is_in(states.failed["key"], states.live["key"]))
        live = pa.concat_tables([states.live, states.failed.filter(is_news)]).combine_chunks()
        first = live.append_column("place", pa.array(range(len(live)), pa.int64()))
        places = first.group_by("key").aggregate([("place", "min")])["place_min"]
        return cls(manifest, live.take(places.combine_chunks().sort()))

    def absent(self, covered: Covered, opened: OpenSource) -> Iterator[str | StagedItem | Gap]:
        """What a window that is whole lacks, though the source would list it there.

        An API is asked for each such item by itself: what it has then is found, and the window was not whole.

        Yields:
            The key of an item that is not there any more; an item that is; or a gap.
        """
        for key, item_id, item in self._candidates(covered, opened):
            if opened.api is None:
                yield key
                continue
            try:
                found = opened.look_up(key.removesuffix(f"/{item_id}"), item_id)
            except ReadError as err:
                yield Gap(f"item {item_id}", f"no search lists it, and asked for by itself: {err}")
                continue
            if found is None:
                yield key
                continue
            yield found
            if found.error is None and _is_in(covered.window, item) and _is_in(covered.window, found.item):
                yield Gap(str(covered.window), f"the server has item {item_id} and lists it in no page")

    def ids(self, marks: set[str]) -> tuple[str, ...]:
        """Ids of the items with these marks."""
        keys, ids = self.rows["key"].to_pylist(), self.rows["item_id"].to_pylist()
        return tuple(item_id for key, item_id in zip(keys, ids, strict=True) if mark_of(key) in marks)

    def _candidates(self, covered: Covered, opened: OpenSource) -> Iterator[tuple[str, str, Mapping[str, object]]]:
        """Key, id and JSON of live items in a window that were not found in it and are of the source."""
        kept = [pc.invert(pc.is_in(self.rows["key"], pa.array(sorted(covered.keys), pa.string())))]
        window, when = covered.window, self.rows["datetime"]
        if window.start is not None:
            kept.append(pc.greater_equal(when, pa.scalar(window.start, when.type)))
        if window.end is not None:
            kept.append(pc.less_equal(when, pa.scalar(window.end, when.type)))
        rows = self.rows.filter(reduce(pc.and_, kept)).slice(0, MARKS_KEPT)
        has_failed = pc.equal(rows["op"], "failed")
        for is_failed, own in ((False, rows.filter(pc.invert(has_failed))), (True, rows.filter(has_failed))):
            items = self.manifest.rows_of(own, ["key", "item_id", "item", "found_as"], has_failed=is_failed)
            for key, item_id, text, name in zip(*(column.to_pylist() for column in items.columns), strict=True):
                item = json.loads(text)
                if opened.source.matches(item) and (not is_failed or could_hold(opened.source, name or "")):
                    yield key, item_id, item


def judge(stock: Stock, memory: Memory, rules: Following, now: dt.datetime) -> Verdict:
    """After a whole sweep: what it and an earlier one did not have is deleted, unless that is suspiciously much.

    Args:
        stock: what was live as it began.
        memory: what it did not have, and what earlier ones did not.
        rules: how far apart they have to be, and how much is suspicious.
        now: the store's clock; no worker's own decides what is deleted.
    """
    absent = set(memory.absent)
    since = {mark: when for when in sorted(memory.missing, reverse=True) for mark in memory.missing[when]}
    known = {mark: since.get(mark, text_of(now)) for mark in absent}
    limit = timedelta(hours=rules.confirm_hours)
    is_due = {mark for mark, when in known.items() if mark in since and now - moment(when) >= limit}
    gone = stock.ids(is_due)
    if notice := _too_many(len(gone), stock, rules):
        gone, is_due = (), set()
    waiting: dict[str, list[str]] = {}
    for mark in sorted(known.keys() - is_due):
        waiting.setdefault(known[mark], []).append(mark)
    return Verdict(gone, replace(memory, missing=waiting), notice)


def _too_many(number: int, stock: Stock, rules: Following) -> str:
    total = len(stock.rows)
    is_much = number > rules.max_deleted or number > rules.max_deleted_share * total
    if number <= ALWAYS_DELETED or not is_much:
        return ""
    share = number / total
    return (
        f"collection {stock.manifest.name!r}: {number} of {total} items are gone from the source in two sweeps, more "
        f"than max_deleted={rules.max_deleted} and max_deleted_share={rules.max_deleted_share:g} allow; none was "
        f"deleted. If the source did delete them, run once with max_deleted={number} and "
        f"max_deleted_share={min(1.0, share + 0.01):.2f}"
    )


def _is_in(window: Window, item: Mapping[str, object]) -> bool:
    """Whether an item's own datetime lies in a window."""
    properties = item.get("properties")
    text = properties.get("datetime") if isinstance(properties, Mapping) else None
    if not isinstance(text, str):
        return False
    try:
        when = moment(text.replace("Z", "+00:00"))
    except ValueError:
        return False
    early = dt.datetime.min.replace(tzinfo=dt.UTC)
    late = dt.datetime.max.replace(tzinfo=dt.UTC)
    return (window.start or early) <= when <= (window.end or late)
