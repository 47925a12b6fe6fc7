"""The files that the bands of a scene are cut from, open, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from stacchip_core.chips.handles import Handles, ref_of
from stacchip_core.chips.shards import Pixels
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.chips.ways import Way, layers_of, way_of
from stacchip_core.sources.access import DEFAULT_STORAGE, Storage
from stacchip_core.sources.cog import Raster
from stacchip_core.sources.raster import Window
from stacchip_core.sources.scene import Scene


@dataclass(frozen=True, slots=True)
class Access:
    """How the pixels of items may be reached.

    Attributes:
        storage: endpoint and account of the items' assets, which need not be the warehouse's.
        local_roots: folders below which local assets may be read.
        is_last_try: whether a transient error becomes a failure, instead of being raised to be tried again.
        threads: files of a scene that are read at a time.
        handles: keeps files open for the calls that come; None: each call opens its own.
    """

    storage: Storage | None = None
    local_roots: tuple[str, ...] = ()
    is_last_try: bool = True
    threads: int = 1
    handles: Handles | None = None


@dataclass(frozen=True, slots=True)
class BandFile:
    """A file of a scene and the bands that are cut from it: a source of `read_in_strips`.

    Attributes:
        layers: numbers of those to read, from 1; None: all.
        bands: band -> which of the layers read are its own.
    """

    raster: Raster
    way: Way
    layers: list[int] | None
    bands: Mapping[str, list[int] | slice]

    def count(self, band: str) -> int:
        """Layers of a band."""
        own = self.bands[band]
        return self.raster.header.layers if isinstance(own, slice) else len(own)

    def fetch(self, runs: Sequence[Window]) -> None:
        """Fetch the blocks under some windows side by side, where the file is remote."""
        if windows := self.way.under(self.raster, runs):
            self.raster.prefetch(windows, self.layers)

    def read(self, run: Window) -> Pixels:
        """Pixels (layer, y, x) of a window."""
        return self.way.read(self.raster, run, self.layers)


def open_files(scene: Scene, bands: Sequence[str], spec: ChipSpec, access: Access, handles: Handles) -> list[BandFile]:
    """The files that hold some bands of a scene.

    Raises:
        HrefRefusedError, ReadError, TransientReadError: one can't be opened.
        UnsupportedGridError: one does not fit the grid of the scene.
        BandNotFoundError: one has fewer layers than its profile says.
    """
    by_file: dict[str, list[str]] = {}
    for band in bands:
        by_file.setdefault(scene.asset(band).key, []).append(band)
    return [_open_file(scene, own, spec, access, handles) for own in by_file.values()]


def _open_file(scene: Scene, bands: list[str], spec: ChipSpec, access: Access, handles: Handles) -> BandFile:
    asset = scene.asset(bands[0])
    ref = ref_of(scene, asset, access.storage or DEFAULT_STORAGE, access.local_roots)
    raster = handles.open(replace(ref, by_blocks=True))
    way = way_of(scene, asset, raster, spec.resampling_of(asset.kind), native=spec.native, gsd=spec.gsd)
    numbers = {band: layers_of(scene, asset, band, raster) for band in bands}
    wanted = [own for own in numbers.values() if own is not None]
    if len(wanted) < len(numbers):
        return BandFile(raster, way, None, dict.fromkeys(bands, slice(None)))
    layers = sorted({number for own in wanted for number in own})
    return BandFile(raster, way, layers, {band: [layers.index(n) for n in own] for band, own in numbers.items() if own})
