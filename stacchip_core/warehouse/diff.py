"""What differs between two versions of an index: items, and the chips they bring."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stacchip_core.warehouse.combined.parts import read_part_items
from stacchip_core.warehouse.entry import FileInfo
from stacchip_core.warehouse.items import IDENTITY, empty_rows
from stacchip_core.warehouse.version import CollectionVersion, IndexVersion

_COLUMNS = (*IDENTITY, "item_id", "fingerprint", "recipe", "rows")
_KINDS = ("added", "removed", "changed")


@dataclass(frozen=True)
class Diff:
    """What one version has and another has not.

    Attributes:
        index: "combined/<name>" or "collections/<name>".
        old, new: the versions compared.
        added: items, at one chip size, stride and edge, that only the new version holds: `IDENTITY`, `item_id`, `rows`.
        removed: those that only the old one holds.
        changed: those that both hold, in another form or under another recipe; `rows_before` beside `rows`.
    """

    index: str
    old: int
    new: int
    added: pa.Table
    removed: pa.Table
    changed: pa.Table

    @cached_property
    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Items and chips that are added, removed and changed, by collection id; changed chips are the new ones."""
        found: dict[str, dict[str, dict[str, int]]] = defaultdict(
            lambda: {what: dict.fromkeys(_KINDS, 0) for what in ("items", "chips")}
        )
        for kind in _KINDS:
            table = getattr(self, kind)
            columns = (table[name].to_pylist() for name in ("key", "item_id", "rows"))
            for key, item_id, rows in zip(*columns, strict=True):  # items, not chips
                own = found[key.removesuffix(f"/{item_id}")]
                own["items"][kind] += 1
                own["chips"][kind] += rows
        return {name: found[name] for name in sorted(found)}

    @property
    def is_empty(self) -> bool:
        """Whether both versions hold the same items in the same form."""
        return not any(len(getattr(self, kind)) for kind in _KINDS)

    def to_json(self) -> dict[str, Any]:
        """Counts, and the items by what happened to them, as plain values."""
        items = {kind: getattr(self, kind).to_pylist() for kind in _KINDS}
        return {"index": self.index, "old": self.old, "new": self.new, "counts": self.counts, **items}


def diff(old: IndexVersion, new: IndexVersion) -> Diff:
    """Compare two versions of one index; files that both list are not read."""
    folder = "collections" if isinstance(new, CollectionVersion) else "combined"
    before, after = _rows_to_compare(old, new)
    sides = {
        name: pa.table({**{column: table[column] for column in IDENTITY}, **_renamed(table, name)})
        for name, table in (("before", before), ("after", after))
    }
    both = sides["before"].join(sides["after"], list(IDENTITY), join_type="full outer")
    was, is_now = pc.is_valid(both["recipe_before"]), pc.is_valid(both["recipe_after"])
    is_other = pc.or_(
        pc.not_equal(both["fingerprint_before"], both["fingerprint_after"]),
        pc.not_equal(both["recipe_before"], both["recipe_after"]),
    )
    return Diff(
        f"{folder}/{new.name}",
        old.version,
        new.version,
        added=_listed(both.filter(pc.invert(was)), "after"),
        removed=_listed(both.filter(pc.invert(is_now)), "before"),
        changed=_listed(both.filter(pc.fill_null(is_other, False)), "after", with_before=True),
    )


def _rows_to_compare(old: IndexVersion, new: IndexVersion) -> tuple[pa.Table, pa.Table]:
    if isinstance(old, CollectionVersion):
        return old.items(_COLUMNS), new.items(_COLUMNS)
    before, after = ({info.path: info for info in one.entry.files("items")} for one in (old, new))
    return _rows(old, before, after), _rows(new, after, before)


def _rows(version: IndexVersion, own: dict[str, FileInfo], other: dict[str, FileInfo]) -> pa.Table:
    """Item rows of the files of a combined version that the other version does not list."""
    tables = [read_part_items(version.store, info, _COLUMNS) for path, info in own.items() if path not in other]
    return pa.concat_tables([empty_rows(_COLUMNS), *tables])


def _renamed(table: pa.Table, side: str) -> dict[str, pa.ChunkedArray]:
    """Columns other than those that identify; recipe and fingerprint are never null here."""
    filled = {name: pc.fill_null(table[name], "") for name in ("fingerprint", "recipe")}
    return {f"{name}_{side}": filled.get(name, table[name]) for name in _COLUMNS if name not in IDENTITY}


def _listed(rows: pa.Table, side: str, *, with_before: bool = False) -> pa.Table:
    columns = {name: rows[name] for name in IDENTITY}
    columns |= {"item_id": rows[f"item_id_{side}"], "rows": rows[f"rows_{side}"]}
    columns |= {"rows_before": rows["rows_before"]} if with_before else {}
    return pa.table(columns).sort_by([(name, "ascending") for name in IDENTITY])
