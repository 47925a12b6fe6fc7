"""The steps of the demo, each shown as a line, each checked against what it promises."""

from __future__ import annotations

import datetime as dt
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from markupsafe import Markup
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.artifacts import PROGRESS_LISTENER
from flows.config import WarehouseConfig
from flows.demo.places import LATER_PASS
from flows.demo.report import DatasetCard, Figure, MapCard, Report, Step, write_report
from flows.demo.scenes import add_scene, build_demo
from flows.demo.survey import collection_cards, combined_rows
from flows.environment import start_server
from flows.index_items import IndexConfig, index_items
from flows.materialize_chips import MaterializeConfig, materialize_chips
from flows.merge_indexes import MergeConfig, merge_indexes
from flows.pictures import Reading, coverage_maps
from flows.results import IndexOutcome, MaterializeOutcome, MergeOutcome
from stacchip_core import Dataset, Warehouse
from stacchip_core.chips.choices import BandChoice
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.errors import StacchipError
from stacchip_core.sources.source import Source

COLLECTIONS = ("sentinel-2-l2a", "landsat-c2-l2", "sentinel-1-rtc", "naip")
COMBINED = "world"
DATASET = "rgb-nir"
BANDS = {
    "sentinel-2-l2a": ("red", "green", "blue", "nir"),
    "landsat-c2-l2": ("red", "green", "blue", "nir08"),
    "naip": ("red", "green", "blue", "nir"),
}
CHIPS = 96
MAP_PX = 400  # three maps side by side in the report
SNIPPET = """\
from stacchip_core import Warehouse

version = Warehouse("{root}").combined("{name}")
clear = version.dataset().to_table(columns=["chip_id", "cloud_fraction", "geometry"])"""

Listing = dict[str, tuple[int, int]]


class DemoError(StacchipError):
    """A step of the demo did not do what it promises."""


@dataclass(slots=True)
class Demo:
    """One run of the demo: where it works, what it shows, what it has done so far."""

    folder: Path
    console: Console
    steps: list[Step] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def scenes(self) -> Path:
        """Folder of the static catalog."""
        return self.folder / "scenes"

    @property
    def warehouse(self) -> Path:
        """Folder of the warehouse."""
        return self.folder / "warehouse"

    @property
    def seconds(self) -> float:
        """Since the demo began."""
        return time.monotonic() - self.started

    def say(self, title: str, result: str, seconds: float, *, is_good: bool = True) -> None:
        """One line for a step that is done."""
        mark = "[green]✓[/]" if is_good else "[red]✗[/]"
        line = f"{mark} {seconds:6.1f} s  {title:<28} [dim]{escape(result)}[/]"
        self.console.print(line, highlight=False, soft_wrap=True)

    @contextmanager
    def working(self, title: str) -> Iterator[Callable[[str], None]]:
        """Show that a step is going on; gives a function that says what it is at."""
        with self.console.status(title) as status:
            yield lambda what: status.update(f"{title}: {escape(what)}")


def run_demo(demo: Demo) -> int:
    """All steps, the report and the summary; the exit code."""
    _clear(demo)
    _draw_scenes(demo)
    _start_server(demo)
    _index(demo, "Index four collections", _expect_all_new)
    before = list_files(demo.warehouse)
    _index(demo, "Index again", lambda outcome: _expect_nothing(outcome, before, list_files(demo.warehouse)))
    _add_scene(demo)
    _index(demo, "Index with the scene added", _expect_one)
    merged = _merge(demo)
    made = _materialize(demo)
    report = _report(demo, merged, made)
    return _finish(demo, report)


