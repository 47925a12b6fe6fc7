"""The form for indexing items once more: what the server refuses before a run exists, and what a run does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from flows.artifacts import reindex_summary
from flows.config import WarehouseConfig
from flows.configured import ENVIRONMENT_VARIABLE, FOLDER_VARIABLE, listed
from flows.index_items import IndexConfig, index_items
from flows.reindex_items import ReindexConfig, reindex_items
from flows.tasks import choose_items
from stacchip_core import InputError, LookupFailedError, Warehouse
from tests.prefect_stack import Installation
from tests.scenes import sentinel2_scene, write_catalog

NAME = "s2"
WHOLE = {"collection": NAME, "which": "everything", "reason": "the mask was mended"}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IndexConfig:
    """Two scenes of June and July, and a collection that indexes them; nothing is indexed yet."""
    source = {"url": str(write_catalog(tmp_path / "scenes", _scenes(tmp_path / "scenes")))}
    collection = {"source": source, "name": NAME, "chip_size": 96, "pictures": False}
    files = Installation(
        tmp_path / "deployments", str(tmp_path / "w"), collections={NAME: collection, "other": collection}
    )
    files.write()
    monkeypatch.setenv(FOLDER_VARIABLE, str(files.folder))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "local")
    listed.cache_clear()
    return IndexConfig.model_validate({**collection, "warehouse": {"root": str(tmp_path / "w")}})


def _scenes(folder: Path, seed: int = 1) -> list[dict[str, Any]]:
    return [
        sentinel2_scene(folder, item_id=f"S2_{month}", when=f"2024-{month}-15T10:00:00Z", seed=seed)
        for month in ("06", "07")
    ]


@pytest.mark.usefixtures("installed")
def test_the_form_lists_the_collections_of_the_environment() -> None:
    schema = ReindexConfig.model_json_schema()
    assert schema["properties"]["collection"]["enum"] == ["other", NAME]


@pytest.mark.parametrize(
    ("change", "is_taken"),
    [
        ({}, True),
        ({"collection": "unknown"}, False),
        ({"reason": "no"}, False),
        ({"which": "some"}, False),
        ({"which": "items"}, False),
        ({"which": "items", "items": []}, False),
        ({"which": "items", "items": ["S2_06"]}, True),
        ({"which": "time"}, False),
        ({"which": "time", "datetime": ""}, False),
        ({"which": "time", "datetime": "June"}, False),
        ({"which": "time", "datetime": "2024-06"}, True),
        ({"which": "time", "datetime": "2024-06-01/2024-07-31"}, True),
        ({"which": "time", "datetime": "2024-06-01T00:00:00Z/.."}, True),
        ({"which": "time", "datetime": "../2024"}, True),
        ({"chip_sizes": [8]}, False),
        ({"chip_sizes": [128]}, True),
        ({"chip_sizes": ["128"]}, False),
        ({"colour": "red"}, False),
    ],
)
@pytest.mark.usefixtures("installed")
def test_the_server_refuses_mistakes_by_the_schema_alone(change: dict[str, Any], is_taken: bool) -> None:
    """Prefect's server checks parameters with jsonschema, against this schema, before it makes a run."""
    schema = ReindexConfig.model_json_schema()
    found = list(jsonschema.Draft202012Validator(schema).iter_errors({**WHOLE, **change}))
    assert (not found) is is_taken, found


def test_what_the_schema_takes_and_the_calendar_does_not_is_refused_by_the_run() -> None:
    with pytest.raises(InputError, match="ends before it starts"):
        ReindexConfig.model_validate({**WHOLE, "which": "time", "datetime": "2024-06/2024-05"}).interval()
    with pytest.raises(InputError, match="no item ids"):
        ReindexConfig.model_validate({**WHOLE, "which": "items"}).interval()


def test_items_are_chosen_by_id_and_time(installed: IndexConfig, tmp_path: Path) -> None:
    Warehouse(tmp_path / "w", create=True).index_items(
        _scenes(tmp_path / "scenes"), name=NAME, chip_size=96, local_roots=[tmp_path / "scenes"]
    )
    place = WarehouseConfig(root=str(tmp_path / "w"))

    def ids(*args: Any) -> list[str]:
        return sorted(key.rpartition("/")[2] for key in choose_items.fn(place, NAME, *args).keys)

    assert ids(None, "") == ["S2_06", "S2_07"]
    assert ids(None, "2024-06") == ["S2_06"]
    assert ids(None, "2024-07-15/..") == ["S2_07"]
    assert ids(("S2_07",), "") == ["S2_07"]
    assert ids(("S2_07",), "2024-06") == []
    with pytest.raises(LookupFailedError, match="no item S2_08"):
        ids(("S2_08",), "")


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_a_run_rebuilds_what_was_chosen_and_a_dry_run_only_tells(installed: IndexConfig, tmp_path: Path) -> None:
    index_items(installed)
    warehouse = installed.warehouse.open()
    before = _rows(warehouse)
    _scenes(tmp_path / "scenes", seed=50)  # other pixels behind the same items

    asked = ReindexConfig.model_validate({**WHOLE, "which": "time", "datetime": "2024-06"})
    told = reindex_items(asked)
    assert (told.items, told.is_dry_run, told.done.total.updated) == (1, True, 1)
    assert "dry run" in reindex_summary(told)
    assert warehouse.collection(NAME).version == 1

    done = reindex_items(asked.model_copy(update={"dry_run": False}))
    assert (done.items, done.done.total.updated, done.done.total.new) == (1, 1, 0)
    version = warehouse.collection(NAME)
    assert version.version == 2
    assert {"reindexed": "time", "reason": WHOLE["reason"]} in version.sources
    after = _rows(warehouse)
    assert {chip for chip in before if before[chip] != after[chip]}
    assert all(before[chip] == after[chip] for chip in before if "S2_07" in chip)

    sizes = reindex_items(asked.model_copy(update={"dry_run": False, "chip_sizes": (128,)}))
    assert (sizes.done.total.new, sizes.grids) == (1, ("128-128-drop",))
    assert (index_items(installed).total.same, warehouse.verify(deep=True).is_clean) == (2, True)

    path = tmp_path / "deployments" / "collections" / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "max_nodata": 0.9}))
    stale = {**WHOLE, "stale": True, "dry_run": False}
    first, again = (reindex_items(ReindexConfig.model_validate(stale)) for _ in range(2))
    assert (first.done.total.updated, again.done.total.updated, again.done.total.same) == (3, 0, 3)


def _rows(warehouse: Warehouse) -> dict[str, float]:
    table = warehouse.collection(NAME).dataset().to_table(columns=["chip_id", "cloud_fraction"])
    return dict(zip(table["chip_id"].to_pylist(), table["cloud_fraction"].to_pylist(), strict=True))
