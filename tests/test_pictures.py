"""Pictures: drawn from light columns and few chips, whatever the items look like and however many there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import shapely

from flows import pictures
from flows.pictures import Reading, coverage_maps, coverage_pictures, index_pictures, outlines_of, sheet_of_version
from flows.results import IndexOutcome, Tally
from stacchip_core import IndexSettings, IndexVersion, Warehouse
from tests.scenes import landsat_l2_scene, sentinel2_scene


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """Three Sentinel-2 scenes, committed one by one, and a Landsat scene; the first has an odd geometry."""
    opened = Warehouse(tmp_path / "w", create=True, local_roots=(tmp_path / "scenes",))
    for number, day in enumerate(("2024-06-15", "2024-06-25", "2024-07-05")):
        item = sentinel2_scene(tmp_path / "scenes", item_id=f"S2B_{day}", when=f"{day}T10:30:31Z", seed=number)
        if not number:
            item["geometry"] = {"type": "Polygon"}
        opened.index_items([item], chip_size=96)
    opened.index_items([landsat_l2_scene(tmp_path / "scenes")], chip_size=96)
    opened.merge("all", collections=opened.collections())
    return opened


class Boxes:
    """Stands for an index of items with given boxes; hands out light columns alone."""

    def __init__(self, *boxes: tuple[str, tuple[float, float, float, float] | None]) -> None:
        sides = ("xmin", "ymin", "xmax", "ymax")
        self.rows = pa.table(
            {
                "key": pa.array([f"{name}/item/{n}" for n, (name, _) in enumerate(boxes)], pa.string()),
                "item_id": pa.array([f"item/{n}" for n in range(len(boxes))], pa.string()),
                "bbox": pa.array(
                    [box and dict(zip(sides, box, strict=True)) for _, box in boxes],
                    pa.struct([(side, pa.float64()) for side in sides]),
                ),
            }
        )

    def items(self, columns: list[str]) -> pa.Table:
        return self.rows.select(columns)


def outlines(*boxes: tuple[str, tuple[float, float, float, float] | None]) -> dict[str, Any]:
    version: Any = Boxes(*boxes)
    return outlines_of([version])


def test_outlines_are_boxes_around_chips_whatever_the_geometry(warehouse: Warehouse) -> None:
    versions: list[IndexVersion] = [warehouse.collection("sentinel-2-l2a"), warehouse.collection("landsat-c2-l2")]
    found = outlines_of(versions)
    assert {name: len(some) for name, some in found.items()} == {"landsat-c2-l2": 1, "sentinel-2-l2a": 3}
    combined = outlines_of([warehouse.combined("all")])
    assert {name: len(some) for name, some in combined.items()} == {"landsat-c2-l2": 1, "sentinel-2-l2a": 3}
    chips = shapely.from_wkb(versions[1].dataset().to_table()["geometry"].to_pylist())
    drawn = shapely.box(*shapely.total_bounds(chips))
    assert found["landsat-c2-l2"][0].equals_exact(drawn, 1e-5)
    assert coverage_pictures(versions)["Coverage"].startswith("data:image/svg+xml;base64,")


def test_outlines_need_no_json_and_are_sampled_by_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "OUTLINES_SHOWN", 10)
    many = [("a/b", (x / 10, 0.0, x / 10 + 0.1, 0.1)) for x in range(100)]
    found = outlines(*many, ("c", (5.0, 5.0, 6.0, 6.0)), ("c", None), ("d", None))
    assert {name: len(some) for name, some in found.items()} == {"a/b": 5, "c": 1}
    west = [shape.bounds[0] for shape in found["a/b"]]
    assert west == sorted(west)
    assert west[0] < 1.5
    assert west[-1] > 8.5


def test_an_outline_across_the_antimeridian_stays_there() -> None:
    found = outlines(("a", (-180.0, 60.0, 180.0, 61.0)), ("a", (-180.0, -90.0, 180.0, 90.0)), ("b", (1, 1, 2, 2)))
    across, world = found["a"]
    assert across.area == pytest.approx(1.0)
    assert across.bounds == (-180.0, 60.0, 180.0, 61.0)
    assert world.area == pytest.approx(360 * 180)


def test_nothing_to_show_is_a_map_that_says_so() -> None:
    nothing: Any = Boxes()
    assert "no outlines" in coverage_maps([nothing])[0].svg
    assert "no outlines" in coverage_maps([])[0].svg


def test_new_chips_are_read_from_the_files_of_new_items_alone(warehouse: Warehouse, tmp_path: Path) -> None:
    version = warehouse.collection("sentinel-2-l2a")
    rows = version.items(["item_id", "file"]).to_pylist()
    for row in rows:
        if row["item_id"] != "S2B_2024-07-05":
            warehouse.store.write(row["file"], b"not to be read")
    tally = Tally(version.name, version.version, new=1)
    outcome = IndexOutcome((tally,), fresh={version.name: ("S2B_2024-07-05",)})
    settings = IndexSettings(chip_size=96, local_roots=(str(tmp_path / "scenes"),))
    assert set(index_pictures(warehouse, settings, outcome)) == {"Coverage", "New chips of sentinel-2-l2a"}
    assert index_pictures(warehouse, settings, IndexOutcome((Tally(version.name, 1, same=3),))) == {}


def test_a_sheet_shows_chips_of_one_size(warehouse: Warehouse, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    warehouse.index_items([landsat_l2_scene(folder)], chip_size=64)
    reading = Reading(local_roots=(str(folder),))
    sheet = sheet_of_version(warehouse.collection("landsat-c2-l2"), reading)
    assert sheet is not None
    assert sheet.png.startswith(b"\x89PNG")
    assert "chips, shown as red, green, blue" in sheet.text


def test_a_sheet_whose_pixels_are_out_of_reach_is_none(warehouse: Warehouse) -> None:
    assert sheet_of_version(warehouse.collection("landsat-c2-l2"), Reading()) is None
