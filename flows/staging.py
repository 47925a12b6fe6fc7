"""Items on their way from a catalog to the tasks that index them: small values, which travel; the items stay files."""

from __future__ import annotations

from dataclasses import dataclass

from stacchip_core import IndexSettings
from stacchip_core.warehouse.backoff import Backoff


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """Items written down for one task: the key of their file, and their ids."""

    key: str
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StagedPage:
    """Items of a page that are to be indexed for one collection.

    Attributes:
        name: of the collection in the warehouse.
        version: of the collection that the items were compared with.
        same: number of items that are indexed already, as they are or in a later form.
        waiting: number of items that failed before and are not due for another try.
    """

    name: str
    version: int
    same: int
    batches: tuple[StagedBatch, ...]
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the items of a page are compared with what is indexed, and staged.

    Attributes:
        backoff: when items that failed are tried again.
        batch_items: items of a task.
    """

    settings: IndexSettings
    backoff: Backoff
    batch_items: int
