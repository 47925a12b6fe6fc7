"""Statistics in the lock are those that numpy finds in the train chips that were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from stacchip_core import Dataset, InputError, Warehouse, materialize
from stacchip_core.chips.leakage import leakage
from stacchip_core.cli import app
from tests.scenes import Item, sentinel1_scene, utm_grid
from tests.warehouses import RGBN, made, scenes, spec

SPLIT = {"validation": 0.3, "test": 0.2, "by": "chip"}  # the scenes lie in one block


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pixels")
    scenes(folder)
    return folder


@pytest.fixture(scope="module")
def warehouse(pixels: Path, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return made(pixels, tmp_path_factory.mktemp("warehouse"))


def truth(dataset: Dataset, collection: str, band: str, layer: int = 0) -> Any:
    """All measured values of a layer in the chips that count, one after the other."""
    found = []
    for place, (row, chip) in enumerate(dataset):
        if row["collection"] != collection or row.get("split") not in (None, "train"):
            continue
        values, nodata = chip[band][layer], dataset.nodata_of(place)[band]
        is_measured = np.isfinite(values) if nodata is None or np.isnan(nodata) else values != nodata
        if "mask" in chip and chip["mask"].shape[1:] == values.shape:
            is_measured &= chip["mask"][0] == 1
        found.append(values[is_measured & np.isfinite(values)])
    return np.concatenate(found).astype(np.float64)


def layers(dataset: Dataset, collection: str) -> dict[str, tuple[str, int]]:
    """Name in the lock -> the band and the layer of it."""
    shard = next(number for number, info in enumerate(dataset.lock.shards) if info.collection == collection)
    names = dataset._shard(shard).labels.layers
    return {name: (band, n) for band, own in names.items() if band != "mask" for n, name in enumerate(own)}


@pytest.mark.parametrize(
    "values",
    [
        {"name": "everything"},
        {"name": "parted", "bands": RGBN, "split": SPLIT},
        {"name": "told", "bands": RGBN[:1], "radiometry": "reflectance", "dtype": "float32", "mask": True},
        {"name": "own", "bands": RGBN, "native": True},
    ],
    ids=lambda values: values["name"],
)
def test_statistics_are_those_of_the_train_chips(warehouse: Warehouse, values: dict[str, Any]) -> None:
    dataset = materialize(warehouse, spec(**values))
    assert set(dataset.lock.statistics) == set(dataset.chips["collection"].to_pylist())
    for collection, bands in dataset.lock.statistics.items():
        places = layers(dataset, collection)
        assert set(bands) == set(places)
        for name, found in bands.items():
            expected = truth(dataset, collection, *places[name])
            assert found.count == expected.size
            assert found.mean == pytest.approx(expected.mean(), rel=1e-6)
            assert found.std == pytest.approx(expected.std(), rel=1e-6, abs=1e-9)
            assert (found.min, found.max) == (expected.min(), expected.max())
            assert found.percentiles["50"] == pytest.approx(np.percentile(expected, 50), rel=2e-3, abs=1e-9)


def test_radars_nodata_enters_no_number(warehouse: Warehouse) -> None:
    """-32768 was taken for backscatter by stacchip."""
    dataset = materialize(warehouse, spec(name="everything"))
    radar = dataset.lock.statistics["sentinel-1-rtc"]
    assert {row["collection"] for row, chip in dataset if any((chip[band] == -32768).any() for band in chip)} == {
        "sentinel-1-rtc"
    }
    for found in radar.values():
        assert found.nodata > 0
        assert found.min is not None and found.min > 0


def test_splits_other_than_train_say_nothing(warehouse: Warehouse) -> None:
    dataset = materialize(warehouse, spec(name="parted", bands=RGBN, split=SPLIT))
    held = set(dataset.chips["split"].to_pylist())
    assert "train" in held and len(held) > 1, "the case has several splits"
    everything = materialize(warehouse, spec(name="whole", bands=RGBN))
    red = [one.lock.statistics["sentinel-2-l2a"]["red"].count for one in (dataset, everything)]
    assert red[0] < red[1]


def test_pixels_beyond_the_edge_are_not_counted(tmp_path: Path) -> None:
    """150 pixels a side, cut at 96: the last chips are mostly beyond, and the band has no nodata to say so."""
    item: Item = sentinel1_scene(tmp_path, grid=utm_grid(150))
    warehouse = Warehouse(tmp_path / "w", create=True, local_roots=[str(tmp_path)])
    warehouse.index_items([item], chip_size=96, edge="pad")
    warehouse.merge("global", collections=warehouse.collections())
    dataset = materialize(warehouse, spec(edge="pad"))
    (bands,) = dataset.lock.statistics.values()
    for name, found in bands.items():
        assert found.count + found.nodata == len(dataset) * 96 * 96, name
        assert found.count <= 150 * 150, name
        assert found.min is not None and found.min > -32768, name


def test_a_second_run_and_other_workers_find_the_same(warehouse: Warehouse) -> None:
    one = materialize(warehouse, spec(name="one", bands=RGBN), workers=1)
    many = materialize(warehouse, spec(name="many", bands=RGBN), workers=4)
    assert one.lock.statistics == many.lock.statistics


def test_clays_form_is_yaml_with_an_entry_for_each_collection(warehouse: Warehouse) -> None:
    dataset = materialize(warehouse, spec(name="everything"))
    told = yaml.safe_load(yaml.safe_dump(dataset.clay_metadata()))
    assert set(told) == set(dataset.lock.statistics)
    entry, bands = told["sentinel-2-l2a"], dataset.lock.statistics["sentinel-2-l2a"]
    assert entry["band_order"] == list(bands) and entry["gsd"] == 10
    assert entry["bands"]["mean"] == {name: summary.mean for name, summary in bands.items()}
    assert [entry["band_order"][place] for place in entry["rgb_indices"]] == ["red", "green", "blue"]


def test_leakage_is_told_by_dataset_and_command(warehouse: Warehouse) -> None:
    dataset = materialize(warehouse, spec(name="parted", bands=RGBN, split=SPLIT))
    assert dataset.leakage() == leakage(dataset.chips)
    done = CliRunner().invoke(app, ["-w", warehouse.root, "dataset", "leakage", "parted", "--json"])
    assert json.loads(done.stdout) == json.loads(dataset.leakage().model_dump_json())
    assert done.exit_code == (0 if dataset.leakage().is_clean else 1)
    with pytest.raises(InputError, match="dataset 'everything' has no splits; ask for them"):
        materialize(warehouse, spec(name="everything")).leakage()


def test_validate_counts_what_a_spec_selects(warehouse: Warehouse, tmp_path: Path) -> None:
    wanted = spec(name="parted", bands=RGBN, split=SPLIT, max_cloud=1)
    file = tmp_path / "spec.yaml"
    file.write_text(wanted.model_dump_json(exclude_defaults=True))
    told = json.loads(run(warehouse, "validate", str(file), "--json"))
    table = materialize(warehouse, wanted.model_copy(update={"name": "checked"})).chips
    expected = {name: table["split"].to_pylist().count(name) for name in set(table["split"].to_pylist())}
    assert {part["split"]: part["count_all"] for part in told["parts"]} == expected
    assert f"parted: {len(table)} chips" in run(warehouse, "validate", str(file))
    file.write_text(json.dumps({"name": "x", "index": "global", "sise": 96}))
    assert "did you mean 'size'" in run(warehouse, "validate", str(file), code=1)


def run(warehouse: Warehouse, *words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["-w", warehouse.root, *words], env={"COLUMNS": "200"})
    assert done.exit_code == code, done.output
    return done.output
