"""Every real item is a scene or is refused with a reason; none crashes, none is changed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pystac
import pytest
import shapely

from stacchip_core import InvalidItemError, StacchipError, UnsupportedGridError
from stacchip_core.index.footprint import footprints
from stacchip_core.index.grid import ChipGrid, GridSpec
from stacchip_core.sources.item import fingerprint, read_item
from stacchip_core.sources.raster import Grid
from stacchip_core.sources.scene import Scene
from tests.data import needs_shared_data
from tests.item_table import DOCUMENT, document, item_paths, outcome_of, profile_of
from tests.items import Item

pytestmark = needs_shared_data

# Items whose own geometry is not that of their grid: cropped files, examples put together by hand, boxes drawn wide.
GEOMETRY_IS_ANOTHERS = {
    "planet_epsg_null": "the asset is a clip of the item's scene",
    "43A4_cropped_MCD43A4.A2022073.h28v08": "2 x 2 pixels of a tile, the geometry rounded",
    "spec110_proj_example": "an example whose grid is on another continent",
    "umbra_gec_EPSG4326": "geometry is the box around a rotated grid",
    "iolulc_bbox_beyond_180": "a box of degrees around a UTM zone's mosaic",
}
REFUSALS: list[tuple[str, type[StacchipError], str]] = [
    (
        "awkward/both_epsg_and_code_conflict",
        UnsupportedGridError,
        "proj:code EPSG:32613 and proj:epsg EPSG:32614 contr",
    ),
    ("awkward/envisat_bbox_lat128", InvalidItemError, "no GeoTIFF or JPEG 2000 with data; found application/gzip"),
    ("awkward/epsg_is_float_32622.1", InvalidItemError, "no GeoTIFF or JPEG 2000 with data; found text/plain"),
    ("awkward/lat90_bbox_CS2", StacchipError, "local file '20201211_223832_CS2.tif' is outside local_roots"),
    ("awkward/s3_lst_worldwide_bbox", InvalidItemError, "found application/x-netcdf, application/xml"),
    ("landsat-c2-l2/noassets_3031_LC09_L2SR_081122_20221130", InvalidItemError, "assets is empty"),
    ("linz/nullgeometry_72360", InvalidItemError, "geometry is null"),
    ("modis/09A1_hdfonly_MOD09A1.A2022033.h19v10.061", InvalidItemError, "'sur_refl_b01' of profile 'modis-09a1'"),
    ("naip/stacchip_test_item", UnsupportedGridError, r"proj:shape \[800, 1000\] .* proj:bbox says"),
    (
        "sentinel-1-rtc/pcraw_utm_bbox_S1A_20191215T004249_rtc",
        UnsupportedGridError,
        r"is proj:shape \[rows",
    ),
    (
        "sentinel-1-rtc/pcraw_utm_bbox_S1A_20191215T105713_rtc",
        UnsupportedGridError,
        r"is proj:shape \[rows",
    ),
    ("sentinel-2-l2a/cdse_stac110_S2C_T33UWP_20250330", InvalidItemError, "reference band 'red'.*AOT_10m, B01_20m"),
    ("sentinel-2-l2a/eopf_cdse_stac110_S2A_T32TNQ_20251113", InvalidItemError, r"B04_10m \(application/vnd.zarr\)"),
    ("sentinel-2-l2a/eopf_zarr_alternate_S2A_T31TFL_20250831", InvalidItemError, "found application/vnd.zarr, "),
    ("sentinel-2-l2a/multiband_EPSG4326_Jaca_1", InvalidItemError, "assets are Jaca_1; a profile of your own can"),
]


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", item_paths(), ids=name_of)
def test_a_real_item_is_a_scene_or_a_refusal_that_names_it(path: Path) -> None:
    item = json.loads(path.read_text(encoding="utf-8"))
    before = copy.deepcopy(item)
    outcome = outcome_of(path, item)
    assert item == before, "the item is never changed"
    if outcome.error is not None:
        assert str(outcome.error).startswith(f"item {item['id']}: ")
        return
    scene = outcome.scene
    assert scene is not None and scene.item_id == item["id"] and scene.datetime.tzinfo is not None
    assert Scene.from_json(scene.to_json()) == scene
    assert scene.asset(scene.reference).href
    assert all(len(asset.layers) == 0 or asset.band in scene.band_names for asset in scene.assets)
    assert "sig=" not in scene.to_json() and "X-Amz-" not in scene.to_json()


@pytest.mark.parametrize(("name", "kind", "reason"), REFUSALS, ids=[name for name, _, _ in REFUSALS])
def test_a_refusal_says_why(name: str, kind: type[StacchipError], reason: str) -> None:
    (path,) = [path for path in item_paths() if name_of(path) == name]
    error = outcome_of(path, json.loads(path.read_text(encoding="utf-8"))).error
    with pytest.raises(kind, match=reason):
        raise error or AssertionError("not refused")


def test_nothing_else_is_refused() -> None:
    outcomes = [outcome_of(path, json.loads(path.read_text(encoding="utf-8"))) for path in item_paths()]
    assert len(outcomes) == 86
    assert {name_of(o.path) for o in outcomes if o.error} == {name for name, _, _ in REFUSALS}


def declared() -> list[tuple[Path, Item, Grid]]:
    """The items that say their grid, and that grid."""
    items = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in item_paths()]
    scenes = [(path, item, outcome_of(path, item).scene) for path, item in items]
    return [(path, item, scene.grid) for path, item, scene in scenes if scene and scene.grid]


def test_chips_lie_where_the_item_says() -> None:
    """Padded chips of the declared grid cover the item's own geometry, at the poles and the antimeridian too."""
    assert len(declared()) == 49
    for path, item, grid in declared():
        chips = ChipGrid(grid, GridSpec(1024, 1024, "pad"))
        x, y = chips.positions()
        shapes = [shape for shape in footprints(grid, x * 1024, y * 1024, 1024) if shape is not None]
        assert shapes and all(shape.is_valid for shape in shapes), path.stem
        for west, south, east, north in (part.bounds for part in shapely.get_parts(shapes)):
            assert east - west < 200 or max(north, -south) > 89.99, f"{path.stem}: {east - west} degrees wide"
        measured = shapely.make_valid(shapely.from_geojson(json.dumps(item["geometry"])))
        uncovered = measured.difference(shapely.make_valid(shapely.union_all(shapes))).area / measured.area
        assert (uncovered < 0.01) == (path.stem not in GEOMETRY_IS_ANOTHERS), f"{path.stem}: {uncovered} uncovered"


