"""ChipSpec: what it refuses, in which words; what it loads; that its form can be rendered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from stacchip_core import ChipSpec, SpecError
from stacchip_core.chips.choices import BandChoice, SplitSpec
from stacchip_core.chips.formats.table import READERS, SUFFIXES, WRITERS
from stacchip_core.chips.spec import chip_spec_schema
from stacchip_core.index.grid import GridSpec
from stacchip_core.sources.cog import RESAMPLINGS

LEAST: dict[str, Any] = {"name": "fields", "index": "global"}

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
FRACTIONS = st.none() | st.floats(0, 1)
LONGITUDES = st.floats(-180, 180)
PIXELS = st.fixed_dictionaries(
    {"native": st.booleans(), "resampling_classes": st.sampled_from(["nearest", "mode"])}
) | st.fixed_dictionaries(
    {
        "gsd": st.none() | st.floats(0.1, 1000),
        "radiometry": st.sampled_from(["raw", "reflectance"]),
        "dtype": st.sampled_from([None, "float32", "float64"]),
        "fill": st.none() | st.floats(-1e6, 1e6),
        "mask": st.booleans(),
    }
)
SPLITS = st.none() | st.builds(
    SplitSpec,
    train=st.floats(0.1, 1),
    test=st.floats(0, 1),
    by=st.sampled_from(["block", "chip"]),
    split_km=st.integers(1, 200).map(lambda tens: 10 * tens),
    buffer=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
    force=st.just(True),
)


@st.composite
def specs(draw: st.DrawFn) -> ChipSpec:
    collections = draw(st.lists(WORDS, max_size=3, unique=True))
    chosen = draw(st.lists(st.sampled_from(collections), unique=True)) if collections else []
    bands = [
        {"collection": name, "bands": draw(st.lists(WORDS, min_size=1, max_size=4, unique=True))} for name in chosen
    ]
    south, north = sorted(draw(st.lists(st.floats(-90, 90), min_size=2, max_size=2, unique=True)))
    west, east = draw(st.lists(LONGITUDES, min_size=2, max_size=2, unique=True))
    return ChipSpec(
        name=draw(NAMES),
        index=draw(NAMES),
        version=draw(st.none() | st.integers(1, 10**6)),
        collections=tuple(collections),
        datetime=draw(st.sampled_from([None, "2024", "2024-01-01/..", "2024-01-01T00:00:00Z/2024-02-01T00:00:00Z"])),
        bbox=draw(st.sampled_from([None, (west, south, east, north)])),
        **{f"max_{name}": draw(FRACTIONS) for name in ("nodata", "cloud", "shadow", "snow", "water")},
        limit=draw(st.none() | st.integers(1, 10**9)),
        seed=draw(st.integers(0, 2**63 - 1)),
        size=draw(st.integers(1, 8192)),
        stride=draw(st.none() | st.integers(1, 8192)),
        edge=draw(st.sampled_from(["drop", "pad"])),
        bands=tuple(BandChoice(**choice) for choice in bands),
        **draw(PIXELS),
        area=draw(st.none() | WORDS),
        where=draw(st.none() | st.just("snow_fraction < 0.1")),
        per_item=draw(st.none() | st.integers(1, 100)),
        per_cell=draw(st.none() | st.integers(1, 100)),
        split=draw(SPLITS),
        max_failed=draw(st.none() | st.integers(0, 100)),
        max_failed_share=draw(FRACTIONS),
        format=draw(st.sampled_from(["zarr", "safetensors", "webdataset", "npz", "geotiff"])),
        compress=draw(st.booleans()),
        shard_size=draw(st.integers(1, 4096)),
    )


@given(specs())
def test_json_round_trip(spec: ChipSpec) -> None:
    assert ChipSpec.model_validate_json(spec.model_dump_json()) == spec
    assert ChipSpec.load(json.loads(spec.model_dump_json())) == spec


@given(specs())
def test_yaml_round_trip(spec: ChipSpec) -> None:
    assert ChipSpec.load(yaml.safe_load(yaml.safe_dump(spec.model_dump(mode="json")))) == spec


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ChipSpec(**LEAST).seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_clouds": 0.2}, r"chip spec 'fields': unknown key 'max_clouds', did you mean 'max_cloud'\?"),
        ({"qqq": "x"}, r"unknown key 'qqq', keys are area, bands, bbox, clay_v1_swap, collections"),
        ({"split": {"trian": 1}}, r"unknown key 'split.trian', did you mean 'train'\?"),
        ({"split": {"train": 0, "validation": 0, "test": 0}}, r"split: train, validation and test are all 0"),
        ({"split": {"train": -1}}, r"split.train: .*greater than or equal to 0"),
        ({"split": {"split_km": 25}}, r"split.split_km: .*multiple of 10, found 25"),
        ({"split": {"split_km": 0}}, r"split.split_km: .*greater than or equal to 10"),
        ({"split": {"by": "item"}}, r"split.by: .*'block' or 'chip', found 'item'"),
        (
            {"size": 256, "stride": 128, "split": {"by": "chip"}},
            r"split: by 'chip' with stride 128 under size 256 puts halves of one picture into train and test; take by "
            r"'block', a stride of the chip size, or force: true",
        ),
        ({"area": ""}, r"area: .*at least 1"),
        ({"where": ""}, r"where: .*at least 1"),
        ({"per_item": 0}, r"per_item: .*greater than or equal to 1"),
        ({"per_cell": 0}, r"per_cell: .*greater than or equal to 1"),
        ({"gsd": 0}, r"gsd: .*greater than 0"),
        ({"gsd": 10, "native": True}, r"gsd: resamples every band to one pixel size, native leaves each its own"),
        ({"dtype": "int8"}, r"dtype: .*'uint8', 'uint16'.*found 'int8'"),
        ({"radiometry": "toa"}, r"radiometry: .*'raw' or 'reflectance', found 'toa'"),
        ({"radiometry": "reflectance", "dtype": "uint16"}, r"dtype: uint16 can't hold reflectance.*take float32"),
        ({"fill": float("nan")}, r"fill: .*finite"),
        ({"fill": -1, "dtype": "uint8"}, r"fill: -1 is no value of uint8, which runs from 0 to 255"),
        ({"fill": 0.5, "dtype": "int16"}, r"fill: 0.5 is no value of int16"),
        ({"fill": 1e300, "dtype": "float32"}, r"fill: 1e\+300 is no value of float32"),
        ({"mask": True, "native": True}, r"mask: needs all bands in pixels of one size; leave native out"),
        ({"mask": True, "bands": [{"bands": ["mask"]}]}, r"mask: a band of that name is asked for already"),
        ({"max_failed": -1}, r"max_failed: .*greater than or equal to 0"),
        ({"max_failed_share": 5}, r"max_failed_share: .*less than or equal to 1"),
        ({"clay_v1_swap": True}, r"clay_v1_swap: is for format npz, found format zarr"),
        ({"resampling_classes": "average"}, r"resampling_classes: .*'nearest' or 'mode', found 'average'"),
        ({"bands": [{"bands": ["a"]}, {"collection": "*", "bands": ["b"]}]}, r"collection '\*' is listed twice"),
        (
            {"bands": [{"collection": "a", "band": ["red"]}]},
            r"unknown key 'bands.0.band', did you mean 'bands'\?",
        ),
        ({"bands": [{"collection": "a", "bands": []}]}, r"bands.0.bands: .*at least 1"),
        ({"bands": [{"collection": "a", "bands": ["red", "red"]}]}, r"band 'red' is listed twice"),
        ({"bands": [{"collection": "a", "bands": ["b"]}] * 2}, r"collection 'a' is listed twice"),
        ({"collections": ["a", "a"]}, r"collection 'a' is listed twice"),
        (
            {"collections": ["b"], "bands": [{"collection": "a", "bands": ["b"]}]},
            r"'a' is not among the collections b",
        ),
        ({"name": "My Fields"}, r"name: .*pattern.*found 'My Fields'"),
        ({"name": "../up"}, r"name: .*pattern"),
        ({"version": 0}, r"version: .*greater than or equal to 1, found 0"),
        ({"max_cloud": 20}, r"max_cloud: .*less than or equal to 1, found 20"),
        ({"max_nodata": -0.1}, r"max_nodata: .*greater than or equal to 0"),
        ({"max_snow": float("nan")}, r"max_snow: "),
        ({"limit": 0}, r"limit: .*greater than or equal to 1"),
        ({"seed": -1}, r"seed: "),
        ({"size": 0}, r"size: "),
        ({"size": 10.5}, r"size: .*integer"),
        ({"edge": "keep"}, r"edge: .*'drop' or 'pad', found 'keep'"),
        ({"format": "tif"}, r"format: .*'zarr'.* or 'geotiff', found 'tif'"),
        ({"resampling": "best"}, r"resampling: .*'nearest'"),
        ({"datetime": "2024-13"}, r"datetime: '2024-13' is no time; write 2024, 2024-06"),
        ({"datetime": "2025/2024"}, r"ends before it starts"),
        (
            {"bbox": [10, 50, 11, 40]},
            r"bbox: expected west, south, east, north .* found \(10.0, 50.0, 11.0, 40.0\)",
        ),
        ({"bbox": [10, 40, 200, 50]}, r"bbox: expected"),
        ({"bbox": [10, 40, 10, 50]}, r"bbox: expected"),
        ({"bbox": [10, 40, float("nan"), 50]}, r"bbox: expected"),
        ({"bbox": [10, 40]}, r"bbox.*missing|bbox"),
    ],
)
def test_wrong_values_are_refused_by_key(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ChipSpec(**{**LEAST, **wrong})


def test_all_mistakes_are_told_at_once_and_as_a_value_error() -> None:
    with pytest.raises(
        ValueError, match=r"key 'index' is missing.*size: .*unknown key 'limt', did you mean 'limit'"
    ) as caught:
        ChipSpec(name="x", size=0, limt=3)  # type: ignore[call-arg]
    assert isinstance(caught.value, SpecError)


def test_inside_another_model_a_wrong_key_is_told_with_its_place() -> None:
    class Config(BaseModel):
        spec: ChipSpec

    with pytest.raises(ValidationError, match=r"(?s)spec\n.*unknown key 'max_clouds', did you mean 'max_cloud'"):
        Config.model_validate({"spec": {**LEAST, "max_clouds": 0.2}})


def test_zero_is_a_threshold_not_a_switch() -> None:
    assert ChipSpec(**LEAST, max_nodata=0).max_nodata == 0.0


def test_stride_is_the_chip_size_where_none_is_given() -> None:
    assert ChipSpec(**LEAST, size=512).grid == GridSpec(512, 512, "drop")
    assert ChipSpec(**LEAST, size=512, stride=128, edge="pad").grid == GridSpec(512, 128, "pad")


def test_collections_are_those_of_the_bands_where_none_are_given() -> None:
    bands = [{"collection": "a", "bands": ["red"]}, {"collection": "b", "bands": ["vv"]}]
    assert ChipSpec.load({**LEAST, "bands": bands}).chosen_collections == ("a", "b")
    assert ChipSpec.load({**LEAST, "bands": bands[:1], "collections": ["a", "c"]}).chosen_collections == (
        "a",
        "c",
    )
    assert ChipSpec(**LEAST).chosen_collections == ()
    assert ChipSpec.load({**LEAST, "bands": bands}).bands_of("b") == ("vv",)
    assert ChipSpec(**LEAST).bands_of("b") is None


def test_bands_without_a_collection_are_for_every_collection_without_its_own() -> None:
    spec = ChipSpec.load({**LEAST, "bands": [{"bands": ["red"]}, {"collection": "b", "bands": ["vv"]}]})
    assert spec.chosen_collections == ()
    assert (spec.bands_of("a"), spec.bands_of("b")) == (("red",), ("vv",))
    narrowed = ChipSpec.load({**LEAST, "collections": ["a", "b"], "bands": [{"bands": ["red"]}]})
    assert narrowed.chosen_collections == ("a", "b")


def test_a_spec_loads_from_yaml_and_json_files(tmp_path: Path) -> None:
    expected = ChipSpec(**LEAST, datetime="2024-01-01", max_cloud=0.2)
    (tmp_path / "spec.yaml").write_text("name: fields\nindex: global\ndatetime: 2024-01-01\nmax_cloud: 0.2\n")
    (tmp_path / "spec.json").write_text(expected.model_dump_json())
    assert ChipSpec.load(tmp_path / "spec.yaml") == expected
    assert ChipSpec.load(str(tmp_path / "spec.json")) == expected
    (tmp_path / "year.yaml").write_text("name: fields\nindex: global\ndatetime: 2024\nmax_cloud: 0.2\n")
    assert ChipSpec.load(tmp_path / "year.yaml") == ChipSpec(**LEAST, datetime="2024", max_cloud=0.2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b\n", "expected keys and values, found list"),
        ("name: [", "not YAML: while parsing"),
        ("", "found nothing"),
    ],
)
def test_files_that_hold_no_spec_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(content)
    with pytest.raises(SpecError, match=f"chip spec spec.yaml: .*{message}"):
        ChipSpec.load(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no chip spec file '.*none.yaml'"):
        ChipSpec.load(tmp_path / "none.yaml")


def test_every_field_can_be_rendered_as_a_form() -> None:
    schema = chip_spec_schema()
    for place, (name, entry) in enumerate(schema["properties"].items()):
        assert entry["title"], name
        assert entry["description"], name
        assert entry["position"] == place
        assert ("default" in entry) == (name not in schema["required"]), name
        assert "additionalProperties" not in entry, f"{name}: a mapping is a raw JSON editor in the form"
    assert "discriminator" not in json.dumps(schema)
    assert schema["required"] == ["name", "index"]


def test_formats_are_those_of_the_writers_and_readers() -> None:
    formats = ChipSpec.model_json_schema()["properties"]["format"]["enum"]
    assert set(formats) == set(WRITERS) == set(READERS) == set(SUFFIXES)


@given(specs())
@settings(max_examples=30)
def test_the_published_schema_takes_what_a_spec_is(spec: ChipSpec) -> None:
    schema = chip_spec_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(spec.model_dump_json()), schema)


def test_resampling_names_are_gdals() -> None:
    assert set(ChipSpec.model_json_schema()["properties"]["resampling"]["enum"]) <= set(RESAMPLINGS)
