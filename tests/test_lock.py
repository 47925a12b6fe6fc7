"""Locks: canonical, readable, and the same after a round trip."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from stacchip_core import ChipSpec
from stacchip_core.chips.lock import (
    DatasetLock,
    IndexPin,
    ShardInfo,
    canonical_json,
    library_versions,
    readable_json,
    spec_sha256,
)

SPEC = ChipSpec(name="fields", index="global", version=3)
INFO = ShardInfo(
    number=0, collection="naip", key="shards/0.npz", chips=2, failures=1, size=9, sha256="a", arrays_sha256="b"
)
LOCK = DatasetLock(
    format=1,
    spec=SPEC,
    spec_sha256=spec_sha256(SPEC),
    index=IndexPin(name="global", version=3, sha256="ff"),
    profiles={"naip": "naip"},
    bands={"naip": ("image",)},
    libraries=library_versions(),
    radiometry="raw",
    chips=2,
    failures=1,
    null_fractions={},
    chips_key="chips-cc.parquet",
    chips_sha256="cc",
    shards=(INFO,),
)


def test_a_lock_comes_back_from_its_file() -> None:
    assert DatasetLock.model_validate_json(readable_json(LOCK)) == LOCK
    assert readable_json(LOCK).endswith(b"}\n")
    assert list(json.loads(readable_json(LOCK)))[:3] == ["format", "spec", "spec_sha256"]


def test_a_lock_can_not_be_changed_or_hold_unknown_keys() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        LOCK.chips = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        DatasetLock.model_validate({**LOCK.model_dump(), "made_at": "today"})


def test_equal_specs_have_equal_checksums_and_any_change_another() -> None:
    again = ChipSpec.load(json.loads(SPEC.model_dump_json()))
    assert spec_sha256(again) == spec_sha256(SPEC)
    changes = ({"seed": 1}, {"version": 4}, {"limit": 5}, {"max_cloud": 0.0}, {"format": "npz"}, {"bbox": (0, 0, 1, 1)})
    others = {spec_sha256(ChipSpec.load({**SPEC.model_dump(mode="json"), **change})) for change in changes}
    assert len(others | {spec_sha256(SPEC)}) == 7


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": [1, 2]}) == canonical_json({"a": [1, 2], "b": 1}) == b'{"a":[1,2],"b":1}'


def test_the_libraries_that_decide_the_bytes_are_named_with_their_versions() -> None:
    versions = library_versions()
    assert {"stacchip-core", "numpy", "zarr", "numcodecs", "rasterio", "pyarrow"} <= set(versions)
    assert "unknown" not in versions.values()


def test_an_index_pin_reads_as_people_write_it() -> None:
    assert str(LOCK.index) == "global@3"
