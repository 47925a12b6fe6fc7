"""What is kept of an item: grid, time, and bands under the profile's names, whatever the provider calls its assets."""

from __future__ import annotations

import copy
import datetime as dt
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core.errors import (
    BandNotFoundError,
    HrefRefusedError,
    InvalidItemError,
    StacchipError,
    UnsupportedGridError,
)
from stacchip_core.sources.generic import generic_profile, profile_of
from stacchip_core.sources.item import ItemSource, read_item
from stacchip_core.sources.profiles import CollectionProfile, load_profile, parse_profile
from stacchip_core.sources.raster import Grid, Ratio
from stacchip_core.sources.scene import Scene, _typed
from tests import scenes
from tests.data import ITEMS, needs_shared_data
from tests.items import coarser, utm_grid

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
GRID = utm_grid(480)


def item_of(assets: dict[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
    """A small item with projection fields, its hrefs on a server that is never asked."""
    red = {"href": "https://h/red.tif", "type": COG, "roles": ["data"]}
    return {
        "type": "Feature",
        "id": "scene-1",
        "collection": "nobody",
        "geometry": {"type": "Point", "coordinates": [9.0, 47.0]},
        "properties": {
            "datetime": "2024-06-15T10:30:31Z",
            "proj:code": "EPSG:32632",
            "proj:shape": list(GRID.shape),
            "proj:transform": list(GRID.transform),
            **properties,
        },
        "assets": {"red": red} if assets is None else assets,
        "links": [],
    }


def scene_of(item: dict[str, Any], profile: CollectionProfile | None = None, **more: Any) -> Scene:
    return Scene.from_item(ItemSource(item, "https://h/item.json"), profile, **more)


@pytest.mark.parametrize(
    "builder",
    [
        scenes.sentinel2_scene,
        scenes.landsat_l2_scene,
        scenes.landsat_l1_scene,
        scenes.sentinel1_scene,
        scenes.naip_scene,
        scenes.modis_scene,
        scenes.hls_scene,
        scenes.linz_scene,
    ],
    ids=lambda builder: builder.__name__,
)
def test_making_a_scene_changes_nothing_and_is_undone_by_json(builder: Any, tmp_path: Path) -> None:
    item = builder(tmp_path)
    before = copy.deepcopy(item)
    scene = Scene.from_item(read_item(item, (str(tmp_path),)), load_profile("linz") if "linz" in item["id"] else None)
    assert item == before
    assert Scene.from_json(scene.to_json()) == scene
    assert str(tmp_path) not in scene.to_json(), "a path of this machine"
    assert {asset.key for asset in scene.assets} <= set(item["assets"]) - {"thumbnail", "metadata"}
    assert scene.key == f"{item['collection']}/{item['id']}"


def test_earth_search_and_planetary_computer_give_the_same_bands(tmp_path: Path) -> None:
    items = [scenes.sentinel2_scene(tmp_path / p, provider=p) for p in ("earth-search", "planetary-computer")]
    one, two = (Scene.from_item(read_item(item, (str(tmp_path),))) for item in items)
    assert one.band_names == two.band_names == load_profile("sentinel-2-l2a").band_names
    assert (one.asset("nir08").key, two.asset("nir08").key) == ("nir08", "B8A")
    assert one.grid == two.grid == GRID
    assert one.qa_asset is not None
    assert two.qa_asset is not None
    assert (one.qa_asset.key, two.qa_asset.key) == ("scl", "SCL")
    assert one.asset("swir16").grid == coarser(GRID, 2)


@needs_shared_data
def test_older_usgs_items_give_the_bands_of_their_sensor() -> None:
    folder = ITEMS / "landsat-c2-l2"
    oli = Scene.from_item(read_item(folder / "usgs_v070_LC08_L2SP_005009_20150710_SR.json"))
    etm = Scene.from_item(read_item(folder / "usgs_LE07_L2SP_044033_20210329_SR.json"))
    assert (oli.asset("red").key, oli.asset("nir08").key) == ("SR_B4.TIF", "SR_B5.TIF")
    assert etm.asset("red").key in ("red", "SR_B3.TIF")
    assert oli.qa_asset is not None


def test_one_band_name_may_mean_another_asset_in_another_product(tmp_path: Path) -> None:
    landsat = scenes.hls_scene(tmp_path)
    sentinel = {**landsat, "id": "HLS.S30.T32TMT.2024167T101602.v2.0", "collection": "HLSS30_2.0"}
    assert Scene.from_item(read_item(landsat, (str(tmp_path),))).asset("nir08").key == "B05"
    assert Scene.from_item(read_item(sentinel, (str(tmp_path),))).asset("rededge1").key == "B05"


def test_layers_of_an_asset_are_found_by_their_own_names(tmp_path: Path) -> None:
    scene = Scene.from_item(read_item(scenes.naip_scene(tmp_path), (str(tmp_path),)))
    assert scene.band_names == ("image", "red", "green", "blue", "nir")
    assert scene.asset("nir") == scene.asset("image")
    with pytest.raises(BandNotFoundError, match="no band 'swir'; there are image, red, green, blue, nir") as caught:
        scene.asset("swir")
    assert not str(caught.value).startswith("'")


def test_collections_that_nobody_described_get_a_generic_profile_and_a_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assets = {
        "thumbnail": {"href": "https://h/t.tif", "type": COG, "roles": ["thumbnail"]},
        "coarse": {"href": "https://h/c.tif", "type": COG, "roles": ["data"], "proj:shape": [240, 240],
                   "proj:transform": [20, 0, 0, 0, -20, 0]},
        "fine": {"href": "https://h/f.tif", "type": COG, "roles": ["data"]},
        "metadata": {"href": "https://h/m.xml", "type": "application/xml"},
        "text": {"href": "https://h/x.txt"},
        "no type": {"href": "https://h/x.tif?v=1", "roles": ["data"]},
    }  # fmt: skip
    with caplog.at_level(logging.INFO):
        scene = scene_of(item_of(assets))
    assert scene.band_names == ("coarse", "fine", "no type")
    assert scene.reference == "fine"
    assert scene.profile == "generic"
    assert "item scene-1: collection 'nobody' has no profile; using its assets coarse, fine" in caplog.text


@pytest.mark.parametrize(
    ("roles", "kept"),
    [
        ({"a": ["data"], "b": []}, ("a",)),
        ({"a": [], "b": ["visual"]}, ("a",)),
        ({"a": ["thumbnail"], "b": ["visual"]}, ("b",)),
        ({"a": None, "b": "data"}, ("a", "b")),
        ({"a": 5, "b": [["x"]]}, ("a", "b")),
    ],
)
def test_generic_profiles_take_the_best_assets(roles: dict[str, Any], kept: tuple[str, ...]) -> None:
    assets = {key: {"href": f"https://h/{key}.tif", "roles": role} for key, role in roles.items()}
    assert generic_profile(item_of(assets)).band_names == kept


def test_grid_asset_leaves_the_grid_to_the_header() -> None:
    assert scene_of(item_of()).grid == GRID
    assert scene_of(item_of(), grid="asset").grid is None
    scene = scene_of(item_of(), grid="asset").with_grid(utm_grid(7))
    assert scene.grid == utm_grid(7)
    assert all(asset.grid is None for asset in scene.assets)


def test_a_header_must_be_what_the_item_says() -> None:
    scene = scene_of(item_of())
    assert scene.ratio_of(scene.assets[0], GRID) == Ratio(1, 1)
    for other in (utm_grid(479), utm_grid(480, epsg=32633), coarser(GRID, 2)):
        with pytest.raises(UnsupportedGridError, match=r"item scene-1: asset 'red': the item says 480 x 480 .* header"):
            scene.ratio_of(scene.assets[0], other)
    with pytest.raises(UnsupportedGridError, match="no CRS and transform in its header"):
        scene.ratio_of(scene.assets[0], None)


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"datetime": "2024-06-15T10:30:31.024Z"}, ("2024-06-15T10:30:31.024000+00:00", None, None)),
        (
            {"datetime": None, "start_datetime": "2022-02-02T00:00:00Z", "end_datetime": "2022-02-04T00:00:00Z"},
            ("2022-02-03T00:00:00+00:00", "2022-02-02T00:00:00+00:00", "2022-02-04T00:00:00+00:00"),
        ),
        (
            {"datetime": "2024-06-15", "start_datetime": "2024-06-14T22:00:00+02:00", "end_datetime": None},
            ("2024-06-15T00:00:00+00:00", "2024-06-14T20:00:00+00:00", None),
        ),
    ],
)
def test_times_are_the_items_own_to_the_microsecond(
    properties: dict[str, Any], expected: tuple[str | None, ...]
) -> None:
    scene = scene_of(item_of(**properties))
    found = (scene.datetime, scene.start_datetime, scene.end_datetime)
    assert tuple(moment.isoformat() if moment else None for moment in found) == expected
    assert scene.datetime.tzinfo == dt.UTC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"geometry": None}, "geometry is null"),
        ({"assets": {}}, "assets"),
        ({"assets": None}, "assets"),
        ({"assets": ["x"]}, "assets"),
        ({"assets": {"a": {"href": "https://h/x.nc", "type": "application/x-netcdf"}}}, "found application/x-netcdf"),
        ({"collection": 5}, "collection"),
        ({"properties": {"datetime": None}}, "start_datetime and end_datetime are not both given"),
        ({"properties": {"datetime": "soon"}}, "properties.datetime is no date and time: 'soon'"),
        (
            {"properties": {"datetime": None, "start_datetime": "2024-01-02", "end_datetime": "2024-01-01"}},
            "end_datetime .* is before start_datetime",
        ),
        ({"properties": {"datetime": "2024-01-01", "proj:epsg": 1.5}}, "asset 'red': proj:epsg 1.5"),
        ({"properties": {"datetime": "2024-01-01", "proj:epsg": 4326, "proj:code": "EPSG:32632"}}, "contradict"),
    ],
)
def test_items_that_can_not_be_used_are_refused_by_id_and_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidItemError, match=rf"item scene-1: .*{message}"):
        scene_of({**item_of(), **change})


