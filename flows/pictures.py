"""Pictures of what runs made: contact sheets of chips, and maps of where items lie, as addresses that pages show.

They are drawn from the light columns of item rows and from few chips, however many an index holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from shapely.geometry.base import BaseGeometry

from flows.results import IndexOutcome, MergeOutcome
from flows.tasks import run_logger
from stacchip_core import ChipIndex, Chipper, Dataset, IndexSettings, IndexVersion, Storage, Warehouse
from stacchip_core.chips.maps import WIDE_PX, PlaceMap, boxes_as_outlines, maps_of
from stacchip_core.chips.pictures import (
    ARTIFACT_STYLE,
    CHIPS_SHOWN,
    Sheet,
    coverage_of,
    png_of,
    png_uri,
    preview_bands,
    sample_of,
    spread,
    svg_uri,
)
from stacchip_core.chips.preview import SheetStyle
from stacchip_core.chips.selection import scene_keys
from stacchip_core.errors import StacchipError
from stacchip_core.index.grid import GridSpec
from stacchip_core.sources.scene import Scene

logger = logging.getLogger(__name__)

OUTLINES_SHOWN = 5000  # items of a map

ITEMS_SHOWN = 12  # items of a collection that chips are taken of
CLEAR = 0.25  # chips with larger fractions of nodata or cloud are shown only where there are no others
PAGE_STYLE = SheetStyle(chip_px=176, columns=4)


@dataclass(frozen=True, slots=True)
class Reading:
    """How the pixels for contact sheets are reached."""

    access: Storage = field(default_factory=Storage)
    local_roots: tuple[str, ...] = ()


def drawn(draw: Callable[[], dict[str, str]]) -> dict[str, str]:
    """The pictures that `draw` makes; none where it can't: what a run did is never lost over its pictures."""
    try:
        return draw()
    except Exception:
        run_logger().warning("this run's pictures could not be drawn", exc_info=True)
        return {}


def index_pictures(warehouse: Warehouse, settings: IndexSettings, outcome: IndexOutcome) -> dict[str, str]:
    """Of what an indexing run brought: where its collections lie, and some of the new chips; title -> address."""
    changed = [tally for tally in outcome.collections if tally.new + tally.updated]
    if not changed:
        return {}
    versions = [warehouse.collection(tally.name, tally.version) for tally in changed]
    pictures = coverage_pictures(versions)
    reading = Reading(settings.storage, settings.local_roots)
    for version in versions:
        rows = _item_rows(version, settings.spec)
        fresh = pa.array(outcome.fresh.get(version.name, ()), pa.string())
        sheet = _sheet(version, rows.filter(pc.is_in(rows["item_id"], fresh)), reading, ARTIFACT_STYLE)
        if sheet:
            pictures[f"New chips of {version.name}"] = png_uri(sheet.png)
    return pictures


def merge_pictures(warehouse: Warehouse, outcome: MergeOutcome) -> dict[str, str]:
    """Where the items of a combined index lie; title -> address."""
    return coverage_pictures([warehouse.combined(outcome.name, outcome.version)])


def dataset_pictures(path: str, storage: Storage) -> dict[str, str]:
    """Where the chips of a dataset lie, and a contact sheet of each collection; title -> address.

    The dataset's page is written beside it.
    """
    dataset = Dataset.open(path, storage)
    dataset.write_report()
    samples = [sample for name in sorted(dataset.lock.bands) if (sample := sample_of(dataset, name))]
    sheets = {f"Chips of {one.collection}": png_uri(one.sheet(ARTIFACT_STYLE).png) for one in samples}
    whole, *places = coverage_of(dataset)
    maps = {"Coverage": svg_uri(whole.svg), **{f"Coverage, {place.title}": svg_uri(place.svg) for place in places}}
    return {**maps, **sheets}


def coverage_pictures(versions: Sequence[IndexVersion]) -> dict[str, str]:
    """Where the items of some versions lie, in all and place by place; title -> address."""
    first, *places = coverage_maps(versions)
    return {
        "Coverage": svg_uri(first.svg),
        **{f"Coverage, {place.title}": svg_uri(place.svg) for place in places},
    }


def sheet_of_version(version: IndexVersion, reading: Reading, style: SheetStyle = ARTIFACT_STYLE) -> Sheet | None:
    """A few chips of a collection, cut from their scenes; None where there are none, or they can't be read.

    Of a collection that is indexed at several sizes, chips of the first.
    """
    rows = _item_rows(version)
    if not len(rows):
        return None
    size, stride, edge = (rows[name][0].as_py() for name in ("size_px", "stride_px", "edge"))
    return _sheet(version, _item_rows(version, GridSpec(size, stride, edge)), reading, style)


def coverage_maps(versions: Sequence[IndexVersion], *, small_px: int = WIDE_PX) -> list[PlaceMap]:
    """Maps of the items of some collections, or of a combined index: of all first, then of places far apart.

    Args:
        versions: whose live items.
        small_px: width of the maps where there are several.
    """
    return maps_of(outlines_of(versions), small_px=small_px)


