"""Pictures of what runs made: contact sheets of chips, and where items lie, as addresses that pages show."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.maps import coverage_maps
from flows.outcome import IndexOutcome
from stacchip_core import ChipIndex, Chipper, Dataset, IndexSettings, IndexVersion, Storage, Warehouse
from stacchip_core.chips.preview import SheetStyle, contact_sheet
from stacchip_core.chips.selection import scene_keys
from stacchip_core.errors import StacchipError
from stacchip_core.sources.cog import encode_png
from stacchip_core.sources.profiles import load_profile
from stacchip_core.sources.scene import Scene

logger = logging.getLogger(__name__)

CHIPS_SHOWN = 12
CLEAR = 0.25  # chips with larger fractions of nodata or cloud are shown only where there are no others
PAGE_STYLE = SheetStyle(chip_px=176, columns=4)
ARTIFACT_STYLE = SheetStyle(chip_px=96, columns=6)  # kept in Prefect's database with every run: a few 100 kB


@dataclass(frozen=True, slots=True)
class Sheet:
    """A contact sheet as a PNG, and what is on it in words."""

    png: bytes
    text: str


def sheet_of_version(
    version: IndexVersion,
    *,
    items: Sequence[str] = (),
    access: Storage | None = None,
    local_roots: Sequence[str] = (),
    style: SheetStyle = ARTIFACT_STYLE,
) -> Sheet | None:
    """A few chips of a collection, cut from their scenes; None where there are none, or they can't be read.

    Args:
        version: of a collection.
        items: ids of the items to take chips of; none: any.
        access: how the items' assets are reached.
        local_roots: folders below which local assets may be read.
        style: its look.
    """
    filters = pc.field("item_id").isin(list(items)) if items else None
    columns = ["chip_id", "nodata_fraction", "cloud_fraction"]
    chosen = _pick(version.dataset().to_table(columns=columns, filter=filters))
    if not chosen:
        return None
    rows = version.dataset().to_table(filter=pc.field("chip_id").isin(chosen)).sort_by("chip_id")
    try:
        scenes = version.scenes(scene_keys(rows))
        bands = _shown_bands(next(iter(scenes.values())))
        chipper = Chipper(ChipIndex(rows, scenes, ()), bands, masked=True, storage=access, local_roots=local_roots)
        chips = [chip for _, chip in chipper]
    except StacchipError as err:
        logger.warning("no contact sheet of %s: %s", version.name, err)
        return None
    return Sheet(_png(chips, style), f"{len(chips)} chips, shown as {', '.join(bands)}")


def sheet_of_dataset(dataset: Dataset, collection: str) -> Sheet | None:
    """A few chips of one collection of a dataset, as they are in its shards; None where there are none."""
    places = np.flatnonzero(pc.equal(dataset.chips["collection"], collection).to_numpy())
    if not len(places):
        return None
    chosen = places[_spread(len(places))]
    chips = [dataset[int(place)] for place in chosen]
    bands = tuple(chips[0])[:3] if len(chips[0]) >= 3 else tuple(chips[0])[:1]
    shown = [{band: chip[band] for band in bands} for chip in chips]
    return Sheet(_png(shown, ARTIFACT_STYLE), f"{len(chips)} chips, shown as {', '.join(bands)}")


def index_pictures(warehouse: Warehouse, settings: IndexSettings, outcome: IndexOutcome) -> dict[str, str]:
    """Of what an indexing run brought: where its collections lie, and some of the new chips; title -> address."""
    changed = [tally for tally in outcome.collections if tally.new + tally.updated]
    if not changed:
        return {}
    versions = [warehouse.collection(tally.name, tally.version) for tally in changed]
    pictures = coverage_pictures(versions)
    for version in versions:
        sheet = sheet_of_version(
            version,
            items=outcome.fresh.get(version.name, ()),
            access=settings.storage,
            local_roots=settings.local_roots,
        )
        if sheet:
            pictures[f"New chips of {version.name}"] = png_uri(sheet.png)
    return pictures


def dataset_pictures(dataset: Dataset) -> dict[str, str]:
    """A contact sheet of each collection of a dataset; title -> address."""
    sheets = {name: sheet_of_dataset(dataset, name) for name in sorted(dataset.lock.bands)}
    return {f"Chips of {name}": png_uri(sheet.png) for name, sheet in sheets.items() if sheet}


def coverage_pictures(versions: Sequence[IndexVersion]) -> dict[str, str]:
    """Where the items of some versions lie, in all and place by place; title -> address."""
    first, *places = coverage_maps(versions)
    return {
        "Coverage": svg_uri(first.svg),
        **{f"Coverage, {place.title}": svg_uri(place.svg) for place in places},
    }


def png_uri(png: bytes) -> str:
    """A PNG as an address that pages show without fetching anything."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def svg_uri(svg: str) -> str:
    """An SVG as such an address: dark on white, since an image can't see the colours of the page around it."""
    svg = svg.replace("color:inherit", "color:#1b1f24;background:#ffffff", 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _pick(rows: pa.Table) -> list[str]:
    """Ids of a few chips, spread evenly over all of little nodata and cloud, or over all where there are none."""
    nodata = np.nan_to_num(rows["nodata_fraction"].to_numpy().astype(np.float32))
    cloud = np.nan_to_num(rows["cloud_fraction"].to_numpy().astype(np.float32))
    is_clear = (nodata <= CLEAR) & (cloud <= CLEAR)
    ids = sorted(rows.filter(pa.array(is_clear)).column("chip_id").to_pylist() or rows["chip_id"].to_pylist())
    return [ids[place] for place in _spread(len(ids))]


def _spread(count: int) -> NDArray[np.int64]:
    """At most `CHIPS_SHOWN` places of `count`, evenly apart."""
    shown = min(count, CHIPS_SHOWN)
    return ((np.arange(shown) + 0.5) * count / max(shown, 1)).astype(np.int64)


def _shown_bands(scene: Scene) -> tuple[str, ...]:
    """The bands that the scene's profile shows as colours, as far as the scene has them; else its reference."""
    try:
        preview = load_profile(scene.profile).preview
    except StacchipError:  # a profile of the user's own, which this machine may not have
        preview = ()
    return tuple(band for band in preview if band in scene.band_names) or (scene.reference,)


def _png(chips: Sequence[Mapping[str, NDArray[Any]]], style: SheetStyle) -> bytes:
    pictures, masks = zip(*map(_picture, chips), strict=True)
    return encode_png(contact_sheet(pictures, valid=masks, style=style))


def _picture(chip: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A chip as (1 or 3, height, width), and where it was measured.

    Two bands are radar polarizations in linear power: shown in decibels, with their difference as the third colour.
    """
    pixels = np.concatenate([np.ma.getdata(band) for band in chip.values()])
    masks = np.concatenate([np.ma.getmaskarray(np.ma.asarray(band)) for band in chip.values()])
    is_valid = np.logical_not(masks.any(axis=0))
    if len(pixels) == 2:
        power = 10 * np.log10(np.maximum(pixels.astype(np.float32), 1e-6))
        return np.stack([power[0], power[1], power[0] - power[1]]), is_valid
    return (pixels[:3] if len(pixels) >= 3 else pixels[:1]), is_valid