def test_missing_assets_are_named_with_what_there_is() -> None:
    sentinel2 = load_profile("sentinel-2-l2a")
    with pytest.raises(
        InvalidItemError, match="for the reference band 'red' of profile 'sentinel-2-l2a'; assets are scl"
    ):
        scene_of(item_of({"scl": {"href": "https://h/scl.tif"}}), sentinel2)
    with pytest.raises(InvalidItemError, match=r"no QA asset 'scl' \(nor SCL, SCL_20m\); assets are red"):
        scene_of(item_of(), sentinel2)


@pytest.mark.parametrize("href", ["/etc/passwd.tif", "file:///etc/x.tif", "/vsizip/x.tif", "ftp://h/x.tif"])
def test_hrefs_that_may_not_be_read_are_refused_by_item(href: str) -> None:
    with pytest.raises(HrefRefusedError, match="item scene-1: "):
        Scene.from_item(ItemSource(item_of({"red": {"href": href, "type": COG}})))


def test_no_signature_is_kept() -> None:
    for href in ("https://h/red.tif?sig=SECRET&se=1", "https://u:SECRET@h/red.tif", "red.tif?sig=SECRET"):
        scene = scene_of(item_of({"red": {"href": href, "type": COG}}))
        assert scene.assets[0].href == "https://h/red.tif"
        assert "SECRET" not in scene.to_json()


