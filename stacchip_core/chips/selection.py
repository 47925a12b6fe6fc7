"""From a ChipSpec to the chips it means: checked against the index, filtered, drawn by the seed."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.dataset as ds

from stacchip_core.chips.area import load_area
from stacchip_core.chips.conditions import THRESHOLDS, Condition, all_of, conditions, words_for
from stacchip_core.chips.drawing import draw
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.chips.splits import check_split, empty_splits
from stacchip_core.errors import SpecError
from stacchip_core.index.chip_index import ChipIndex
from stacchip_core.index.grid import GridSpec
from stacchip_core.sources.scene import Scene
from stacchip_core.warehouse.version import IndexVersion
from stacchip_core.warehouse.warehouse import Warehouse

logger = logging.getLogger(__name__)


def select(warehouse: Warehouse, spec: ChipSpec) -> ChipIndex:
    """The chips a spec means, and just their scenes, in the order of the seeded draw.

    A draw is without replacement and depends on the seed and the chip ids alone, not on how the index is
    stored: the `limit` chips with the smallest keyed hash. When an index grows, chips drawn before keep their
    order, and leave only where the limit makes room for new ones with a smaller hash.

    Raises:
        VersionNotFoundError: no such index or version.
        SpecError: asks for what the index does not hold (lists what it holds), or leaves no chip.
        CorruptWarehouseError: a data file is missing or damaged.
    """
    version = warehouse.combined(spec.index, spec.version)
    return select_from(version, spec, local_roots=tuple(warehouse.local_roots))


def select_from(version: IndexVersion, spec: ChipSpec, *, local_roots: tuple[str, ...] = ()) -> ChipIndex:
    """`select` on an index version already at hand."""
    index = f"{version.name}@{version.version}"
    collections = check_settings(version.grids(), spec, index)
    dataset = version.dataset()
    area = None if spec.area is None else load_area(spec.area)
    wanted = conditions(spec, collections, dataset.schema, area)
    table = draw(dataset, wanted, spec, area)
    if table.num_rows == 0:
        raise SpecError(f"chip spec {spec.name!r}: {_explain_empty(dataset, wanted, spec, index)}")
    check_split(table, spec)
    keys = scene_keys(table)
    scenes = version.scenes(keys, spec.grid)
    check_bands(scenes.values(), spec)
    logger.info("chip spec %r: %d chips of %d items of %s", spec.name, table.num_rows, len(keys), index)
    for column, count in null_fractions(table, spec).items():
        logger.info("chip spec %r: %d chips pass with no %s", spec.name, count, column)
    for name in empty_splits(table, spec):
        logger.warning("chip spec %r: no chip falls to %s; a smaller split_km makes more blocks", spec.name, name)
    return ChipIndex(table, scenes, (spec.grid,), local_roots)


def check_settings(held: Mapping[str, Collection[GridSpec]], spec: ChipSpec, index: str) -> tuple[str, ...]:
    """Collections to take, each of which the index holds with the chip size, stride and edge asked for.

    Args:
        held: how the items of each collection of the index have been cut.
        spec: what is asked for.
        index: `<name>@<version>`, for the messages.

    Raises:
        SpecError: lists the collections, or the settings, that there are.
    """
    for name in spec.chosen_collections:
        if name not in held:
            close = difflib.get_close_matches(name, held, n=1)
            raise SpecError(
                f"chip spec {spec.name!r}: index {index} holds no collection {name!r}"
                f"{f', did you mean {close[0]!r}?' if close else ';'} it holds {', '.join(sorted(held)) or 'nothing'}"
            )
    chosen = spec.chosen_collections or tuple(sorted(held))
    for name in chosen:
        if spec.grid not in held[name]:
            raise SpecError(
                f"chip spec {spec.name!r}: {name} is not indexed in {index} with {words_for(spec.grid)}; "
                f"it is with {' or '.join(map(words_for, sorted(held[name], key=str)))}. "
                "Ask for one of these, index it so, or name only the other collections"
            )
    return chosen


def check_bands(scenes: Iterable[Scene], spec: ChipSpec) -> None:
    """Refuse a band that no chosen scene of its collection has.

    Raises:
        SpecError: lists the bands there are.
    """
    held: dict[str, dict[str, None]] = {}
    for scene in scenes:
        held.setdefault(scene.collection, {}).update(dict.fromkeys(scene.band_names))
    for collection, names in held.items():
        for band in spec.bands_of(collection) or ():
            if band not in names:
                close = difflib.get_close_matches(band, names, n=1)
                raise SpecError(
                    f"chip spec {spec.name!r}: {collection} has no band {band!r}"
                    f"{f', did you mean {close[0]!r}?' if close else ';'} it has {', '.join(names)}"
                )


def null_fractions(table: pa.Table, spec: ChipSpec) -> dict[str, int]:
    """Column -> rows that pass its threshold because the fraction is null, where there are any."""
    counts = {
        column: table[column].null_count for name, column in THRESHOLDS.items() if getattr(spec, name) is not None
    }
    return {column: count for column, count in counts.items() if count}


def scene_keys(table: pa.Table) -> list[str]:
    """Keys `<collection>/<item_id>` of the scenes that rows belong to, each once, sorted."""
    pairs = table.select(["collection", "item_id"]).group_by(["collection", "item_id"]).aggregate([])
    return sorted(f"{row['collection']}/{row['item_id']}" for row in pairs.to_pylist())


def _explain_empty(dataset: ds.Dataset, wanted: Sequence[Condition], spec: ChipSpec, index: str) -> str:
    """How many chips are left after each condition, up to the one that leaves none."""
    steps = [f"{index} has {dataset.count_rows()} chips"]
    for place in range(1, len(wanted) + 1):
        count = dataset.count_rows(filter=all_of(wanted[:place]))
        steps.append(f"{wanted[place - 1].words}: {count}")
        if count == 0:
            return f"{wanted[place - 1].words} leaves no chip ({', '.join(steps)})"
    what = "the area" if spec.split is None else "the area and lies within one split's ground"
    return f"no chip's outline meets {what}, though bounding boxes do ({', '.join(steps)})"
