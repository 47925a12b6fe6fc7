"""What is done to keep a warehouse well: the methods of `Warehouse` for versions, tags, files and their repair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta

from stacchip_core.errors import InputError
from stacchip_core.warehouse.care.expire import Expiry, expire
from stacchip_core.warehouse.care.problems import Report
from stacchip_core.warehouse.care.repair import Repair, repair
from stacchip_core.warehouse.care.retention import VersionInfo, folder_of, versions
from stacchip_core.warehouse.care.vacuum import GRACE, Vacuum, vacuum
from stacchip_core.warehouse.care.verify import verify
from stacchip_core.warehouse.diff import Diff, diff
from stacchip_core.warehouse.store import Store
from stacchip_core.warehouse.tags import Tag, all_tags, drop_tag, put_tag
from stacchip_core.warehouse.version import IndexVersion


class InCare(ABC):
    """A warehouse as something to be cared for.

    Attributes:
        store: where everything is kept.
    """

    store: Store

    @abstractmethod
    def index(self, index: str, version: int | str | None = None) -> IndexVersion:
        """A version of an index."""

    def versions(self, index: str) -> tuple[VersionInfo, ...]:
        """All versions of an index, oldest first."""
        return versions(self.store, folder_of(self.store, index))

    def tag(self, tag: str, index: str, version: int | str | None = None) -> Tag:
        """Name a version of an index, and hold it: it will not expire. The same tag again is harmless.

        Raises:
            InputError: the name is taken by another version.
        """
        one = self.index(index, version)
        return put_tag(self.store, Tag(tag, folder_of(self.store, index), one.version, one.sha256))

    def untag(self, tag: str) -> bool:
        """Delete a tag; whether there was one. Its version may expire now; vacuum leaves it for the grace period."""
        return drop_tag(self.store, tag)

    def tags(self) -> list[Tag]:
        """All tags, by name."""
        return all_tags(self.store)

    def diff(self, index: str, old: int | str, new: int | str | None = None) -> Diff:
        """What differs between two versions of an index; `new` None: the newest."""
        return diff(self.index(index, old), self.index(index, new))

    def expire(self, index: str, *, keep: int = 30, days: float = 90, dry_run: bool = False) -> Expiry:
        """Let go of versions that are neither among the newest `keep` nor younger than `days`; see `expire`.

        No file is removed; with `dry_run`, not even an entry is written.

        Raises:
            InputError: less than a day, in which parts that were committed may be committed again.
        """
        if days < 1:
            raise InputError(f"{index}: versions expire after a day at the earliest; got days={days:g}")
        return expire(self.store, folder_of(self.store, index), keep=keep, days=days, dry_run=dry_run)

    def vacuum(self, *, dry_run: bool = True, grace: timedelta = GRACE) -> Vacuum:
        """Find files that no version needs, and remove them unless it is a dry run; see `vacuum`."""
        return vacuum(self.store, dry_run=dry_run, grace=grace)

    def verify(self, *, deep: bool = False) -> Report:
        """Prove that all versions can be read as they were written; with `deep`, byte by byte; see `verify`."""
        return verify(self.store, deep=deep)

    def repair(self, *, dry_run: bool = True) -> Repair:
        """Tell what would mend the warehouse, and do it unless it is a dry run; see `repair`."""
        return repair(self.store, dry_run=dry_run)