@pytest.mark.parametrize("path", item_paths(), ids=name_of)
def test_pystac_and_plain_json_give_the_same_scene(path: Path) -> None:
    """pystac rewrites projection fields and migrates old versions on read."""
    item = json.loads(path.read_text(encoding="utf-8"))
    try:
        read = pystac.Item.from_dict(item, migrate=False)
    except (TypeError, KeyError, ValueError) as err:
        pytest.skip(f"pystac can't read it: {err}")
    plain, scene = outcome_of(path, item), None
    before = read.to_dict(include_self_link=True, transform_hrefs=False)
    try:
        scene = Scene.from_item(read_item(read), profile_of(path, item))
    except StacchipError as err:
        assert plain.error is not None and type(err) is type(plain.error)
    assert read.to_dict(include_self_link=True, transform_hrefs=False) == before
    assert (scene and scene.grid) == (plain.scene and plain.scene.grid)
    assert (scene and scene.band_names) == (plain.scene and plain.scene.band_names)


@pytest.mark.parametrize("path", item_paths()[::7], ids=name_of)
def test_a_fingerprint_is_of_content_not_of_links_or_order(path: Path) -> None:
    item = json.loads(path.read_text(encoding="utf-8"))
    turned = dict(reversed(item.items())) | {"links": [{"rel": "self", "href": "https://example.com/moved.json"}]}
    assert fingerprint(item) == fingerprint(turned)
    changed = copy.deepcopy(item)
    changed["properties"]["eo:cloud_cover"] = 99.5
    assert fingerprint(item) != fingerprint(changed)


def test_the_documented_table_is_current() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run python -m tests.item_table"
