"""Looking after a warehouse as a flow: a dry run by default, and nothing removed where something is damaged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from flows.artifacts import maintain_summary
from flows.config import WarehouseConfig
from flows.maintain import MaintainConfig, maintain
from flows.results import MaintainOutcome
from flows.tasks import expire_versions, vacuum_warehouse, verify_warehouse
from stacchip_core import Warehouse
from stacchip_core.errors import CorruptWarehouseError
from tests.scenes import sentinel2_scene

STRAY = "00000000-0000-0000-0000-000000000000-0.parquet"


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """Two versions of a collection and of a combined index, and a file that no version needs, ten days old."""
    made = Warehouse(tmp_path / "w", create=True, local_roots=[tmp_path])
    for number in (1, 2):
        made.index_items([sentinel2_scene(tmp_path / "s", item_id=f"S2_{number}")], chip_size=96)
        made.merge("all", made.collections())
    data = tmp_path / "w" / "collections" / "sentinel-2-l2a" / "data"
    stray = data / STRAY
    stray.write_bytes(b"left by a run that was killed")
    for path in (tmp_path / "w").rglob("*"):
        os.utime(path, (path.stat().st_mtime - 10 * 86400,) * 2)
    return made


def _files(warehouse: Warehouse) -> list[str]:
    """All but the file by which the store is asked for its time."""
    return sorted(p.name for p in Path(warehouse.root).rglob("*") if p.is_file() and not p.name.startswith("clock-"))


def _config(warehouse: Warehouse, **more: Any) -> MaintainConfig:
    return MaintainConfig(warehouse=WarehouseConfig(root=warehouse.root), **more)


def test_tasks_tell_without_touching(warehouse: Warehouse) -> None:
    place = WarehouseConfig(root=warehouse.root)
    files = _files(warehouse)
    verified, vacuumed = verify_warehouse.fn(place, deep=True), vacuum_warehouse.fn(place, grace_days=7, dry_run=True)
    expired = expire_versions.fn(place, keep=1, days=1, dry_run=True)
    assert verified.problems == ()
    assert any(path.endswith(STRAY) for path, _, _ in vacuumed.removable)  # beside what batches had staged
    assert _files(warehouse) == files
    assert isinstance(expired, MaintainOutcome)


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_a_dry_run_tells_and_a_run_removes(warehouse: Warehouse, tmp_path: Path) -> None:
    told = maintain(_config(warehouse))
    assert (told.is_dry_run, told.problems) == (True, ())
    assert f"would be removed: {told.removable_files} files" in maintain_summary(told)
    done = maintain(_config(warehouse, dry_run=False, verify="deep", expire=True, keep=1, days=1))
    assert (done.removable_files, done.is_dry_run) == (told.removable_files, False)
    assert vacuum_warehouse.fn(_config(warehouse).warehouse, grace_days=7, dry_run=True).removable == ()
    assert not list((tmp_path / "w").rglob(f"{'0' * 8}-*"))
    assert Warehouse(warehouse.root).verify(deep=True).is_clean


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_where_something_is_damaged_the_run_fails_and_removes_nothing(warehouse: Warehouse, tmp_path: Path) -> None:
    victim = Path(warehouse.root) / warehouse.collection("sentinel-2-l2a").files[0].path
    victim.unlink()
    with pytest.raises(CorruptWarehouseError, match=r"nothing was expired or removed; the first: .*data/"):
        maintain(_config(warehouse, dry_run=False))
    assert list((tmp_path / "w").rglob(f"{'0' * 8}-*"))
