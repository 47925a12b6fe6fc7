"""Mistakes in a spec: each is told by its key, with what there is, before a file of any item is opened."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from stacchip_core import ChipSpec, SpecError, VersionNotFoundError, Warehouse, materialize, plan, select, stream
from stacchip_core.chips.choices import BandChoice, SplitSpec
from stacchip_core.cli import app
from tests.warehouses import made, spec

S2 = "sentinel-2-l2a"
LEAST = {"name": "fields", "index": "global"}

# Key -> a value that no spec may have, and what is said of it.
WRONG: list[tuple[str, Any, str]] = [
    ("name", "", r"chip spec '': name: String should match pattern .*, found ''"),
    ("index", "My Index", r"index: String should match pattern .*, found 'My Index'"),
    ("index", None, r"index: Input should be a valid string"),
    ("version", 0, r"version: Input should be greater than or equal to 1, found 0"),
    ("version", "newest", r"version: Input should be a valid integer.*, found 'newest'"),
    ("collections", "naip", r"collections: Input should be a valid tuple, found 'naip'"),
    ("collections", ["naip", "naip"], r"collections: collection 'naip' is listed twice"),
    ("collections", [f"c{n}" for n in range(65)], r"collections: Tuple should have at most 64 items"),
    ("datetime", "last summer", r"datetime: 'last summer' is no time; write 2024, 2024-06"),
    ("datetime", 2024.5, r"datetime: Input should be a valid string, found 2024.5"),
    ("datetime", "2024-06-31", r"datetime: '2024-06-31' is no time"),
    ("bbox", [0, 0, 1], r"bbox: value 4 of the list is missing"),
    ("bbox", [0, 0, 1, 1, 1], r"bbox: Tuple should have at most 4 items after validation, not 5"),
    ("bbox", [0, -91, 1, 0], r"bbox: expected west, south, east, north in degrees, .* latitudes within -90..90"),
    ("bbox", [1, 2, 3, "north"], r"bbox\.3: Input should be a valid number.*, found 'north'"),
    ("area", "", r"area: String should have at least 1 character"),
    *[(f"max_{name}", 20, rf"max_{name}: Input should be less than or equal to 1, found 20")
      for name in ("nodata", "cloud", "shadow", "snow", "water")],
    *[(f"max_{name}", -0.1, rf"max_{name}: Input should be greater than or equal to 0, found -0.1")
      for name in ("nodata", "cloud", "shadow", "snow", "water")],
    *[(f"max_{name}", "20%", rf"max_{name}: Input should be a valid number.*, found '20%'")
      for name in ("nodata", "cloud", "shadow", "snow", "water")],
    ("where", "cloud_fraction = 0.1", r"where: not a condition at '= 0.1': .*; equal is written =="),
    ("where", "cloud_fraction <= 0.1 &", r"where: not a condition at '.*': 'cloud_fraction <= 0.1 &'$"),
    ("where", "import os", r"where: .*not a condition"),
    ("per_item", 0, r"per_item: Input should be greater than or equal to 1, found 0"),
    ("per_cell", 1.5, r"per_cell: Input should be a valid integer.*, found 1.5"),
    ("limit", -1, r"limit: Input should be greater than or equal to 1, found -1"),
    ("seed", 2**63, r"seed: Input should be less than 9223372036854775808"),
    ("size", 10_000, r"size: Input should be less than or equal to 8192, found 10000"),
    ("stride", 0, r"stride: Input should be greater than or equal to 1, found 0"),
    ("edge", "crop", r"edge: Input should be 'drop' or 'pad', found 'crop'"),
    ("bands", ["red"], r"bands\.0: expected keys 'collection' and 'bands', or only 'bands', found 'red'"),
    ("bands", [{"bands": "red"}], r"bands\.0\.bands: Input should be a valid tuple, found 'red'"),
    ("bands", [{"bands": ["red"]}] * 65, r"bands: Tuple should have at most 64 items"),
    ("bands.collection", [{"collection": "", "bands": ["red"]}], r"bands\.0\.collection: String should have at least"),
    ("bands.bands", [{"collection": S2}], r"key 'bands\.0\.bands' is missing"),
    ("resampling", "lanczos", r"resampling: Input should be 'nearest', 'bilinear', 'cubic' or 'average', found 'lan"),
    ("resampling_classes", "bilinear", r"resampling_classes: Input should be 'nearest' or 'mode', found 'bilinear'"),
    ("gsd", -10, r"gsd: Input should be greater than 0, found -10"),
    ("gsd", 1e6, r"gsd: Input should be less than or equal to 100000"),
    ("native", "perhaps", r"native: Input should be a valid boolean.*, found 'perhaps'"),
    ("radiometry", "toa", r"radiometry: Input should be 'raw' or 'reflectance', found 'toa'"),
    ("dtype", "float16", r"dtype: Input should be 'uint8', .* or 'float64', found 'float16'"),
    ("fill", float("inf"), r"fill: Input should be a finite number"),
    ("mask", 2, r"mask: Input should be a valid boolean.*, found 2"),
    ("split", "random", r"split: Input should be a valid dictionary or instance of SplitSpec, found 'random'"),
    *[(f"split.{name}", {name: -1}, rf"split\.{name}: Input should be greater than or equal to 0, found -1")
      for name in ("train", "validation", "test", "seed")],
    ("split.by", {"by": "year"}, r"split\.by: Input should be 'block' or 'chip', found 'year'"),
    ("split.split_km", {"split_km": 95}, r"split\.split_km: Input should be a multiple of 10, found 95"),
    ("split.buffer", {"buffer": "2 km"}, r"split\.buffer: Input should be a valid boolean.*, found '2 km'"),
    ("split.force", {"force": 7}, r"split\.force: Input should be a valid boolean.*, found 7"),
    ("max_failed", -1, r"max_failed: Input should be greater than or equal to 0, found -1"),
    ("max_failed_share", 1.1, r"max_failed_share: Input should be less than or equal to 1, found 1.1"),
    ("format", "tfrecord", r"format: Input should be 'zarr', .* or 'geotiff', found 'tfrecord'"),
    ("compress", "zstd", r"compress: Input should be a valid boolean.*, found 'zstd'"),
    ("clay_v1_swap", True, r"clay_v1_swap: is for format npz, found format zarr"),
    ("shard_size", 0, r"shard_size: Input should be greater than or equal to 1, found 0"),
    ("shard_size", 5000, r"shard_size: Input should be less than or equal to 4096, found 5000"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), WRONG, ids=[f"{key}={str(one)[:20]}" for key, one, _ in WRONG])
def test_a_value_that_can_not_be_is_told_by_its_key(key: str, value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        ChipSpec(**{**LEAST, key.split(".", maxsplit=1)[0]: value})
    assert str(caught.value).startswith("chip spec ")


def test_every_key_has_a_wrong_value_above() -> None:
    tried = {key for key, _, _ in WRONG}
    assert set(keys_of(ChipSpec)) <= tried
    assert {f"bands.{key}" for key in keys_of(BandChoice)} | {f"split.{key}" for key in keys_of(SplitSpec)} <= tried


@pytest.mark.parametrize("key", [*ChipSpec.model_fields, *(f"split.{key}" for key in SplitSpec.model_fields)])
def test_a_misspelt_key_is_told_with_the_one_meant(key: str) -> None:
    outer, _, inner = key.rpartition(".")
    wrong = f"{inner}s"
    values = {outer: {wrong: 1}} if outer else {wrong: 1}
    place = f"{outer}.{wrong}" if outer else wrong
    with pytest.raises(SpecError, match=rf"chip spec 'fields': unknown key '{place}', did you mean '\w+'\?") as caught:
        ChipSpec(**{**LEAST, **values})
    assert f"did you mean {inner!r}?" in str(caught.value)


def keys_of(model: type[BaseModel]) -> list[str]:
    assert not [name for name, field in model.model_fields.items() if field.annotation is None or get_args(name)]
    return list(model.model_fields)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """An index of three sensors whose files are gone: what opened one would say so."""
    pixels = tmp_path_factory.mktemp("pixels")
    warehouse = made(pixels, tmp_path_factory.mktemp("warehouse"))
    shutil.rmtree(pixels)
    return warehouse


RED = [{"collection": S2, "bands": ["red"]}]
RED_60 = [{"collection": S2, "bands": ["red", "coastal"]}]
VV = [{"collection": "sentinel-1-rtc", "bands": ["vv"]}]
# Values that a spec may have, and this index has not.
ABSENT: list[tuple[dict[str, Any], str]] = [
    ({"index": "globe"}, r"globe"),
    ({"version": 99}, r"global.*99"),
    (
        {"collections": ["sentinel-2-l1c"]},
        r"global@1 holds no collection 'sentinel-2-l1c', did you mean 'sentinel-2-l2a",
    ),
    ({"bands": [{"collection": "nape", "bands": ["red"]}]}, r"holds no collection 'nape', did you mean 'naip'\?"),
    ({"bands": [{"collection": S2, "bands": ["rde"]}]}, r"sentinel-2-l2a has no band 'rde', did you mean 'red'\? it h"),
    ({"bands": [{"bands": ["red"]}]}, r"sentinel-1-rtc has no band 'red'; it has vv, vh"),
    (
        {"size": 64},
        r"is not indexed in global@1 with size 64, stride 64, edge drop; it is with size 96, stride 96, edge",
    ),
    ({"stride": 48}, r"with size 96, stride 48, edge drop; it is with size 96, stride 96, edge drop"),
    ({"edge": "pad"}, r"with size 96, stride 96, edge pad; it is with size 96, stride 96, edge drop"),
    ({"datetime": "1999"}, r"datetime 1999 leaves no chip \(global@1 has \d+ chips"),
    ({"bbox": [-10, -10, -9, -9]}, r"bbox .* leaves no chip \("),
    ({"area": "fields.geojson"}, r"area: there is no file 'fields.geojson'; a relative path starts in"),
    ({"where": "clod_fraction < 0.1"}, r"where: .*clod_fraction.*did you mean 'cloud_fraction'"),
    ({"where": "cloud_fraction < 'much'"}, r"where: .*cloud_fraction is a number and 'much' is a text"),
    ({"where": "platform == 'landsat-8'"}, r"where .* leaves no chip"),
    ({"collections": [S2], "max_cloud": 0, "where": "cloud_fraction > 0"}, r"leaves no chip \(.*max_cloud"),
]
# Values that say what pixels shall be like, which rows alone don't have: `select` does not look at them.
UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"bands": RED, "gsd": 7}, r"gsd 7 m: chips of 96 pixels of 10 m, 96 apart .* are no whole numbers of such pixels"),
    ({"bands": RED, "gsd": 0.01}, r"gsd 0.01 m makes chips of 96000 pixels a side; 8192 are the most"),
    ({"bands": RED, "gsd": 15}, r"gsd 15 m: pixels of 10 m of band 'red' .* don't line up .* another resampling"),
    ({"bands": VV, "radiometry": "reflectance"}, r"neither items nor profiles say how sentinel-1-rtc vv"),
    (
        {"bands": RED_60, "native": True, "format": "npz"},
        r"format 'npz' holds all bands of a chip in one array, and th",
    ),
    ({"bands": RED_60, "native": True, "format": "geotiff"}, r"format 'geotiff' holds all bands of a chip in one arr"),
]


WAYS = (plan, stream, materialize)
TRIED = [(select, *one) for one in ABSENT] + [(way, *one) for way in WAYS for one in (*ABSENT, *UNFIT)]


@pytest.mark.parametrize(("way", "values", "message"), TRIED, ids=[f"{w.__name__}-{v}"[:60] for w, v, _ in TRIED])
def test_what_the_index_has_not_is_told_before_any_file_is_opened(
    bare: Warehouse, way: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises((SpecError, VersionNotFoundError), match=message):
        way(bare, spec(name="refused", **values))
    assert not (Path(bare.store.root) / "datasets/refused").exists()


@pytest.mark.parametrize(("values", "message"), [*ABSENT, *UNFIT], ids=[f"{v}"[:60] for v, _ in (*ABSENT, *UNFIT)])
def test_the_command_validate_tells_the_same(
    bare: Warehouse, values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "fields.yaml"
    path.write_text(json.dumps(spec(name="refused", **values).model_dump(mode="json", exclude_unset=True)))
    told = CliRunner().invoke(app, ["-w", bare.root, "validate", str(path)])
    assert told.exit_code == 1
    assert re.search(message, told.stderr), told.stderr
