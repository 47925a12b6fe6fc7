"""An open raster: its pixels, its mask, and both on another grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj.exceptions import CRSError
from rasterio.dtypes import dtype_rev, typename_fwd
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from stacchip_core.errors import InputError
from stacchip_core.sources.cog.blocks import block_ranges
from stacchip_core.sources.cog.failures import errors_of
from stacchip_core.sources.cog.reference import Header, RasterRef
from stacchip_core.sources.identity import FileIdentity
from stacchip_core.sources.ranges import Range, RangeReader, coalesced
from stacchip_core.sources.raster import Grid, Window, canonical_crs, is_on_earth
from stacchip_core.sources.remote import Traffic

T = TypeVar("T")

RESAMPLINGS = tuple(method.name for method in Resampling if method.name != "gauss")
# The methods that only ever give values which are in the source: others would make classes up.
CLASS_RESAMPLINGS = ("nearest", "mode", "max", "min", "med", "q1", "q3")
# How far GDAL may stray when it interpolates between transformed points; rasterio 1.4 fails on its documented 0.
_WARP_TOLERANCE_PX = 0.001


@dataclass(frozen=True, slots=True)
class Opened:
    """What `open_raster` found: rasterio's dataset, the context that it lives in, who reads its bytes, and which file.

    rasterio keeps file objects in context variables, and finds them again only where they were opened: each call for
    the dataset is run in `context`. `reader` is None where GDAL itself reads the file.
    """

    dataset: Any
    context: Context
    reader: RangeReader | None
    identity: FileIdentity


class Raster:
    """An open raster. Not for use by two threads at once."""

    def __init__(self, ref: RasterRef, opened: Opened) -> None:
        """Take over an open dataset; use `open_raster`."""
        self.ref = ref
        self._dataset = opened.dataset
        self._context = opened.context
        self._reader = opened.reader
        self._warped: dict[tuple[Grid, str], Any] = {}
        self._source: Any = None  # of what is warped
        self._options = ref.gdal_options()
        self._fetched: set[Range] = set()
        self.header = _header(opened.dataset)
        self.identity = opened.identity

    def __enter__(self) -> Raster:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __del__(self) -> None:
        """Close it, from whichever thread lets it go last."""
        self.close()

    def close(self) -> None:
        """Close the file; reading afterwards fails."""
        while self._warped:
            self._context.run(self._warped.popitem()[1].close)
        if self._source is not None:
            self._context.run(self._source.close)
        self._context.run(self._dataset.close)

    @property
    def traffic(self) -> Traffic:
        """Requests and bytes so far, the header's included; none where GDAL reads the file itself."""
        return self._reader.traffic if self._reader is not None else Traffic()

    def ranges(self, windows: Iterable[Window], layers: Sequence[int] | None = None) -> tuple[Range, ...]:
        """The requests that `prefetch` sends for windows of layers (from 1; None: all), if nothing is fetched yet.

        Beside them each file costs one for its first `HEADER_BYTES`. Blocks of a mask of its own are not among them.
        """
        return coalesced(self._run(lambda: self._blocks(windows, layers)))

    def prefetch(self, windows: Iterable[Window], layers: Sequence[int] | None = None) -> None:
        """Fetch the blocks of windows side by side, those not fetched before; reading then decodes from memory.

        Does nothing where GDAL reads the file itself. At most 256 MiB wait to be read; blocks beyond are left to
        `read`, which fetches those of its own window.
        """
        if self._reader is None:
            return
        reader, windows = self._reader, list(windows)
        with errors_of(self.ref):
            wanted = [one for one in self._run(lambda: self._blocks(windows, layers)) if one not in self._fetched]
            if wanted:
                self._fetched.update(reader.prefetch(wanted))

    def _blocks(self, windows: Iterable[Window], layers: Sequence[int] | None) -> list[Range]:
        _ = self._dataset.mask_flag_enums  # reads the index of overviews and masks too, as the first read would later
        return block_ranges(self._dataset, windows, layers or range(1, self.header.layers + 1))

    @property
    def nodata(self) -> float | None:
        """The value that means "no measurement"; None where there is none, or the file's type can't hold it."""
        nodata = self.header.nodata if self.ref.nodata is None else self.ref.nodata
        return nodata if nodata is None or _holds(self.header.dtype, nodata) else None

    def read(self, window: Window, layers: Sequence[int] | None = None) -> NDArray[Any]:
        """Pixels of a window that lies inside the raster, shape (layers, height, width); layers count from 1."""
        self.prefetch([window], layers)
        return self._run(lambda: self._read(window, layers))

    def read_valid(self, window: Window) -> NDArray[np.bool_]:
        """Where there are measurements, shape (height, width): by GDAL's dataset mask and the profile's nodata."""
        self.prefetch([window], self._mask_layers() or None)
        return self._run(lambda: self._read_valid(window))

    @property
    def has_own_mask(self) -> bool:
        """Whether a mask band, or an alpha layer that is no band of the profile's, tells what was measured."""
        flags = self._dataset.mask_flag_enums[0]
        return self._own_alpha > 0 or (MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags)

    def _read(self, window: Window, layers: Sequence[int] | None) -> NDArray[Any]:
        return cast(NDArray[Any], self._dataset.read(layers, window=_window(window)))

    def _read_valid(self, window: Window) -> NDArray[np.bool_]:
        is_valid = self._read_mask(window)
        if self.nodata is None or _is_same(self.nodata, self.header.nodata):
            return is_valid
        pixels = self._read(window, self._named_layers())
        is_fill = np.isnan(pixels) if math.isnan(self.nodata) else pixels == self.nodata
        return cast(NDArray[np.bool_], is_valid & ~is_fill.all(axis=0))

    def _named_layers(self) -> list[int]:
        """The layers that the profile names; all, where it names none."""
        return list(range(1, min(self.ref.layers or self.header.layers, self.header.layers) + 1))

    def _mask_layers(self) -> list[int]:
        """The layers that the mask is made of, as far as can be told before it is read."""
        flags, alpha = self._dataset.mask_flag_enums[0], _alpha(self._dataset)
        by_alpha = [alpha] if alpha > self.ref.layers else []
        by_nodata = list(range(1, self.header.layers + 1)) if MaskFlags.nodata in flags else []
        is_own = self.nodata is not None and not _is_same(self.nodata, self.header.nodata)
        return sorted({*by_alpha, *by_nodata, *(self._named_layers() if is_own else [])})

    def _read_mask(self, window: Window) -> NDArray[np.bool_]:
        """GDAL's dataset mask (nodata, alpha, mask band), True = measured.

        Differs from GDAL's where that takes a layer which the profile names for alpha, and where it overlooks an alpha
        layer because more than three others come before it.
        """
        flags, alpha = self._dataset.mask_flag_enums[0], _alpha(self._dataset)
        if MaskFlags.alpha in flags and alpha <= self.ref.layers:
            return np.ones((window.height, window.width), dtype=np.bool_)
        if MaskFlags.all_valid in flags and alpha > self.ref.layers:
            return cast(NDArray[np.bool_], self._dataset.read(alpha, window=_window(window)) != 0)
        return cast(NDArray[np.bool_], self._dataset.dataset_mask(window=_window(window)) != 0)

    def read_on(self, grid: Grid, window: Window, resampling: str, layers: Sequence[int] | None = None) -> NDArray[Any]:
        """Pixels resampled to a window of another grid, shape (layers, height, width); outside: nodata or 0."""
        wanted = list(layers or range(1, self.header.layers + 1))  # a warped raster may have an alpha layer more
        return self._run(lambda: cast(NDArray[Any], self._on(grid, resampling).read(wanted, window=_window(window))))

    def read_valid_on(self, grid: Grid, window: Window, resampling: str) -> NDArray[np.bool_]:
        """The mask that goes with `read_on`, shape (height, width)."""
        return self._run(lambda: self._valid_on(self._on(grid, resampling), _window(window)))

    def _valid_on(self, warped: Any, window: RasterioWindow) -> NDArray[np.bool_]:
        """By nodata, and by the alpha layer: GDAL overlooks one that more than three others come before."""
        alpha = self._own_alpha or (self.header.layers + 1 if self.nodata is None else 0)
        by_alpha = warped.read(alpha, window=window) != 0 if alpha else True
        by_nodata = warped.dataset_mask(window=window) != 0 if self.nodata is not None else True
        return cast(NDArray[np.bool_], by_alpha & by_nodata)

    @property
    def _own_alpha(self) -> int:
        """Number of the alpha layer, from 1; 0 where there is none, or the profile takes it for a measurement."""
        alpha = _alpha(self._dataset)
        return alpha if alpha > self.ref.layers else 0

    def _on(self, grid: Grid, resampling: str) -> Any:
        key = (grid, resampling)
        if key not in self._warped:
            if self._source is None:
                is_plain = _alpha(self._dataset) == self._own_alpha
                self._source = self._dataset if is_plain else rasterio.open(_without_alpha(self._dataset))
            self._warped[key] = WarpedVRT(
                self._source,
                crs=grid.crs,
                transform=rasterio.Affine(*grid.transform),
                width=grid.width,
                height=grid.height,
                resampling=Resampling[resampling],
                tolerance=_WARP_TOLERANCE_PX,
                src_nodata=self.nodata,
                nodata=self.nodata,
                add_alpha=self.nodata is None and not self._own_alpha,
            )
        return self._warped[key]

    def _run(self, task: Callable[[], T]) -> T:
        with rasterio.Env(**self._options), errors_of(self.ref, self._reader):
            return self._context.run(task)


