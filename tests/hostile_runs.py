"""Runs over a hostile STAC API, from a seed: what is in the index afterwards against what the server holds."""

from __future__ import annotations

import datetime as dt
import json
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from stacchip_core import Warehouse
from stacchip_core.errors import StacchipError
from stacchip_core.sources import paging, transport, windows
from stacchip_core.sources.source import Source
from stacchip_core.warehouse.followed import Followed
from stacchip_core.warehouse.memory import Following, Memory
from tests.hostile_stac import BEHAVIOURS, COLLECTION, Hostile, serving
from tests.tiny import TINY, tiny_item

JSON = dict[str, Any]
ITEMS = 26
DEADLINE_SECONDS = 3.0  # for finding items in one run
SLACK_SECONDS = 40.0  # for indexing, on a machine that is busy with other things
SWEEP = Following(sweep_hours=0, confirm_hours=0, max_deleted_share=1)
INCREMENT = Following(confirm_hours=0)
_START = dt.datetime(2022, 1, 1, tzinfo=dt.UTC)


@contextmanager
def impatient() -> Iterator[None]:
    """Waits of milliseconds where there are seconds."""
    short = {
        "BACKOFF_SECONDS": 0.0,
        "RETRIES": 2,
        "SILENCE_SECONDS": 1.0,
        "RESPONSE_SECONDS": 1.0,
        "RESPONSE_BYTES_MAX": 2 * 2**20,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paging, "EMPTY_PAGES_MAX", 10)
        patch.setattr(windows, "RESCUES_MAX", 8)
        for name, value in short.items():
            patch.setattr(transport, name, value)
        yield


@dataclass(slots=True)
class Report:
    """What a script came to: what is wrong, and which runs said that they are incomplete."""

    script: tuple[str, ...]
    seed: int
    wrong: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"seed {self.seed}, script {self.script}: {'; '.join(self.wrong)}"


def random_script(seed: int) -> tuple[str, ...]:
    """One to three behaviours; every one of them comes first once in as many seeds as there are."""
    names = sorted(BEHAVIOURS)
    rng = random.Random(seed)
    more = rng.sample(names, rng.choice([0, 0, 1, 1, 2]))
    return tuple(dict.fromkeys([names[seed % len(names)], *more]))


def run_script(script: tuple[str, ...], seed: int) -> Report:
    """Index, change the source, index what changed, and sweep twice; each time against the truth."""
    rng = random.Random(seed)
    server = Hostile({}, script, counts=rng.random() < 0.5, cap=rng.choice([1000, 1000, 12]), seed=seed)
    for number in range(ITEMS):
        _put(server, rng, f"item-{number:02d}")
    report = Report(script, seed)
    with serving(server), impatient():
        one = _World(server, report, _source(server, rng), Warehouse(f"memory://hostile/{uuid.uuid4()}", create=True))
        one.run("first", SWEEP)
        _change(server, rng)
        one.run("increment", INCREMENT)
        one.run("sweep", SWEEP)
        one.run("confirm", SWEEP)
    return report


def _source(server: Hostile, rng: random.Random) -> Source:
    more: JSON = rng.choice(
        [
            {},
            {"bbox": (0.0, 40.0, 20.0, 50.0)},
            {"query": ("platform in tiny-1, tiny-2",)},
            {"datetime": "2021-12-01/2026-01-01"},
        ]
    )
    size = rng.choice([4, 9, 10, 100])
    return Source(
        url=server.url, collections=(COLLECTION,), page_size=size, deadline_minutes=DEADLINE_SECONDS / 60, **more
    )


def _put(server: Hostile, rng: random.Random, name: str, updated: dt.datetime | None = None) -> None:
    when = _START + dt.timedelta(minutes=rng.randrange(3 * 365 * 24 * 60))
    if rng.random() < 0.2:
        when = when.replace(month=6, day=15, hour=0, minute=0)  # many items of one moment
    told = updated or when + dt.timedelta(days=1)
    platform = rng.choice(["tiny-1", "tiny-2"])
    item = tiny_item(name, when=_text(when), href="https://example.invalid/data.tif", platform=platform)
    server.items[name] = {**item, "properties": {**item["properties"], "updated": _text(told)}}


def _change(server: Hostile, rng: random.Random) -> None:
    """Insert items with old datetimes, change some, delete some."""
    now = dt.datetime.now(dt.UTC)
    names = sorted(server.items)
    rng.shuffle(names)
    for name in names[:3]:
        properties = {**server.items[name]["properties"], "updated": _text(now), "platform": "tiny-2", "note": "new"}
        server.items[name] = {**server.items[name], "properties": properties}
    for name in names[3:6]:
        del server.items[name]
    for number in range(3):
        _put(server, rng, f"late-{number}", now)


@dataclass(slots=True)
class _World:
    server: Hostile
    report: Report
    source: Source
    warehouse: Warehouse
    gone: set[str] = field(default_factory=set)
    before: dict[str, JSON] = field(default_factory=dict)

    def run(self, name: str, rules: Following) -> None:
        """One run, and what is wrong after it."""
        self.server.faults_left.clear()
        truth = dict(self.server.items)
        started = time.monotonic()
        done: Followed | None = None
        try:
            done = self.warehouse.follow(self.source, rules=rules, profile=TINY, chip_size=16)
            said = "; ".join(map(str, done.gaps))
        except StacchipError as err:  # it says that it could not be read at all
            said = str(err) or "?"
        if time.monotonic() - started > DEADLINE_SECONDS + SLACK_SECONDS:
            self.report.wrong.append(f"{name}: took {time.monotonic() - started:.0f} s")
        is_complete = done is not None and done.is_complete
        if not is_complete:
            self.report.incomplete.append(f"{name}: {said}")
        self._check(name, truth, is_complete)

    def _check(self, name: str, truth: dict[str, JSON], is_complete: bool) -> None:
        live = self._live()
        wrong = self.report.wrong
        if lost := {key for key in self.before if key in truth and key not in live}:
            wrong.append(f"{name}: deleted {sorted(lost)}, which the server has")
        is_exact = name != "increment" or self._has_updates()
        if is_complete and is_exact:
            missing = sorted(truth.keys() - live.keys())
            old = sorted(key for key in truth.keys() & live.keys() if live[key] != truth[key]["properties"])
            wrong += [f"{name}: says complete and lacks {missing}"] if missing else []
            wrong += [f"{name}: says complete and holds another form of {old}"] if old else []
        if (
            is_complete
            and name == "confirm"
            and not self._was_incomplete("sweep")
            and (more := live.keys() - truth.keys())
        ):
            wrong.append(f"{name}: still holds {sorted(more)}, gone in two sweeps")
        self.before = live

    def _was_incomplete(self, name: str) -> bool:
        return any(said.startswith(f"{name}: ") for said in self.report.incomplete)

    def _has_updates(self) -> bool:
        sources = self.warehouse.collection(COLLECTION).sources if self.warehouse.collections() else ()
        return bool(Memory.of(sources, self.source.summary()).known.get("updated"))

    def _live(self) -> dict[str, JSON]:
        if not self.warehouse.collections():
            return {}
        rows = self.warehouse.collection(COLLECTION).items(["item_id", "item"]).to_pylist()
        return {row["item_id"]: json.loads(row["item"])["properties"] for row in rows}


def _text(when: dt.datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")
