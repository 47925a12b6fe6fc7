"""The doctor: tries a source from its catalog to one chip, and says what is wrong and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any, Literal

import numpy as np

from stacchip_core.chips.chipper import Chipper
from stacchip_core.chips.handles import ref_of
from stacchip_core.errors import StacchipError
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.index.indexer import Indexer, IndexSettings
from stacchip_core.sources.access import is_remote, unsigned_href
from stacchip_core.sources.catalog import discover, open_source
from stacchip_core.sources.cause import cause_of, cause_of_words
from stacchip_core.sources.cog import read_header
from stacchip_core.sources.generic import GENERIC
from stacchip_core.sources.item import ItemSource, StagedItem, assets_of, updated
from stacchip_core.sources.raster import Ratio
from stacchip_core.sources.scene import Scene
from stacchip_core.sources.source import Source

Status = Literal["ok", "warning", "failed", "skipped"]

# What to do, by cause of a failure.
ADVICE = {
    "not-found": "check the address, and that the file is still there",
    "forbidden": "give credentials in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for a bucket), or "
    "--anonymous for a public bucket, --requester-pays for one that charges; some catalogs want their hrefs signed",
    "truncated": "the file is cut off: tell its publisher, or leave the item out; other items may be fine",
    "not-a-raster": "open the asset's address in a browser: a page in the file's place says what the server wants",
    "bad-json": "open the address in a browser: a page in the catalog's place says what the server wants",
    "grid": "--grid asset takes the grid from the files; a QA asset that does not fit needs a profile without it",
    "item": "mend the item, or leave it out; other items may be fine",
    "collection": "name the collection with --collection",
    "refused": "name the folder with --local-root; a host on a private network, or behind a redirect, with --host",
    "profile": "check the profile: names of assets, bands and the QA rule",
    "too-large": "rewrite the file as a Cloud Optimized GeoTIFF",
    "timeout": "try again later; is there a proxy between?",
    "unavailable": "is the address right, and the server up? try again later",
    "defect": "please report this, with the item",
    "other": "see what it says",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried.

    Attributes:
        name: of the check.
        status: "failed": nothing can be indexed like this; "warning": it can, but look; "skipped": not reached.
        found: what was seen.
        todo: what to do; empty where nothing is to be done.
        seconds: how long it took.
    """

    name: str
    status: Status
    found: str = ""
    todo: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the doctor found, in the order it was tried."""

    checks: tuple[Check, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether chips can be had."""
        return not any(check.status == "failed" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"is_healthy": self.is_healthy, "checks": [asdict(check) for check in self.checks]}


@dataclass(slots=True)
class Exam:
    """A source, and what is known of it so far."""

    source: Source
    settings: IndexSettings
    staged: StagedItem | None = None
    scene: Scene | None = None
    index: ChipIndex | None = None

    @property
    def item(self) -> ItemSource:
        """The item that is tried."""
        assert_there(self.staged)
        staged = self.staged or StagedItem({})
        return ItemSource(staged.item, staged.base, self.settings.local_roots, host=staged.host)


def assert_there(value: object) -> None:
    """Checks run in order, so what they build on is there."""
    if value is None:
        raise RuntimeError("a check was run before the one it builds on")


def diagnose(source: Source, settings: IndexSettings) -> Diagnosis:
    """Try a source with one of its items, from the catalog to a chip; after what failed, the rest is skipped.

    No message holds a signed URL, a password or a token.
    """
    exam = Exam(source, settings.model_copy(update={"local_roots": (*settings.local_roots, *source.roots)}))
    checks = list[Check]()
    for name, check in CHECKS.items():
        has_failed = any(one.status == "failed" for one in checks)
        checks.append(Check(name, "skipped") if has_failed else _tried(name, check, exam))
    return Diagnosis(tuple(checks))