def list_files(folder: Path) -> Listing:
    """Every file below `folder`: when it was written (ns) and its size."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _clear(demo: Demo) -> None:
    """A fresh start: what an earlier demo made goes, but for the scenes that it began with."""
    demo.folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(demo.warehouse, ignore_errors=True)
    (demo.folder / "report.html").unlink(missing_ok=True)
    for added in demo.scenes.glob(f"*/*_{LATER_PASS.day}_*/"):
        shutil.rmtree(added)


def _draw_scenes(demo: Demo) -> None:
    begun, drawn = time.monotonic(), list[str]()

    def on_scene(item_id: str) -> None:
        drawn.append(item_id)
        at(f"{len(drawn)} drawn, {item_id}")

    with demo.working("Draw scenes") as at:
        build_demo(demo.scenes, on_scene)
    count = len(list(demo.scenes.glob("*/*/*.json")))
    size = sum(size for _, size in list_files(demo.scenes).values()) / 1e6
    kept = "" if drawn else ", there already"
    demo.say("Draw scenes", f"{count} scenes of four sensors, {size:.0f} MB{kept}", time.monotonic() - begun)


def _add_scene(demo: Demo) -> None:
    begun, names = time.monotonic(), list[str]()
    with demo.working("Add a scene"):
        add_scene(demo.scenes, on_scene=names.append)
    demo.say("Add a scene", ", ".join(names), time.monotonic() - begun)


def _start_server(demo: Demo) -> None:
    begun = time.monotonic()
    title = "Start Prefect's own server (its first start takes half a minute)"
    with demo.working(title):
        start_server()
    demo.say("Start Prefect's own server", "ephemeral, SQLite", time.monotonic() - begun)


def _index(demo: Demo, title: str, check: Callable[[IndexOutcome], str]) -> None:
    """One indexing run over the whole catalog, all four collections."""
    config = IndexConfig(
        warehouse=WarehouseConfig(root=str(demo.warehouse)),
        source=Source(url=str(demo.scenes / "catalog.json"), collections=COLLECTIONS),
        batch_items=2,
        max_workers=2,
    )
    begun = time.monotonic()
    with demo.working(title) as at, listening(at):
        outcome = index_items(config)
    seconds, total = time.monotonic() - begun, outcome.total
    problem, result = "", ""
    try:
        result = check(outcome)
    except DemoError as err:
        problem = str(err)
    demo.say(title, result or problem, seconds, is_good=not problem)
    numbers = (total.new, total.updated, total.same, total.failed, total.chips)
    demo.steps.append(Step(title, numbers, seconds, result or problem, is_good=not problem))


def _expect_all_new(outcome: IndexOutcome) -> str:
    total = outcome.total
    if total.failed or total.same or not total.new or {t.name for t in outcome.collections} != set(COLLECTIONS):
        raise DemoError(f"expected new items of {', '.join(COLLECTIONS)}; found {outcome.collections}")
    return f"{total.new} new items, {total.chips:,} chips"


def _expect_nothing(outcome: IndexOutcome, before: Listing, after: Listing) -> str:
    total = outcome.total
    if total.new or total.updated or total.failed:
        raise DemoError(f"expected nothing new, found {total}")
    if changed := sorted(set(before.items()) ^ set(after.items())):
        raise DemoError(f"nothing was new, but {len(changed)} files were written: {changed[0][0]}")
    return f"0 new, nothing written ({len(after)} files compared)"


def _expect_one(outcome: IndexOutcome) -> str:
    total = outcome.total
    if (total.new, total.updated, total.failed) != (1, 0, 0):
        raise DemoError(f"expected exactly 1 new item, found {total}")
    return f"exactly 1 new item, {total.chips:,} chips"


def _merge(demo: Demo) -> MergeOutcome:
    begun = time.monotonic()
    with demo.working("Merge") as at, listening(at):
        outcome = merge_indexes(
            MergeConfig(warehouse=WarehouseConfig(root=str(demo.warehouse)), name=COMBINED, collections=COLLECTIONS)
        )
    seconds = time.monotonic() - begun
    result = f"{outcome.name}@{outcome.version}: {outcome.items} items, {outcome.chips:,} chips"
    demo.say("Merge to one index", result, seconds)
    demo.steps.append(Step("Merge", (None, None, None, None, outcome.chips), seconds, result, is_good=True))
    return outcome


def demo_spec() -> ChipSpec:
    """Chips of three sensors, clear and whole ones."""
    return ChipSpec(
        name=DATASET,
        index=COMBINED,
        bands=tuple(BandChoice(collection=name, bands=bands) for name, bands in BANDS.items()),
        max_cloud=0.2,
        max_nodata=0.05,
        limit=CHIPS,
        seed=7,
        shard_size=48,
    )


def _materialize(demo: Demo) -> MaterializeOutcome:
    config = MaterializeConfig(
        warehouse=WarehouseConfig(root=str(demo.warehouse)), spec=demo_spec(), local_roots=(str(demo.scenes.resolve()),)
    )
    begun = time.monotonic()
    with demo.working("Materialize") as at, listening(at):
        outcome = materialize_chips(config)
    seconds, is_good = time.monotonic() - begun, outcome.chips > 0 and not outcome.failed
    result = f"{outcome.chips} chips in {outcome.shards} shards, {outcome.size_bytes / 1e6:.0f} MB"
    demo.say("Materialize RGB-NIR chips", result, seconds, is_good=is_good)
    numbers = (None, None, None, outcome.failed, outcome.chips)
    demo.steps.append(Step("Materialize", numbers, seconds, result, is_good=is_good))
    return outcome


@contextmanager
def listening(at: Callable[[str], None]) -> Iterator[None]:
    """While in the block, flows of this process tell their progress to `at`."""
    token = PROGRESS_LISTENER.set(at)
    try:
        yield
    finally:
        PROGRESS_LISTENER.reset(token)


def _report(demo: Demo, merged: MergeOutcome, made: MaterializeOutcome) -> Path:
    begun = time.monotonic()
    with demo.working("Write the report"):
        warehouse = Warehouse(demo.warehouse)
        cards = collection_cards(warehouse, Reading(local_roots=(str(demo.scenes.resolve()),)))
        versions = [warehouse.collection(card.name) for card in cards]
        lock = Dataset.open(made.path).lock
        page = Report(
            title="An index of every chip, and a dataset cut from it",
            lead=f"The demo of {dt.datetime.now(dt.UTC):%d %B %Y, %H:%M} UTC: made-up scenes of four sensors, indexed, "
            "indexed again, merged and materialized on local disk.",
            figures=(
                Figure("collections", str(len(cards))),
                Figure("items", f"{merged.items:,}"),
                Figure("chips indexed", f"{merged.chips:,}"),
                Figure("combined index", f"{merged.name}@{merged.version}"),
                Figure("chips in the dataset", f"{made.chips:,}"),
                Figure("seconds", f"{demo.seconds:.0f}"),
            ),
            steps=tuple(demo.steps),
            maps=tuple(MapCard(one.title, Markup(one.svg)) for one in coverage_maps(versions, small_px=MAP_PX)),
            collections=cards,
            combined=combined_rows(warehouse, merged.name),
            dataset=DatasetCard.of(lock, made.path),
            snippet=SNIPPET.format(root=demo.warehouse, name=merged.name),
            footer=f"stacchip-core {version('stacchip-core')}. This page is one file and loads nothing.",
        )
        path = write_report(demo.folder / "report.html", page)
    demo.say("Write the report", f"{path.stat().st_size / 1e6:.1f} MB, one file", time.monotonic() - begun)
    return path


def _finish(demo: Demo, report: Path) -> int:
    """The summary; the exit code."""
    table = Table(title=f"\nDone in {demo.seconds:.0f} s", title_justify="left", title_style="bold", box=None)
    for name in ("run", "new", "updated", "same", "failed", "chips", "seconds"):
        table.add_column(name, justify="left" if name == "run" else "right", style="dim" if name == "seconds" else "")
    for step in demo.steps:
        numbers = ["–" if number is None else f"{number:,}" for number in step.numbers]
        table.add_row(step.title, *numbers, f"{step.seconds:.1f}")
    demo.console.print(table)
    failed = [step for step in demo.steps if not step.is_good]
    for step in failed:
        demo.console.print(f"[bold red]{step.title}[/]: {escape(step.outcome)}")
    demo.console.print(f"\nLook at [bold]{report}[/]", highlight=False)
    return 1 if failed else 0