def check_resampling(name: str) -> str:
    """`name`, if GDAL resamples by it; else an InputError that lists the names."""
    if name not in RESAMPLINGS:
        raise InputError(f"unknown resampling {name!r}; there are {', '.join(RESAMPLINGS)}")
    return name


def _window(window: Window) -> RasterioWindow:
    return RasterioWindow(window.col, window.row, window.width, window.height)


def _header(dataset: Any) -> Header:
    return Header(
        grid=_grid(dataset),
        height=dataset.height,
        width=dataset.width,
        layers=dataset.count,
        dtype=dataset.dtypes[0],
        nodata=dataset.nodata,
        block_shape=tuple(dataset.block_shapes[0]),
    )


def _grid(dataset: Any) -> Grid | None:
    t = dataset.transform
    if not dataset.crs or dataset.gcps[0] or t.is_identity or t.is_degenerate:
        return None
    try:
        crs = canonical_crs(dataset.crs.to_wkt())
    except CRSError:
        return None
    return Grid(crs, (t.a, t.b, t.c, t.d, t.e, t.f), dataset.height, dataset.width) if is_on_earth(crs) else None


def _alpha(dataset: Any) -> int:
    """Number of the alpha layer, from 1; 0 where there is none."""
    return next((n for n, meaning in enumerate(dataset.colorinterp, start=1) if meaning == ColorInterp.alpha), 0)


