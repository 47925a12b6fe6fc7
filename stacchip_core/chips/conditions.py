"""What a ChipSpec asks of a chip, as filters over the columns of the index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import shapely

from stacchip_core.chips.area import Area
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.chips.where import where_filter
from stacchip_core.index.grid import GridSpec
from stacchip_core.sources.interval import parse_interval

THRESHOLDS = {
    "max_nodata": "nodata_fraction",
    "max_cloud": "cloud_fraction",
    "max_shadow": "shadow_fraction",
    "max_snow": "snow_fraction",
    "max_water": "water_fraction",
}

Box = tuple[float, float, float, float]  # west, south, east, north


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing a spec asks of a chip, in words and as a filter over the columns of the index."""

    words: str
    filter: ds.Expression


def conditions(
    spec: ChipSpec, collections: Sequence[str], schema: pa.Schema | None = None, area: Area | None = None
) -> tuple[Condition, ...]:
    """All that `spec` asks of a chip, as filters, in the order in which an empty selection is explained.

    An area asks only that the chip's bbox meets it; that its outline does is for `draw` to see.

    Args:
        spec: what is asked for.
        collections: to take.
        schema: of the index, where the spec has a `where`.
        area: of the spec's file, where it names one.

    Raises:
        SpecError: `where` does not fit the columns.
    """
    found = [
        Condition(
            f"collection {' or '.join(collections)}",
            pc.field("collection").isin(pa.array(collections, pa.string())),
        ),
        Condition(
            f"chip {words_for(spec.grid)}",
            (pc.field("size_px") == spec.grid.size)
            & (pc.field("stride_px") == spec.grid.stride)
            & pc.match_substring_regex(pc.field("chip_id"), f"/{spec.grid}/[0-9]+-[0-9]+$"),
        ),
    ]
    if spec.datetime is not None:
        found.append(Condition(f"datetime {spec.datetime}", _meets_interval(spec.datetime)))
    for name, column in THRESHOLDS.items():
        limit = getattr(spec, name)
        if limit is not None:
            found.append(Condition(f"{name} {limit:g}", _at_most(column, limit)))
    if spec.where is not None and schema is not None:
        found.append(Condition(f"where {spec.where}", where_filter(spec.where, schema)))
    if area is not None:
        west, south, east, north = map(float, shapely.bounds(area.shape))
        found.append(Condition(f"area {spec.area}", _bbox_meets([(west, south, east, north)])))
    if spec.bbox is not None:
        found.append(Condition(f"bbox {_sides(spec.bbox)}", _bbox_meets(boxes(spec.bbox))))
    return tuple(found)


def boxes(bbox: Box) -> tuple[Box, ...]:
    """West, south, east, north as one box, or as the two on either side of the antimeridian."""
    west, south, east, north = bbox
    if west < east:
        return (bbox,)
    return ((west, south, 180.0, north), (-180.0, south, east, north))


def all_of(wanted: Sequence[Condition]) -> ds.Expression:
    """One filter that asks for everything."""
    return reduce(and_, (condition.filter for condition in wanted))


def words_for(grid: GridSpec) -> str:
    """Chip size, stride and edge as messages show them."""
    return f"size {grid.size}, stride {grid.stride}, edge {grid.edge}"


def _sides(bbox: Sequence[float]) -> str:
    return ", ".join(f"{side:g}" for side in bbox)


def _at_most(column: str, limit: float) -> ds.Expression:
    """Fraction within the limit, or null; compared in the column's own type, so that 0.2 is at most 0.2."""
    return (pc.field(column) <= pa.scalar(limit, pa.float32())) | pc.field(column).is_null()


def _meets_interval(text: str) -> ds.Expression:
    """Whether a chip's time, or its span of time, meets the interval: what STAC's own search does."""
    start, end = parse_interval(text)
    kind = pa.timestamp("us", tz="UTC")
    tests = []
    if start is not None:
        last = pc.coalesce(pc.field("end_datetime"), pc.field("datetime"))
        tests.append(last >= pa.scalar(start, kind))
    if end is not None:
        first = pc.coalesce(pc.field("start_datetime"), pc.field("datetime"))
        tests.append(first <= pa.scalar(end, kind))
    return reduce(and_, tests)


def _bbox_meets(areas: Iterable[Box]) -> ds.Expression:
    def side(name: str) -> ds.Expression:
        return pc.field("bbox", name)

    return reduce(
        or_,
        (
            (side("xmin") <= east) & (side("xmax") >= west) & (side("ymin") <= north) & (side("ymax") >= south)
            for west, south, east, north in areas
        ),
    )
