"""Which versions can be opened, and what holds the old ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from stacchip_core.errors import CorruptWarehouseError, InputError, VersionNotFoundError
from stacchip_core.warehouse.care.holds import COLLECTIONS, COMBINED, Pin, deleted_pins, pins
from stacchip_core.warehouse.entry import KINDS, NAME, LogEntry
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.store import Listed, Store
from stacchip_core.warehouse.tags import TAGS, all_tags, read_tag

WORDS = {COLLECTIONS: "collection", COMBINED: "combined index"}

LONGEST_DAYS = 36_500  # what is longer than a hundred years is a slip

Expired = Callable[[str, Sequence[LogEntry]], int]  # versions of a log up to this one are expired


@dataclass(frozen=True, slots=True)
class History:
    """The log of an index, and which of its versions are retained.

    Attributes:
        entries: all of them, oldest first.
        expired: versions up to this one are, unless held.
        held: versions that a tag, a dataset or a retained combined version holds.
    """

    folder: str
    entries: tuple[LogEntry, ...]
    expired: int
    held: frozenset[int]

    @property
    def name(self) -> str:
        """Name of the index."""
        return self.folder.rpartition("/")[2]

    @property
    def retained(self) -> list[int]:
        """Versions that can be opened, ascending."""
        return [e.version for e in self.entries if e.version > self.expired or e.version in self.held]

    @property
    def runs(self) -> list[tuple[int, int]]:
        """First and last of each run of retained versions without a gap."""
        found: list[tuple[int, int]] = []
        for version in self.retained:
            if found and found[-1][1] == version - 1:
                found[-1] = (found[-1][0], version)
            else:
                found.append((version, version))
        return found


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version of an index, for people.

    Attributes:
        items, chips: live in it.
        new, updated, deleted, failed: items that it changed.
        is_readable: False once it has expired and nothing holds it.
        tags: that name it.
    """

    index: str
    version: int
    sha256: str
    operation: str
    created_at: str
    items: int
    chips: int
    new: int
    updated: int
    deleted: int
    failed: int
    is_readable: bool
    tags: tuple[str, ...]


def folder_of(store: Store, index: str) -> str:
    """The folder of an index: "combined/global", "collections/naip", or a name alone, combined indexes first.

    Raises:
        InputError: not a name.
        VersionNotFoundError: lists what there is.
    """
    kind, _, name = index.rpartition("/")
    if not NAME.fullmatch(name) or (kind and kind not in KINDS):
        raise InputError(f"{index!r} is no index: expected <name>, combined/<name> or collections/<name>")
    for one in (kind,) if kind else (COMBINED, COLLECTIONS):
        if has_log(store, f"{one}/{name}"):
            return f"{one}/{name}"
    raise VersionNotFoundError(f"{store.root}: no index {index!r}; there are {', '.join(indexes(store)) or 'none yet'}")


def indexes(store: Store, kinds: Iterable[str] = (COMBINED, COLLECTIONS)) -> list[str]:
    """Folders of all indexes that have a version, also of those whose log lacks entries."""
    folders = [f"{kind}/{name}" for kind in kinds for name in store.folders(kind) if NAME.fullmatch(name)]
    return [folder for folder in folders if has_log(store, folder)]


def has_log(store: Store, folder: str) -> bool:
    """Whether there is any entry of a log; whether all of them are there shows when it is read."""
    log = Log(store, folder)
    try:
        return log.body(1) is not None or log.listed() > 0
    except CorruptWarehouseError:  # there is one, and it can't be read, or one before it is missing
        return True


def asked_for(store: Store, folder: str, version: int | str | None) -> tuple[int | None, str]:
    """The version of an index that a number or a tag means, and the sha256 it is to have; it can be opened.

    Returns:
        None for the newest; "" where no tag says the sha256.

    Raises:
        VersionNotFoundError: no such tag; or the version has expired, and nothing holds it.
        InputError: the tag names a version of another index.
    """
    if version is None:
        return None, ""
    if isinstance(version, str) and version.isdecimal():
        raise InputError(
            f"version {version!r} is text: versions are numbers, such as {int(version)}, and tags are names"
        )
    if not isinstance(version, str):
        check_readable(store, folder, version)
        return version, ""
    tag = read_tag(store, version)
    if tag.index != folder:
        raise InputError(f"tag {tag.name!r} names {tag.index} version {tag.version}, not one of {folder}")
    return tag.version, tag.sha256


def check_sha256(version: int | str | None, wanted: str, found: str) -> None:
    """Refuse a version that is not the one that was tagged.

    Raises:
        CorruptWarehouseError: the log holds another version of that number.
    """
    if wanted not in ("", found):
        raise CorruptWarehouseError(
            f"tag {TAGS}/{version}.json names a version with sha256 {wanted[:12]}, and the log has {found[:12]}"
        )


