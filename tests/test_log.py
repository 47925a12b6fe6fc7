"""The log: numbered, chained, exclusive; a writer knows its own commit again, whatever the store answered."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stacchip_core.errors import (
    CommitConflictError,
    CommitUnknownError,
    CorruptWarehouseError,
    StoreError,
    VersionNotFoundError,
)
from stacchip_core.warehouse.entry import Counts, FileInfo, LogEntry, Totals, is_safe_path, sealed
from stacchip_core.warehouse.log import Log, Patience
from stacchip_core.warehouse.store import MemoryStore, Store
from tests.faulty_store import Fault, FaultyStore, fails_before, loses_the_answer, memory_store, refuses, retries_itself

FOLDER = "collections/s2"
NO_WAIT = Patience(seconds=60, sleep=lambda _: None)
GIVES_UP = Patience(seconds=0, sleep=lambda _: None)


def info(name: str = "a", **more: object) -> FileInfo:
    known = {"path": f"{FOLDER}/data/{name}-0.parquet", "role": "data", "size": 10, "sha256": "0" * 64, "rows": 3}
    return FileInfo(**{**known, **more})  # type: ignore[arg-type]


def entry_after(head: LogEntry | None, txn: str = "mine", **more: object) -> LogEntry:
    known = {
        "version": head.version + 1 if head else 1,
        "prev_sha256": head.sha256 if head else "",
        "txn": txn,
        "operation": "append",
        "read_version": head.version if head else 0,
        "added": (info(txn),),
        "collection": "sentinel-2-l2a",
        "counts": Counts(new=1, chips=3),
        "totals": Totals(items=1, chips=3),
    }
    return LogEntry(**{**known, **more})  # type: ignore[arg-type]


def filled(store: Store, count: int) -> Log:
    log = Log(store, FOLDER, NO_WAIT)
    for number in range(count):
        log.append(entry_after(head(log), f"txn-{number}"))
    return log


# --- reading


def test_entries_come_back_as_they_were_written() -> None:
    store = memory_store()
    log = filled(store, 4)
    again = Log(store, FOLDER).entries()
    assert again == log.entries()
    assert [entry.version for entry in again] == [1, 2, 3, 4]
    assert [entry.prev_sha256 for entry in again] == ["", *(entry.sha256 for entry in again[:3])]
    assert store.list(f"{FOLDER}/log")[0] == f"{FOLDER}/log/00000000000000000001.json"


def head(log: Log) -> LogEntry | None:
    """The newest entry, proven by all before it."""
    return next(reversed(log.entries()), None)


def test_an_empty_log_has_no_head() -> None:
    assert (head(Log(memory_store(), FOLDER)), Log(memory_store(), FOLDER).newest()) == (None, None)


def test_newest_and_head_agree_and_follow_what_others_write() -> None:
    store = memory_store()
    log = filled(store, 2)
    reader = Log(store, FOLDER)
    assert reader.newest() == head(reader) == head(log)
    log.append(entry_after(head(log), "later"))
    assert reader.newest() == head(reader) == head(log)
    assert Log(store, FOLDER).newest() == head(log)


def test_an_unknown_version_lists_those_there_are() -> None:
    log = filled(memory_store(), 3)
    assert log.read(2).version == 2
    for version in (0, -1, 4):
        with pytest.raises(VersionNotFoundError, match=rf"no version {version}; it has versions 1 to 3"):
            Log(log.store, FOLDER).read(version)
    with pytest.raises(VersionNotFoundError, match="it has no version yet"):
        Log(memory_store(), FOLDER).read(1)


class ListsLate(MemoryStore):
    """A store whose listings do not know the newest entries yet."""

    def list(self, prefix: str) -> list[str]:
        return super().list(prefix)[:-2]


def test_a_listing_that_lags_behind_hides_no_entry() -> None:
    plain = memory_store()
    log = filled(plain, 5)
    late = ListsLate(plain.root, plain.path("x")[:-2], plain.fs)
    assert head(Log(late, FOLDER)) == head(log) == Log(late, FOLDER).newest()


# --- damage


def test_an_entry_that_no_reader_would_take_is_not_written() -> None:
    log = filled(memory_store(), 1)
    stray = info(path="collections/other/data/a-0.parquet")
    for more in ({"added": (stray,)}, {"added": (info(size=0),)}, {"operation": "rewrite"}):
        with pytest.raises(StoreError, match=rf"log entry {FOLDER}/log/0*2\.json"):
            log.append(entry_after(head(log), **more))
    assert len(Log(log.store, FOLDER).entries()) == 1
    assert log.append(entry_after(head(log))).version == 2


def test_a_newest_entry_that_was_not_written_after_the_one_before_is_named() -> None:
    log = filled(memory_store(), 3)
    data = json.loads(log.store.read(log.key(3)))
    log.store.write(log.key(3), sealed({**data, "prev_sha256": "0" * 64}))
    for read in (Log.newest, Log.entries):
        with pytest.raises(CorruptWarehouseError, match=r"version 3 was written after an entry with sha256 0{12}"):
            read(Log(log.store, FOLDER))


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_missing_entry_is_named(lost: int) -> None:
    log = filled(memory_store(), 4)
    log.store.fs.rm(log.store.path(log.key(lost)))
    for read in (Log.entries, Log.newest):
        with pytest.raises(CorruptWarehouseError, match=rf"0{lost}\.json is missing, though version 4 is there"):
            read(Log(log.store, FOLDER))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_in_any_entry_is_named(data: st.DataObject) -> None:
    store = memory_store()
    log = filled(store, 3)
    number = data.draw(st.integers(1, 3))
    body = bytearray(store.read(log.key(number)))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    store.write(log.key(number), bytes(body))
    try:
        found = Log(store, FOLDER).entries()
    except CorruptWarehouseError as err:
        assert f"{number:020d}.json" in str(err)
    else:
        raise AssertionError(f"byte {place} of entry {number} was changed, and read as {found[number - 1]}")


def test_a_cut_off_entry_is_named() -> None:
    store = memory_store()
    log = filled(store, 1)
    body = store.read(log.key(1))
    for length in range(len(body)):
        store.write(log.key(1), body[:length])
        with pytest.raises(CorruptWarehouseError, match=r"00000000000000000001\.json is not JSON"):
            Log(store, FOLDER).entries()


def test_a_rewritten_entry_breaks_the_chain_by_name() -> None:
    store = memory_store()
    log = filled(store, 3)
    other = replace(log.entries()[1], txn="another", sha256="")
    store.write(log.key(2), other.to_bytes())
    message = r"version 3 was written after an entry with sha256 \w{12}, but"
    with pytest.raises(CorruptWarehouseError, match=message):
        Log(store, FOLDER).entries()
    with pytest.raises(CorruptWarehouseError, match=message):
        Log(store, FOLDER).read(2)


def test_an_entry_under_another_number_is_named() -> None:
    store = memory_store()
    log = filled(store, 2)
    store.write(log.key(3), store.read(log.key(2)))
    with pytest.raises(CorruptWarehouseError, match=r"0003\.json says that it is version 2"):
        Log(store, FOLDER).entries()


def test_a_later_format_is_refused_and_named() -> None:
    store = memory_store()
    log = filled(store, 1)
    data = json.loads(store.read(log.key(1)))
    for changed in ({"format": 2}, {"operation": "explode"}):
        store.write(log.key(1), sealed({**data, **changed}))
        with pytest.raises(StoreError, match=r"(format 2|'explode').*install a newer stacchip-core"):
            Log(store, FOLDER).entries()


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../collections/s2/data/a.parquet",
        "collections/s2/data/../../../a.parquet",
        "collections/s2/data/..%2fa.parquet",
        "http://host/collections/s2/data/a.parquet",
        "collections/s2/log/1.json",
        "collections/s2/data/a/b/c.parquet",
        "collections/other/data/a.parquet",
        "collections/s2/data/a.parquet\n",
        "collections/S2/data/a.parquet",
        "",
    ],
)
def test_paths_in_a_log_stay_in_its_folder(path: str) -> None:
    store = memory_store()
    log = Log(store, FOLDER)
    store.write(log.key(1), entry_after(None, added=(replace(info(), path=path),)).to_bytes())
    with pytest.raises(CorruptWarehouseError, match=r"0001\.json is damaged: (file|it names)"):
        log.entries()
    store.write(log.key(1), entry_after(None, removed=(path,)).to_bytes())
    with pytest.raises(CorruptWarehouseError, match=r"0001\.json is damaged: it names"):
        log.entries()


@given(st.text(max_size=80))
def test_safe_paths_have_no_way_up(path: str) -> None:
    assert not is_safe_path(path) or (".." not in path.split("/") and not path.startswith("/"))


# --- committing


@pytest.mark.parametrize(
    "faults",
    [
        [loses_the_answer],
        [retries_itself],
        [fails_before],
        [fails_before, fails_before, loses_the_answer],
        [fails_before, retries_itself],
    ],
)
def test_a_commit_that_landed_is_a_success_whatever_was_answered(faults: list[Fault]) -> None:
    store = FaultyStore()
    log = Log(store, FOLDER, NO_WAIT)
    store.faults.extend(faults)
    done = log.append(entry_after(None))
    assert done == head(Log(store, FOLDER))
    assert not store.faults


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.sampled_from([fails_before, loses_the_answer, retries_itself]), max_size=4), max_size=8),
    st.integers(0, 3),
)
def test_no_commit_is_lost_or_doubled_under_any_faults(scripts: list[list[Fault]], silent: int) -> None:
    store = FaultyStore()
    log = Log(store, FOLDER, NO_WAIT)
    for number, script in enumerate(scripts):
        newest = head(log)
        store.faults = type(store.faults)(script)
        store.unreadable = silent if script else 0
        log.append(entry_after(newest, f"txn-{number}"))
        store.faults.clear()
        store.unreadable = 0
    assert [entry.txn for entry in Log(store, FOLDER).entries()] == [f"txn-{n}" for n in range(len(scripts))]


def another_first(store: FaultyStore, log: Log) -> Fault:
    def fault(work: Callable[[], None]) -> None:
        store.inner.create(log.key(1), entry_after(None, "theirs").to_bytes())
        work()

    return fault


def test_another_writers_commit_is_a_conflict_that_names_it() -> None:
    store = FaultyStore()
    log = Log(store, FOLDER, NO_WAIT)
    store.faults.append(another_first(store, log))
    with pytest.raises(CommitConflictError, match=r"version 1 was committed by another writer .*transaction theirs"):
        log.append(entry_after(None))
    newest = head(log)
    assert newest is not None and newest.txn == "theirs"


def test_silence_until_the_deadline_is_unknown_and_removes_nothing() -> None:
    store = FaultyStore()
    log = Log(store, FOLDER, GIVES_UP)
    store.faults.append(loses_the_answer)
    store.unreadable = 1
    with pytest.raises(CommitUnknownError, match=r"whether transaction mine landed .*Look at version 1"):
        log.append(entry_after(None))
    newest = head(log)
    assert newest is not None and newest.txn == "mine"


def test_a_store_that_never_takes_it_is_unknown_at_the_deadline() -> None:
    store = FaultyStore()
    store.faults.append(fails_before)
    with pytest.raises(CommitUnknownError, match="nobody answered"):
        Log(store, FOLDER, GIVES_UP).append(entry_after(None))


def test_a_certain_refusal_is_told_at_once() -> None:
    store = FaultyStore()
    store.faults.append(refuses)
    log = Log(store, FOLDER, NO_WAIT)
    with pytest.raises(StoreError, match="403 AccessDenied"):
        log.append(entry_after(None))
    assert head(log) is None


def test_a_refusal_after_an_unclear_attempt_is_not_taken_for_certain() -> None:
    store = FaultyStore()
    store.faults.extend([fails_before, refuses])
    done = Log(store, FOLDER, NO_WAIT).append(entry_after(None))
    assert done.version == 1


def test_threads_racing_to_append_lose_nothing() -> None:
    store = memory_store()
    count, racers = 12, 6

    def work(name: str) -> None:
        log = Log(store, FOLDER, NO_WAIT)
        for number in range(count):
            while True:
                try:
                    log.append(entry_after(head(log), f"{name}-{number}"))
                except CommitConflictError:
                    continue
                break

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    txns = [entry.txn for entry in Log(store, FOLDER).entries()]
    assert sorted(txns) == sorted(f"w{n}-{k}" for n in range(racers) for k in range(count))


# --- the form of an entry


def test_an_entry_keeps_all_its_fields() -> None:
    told = info(bbox=(1.5, -2.0, 3.0, 4.25), start="2024-06-01T00:00:00Z", end="2024-06-02T00:00:00Z", month="2024-06")
    full = entry_after(
        None,
        added=(replace(told, columns=(("eo:cloud_cover", "number"), ("platform", "text")), content="c"),),
        kept=(info("k"),),
        removed=(f"{FOLDER}/data/r-0.parquet",),
        sources=({"url": "https://ä.example", "watermark": None},),
        writer={"host": "h", "pid": 1},
    )
    body = full.to_bytes()
    back = LogEntry.from_bytes(body, f"{FOLDER}/log/1.json")
    assert replace(back, sha256="") == full
    assert back.to_bytes() == body


def test_fields_of_a_later_release_are_left_alone() -> None:
    data = json.loads(entry_after(None).to_bytes())
    data["mood"] = "good"
    data["added"][0]["colour"] = "blue"
    assert LogEntry.from_bytes(sealed(data), f"{FOLDER}/log/1.json").txn == "mine"


def test_a_stray_entry_far_beyond_the_others_is_an_error_at_once() -> None:
    log = filled(memory_store(), 3)
    log.store.write(log.key(10**19), log.store.read(log.key(3)))
    for read in (Log.entries, Log.newest):
        with pytest.raises(CorruptWarehouseError, match=r"0004\.json is missing, though version 1000"):
            read(Log(log.store, FOLDER))
