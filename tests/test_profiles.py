"""Profiles are data: the built-in ones are complete and sourced, a user's own are checked key by key."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from stacchip_core.errors import ProfileError, ProfileNotFoundError
from stacchip_core.index.schema import chip_schema
from stacchip_core.sources.profiles import (
    CollectionProfile,
    load_profile,
    parse_profile,
    profile_for,
    profile_names,
)

DESIGNED = {
    "sentinel-2-l2a",
    "sentinel-2-c1-l2a",
    "landsat-c2-l2",
    "landsat-c2-l1",
    "sentinel-1-rtc",
    "naip",
    "linz",
    "modis-09a1",
    "hls",
}
MINIMAL: dict[str, Any] = {"name": "mine", "reference": "red", "bands": [{"name": "red", "asset": "B04"}]}


def test_all_nine_collections_are_built_in() -> None:
    assert set(profile_names()) >= DESIGNED


@pytest.mark.parametrize("name", profile_names())
def test_every_built_in_profile_loads_and_is_named_as_its_file(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert parse_profile(profile.model_dump(), name) == profile, "and is read back from plain data"
    assert chip_schema(profile.properties).names


@pytest.mark.parametrize("name", profile_names())
def test_every_magic_number_has_a_source(name: str) -> None:
    profile = load_profile(name)
    for band in profile.bands:
        is_magic = band.nodata is not None or (band.scale, band.offset) != (1.0, 0.0)
        assert band.source or not is_magic, band.name
        assert band.asset not in band.aliases
    assert profile.qa.source
    text = (resources.files("stacchip_core.sources") / "builtin" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")


@pytest.mark.parametrize("name", profile_names())
def test_a_collection_id_finds_its_profile_and_only_one(name: str) -> None:
    for collection in load_profile(name).collections:
        found = profile_for(collection)
        assert found is not None
        assert found.name == name


def test_ids_that_nobody_described_have_no_profile() -> None:
    assert profile_for("nobody") is None
    assert profile_for("sentinel-2-c1-l2a") != profile_for("sentinel-2-l2a")


def test_default_meanings_are_those_of_the_design() -> None:
    scl, qa_pixel, fmask = (load_profile(n).qa for n in ("sentinel-2-l2a", "landsat-c2-l2", "hls"))
    assert (scl.kind, scl.nodata, scl.cloud, scl.shadow, scl.snow, scl.water) == (
        "classes", (0,), (8, 9, 10), (3,), (11,), (6,)
    )  # fmt: skip
    assert (qa_pixel.kind, qa_pixel.nodata, qa_pixel.cloud, qa_pixel.shadow, qa_pixel.snow, qa_pixel.water) == (
        "bits", (0,), (1, 2, 3), (4,), (5,), (7,)
    )  # fmt: skip
    assert (fmask.kind, fmask.fill, fmask.cloud, fmask.shadow, fmask.snow, fmask.water) == (
        "bits", (255,), (1,), (3,), (4,), (5,)
    )  # fmt: skip
    assert load_profile("landsat-c2-l1").qa.cloud == qa_pixel.cloud
    assert {load_profile(n).qa.kind for n in ("sentinel-1-rtc", "naip", "linz")} == {"nodata"}


def test_what_is_built_on_another_keeps_its_bands_and_not_its_collections() -> None:
    base, derived = load_profile("sentinel-2-l2a"), load_profile("sentinel-2-c1-l2a")
    assert derived.bands == base.bands
    assert not set(derived.collections) & set(base.collections)
    assert load_profile("modis-09a1-qc").collections == ()
    assert load_profile("modis-09a1-qc").qa != load_profile("modis-09a1").qa


def test_a_users_profile_is_a_file_of_the_same_form(tmp_path: Path) -> None:
    mine = {"extends": "sentinel-2-l2a", "name": "mine", "qa": {"kind": "classes", "asset": "scl", "cloud": [1, 3, 8]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    profile = load_profile(tmp_path / "mine.yaml")
    assert profile == load_profile(str(tmp_path / "mine.yaml"))
    assert (profile.name, profile.collections, profile.qa.cloud) == ("mine", (), (1, 3, 8))
    assert profile.bands == load_profile("sentinel-2-l2a").bands


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refrence": "red"}, "unknown key 'refrence', did you mean 'reference'"),
        ({"qa": {"kind": "classes", "asset": "x", "clouds": [1]}}, r"unknown key 'qa\.clouds', did you mean 'cloud'"),
        ({"bands": [{"name": "red", "asset": "B04", "alias": []}]}, r"unknown key 'bands\.0\.alias', did you mean"),
        ({"zzzzzz": 1}, "unknown key 'zzzzzz'"),
        ({"reference": "green"}, "'green' is not one of the bands: red"),
        ({"preview": ["nir"]}, "'nir' is not one of the bands"),
        ({"preview": ["red"] * 4}, "preview"),
        ({"bands": []}, "bands"),
        ({"bands": MINIMAL["bands"] * 2}, "band 'red' is listed twice"),
        ({"name": "My Sensor"}, "name"),
        ({"name": "../etc"}, "name"),
        ({"extends": "nope"}, "there is no profile 'nope'"),
        ({"extends": "mine.yaml"}, r"there is no profile 'mine\.yaml'; built in are"),
        (
            {"reference": "r", "bands": [{"name": "rgb", "asset": "x", "layers": ["r", "g"]}]},
            "'r' is not one of the bands",
        ),
        ({"qa": {"kind": "clases", "asset": "x"}}, "qa.kind"),
        ({"qa": {"kind": "classes"}}, "needs the QA asset's key"),
        ({"qa": {"kind": "nodata", "asset": "x"}}, "reads no QA asset"),
        ({"qa": {"kind": "none", "cloud": [1]}}, "reads no QA asset"),
        ({"qa": {"kind": "bits", "asset": "x", "cloud": [{"shift": 0, "width": 1, "values": [1]}]}}, "whole numbers"),
        ({"qa": {"kind": "bits", "asset": "x", "cloud": [-1]}}, "bit positions are 0 to 31"),
        ({"qa": {"kind": "bits", "asset": "x", "cloud": [32]}}, "bit positions are 0 to 31"),
        ({"qa": {"kind": "field", "asset": "x", "cloud": [1]}}, "takes {shift, width, values}"),
        ({"qa": {"kind": "field", "asset": "x", "cloud": [{"shift": 40, "width": 1, "values": [1]}]}}, "qa"),
        ({"properties": [{"name": "a", "type": "number"}, "a"]}, "property 'a' is listed twice"),
        ({"properties": [{"name": "a", "type": "date"}]}, "properties"),
    ],
)
def test_a_bad_profile_is_refused_by_file_and_key(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**MINIMAL, **change}))
    with pytest.raises((ProfileError, ProfileNotFoundError), match=message) as caught:
        load_profile(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(caught.value) or "extends" in change


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "just text", "", "!!python/object/apply:os.system [true]"])
def test_files_that_are_no_profile_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ProfileError, match=r"profile mine\.yaml: (not YAML|expected keys and values)"):
        load_profile(tmp_path / "mine.yaml")


def test_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ProfileError, match=r"profile mine\.yaml"):
        load_profile(tmp_path / "mine.yaml")


def test_unknown_names_list_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ProfileNotFoundError, match=r"no profile 'sentinel-2-l2'; built in are .*naip") as caught:
        load_profile("sentinel-2-l2")
    assert re.search("Did you mean 'sentinel-2-l2a'", str(caught.value))
    with pytest.raises(ProfileNotFoundError, match=r"no profile file 'gone\.yaml'") as caught:
        load_profile(tmp_path / "gone.yaml")
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ProfileNotFoundError):
        load_profile("../builtin/naip")


def test_layers_are_bands_too_and_have_one_name_each() -> None:
    naip = load_profile("naip")
    assert naip.band_names == ("image", "red", "green", "blue", "nir")
    layers = [{"name": "image", "asset": "a", "layers": ["red", "red"]}]
    with pytest.raises(ProfileError, match="listed twice"):
        parse_profile({**MINIMAL, "bands": layers}, "test")
    taken = [{"name": "red", "asset": "a"}, {"name": "image", "asset": "b", "layers": ["red"]}]
    with pytest.raises(ProfileError, match="listed twice"):
        parse_profile({**MINIMAL, "bands": taken}, "test")


def test_properties_get_the_types_of_the_stac_fields() -> None:
    profile = parse_profile(
        {**MINIMAL, "properties": ["platform", "eo:cloud_cover", {"name": "x", "type": "boolean"}]}, "t"
    )
    assert [(prop.name, prop.type) for prop in profile.properties] == [
        ("platform", "text"),
        ("eo:cloud_cover", "number"),
        ("x", "boolean"),
    ]


@pytest.mark.parametrize("name", ["datetime", "geometry", "chip_id", "cloud_fraction"])
def test_a_property_can_not_take_the_name_of_a_column(name: str) -> None:
    profile = parse_profile({**MINIMAL, "properties": [name]}, "test")
    with pytest.raises(ProfileError, match=f"property '{name}' has the name of a column"):
        chip_schema(profile.properties)


def test_profiles_never_change() -> None:
    profile = load_profile("naip")
    with pytest.raises(ValidationError, match="frozen"):
        profile.name = "x"  # type: ignore[misc]
    assert isinstance(profile, CollectionProfile)
    assert hash(profile.qa) == hash(load_profile("naip").qa)