def test_properties_are_carried_with_the_profiles_types() -> None:
    names = ["platform", "eo:cloud_cover", {"name": "on", "type": "boolean"}, "list", "gone"]
    profile = parse_profile(
        {"name": "t", "reference": "red", "bands": [{"name": "red", "asset": "red"}], "properties": names}, "t"
    )
    fields: dict[str, Any] = {"platform": "s2", "eo:cloud_cover": "27.5", "on": True, "list": ["a", 1]}
    item = item_of(None, **fields)
    assert dict(scene_of(item, profile).properties) == {
        "platform": "s2",
        "eo:cloud_cover": 27.5,
        "on": True,
        "list": '["a", 1]',
        "gone": None,
    }
    assert scene_of(item_of(None, **{"eo:cloud_cover": "many"}), profile).properties["eo:cloud_cover"] is None


def test_the_order_of_references_decides(tmp_path: Path) -> None:
    item = scenes.sentinel1_scene(tmp_path)
    assert Scene.from_item(read_item(item, (str(tmp_path),))).reference == "vv"
    horizontal = {**item, "assets": {"hh": item["assets"]["vv"]}}
    assert Scene.from_item(read_item(horizontal, (str(tmp_path),))).reference == "hh"


@needs_shared_data
@pytest.mark.parametrize("path", sorted(ITEMS.rglob("*.json")) if ITEMS.is_dir() else [], ids=lambda path: path.stem)
def test_every_real_item_is_a_scene_or_a_clear_refusal(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    try:
        source = read_item(path)
        scene = Scene.from_item(source)
    except StacchipError as err:
        assert json.loads(text)["id"] in str(err) or path.name in str(err)
        assert len(str(err)) < 2000
    else:
        assert scene.grid is None or isinstance(scene.grid, Grid)
        assert Scene.from_json(scene.to_json()) == scene
        assert json.loads(text) == source.item


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
RICH = {
    **item_of(start_datetime="2024-01-01", end_datetime="2024-01-02", platform="x"),
    "assets": {
        "B04": {"href": "r.tif", "type": COG, "roles": ["data"], "proj:shape": [480, 480], "alternate": {}},
        "SCL": {"href": "s.tif", "type": COG, "roles": ["data"]},
        "x": {"href": "x.xml", "type": "text/xml"},
    },
    "links": [{"rel": "self", "href": "https://h/item.json"}],
    "bbox": [1, 2, 3, 4],
}
PATHS: list[tuple[Any, ...]] = [
    *((key,) for key in RICH),
    *(("properties", key) for key in RICH["properties"]),
    *(("assets", key) for key in RICH["assets"]),
    *(("assets", "B04", key) for key in RICH["assets"]["B04"]),
    ("assets", "B04", "roles", 0),
    ("links", 0),
    ("links", 0, "href"),
    ("assets", "SCL", "href"),
]


@settings(max_examples=400)
@given(
    path=st.sampled_from(PATHS),
    value=JSON_VALUES,
    collection=st.sampled_from(["sentinel-2-l2a", "nobody"]),
    grid=st.sampled_from(["item", "asset"]),
)
def test_any_damage_to_an_item_is_harmless_or_refused(path: Any, value: Any, collection: str, grid: str) -> None:
    item: Any = {**copy.deepcopy(RICH), "collection": collection}
    inner = item
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    before = copy.deepcopy(item)
    try:
        scene = Scene.from_item(read_item(item), grid=grid)
    except StacchipError:
        pass
    else:
        scene.to_json().encode()
        assert Scene.from_json(scene.to_json()).key == scene.key
    assert repr(item) == repr(before)


def test_a_boolean_is_never_made_up_of_text() -> None:
    assert [_typed(value, "boolean") for value in (True, False, "false", "0", 1, None)] == [True, False] + [None] * 4


@pytest.mark.parametrize(
    ("alternate", "expected"),
    [
        ((), "https://h/red.tif"),
        (("s3",), "s3://bucket/red.tif"),
        (("none", "s3"), "s3://bucket/red.tif"),
        (("none", "odd"), "https://h/red.tif"),
    ],
)
def test_a_profile_may_prefer_an_alternate_href(alternate: tuple[str, ...], expected: str) -> None:
    others = {"s3": {"href": "s3://bucket/red.tif?X-Amz-Signature=SECRET"}, "odd": {"href": 7}}
    item = item_of({"red": {"href": "https://h/red.tif", "type": COG, "alternate": others}})
    profile = profile_of(item).model_copy(update={"alternate": alternate})
    (asset,) = Scene.from_item(ItemSource(item), profile).assets
    assert asset.href.partition("?")[0] == expected
    assert "SECRET" not in asset.href