def _tried(name: str, check: Callable[[Exam], Check], exam: Exam) -> Check:
    begin = monotonic()
    try:
        found = check(exam)
    except StacchipError as err:
        found = Check(name, "failed", str(err), ADVICE[cause_of(err)])
    except Exception as err:  # a defect of ours is a finding as well
        found = Check(name, "failed", f"{type(err).__name__}: {err}", ADVICE["defect"])
    return Check(name, found.status, clean(found.found), found.todo, round(monotonic() - begin, 3))


def clean(text: str) -> str:
    """A text whose URLs carry neither signatures nor user info."""
    flat = " ".join(text.split())
    return re.sub(
        r"[a-z0-9+]+://[^\s'\"<>()]*[^\s'\"<>():,.;]", lambda found: unsigned_href(found[0]), flat, flags=re.IGNORECASE
    )


def _catalog(exam: Exam) -> Check:
    where = exam.source.url or f"{len(exam.source.items)} item files"
    page = next(discover(exam.source.model_copy(update={"max_items": 1})), [])
    if not page:
        todo = "widen the time and area, and check the ids of collections"
        return Check("catalog", "failed", f"{where} gives no item for what is asked", todo)
    (exam.staged, *_) = page
    if exam.staged.error is not None:
        cause = exam.staged.cause or cause_of_words(exam.staged.error)
        return Check("catalog", "failed", exam.staged.error, ADVICE[cause])
    return Check("catalog", "ok", f"{where} can be read, and gives items")


def _capabilities(exam: Exam) -> Check:
    """What finding new items can rely on: tried, and never assumed."""
    opened = open_source(exam.source)
    if opened.api is None:
        found = "no API: all its items are compared at each run, so what is new, changed or gone is found"
        return Check("capabilities", "ok", found)
    able = {
        "changes can be asked for": opened.has_updates,
        "times can be asked for": opened.has_windows,
        "searches are counted": opened.api.counts(),
    }
    found = ", ".join(f"{what}: {'yes' if is_so else 'no'}" for what, is_so in able.items())
    if not opened.has_updates:
        todo = "changes of old items are found by whole sweeps alone: schedule them"
        return Check("capabilities", "warning", found, todo)
    return Check("capabilities", "ok", found)


def _item(exam: Exam) -> Check:
    item = exam.item.item
    properties, name = item["properties"], f"{item.get('collection') or 'no collection'}/{item['id']}"
    time = properties.get("datetime") or f"{properties.get('start_datetime')} to {properties.get('end_datetime')}"
    found = f"{name} of {time}, {sum(1 for _ in assets_of(item))} assets"
    if not item.get("collection"):
        return Check("item", "warning", found, "the item names no collection: give the warehouse's with a profile")
    if updated(item) is None:
        found = f"{found}, without 'updated': of two forms of it, nothing tells the later"
    return Check("item", "ok", found)


def _bands(exam: Exam) -> Check:
    profile = exam.settings.profile_of(exam.item.item)
    exam.scene = Scene.from_item(exam.item, profile, grid=exam.settings.grid)
    there = [asset.band for asset in exam.scene.assets]
    missing = [name for name in profile.band_names if name not in {*there, *_layers(exam.scene)}]
    found = f"profile {profile.name}: {', '.join(there)}"
    if profile.name == GENERIC:
        todo = "no profile serves this collection: bands are its assets, and clouds are unknown; describe it in YAML"
        return Check("bands", "warning", found, todo)
    if missing:
        return Check(
            "bands", "warning", f"{found}; without {', '.join(missing)}", "chips of this item lack these bands"
        )
    return Check("bands", "ok", found)


def _layers(scene: Scene) -> Iterable[str]:
    return (layer for asset in scene.assets for layer in asset.layers)