def check_readable(store: Store, folder: str, version: int) -> None:
    """Refuse an expired version that nothing holds.

    Raises:
        VersionNotFoundError: says which can be read.
    """
    head = Log(store, folder).newest()
    if head is None or not 0 < version <= head.expired:
        return
    held = sorted(one for one in _held_now(store, folder) if 0 < one <= head.expired)
    if version in held:
        return
    which = [*([", ".join(map(str, held))] if held else []), f"{head.expired + 1} to {head.version}"]
    kind, name = folder.split("/")
    raise VersionNotFoundError(
        f"{WORDS[kind]} {name!r} version {version} expired; versions {' and '.join(which)} can be read"
    )


def source_pins(history: History) -> list[Pin]:
    """What the retained versions of a combined index hold of its collections."""
    retained = set(history.retained)
    return [
        Pin(f"{COLLECTIONS}/{source['collection']}", int(source["version"]), str(source["sha256"]), where)
        for entry in history.entries
        if entry.version in retained
        for where in [f"{history.folder}@{entry.version}"]
        for source in entry.sources
    ]


def strange_pins(known: Mapping[str, History], held: Iterable[Pin]) -> Iterator[tuple[Pin, str]]:
    """Pins that name a version which is not there, or is another one; and what is wrong with each."""
    for pin in held:
        entries = known[pin.folder].entries if pin.folder in known else ()
        what = f"{pin.folder} version {pin.version}"
        is_empty_source = pin.version == 0 and pin.key.startswith(COMBINED)  # a collection without a version yet
        if pin.is_deleted or is_empty_source:
            continue
        if not 0 < pin.version <= len(entries):
            yield pin, f"it names {what}, which is not there or can't be trusted"
        elif entries[pin.version - 1].sha256 != pin.sha256:
            yield pin, f"it names {what} with sha256 {pin.sha256[:12]}, the log has another"


def as_logged(folder: str, entries: Sequence[LogEntry]) -> int:
    """Versions of a log up to this one are expired, as its newest entry says."""
    return entries[-1].expired if entries else 0


def never(listed: Listed) -> bool:
    """Whether the grace period of a deleted tag is over: it is not."""
    return False


def histories(
    store: Store, expired: Expired = as_logged, is_over: Callable[[Listed], bool] = never
) -> dict[str, History]:
    """All logs, by folder: what holds versions is read before the logs, combined indexes before collections.

    Args:
        store: where they are.
        expired: which versions of a log are.
        is_over: which traces of deleted tags hold nothing any longer.

    Raises:
        CorruptWarehouseError: a log, tag or lock can't be trusted, or one names a version that is not there.
    """
    held = pins(store)
    held += deleted_pins(store, is_over)  # after the tags: one that is deleted meanwhile has left its trace before
    found: dict[str, History] = {}
    for folder in indexes(store, (COMBINED, COLLECTIONS)):
        found[folder] = history_of(folder, Log(store, folder).entries(), held, expired)
        if folder.startswith(COMBINED):
            held += source_pins(found[folder])
    for pin, what in strange_pins(found, held):
        raise CorruptWarehouseError(f"{store.root}: {pin.key}: {what}")
    return found


def history_of(folder: str, entries: Sequence[LogEntry], held: Iterable[Pin], expired: Expired = as_logged) -> History:
    """One log, with what holds its versions."""
    own = frozenset(pin.version for pin in held if pin.folder == folder)
    return History(folder, tuple(entries), expired(folder, entries), own)


def versions(store: Store, folder: str) -> tuple[VersionInfo, ...]:
    """All versions of an index, oldest first."""
    entries = Log(store, folder).entries()
    tags = [tag for tag in all_tags(store) if tag.index == folder]
    held = _held_now(store, folder) if as_logged(folder, entries) else frozenset()
    return tuple(
        VersionInfo(
            index=folder,
            version=entry.version,
            sha256=entry.sha256,
            operation=entry.operation,
            created_at=entry.created_at,
            items=entry.totals.items,
            chips=entry.totals.chips,
            new=entry.counts.new,
            updated=entry.counts.updated,
            deleted=entry.counts.deleted,
            failed=entry.counts.failed,
            is_readable=entry.version > entries[-1].expired or entry.version in held,
            tags=tuple(tag.name for tag in tags if tag.version == entry.version),
        )
        for entry in entries
    )


def _held_now(store: Store, folder: str) -> frozenset[int]:
    """Versions of an index that tags, datasets or retained combined versions hold."""
    held = pins(store)
    if folder.startswith(COLLECTIONS):
        for combined in indexes(store, (COMBINED,)):
            held = [*held, *source_pins(history_of(combined, Log(store, combined).entries(), held))]
    return frozenset(pin.version for pin in held if pin.folder == folder)