def outlines_of(versions: Sequence[IndexVersion]) -> dict[str, list[BaseGeometry]]:
    """Boxes around the chips of live items by collection id, sorted; of very many items only some of each."""
    bounds: dict[str, list[pa.Array]] = {}
    for version in versions:
        for name, boxes in _boxes_by_collection(version.items(["key", "item_id", "bbox"])):
            bounds.setdefault(name, []).append(boxes)
    shown = OUTLINES_SHOWN // max(len(bounds), 1)
    return {name: _some(pa.concat_arrays(boxes), shown) for name, boxes in sorted(bounds.items())}


def _boxes_by_collection(rows: pa.Table) -> Iterator[tuple[str, pa.Array]]:
    """Collection ids of item rows, and the boxes of their items; a key is the collection's id, "/", the item's id."""
    rows = rows.filter(pc.is_valid(rows["bbox"]))
    ends = pc.subtract(pc.subtract(pc.utf8_length(rows["key"]), pc.utf8_length(rows["item_id"])), 1)
    for end in pc.unique(ends).to_pylist():
        own = rows.filter(pc.equal(ends, end))
        names = pc.utf8_slice_codeunits(own["key"], 0, end)
        for name in pc.unique(names).to_pylist():
            yield name, own.filter(pc.equal(names, name))["bbox"].combine_chunks()


def _some(boxes: pa.Array, shown: int) -> list[BaseGeometry]:
    """Outlines of at most `shown` boxes, evenly chosen."""
    chosen = boxes.take(pa.array(spread(len(boxes), shown)))
    return boxes_as_outlines(np.stack([chosen.field(side).to_numpy() for side in ("xmin", "ymin", "xmax", "ymax")]))


def _item_rows(version: IndexVersion, spec: GridSpec | None = None) -> pa.Table:
    """Rows of the items of a collection that have chips, with a `spec` of those cut so: where their chips are."""
    rows = version.items(["item_id", "size_px", "stride_px", "edge", "file", "row_group"])
    rows = rows.filter(pc.is_valid(rows["file"]))
    if spec is None:
        return rows
    is_cut_so = pc.and_(pc.equal(rows["size_px"], spec.size), pc.equal(rows["stride_px"], spec.stride))
    return rows.filter(pc.and_(is_cut_so, pc.equal(rows["edge"], spec.edge)))


def _sheet(version: IndexVersion, items: pa.Table, reading: Reading, style: SheetStyle) -> Sheet | None:
    """A few chips of some items of a collection, all of one size, stride and edge."""
    if not len(items):
        return None
    few = items.take(pa.array(spread(len(items), ITEMS_SHOWN)))
    spec = GridSpec(*(few[name][0].as_py() for name in ("size_px", "stride_px", "edge")))
    rows = _pick(_chips_of(version, few))
    try:
        scenes = version.scenes(scene_keys(rows), spec)
        bands = _shown_bands(next(iter(scenes.values())))
        index = ChipIndex(rows, scenes, (spec,))
        with Chipper(index, bands, masked=True, storage=reading.access, local_roots=reading.local_roots) as chipper:
            chips = [chip for _, chip in chipper]
    except StacchipError as err:
        logger.warning("no contact sheet of %s: %s", version.name, err)
        return None
    return Sheet(png_of(chips, style), f"{len(chips)} chips, shown as {', '.join(bands)}")


def _chips_of(version: IndexVersion, items: pa.Table) -> pa.Table:
    """Chips of few items of a collection; of its data files only their row groups are read."""
    groups: dict[str, list[int]] = {}
    for row in items.select(["file", "row_group"]).to_pylist():
        groups.setdefault(row["file"], []).append(row["row_group"])
    layout = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    filesystem = version.store.arrow_filesystem
    fragments = [
        layout.make_fragment(version.store.path(file), filesystem, row_groups=sorted(own))
        for file, own in groups.items()
    ]
    return ds.FileSystemDataset(fragments, version.schema, layout, filesystem).to_table()


def _pick(rows: pa.Table) -> pa.Table:
    """A few chips, spread evenly over all of little nodata and cloud, or over all where there are none."""
    nodata = np.nan_to_num(rows["nodata_fraction"].to_numpy().astype(np.float32))
    cloud = np.nan_to_num(rows["cloud_fraction"].to_numpy().astype(np.float32))
    clear = rows.filter(pa.array((nodata <= CLEAR) & (cloud <= CLEAR)))
    ordered = (clear if len(clear) else rows).sort_by("chip_id")
    return ordered.take(pa.array(spread(len(ordered), CHIPS_SHOWN)))


def _shown_bands(scene: Scene) -> tuple[str, ...]:
    """The bands that the scene's profile shows as colours, as far as the scene has them; else its reference."""
    return tuple(band for band in preview_bands(scene.profile) if band in scene.band_names) or (scene.reference,)