def _access(exam: Exam) -> Check:
    """The reference asset's header: whether pixels can be reached at all."""
    scene = _scene(exam)
    asset = scene.asset(scene.reference)
    header = read_header(ref_of(scene, asset, exam.settings.storage, exam.item.local_roots))
    how = "anonymously" if exam.settings.storage.anonymous else "as the environment says"
    where = unsigned_href(asset.href) if is_remote(asset.href) else f"local file {asset.href}"
    found = f"asset {asset.key!r}, {where}: {header.height} x {header.width} {header.dtype}, read {how}"
    height, width = header.block_shape
    if height == 1 or width == header.width > 4096:
        todo = "it is no Cloud Optimized GeoTIFF: each chip reads whole rows; rewrite it in tiles"
        return Check("access", "warning", f"{found}, in blocks of {height} x {width}", todo)
    return Check("access", "ok", found)


def _grid(exam: Exam) -> Check:
    """The declared grid against the header's."""
    scene = _scene(exam)
    asset = scene.asset(scene.reference)
    header = read_header(ref_of(scene, asset, exam.settings.storage, exam.item.local_roots))
    if scene.grid is None:
        if header.grid is None:
            todo = "its pixels have ground control points alone, or no CRS: it must be geocoded first"
            return Check("grid", "failed", f"asset {asset.key!r} has no CRS and transform", todo)
        return Check("grid", "ok", f"{header.grid}, from the header: the item does not say it")
    if scene.ratio_of(asset, header.grid) != Ratio(1, 1):
        return Check("grid", "failed", f"the item says {scene.grid}, the header {header.grid}", ADVICE["grid"])
    return Check("grid", "ok", f"{scene.grid}, by item and header")


def _quality(exam: Exam) -> Check:
    scene = _scene(exam)
    exam.index = Indexer.from_settings(exam.item, exam.settings).create_index()
    table, rule = exam.index.table, exam.settings.profile_of(exam.item.item).qa
    if not len(exam.index):
        todo = "choose a smaller --chip-size, or edge: pad"
        return Check("quality", "failed", f"no chip of {exam.settings.chip_size} px fits in", todo)
    told = []
    for name in ("nodata", "cloud", "shadow", "snow", "water"):
        values = table[f"{name}_fraction"].drop_null().to_numpy()
        told += [f"{name} {100 * float(np.mean(values)):.0f} %"] if len(values) else []
    found = f"{len(exam.index)} chips: {', '.join(told) or 'nothing is known of their quality'}"
    if rule.asset and scene.qa_asset is None:
        todo = f"the item has no QA asset {rule.asset!r}: clouds are unknown, and no threshold leaves a chip out"
        return Check("quality", "warning", found, todo)
    return Check("quality", "ok", found)


def _chip(exam: Exam) -> Check:
    assert_there(exam.index)
    index = exam.index or ChipIndex.__new__(ChipIndex)
    nodata = np.nan_to_num(index.table["nodata_fraction"].to_numpy(zero_copy_only=False).astype(float))
    with Chipper(index, storage=exam.settings.storage, local_roots=exam.item.local_roots) as chips:
        pixels = chips[int(np.argmin(nodata))]
    told = ", ".join(f"{name} {band.min():g} to {band.max():g}" for name, band in list(pixels.items())[:4])
    empty = [name for name, band in pixels.items() if band.min() == band.max()]
    more = f" and {len(pixels) - 4} more" if len(pixels) > 4 else ""
    found = f"{len(pixels)} bands were cut: {told}{more}"
    if empty:
        return Check("chip", "warning", found, f"all pixels of {', '.join(empty)} are alike: look at the item")
    return Check("chip", "ok", found)


def _scene(exam: Exam) -> Scene:
    assert_there(exam.scene)
    return exam.scene or Scene.__new__(Scene)


CHECKS: dict[str, Callable[[Exam], Check]] = {
    "catalog": _catalog,
    "capabilities": _capabilities,
    "item": _item,
    "bands": _bands,
    "access": _access,
    "grid": _grid,
    "quality": _quality,
    "chip": _chip,
}
