"""What a warehouse should hold, in plain dicts; and what it does hold, read without the code under test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stacchip_core.warehouse.contract import Store
from tests.warehouse_rows import Piece

Place = tuple[str, int]  # key of the item, chip size


# --- the model


@dataclass(frozen=True, slots=True)
class Held:
    """A piece in the state of a collection, and the version that it is from."""

    piece: Piece
    version: int

    @property
    def form(self) -> tuple[str, str]:
        """Fingerprint and recipe."""
        return self.piece.form, self.piece.recipe


@dataclass(frozen=True)
class State:
    """A collection as it should be: one dict each for what is live, failed, and deleted."""

    live: Mapping[Place, Held] = field(default_factory=dict)
    failed: Mapping[Place, Held] = field(default_factory=dict)
    deleted: Mapping[Place, Held] = field(default_factory=dict)

    def chips(self) -> list[str]:
        """Ids of all live chips, sorted."""
        return sorted(chip for held in self.live.values() for chip in held.piece.chip_ids)

    def outline(self) -> tuple[dict[Place, tuple[str, str]], dict[Place, tuple[str, str]]]:
        """Forms of what is live and of what has failed."""
        live, failed = ({place: held.form for place, held in own.items()} for own in (self.live, self.failed))
        return live, failed


def after_commit(state: State, pieces: Iterable[Piece], *, seen: int, now: int, settled: Container[int] = ()) -> State:
    """The state after a run that read version `seen` has committed its pieces as version `now`.

    Those at places of `settled`, which an earlier commit of the same files has dealt with, change nothing.
    """
    live, failed, deleted = dict(state.live), dict(state.failed), dict(state.deleted)
    for number, piece in _one_of_each(pieces):
        place = (piece.key, piece.size)
        if number in settled or not is_news(state, piece, seen):
            continue
        if piece.failure:
            failed[place] = Held(piece, now)
            continue
        live[place] = Held(piece, now)
        failed.pop(place, None)
        deleted.pop(place, None)
    return State(live, failed, deleted)


def after_delete(state: State, item_ids: Iterable[str], *, seen: State, seen_version: int, now: int) -> State:
    """The state after items were removed, at all chip sizes, by a run that saw the state `seen`.

    A form that came meanwhile stays; a failure that was known goes off the list.
    """
    wanted = set(item_ids)
    live, failed, deleted = dict(state.live), dict(state.failed), dict(state.deleted)
    known = {**seen.failed, **seen.live}
    for place, held in known.items():
        if held.piece.item_id not in wanted:
            continue
        now_live, now_failed = state.live.get(place), state.failed.get(place)
        if now_live is not None and now_live.form != held.form:
            continue
        if now_live is None and (now_failed is None or now_failed.version > seen_version):
            continue
        live.pop(place, None)
        failed.pop(place, None)
        deleted[place] = Held(held.piece, now)
    return State(live, failed, deleted)


def is_news(state: State, piece: Piece, seen: int) -> bool:
    """Whether a piece changes the state, said once more in plain words."""
    place, form = (piece.key, piece.size), (piece.form, piece.recipe)
    live, failed, deleted = state.live.get(place), state.failed.get(place), state.deleted.get(place)
    if live is not None and live.form == form:
        return failed is not None and failed.version <= seen and not piece.failure
    if live is not None and _dated_before(piece, live.piece):
        return False
    if deleted is not None and deleted.version > seen and not _dated_before(deleted.piece, piece):
        return False
    if piece.failure:
        return failed is None or failed.form != form
    if live is None:
        return True
    has_overlapped = live.version > seen and not _dated_before(live.piece, piece)
    return not (has_overlapped and form < live.form)


def _dated_before(one: Piece, other: Piece) -> bool:
    return one.updated is not None and other.updated is not None and one.updated < other.updated


def _one_of_each(pieces: Iterable[Piece]) -> list[tuple[int, Piece]]:
    """Of several forms of an item in one run, the last by its source; each with its place in the run."""
    chosen: dict[Place, tuple[int, Piece]] = {}
    for number, piece in enumerate(pieces):
        _, before = chosen.get((piece.key, piece.size), (0, None))
        if before is None or _rank(piece) > _rank(before):
            chosen[piece.key, piece.size] = (number, piece)
    return list(chosen.values())


def _rank(piece: Piece) -> tuple[bool, float, str, str]:
    return not piece.failure, float("-inf") if piece.updated is None else piece.updated, piece.form, piece.recipe


# --- an independent reader


@dataclass(frozen=True)
class Folded:
    """A collection as its files have it at one version: rows of items files, by place."""

    live: Mapping[Place, Mapping[str, Any]] = field(default_factory=dict)
    failed: Mapping[Place, Mapping[str, Any]] = field(default_factory=dict)

    def outline(self) -> tuple[dict[Place, tuple[str, str]], dict[Place, tuple[str, str]]]:
        """Forms of what is live and of what has failed."""
        live, failed = (
            {place: (row["fingerprint"], row["recipe"]) for place, row in own.items()}
            for own in (self.live, self.failed)
        )
        return live, failed


class Reader:
    """Reads logs and files by the description of the format alone, and remembers what it has read.

    Every call of `extend` proves what has come: numbers without a gap, the hash chain, sizes and hashes of all files.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.bodies: dict[str, list[bytes]] = {}
        self.entries: dict[str, list[dict[str, Any]]] = {}
        self.folded: dict[str, list[Folded]] = {}
        self._chips: dict[str, list[list[str]]] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {}

    def extend(self, folder: str, keys: Sequence[str] | None = None, *, prove: bool = True) -> list[dict[str, Any]]:
        """Entries of a log that were not there before.

        Args:
            folder: "collections/<name>" or "combined/<name>".
            keys: of its log entries, sorted; None: ask the store.
            prove: also prove the files of these entries, and that they are there.
        """
        listed = self.store.list(f"{folder}/log") if keys is None else keys
        assert list(listed) == [f"{folder}/log/{n:020d}.json" for n in range(1, len(listed) + 1)], "a gap in the log"
        bodies = self.bodies.setdefault(folder, [])
        entries = self.entries.setdefault(folder, [])
        folded = self.folded.setdefault(folder, [Folded()])
        assert len(listed) >= len(entries), "the log has become shorter"
        fresh = listed[len(bodies) :]
        for key in fresh:
            body = self.store.read(key)
            entry = json.loads(body)
            before = hashlib.sha256(bodies[-1]).hexdigest() if bodies else ""
            assert entry["version"] == len(bodies) + 1, f"{key} says that it is version {entry['version']}"
            assert entry["prev_sha256"] == before, f"{key} breaks the chain"
            for info in entry["added"] if prove else ():
                self.prove(info)
            bodies.append(body)
            entries.append({**entry, "sha256": hashlib.sha256(body).hexdigest()})
            folded.append(self._fold(folded[-1], entry) if folder.startswith("collections/") else Folded())
        return entries[len(entries) - len(fresh) :]

    def prove(self, info: Mapping[str, Any]) -> None:
        """A file that an entry names is there, whole."""
        body = self.store.read(info["path"])
        assert len(body) == info["size"], f"{info['path']} has another size"
        assert hashlib.sha256(body).hexdigest() == info["sha256"], f"{info['path']} was changed"

    def forget(self, folder: str, before: int) -> None:
        """Let go of the states of versions before one, which nobody will ask for."""
        states = self.folded[folder]
        for number in range(min(before, len(states))):
            states[number] = Folded()

    def on(self, store: Store) -> Reader:
        """A reader of a copy of the store, that knows what this one knows."""
        other = Reader(store)
        other.bodies = {folder: list(known) for folder, known in self.bodies.items()}
        other.entries = {folder: list(known) for folder, known in self.entries.items()}
        other.folded = {folder: list(known) for folder, known in self.folded.items()}
        other._chips, other._rows = dict(self._chips), dict(self._rows)
        return other

    def head(self, folder: str) -> int:
        """Number of the newest entry that was read."""
        return len(self.entries.get(folder, ()))

    def chips_at(self, folder: str, version: int) -> list[str]:
        """Ids of all chips of a version, sorted, from its files."""
        if folder.startswith("combined/"):
            entry = self.entries[folder][version - 1]
            infos = [info for info in (*entry["kept"], *entry["added"]) if info["role"] == "data"]
            return sorted(chip for info in infos for group in self._groups(info["path"]) for chip in group)
        return sorted(chip for row in self.folded[folder][version].live.values() for chip in self.chips_of(row))

    def chips_of(self, row: Mapping[str, Any]) -> list[str]:
        """Chip ids that an item row points to."""
        if not row["rows"]:
            return []
        offset = row.get("offset") or 0
        return self._groups(row["file"])[row["row_group"]][offset : offset + row["rows"]]

    def _fold(self, before: Folded, entry: Mapping[str, Any]) -> Folded:
        live, failed = dict(before.live), dict(before.failed)
        for info in entry["added"]:
            for row in self.item_rows(info["path"]) if info["role"] == "items" else ():
                place = (row["key"], row["size_px"])
                if row["op"] == "failed":
                    failed[place] = row
                    continue
                failed.pop(place, None)
                live.pop(place, None)
                if row["op"] != "delete":
                    live[place] = row
        return Folded(live, failed)

    def item_rows(self, path: str) -> list[dict[str, Any]]:
        """Light rows of an items file."""
        if path not in self._rows:
            names = ["key", "size_px", "fingerprint", "recipe", "op", "file", "row_group", "offset", "rows"]
            table = pq.read_table(pa.BufferReader(self.store.read(path)))
            self._rows[path] = table.select([name for name in names if name in table.schema.names]).to_pylist()
        return self._rows[path]

    def _groups(self, path: str) -> list[list[str]]:
        """Chip ids of a data file by row group; read once, as files never change."""
        if path not in self._chips:
            with pq.ParquetFile(pa.BufferReader(self.store.read(path))) as file:
                self._chips[path] = [
                    file.read_row_group(group, columns=["chip_id"])["chip_id"].to_pylist()
                    for group in range(file.num_row_groups)
                ]
        return self._chips[path]