def _without_alpha(dataset: Any) -> str:
    """The same layers as a VRT in which none is alpha: GDAL warps no colour where that is 0."""
    root = ElementTree.Element("VRTDataset", rasterXSize=str(dataset.width), rasterYSize=str(dataset.height))
    ElementTree.SubElement(root, "SRS").text = dataset.crs.to_wkt()
    ElementTree.SubElement(root, "GeoTransform").text = ", ".join(map(repr, dataset.transform.to_gdal()))
    for number, kind in enumerate(dataset.dtypes, start=1):
        band = ElementTree.SubElement(root, "VRTRasterBand", dataType=typename_fwd[dtype_rev[kind]], band=str(number))
        source = ElementTree.SubElement(band, "SimpleSource")
        ElementTree.SubElement(source, "SourceFilename", relativeToVRT="0").text = dataset.name
        ElementTree.SubElement(source, "SourceBand").text = str(number)
    return ElementTree.tostring(root, encoding="unicode")


def _is_same(one: float, other: float | None) -> bool:
    return one == other or (other is not None and math.isnan(one) and math.isnan(other))


def _holds(dtype: str, value: float) -> bool:
    """Whether a pixel of that type can be `value`."""
    kind = np.dtype(numpy_dtype(dtype))
    if kind.kind not in "iu":
        return not math.isfinite(value) or abs(value) <= float(np.finfo(kind).max)
    limits = np.iinfo(kind)
    return math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max


def numpy_dtype(name: str) -> str:
    return "complex64" if name.startswith("complex") else name
