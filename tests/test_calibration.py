"""Scale and offset of an item's bands: what is believed, in which order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stacchip_core.sources.calibration import UNKNOWN, Calibration, calibration_of
from stacchip_core.sources.item import ItemSource
from stacchip_core.sources.profiles import Band, CollectionProfile, load_profile
from stacchip_core.sources.scene import Scene
from tests.data import ITEMS, needs_shared_data

S2 = load_profile("sentinel-2-l2a")
RED = next(band for band in S2.bands if band.name == "red")
SCL = next(band for band in S2.bands if band.name == "scl")


def told(asset: dict[str, Any], band: Band = RED, profile: CollectionProfile = S2, **properties: Any) -> Calibration:
    return calibration_of({"id": "i", "properties": properties}, asset, band, profile)


EARTH_SEARCH = {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}


@pytest.mark.parametrize(
    ("asset", "properties", "offset", "rule"),
    [
        (EARTH_SEARCH, {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.09"}, 0, "earthsearch"),
        (EARTH_SEARCH, {"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.09"}, -0.1, "item's"),
        (EARTH_SEARCH, {"s2:processing_baseline": "02.14"}, -0.1, "item's raster fields"),
        ({"raster:scale": 0.0001, "raster:offset": -0.1}, {}, -0.1, "item's raster fields"),
        ({"bands": [{"raster:scale": 0.0001, "raster:offset": -0.1}]}, {}, -0.1, "item's raster fields"),
        ({}, {"s2:processing_baseline": "04.00"}, -0.1, "processing baseline 04.00"),
        ({}, {"s2:processing_baseline": "05.11"}, -0.1, "processing baseline 05.11"),
        ({}, {"processing:version": "05.11"}, -0.1, "processing baseline 05.11"),
        ({}, {"s2:processing_baseline": "03.01"}, 0, "processing baseline 03.01"),
        ({"raster:bands": [{"nodata": 0}]}, {"s2:processing_baseline": "02.12"}, 0, "processing baseline 02.12"),
        ({}, {}, 0, UNKNOWN),
        ({}, {"s2:processing_baseline": "latest"}, 0, UNKNOWN),
        ({"raster:bands": "none"}, {"s2:processing_baseline": None}, 0, UNKNOWN),
    ],
)
def test_sentinel_2_offset_follows_its_provenance(
    asset: dict[str, Any], properties: dict[str, Any], offset: float, rule: str
) -> None:
    found = told(asset, **properties)
    assert found.scale == 0.0001
    assert found.offset == pytest.approx(offset)
    assert found.rule.startswith(rule)


@needs_shared_data
@pytest.mark.parametrize(
    ("path", "offset"),
    [
        ("sentinel-2-l2a/es-v1_S2A_31UDQ_20230617.json", 0.0),  # raster:bands say -0.1, and the offset is out already
        ("sentinel-2-l2a/es-v1_S2A_29RKH_20200219.json", 0.0),
        ("sentinel-2-l2a/es-c1_S2A_T20HNJ_20240311.json", -0.1),
        ("sentinel-2-l2a/pc_stac110_S2B_T13TDE_20241203.json", -0.1),
        ("sentinel-2-l2a/pc_S2B_T06VVN_20190629.json", 0.0),
        ("landsat-c2-l2/pcstyle_LC08_L2SP_047027_20201204.json", -0.2),
        ("landsat-c2-l2/usgs_LC08_L2SP_028030_20200114_SR.json", -0.2),
    ],
)
def test_real_items_are_read_as_their_providers_mean_them(path: str, offset: float) -> None:
    scene = Scene.from_item(ItemSource(json.loads((ITEMS / path).read_text())))
    red = scene.asset("red")
    assert red.offset == pytest.approx(offset)
    assert red.scale == (0.0000275 if "landsat" in path else 0.0001)
    assert not red.rule.startswith(UNKNOWN)
    assert Scene.from_json(scene.to_json()).asset("red") == red


@needs_shared_data
def test_an_item_that_tells_nothing_is_unknown() -> None:
    item = json.loads((ITEMS / "sentinel-2-l2a/es-v0_S2A_31NBJ_20190524.json").read_text())
    assert Scene.from_item(ItemSource(item)).asset("red").rule.startswith(UNKNOWN)


def test_classes_are_never_scaled() -> None:
    assert told(EARTH_SEARCH, SCL) == Calibration(1.0, 0.0, "as stored: classes")


PLAIN = CollectionProfile(name="mine", reference="a", bands=[{"name": "a", "asset": "a"}])
SCALED = Band(name="a", asset="a", scale=0.5, offset=2)


@pytest.mark.parametrize(
    ("asset", "band", "expected"),
    [
        ({}, PLAIN.bands[0], (1, 0, "as stored: neither item nor profile gives scale or offset")),
        ({}, SCALED, (0.5, 2, "profile mine: scale 0.5, offset 2")),
        ({"raster:bands": [{"scale": 3}]}, SCALED, (3, 0, "item's raster fields: scale 3, offset 0")),
        ({"raster:bands": [{"scale": 3}, {"scale": 4}]}, SCALED, (0.5, 2, "profile mine: scale 0.5, offset 2")),
        ({"raster:bands": [{"scale": 0}]}, SCALED, (0.5, 2, "profile mine: scale 0.5, offset 2")),
        ({"raster:bands": [{"scale": "x"}, 7]}, SCALED, (0.5, 2, "profile mine: scale 0.5, offset 2")),
        ({"raster:scale": float("inf")}, SCALED, (0.5, 2, "profile mine: scale 0.5, offset 2")),
    ],
)
def test_the_item_goes_before_the_profile(
    asset: dict[str, Any], band: Band, expected: tuple[float, float, str]
) -> None:
    assert told(asset, band, PLAIN) == Calibration(*expected)