def check_collection(reader: Reader, folder: str, version: int) -> None:
    """No chip twice, and the totals of the entry agree with what its files hold."""
    chips, entry = reader.chips_at(folder, version), reader.entries[folder][version - 1]
    assert len(set(chips)) == len(chips), f"{folder}@{version} holds a chip twice"
    found = {"items": len(reader.folded[folder][version].live), "chips": len(chips)}
    assert entry["totals"] == found, f"{folder}@{version}: totals {entry['totals']}, found {found}"


def check_combined(reader: Reader, folder: str, version: int) -> None:
    """A version of a combined index is the union of the collection versions that it pins."""
    entry = reader.entries[folder][version - 1]
    expected: list[str] = []
    for source in entry["sources"]:
        own = f"collections/{source['collection']}"
        assert source["sha256"] == reader.entries[own][source["version"] - 1]["sha256"], "it pins another version"
        expected += reader.chips_at(own, source["version"])
    found = reader.chips_at(folder, version)
    assert found == sorted(expected), f"{folder}@{version} is not the union of its sources"
    assert len(set(found)) == len(found), f"{folder}@{version} holds a chip twice"
    assert entry["totals"]["chips"] == len(found), f"{folder}@{version}: totals are wrong"


def digest(version: Any) -> str:
    """Hash of all that a version says: its chip rows and its item rows, in a fixed order, by the code under test."""
    chips = version.dataset().to_table(columns=["chip_id", "item_id", "datetime", "size_px", "nodata_fraction"])
    items = version.items()
    told = hashlib.sha256(version.sha256.encode())
    for table, names in ((chips, ["chip_id"]), (items, ["key", "size_px"])):
        ordered = table.sort_by([(name, "ascending") for name in names])
        told.update(json.dumps(ordered.to_pylist(), default=str, sort_keys=True).encode())
    return told.hexdigest()
