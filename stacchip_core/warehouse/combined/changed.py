"""What a collection has changed since a version of it was merged, month by month."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stacchip_core.errors import CorruptWarehouseError, VersionNotFoundError
from stacchip_core.warehouse.entry import Counts
from stacchip_core.warehouse.items import IDENTITY, LIGHT, empty_rows, rows_in, stamped
from stacchip_core.warehouse.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Changed:
    """Item rows of a collection by month, "YYYY-MM".

    Attributes:
        fresh: light rows, with `version`, of items that are live in a form that is not merged yet.
        gone: columns of `IDENTITY` of items whose merged form is live no more; None: nothing that was merged counts.
    """

    fresh: Mapping[str, pa.Table]
    gone: Mapping[str, pa.Table] | None

    @property
    def is_nothing(self) -> bool:
        """Whether all is merged."""
        return self.gone is not None and not self.fresh and not self.gone

    def counts(self) -> Counts:
        """Items that are new to the index, in it in a later form, and gone from it."""
        names = list(IDENTITY)
        fresh = pa.concat_tables([_NOTHING.select(names), *(rows.select(names) for rows in self.fresh.values())])
        gone = pa.concat_tables([_NOTHING.select(names), *(self.gone or {}).values()])
        updated = len(rows_in(fresh, gone))
        return Counts(new=len(fresh) - updated, updated=updated, deleted=len(gone) - updated)


def changed_since(manifest: Manifest, version: int, sha256: str) -> Changed:
    """What changed after a version, at the cost of what changed; all of the collection where that can't be read.

    Raises:
        CorruptWarehouseError: the log has no such version: entries are never removed, so they were lost or replaced.
    """
    try:
        found = manifest.log.read(version).sha256
    except VersionNotFoundError:
        found = ""
    if found != sha256 or version > manifest.version:
        raise CorruptWarehouseError(
            f"the index was made of version {version} of collection {manifest.name!r}, sha256 {sha256[:12]}, and its "
            f"log has {found[:12] or 'none'} there: entries were lost or replaced. Restore them, or leave the "
            "collection out of one merge to take it up as it is now in the next"
        )
    try:
        return _changes(pa.concat_tables([_NOTHING, *manifest.changes_since(version)]))
    except CorruptWarehouseError:  # a checkpoint may know what is damaged here; if not, this says so again
        return everything(manifest)


def everything(manifest: Manifest) -> Changed:
    """All that is live in a collection, as if nothing had been merged."""
    return Changed(_by_month(manifest.states().live, "datetime"), None)


_NOTHING = stamped(empty_rows(LIGHT), 0)


def _changes(rows: pa.Table) -> Changed:
    """First and last of what was done with each item: was it live before, and is it now?

    Raises:
        CorruptWarehouseError: an update does not say which form it replaced.
    """
    rows = rows.filter(pc.not_equal(rows["op"], "failed")).combine_chunks()
    numbered = rows.select(list(IDENTITY)).append_column("place", pa.array(np.arange(len(rows))))
    ends = numbered.group_by(list(IDENTITY)).aggregate([("place", "min"), ("place", "max")])
    first, last = rows.take(ends["place_min"]), rows.take(ends["place_max"])
    if pc.any(pc.and_(pc.equal(first["op"], "update"), pc.is_null(first["was"]))).as_py():
        raise CorruptWarehouseError("an update does not say of when the form was that it replaced")
    gone = first.filter(pc.is_valid(first["was"])).select([*IDENTITY, "was"])
    fresh = last.filter(pc.not_equal(last["op"], "delete"))
    by_month = _by_month(gone, "was")
    return Changed(_by_month(fresh, "datetime"), {month: own.select(list(IDENTITY)) for month, own in by_month.items()})


def _by_month(rows: pa.Table, column: str) -> dict[str, pa.Table]:
    month = rows[column].to_numpy().astype("datetime64[M]").astype(str)
    return {str(one): rows.filter(pa.array(month == one)) for one in np.unique(month)}
