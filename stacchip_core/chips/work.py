"""Where a dataset lies while it is made, and what its steps leave for each other.

datasets/<name>/
  work/<revision>/plan.json           created once: fixes which chips go into which shard; the first takes the name
  work/<revision>/records/*.json      written once a group is cut or a shard whole: a killed run carries on from these
  work/<revision>/cut/*               pixels of groups of items, as they are cut, until the revision is finished
  parts/<sha>.parquet                 chips of a shard or group in their order, and their scenes; named for its content
  shards/<shard>-<sha>.<form>         pixels, named for their content
  chips-<sha>.parquet                 every chip: its shard and offset, or why it could not be read
  dataset.json                        the lock, written last: what it does not name is not part of the dataset
  locks/<revision>.json               locks of all revisions
"""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from stacchip_core.chips.lock import DatasetLock, DatasetPlan, GroupRecord, M, ShardRecord, parsed, readable_json
from stacchip_core.errors import InputError, ObjectExistsError, ObjectNotFoundError
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.warehouse.store import Store

T = TypeVar("T")

_REQUESTS = 8  # at a time


@dataclass(frozen=True, slots=True)
class Work:
    """One revision of a dataset in the making; the first is 1, and each update makes the next."""

    store: Store
    name: str
    revision: int = 1

    def key(self, part: str) -> str:
        """Key in the warehouse of a part of the dataset."""
        return f"datasets/{self.name}/{part}"

    def own(self, part: str) -> str:
        """Key of a part of this revision's work."""
        return self.key(f"work/{self.revision:04d}/{part}")

    @property
    def is_begun(self) -> bool:
        """Whether it has a plan."""
        return self.store.exists(self.own("plan.json"))

    def begin(self, plan: DatasetPlan) -> bool:
        """Make this the revision's plan, unless another run was first."""
        try:
            self.store.create(self.own("plan.json"), readable_json(plan))
        except ObjectExistsError:
            return False
        return True

    def plan(self) -> DatasetPlan:
        """The revision's plan.

        Raises:
            InputError: there is none.
        """
        found = self._load(DatasetPlan, self.own("plan.json"))
        if found is None:
            raise InputError(f"dataset {self.name!r}: not begun in {self.store.root}; prepare it first")
        return found

    def save_part(self, part: ChipIndex) -> str:
        """Keep chips and their scenes; the key of their file."""
        with TemporaryDirectory(prefix="stacchip-") as folder:
            local = Path(folder) / "part.parquet"
            part.write(local)
            content = local.read_bytes()
        key = f"parts/{hashlib.sha256(content).hexdigest()[:24]}.parquet"
        self.store.write(self.key(key), content)
        return key

    def part(self, key: str) -> ChipIndex:
        """Chips and their scenes."""
        return ChipIndex.read(io.BytesIO(self.store.read(self.key(key))))

    def shard_record(self, number: int) -> ShardRecord | None:
        """What is known of a shard that was written."""
        return self._load(ShardRecord, self.own(f"records/shard-{number:05d}.json"))

    def save_shard_record(self, record: ShardRecord) -> None:
        """Tell that a shard is whole."""
        self.store.write(self.own(f"records/shard-{record.info.number:05d}.json"), readable_json(record))

    def group_record(self, number: int) -> GroupRecord | None:
        """What is known of a group that was cut."""
        return self._load(GroupRecord, self.own(f"records/group-{number:05d}.json"))

    def save_group_record(self, record: GroupRecord) -> None:
        """Tell that a group is cut."""
        self.store.write(self.own(f"records/group-{record.number:05d}.json"), readable_json(record))

    def new_cut(self, number: int) -> str:
        """A fresh key for the pixels of a group: of two runs that cut it at once, each has a file of its own."""
        return f"work/{self.revision:04d}/cut/{number:05d}-{uuid.uuid4()}.bin"

    def clear(self) -> None:
        """Let go of the pixels of groups, once they are in shards."""
        for key in self.store.list(self.own("cut")):
            self.store.delete(key)

    def _load(self, kind: type[M], key: str) -> M | None:
        try:
            return parsed(kind, self.store.read(key), f"{self.store.root}/{key}")
        except ObjectNotFoundError:
            return None


def load_lock(store: Store, name: str) -> DatasetLock | None:
    """The lock of a dataset; None where it has none yet."""
    key = f"datasets/{name}/dataset.json"
    try:
        lock = parsed(DatasetLock, store.read(key), f"{store.root}/{key}")
    except ObjectNotFoundError:
        return None
    if lock.spec.name != name:
        raise InputError(
            f"{store.root}/{key} is of dataset {lock.spec.name!r}: a copy can be read, and not made further"
        )
    return lock


def current(store: Store, name: str) -> Work:
    """The revision that is worked at; of a dataset that is finished, the one that its lock names."""
    lock = load_lock(store, name)
    if lock is None:
        return Work(store, name)
    following = Work(store, name, lock.revision + 1)
    return following if following.is_begun else Work(store, name, lock.revision)


def in_threads(task: Callable[[int], T], count: int, threads: int = _REQUESTS) -> list[T]:
    """Results of tasks side by side, in their order; by default as many as small requests of a store are worth."""
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(task, number) for number in range(count)]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:  # after an error, what has not begun is left
                future.cancel()
