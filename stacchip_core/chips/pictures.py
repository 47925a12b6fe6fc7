"""Pictures of a dataset, drawn from its table and from few of its chips, however many it holds."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from stacchip_core.chips.charts import Histogram
from stacchip_core.chips.maps import PlaceMap, maps_of
from stacchip_core.chips.preview import SheetStyle, contact_sheet
from stacchip_core.errors import StacchipError
from stacchip_core.sources.cog import encode_png
from stacchip_core.sources.profiles import load_profile

if TYPE_CHECKING:
    from stacchip_core.chips.dataset import Dataset

logger = logging.getLogger(__name__)

CHIPS_SHOWN = 12
CHIPS_COUNTED = 24  # of a collection, whose pixels make its histograms
OUTLINES_SHOWN = 20_000  # chips of a map
PAGE_STYLE = SheetStyle(chip_px=176, columns=6)
ARTIFACT_STYLE = SheetStyle(chip_px=96, columns=6)  # kept in Prefect's database with every run: a few 100 kB

Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A contact sheet as a PNG, and what is on it in words."""

    png: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """Some chips of one collection of a dataset, evenly spread over it; masked where there is no measurement.

    Attributes:
        shown: bands that make the colours of a picture.
        chips: band -> masked array (layers, height, width).
    """

    collection: str
    shown: tuple[str, ...]
    chips: tuple[Mapping[str, Pixels], ...]

    def sheet(self, style: SheetStyle = PAGE_STYLE) -> Sheet:
        """A contact sheet of some of them."""
        few = [self.chips[int(place)] for place in spread(len(self.chips), CHIPS_SHOWN)]
        shown = [{band: chip[band] for band in self.shown} for chip in few]
        return Sheet(png_of(shown, style), f"{len(few)} chips, shown as {', '.join(self.shown)}")

    def histograms(self) -> dict[str, Histogram]:
        """How the pixels of each band spread."""
        return {band: self._histogram(band) for band in self.chips[0]}

    def _histogram(self, band: str) -> Histogram:
        values = [np.ma.compressed(chip[band]).astype(np.float32) for chip in self.chips]
        unknown = sum(int(np.ma.getmaskarray(chip[band]).sum()) for chip in self.chips)
        return Histogram.of_pixels(np.concatenate(values), unknown)


def sample_of(dataset: Dataset, collection: str) -> Sample | None:
    """Some chips of a collection; None where it has none."""
    places = np.flatnonzero(pc.equal(dataset.chips["collection"], collection).to_numpy())
    if not len(places):
        return None
    chosen = [int(places[place]) for place in spread(len(places), CHIPS_COUNTED)]
    chips = tuple(_masked(dataset[place], dataset.nodata_of(place)) for place in chosen)
    profile = dataset.lock.profiles.get(collection, "")
    return Sample(collection, _shown(profile, tuple(chips[0])), chips)


def coverage_of(dataset: Dataset, column: str = "collection") -> list[PlaceMap]:
    """Maps of where the chips lie, of all and place by place, coloured by a column of the table."""
    names = dataset.chips[column].to_numpy()
    shown = {}
    for name in sorted({str(name) for name in names}):
        places = np.flatnonzero(names == name)
        few = places[spread(len(places), OUTLINES_SHOWN)]
        shown[name] = list(shapely.from_wkb(dataset.chips["geometry"].take(few).to_numpy()))
    return maps_of(shown, small_px=380, whole="All chips")


def spread(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` places of `count`, evenly apart."""
    shown = min(count, most)
    return ((np.arange(shown) + 0.5) * count / max(shown, 1)).astype(np.int64)


def preview_bands(profile: str) -> tuple[str, ...]:
    """The bands that a profile shows as colours; none where it names none, or this machine does not have it."""
    try:
        return load_profile(profile).preview
    except StacchipError:  # a profile of the user's own
        return ()


def png_of(chips: Sequence[Mapping[str, Pixels]], style: SheetStyle) -> bytes:
    """A contact sheet of chips, whose bands are those to show."""
    pictures, masks = zip(*map(_picture, chips), strict=True)
    return encode_png(contact_sheet(pictures, valid=masks, style=style))


def png_uri(png: bytes) -> str:
    """A PNG as an address that pages show without fetching anything."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def svg_uri(svg: str) -> str:
    """An SVG as such an address: dark on white, since an image can't see the colours of the page around it."""
    svg = svg.replace("color:inherit", "color:#1b1f24;background:#ffffff", 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _shown(profile: str, bands: tuple[str, ...]) -> tuple[str, ...]:
    """The colours that the profile asks for, if the dataset has them; else its first three bands, or its first."""
    measured = tuple(band for band in bands if band != "mask") or bands
    wanted = preview_bands(profile)
    if wanted and {*wanted} <= {*measured}:
        return wanted
    return measured[:3] if len(measured) >= 3 else measured[:1]


def _masked(chip: Mapping[str, Pixels], nodata: Mapping[str, float | None]) -> dict[str, Pixels]:
    return {band: _without(pixels, nodata.get(band)) for band, pixels in chip.items()}


def _without(pixels: Pixels, nodata: float | None) -> Pixels:
    """Pixels masked where they are nodata or not a number."""
    is_none = ~np.isfinite(pixels) if pixels.dtype.kind in "fc" else np.zeros(pixels.shape, np.bool_)
    if nodata is not None and np.isfinite(nodata):
        is_none |= pixels == nodata
    return np.ma.MaskedArray(pixels, is_none)


def _picture(chip: Mapping[str, Pixels]) -> tuple[Pixels, NDArray[np.bool_]]:
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
