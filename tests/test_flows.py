"""The three flows: on disk and on S3, once and again, with items that fail and stores that fail for a while."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from prefect.tasks import Task

from flows import pictures, tasks
from flows.artifacts import index_summary
from flows.config import WarehouseConfig
from flows.index_items import IndexConfig, index_items, is_over_budget
from flows.materialize_chips import MaterializeConfig, materialize_chips
from flows.merge_indexes import MergeConfig, merge_indexes
from flows.results import IndexOutcome, Tally
from flows.tasks import commit_parts, failed_with, index_batch
from stacchip_core import ChipSpec, InputError, Storage, Warehouse
from stacchip_core.chips.choices import BandChoice
from stacchip_core.errors import (
    CommitConflictError,
    FailureBudgetError,
    StacchipError,
    TransientError,
    TransientStoreError,
)
from stacchip_core.sources.item import StagedItem
from stacchip_core.sources.source import Source
from stacchip_core.warehouse.batch import ItemFailure
from tests.scenes import landsat_l2_scene, sentinel2_scene, write_catalog

server = pytest.mark.server


# --- outcomes


def test_tallies_add_up() -> None:
    one = IndexOutcome((Tally("a", 1, new=2, chips=8),), (ItemFailure("x", "read", "gone"),), {"a": ("i",)})
    two = IndexOutcome((Tally("a", 2, updated=1, chips=4), Tally("b", 1, same=5)), (), {"a": ("j",), "b": ("k",)})
    both = one + two
    assert both.collections == (Tally("a", 2, new=2, updated=1, chips=12), Tally("b", 1, same=5))
    assert (both.total.new, both.total.same, both.total.chips) == (2, 5, 12)
    assert both.fresh == {"a": ("i", "j"), "b": ("k",)}
    assert both.failures == one.failures


@pytest.mark.parametrize(("failed", "new", "over"), [(10, 0, False), (11, 11, False), (11, 10, True), (50, 500, False)])
def test_the_failure_budget_is_a_number_and_a_share(failed: int, new: int, over: bool) -> None:
    config = IndexConfig(warehouse=WarehouseConfig(root="w"), source=Source(url="c.json"))
    assert is_over_budget(config, Tally("all", new=new, failed=failed)) is over


@pytest.mark.parametrize(
    ("error", "is_repeated", "is_repeated_at_commit"),
    [
        (TransientStoreError("busy"), True, True),
        (CommitConflictError("lost"), False, True),
        (InputError("wrong"), False, False),
        (KeyError("x"), False, False),
        (KeyboardInterrupt(), False, False),
    ],
)
def test_tasks_are_tried_again_by_the_class_of_their_error(
    error: BaseException, is_repeated: bool, is_repeated_at_commit: bool
) -> None:
    class Failed:
        def result(self) -> None:
            raise error

    def repeats(*errors: type[StacchipError]) -> bool:
        state: Any = Failed()
        unused: Any = None
        return failed_with(*errors)(unused, unused, state)

    assert repeats(TransientError) is is_repeated
    assert repeats(TransientError, CommitConflictError) is is_repeated_at_commit
    assert commit_parts.retry_condition_fn is not index_batch.retry_condition_fn


def test_a_task_body_runs_without_prefect(tmp_path: Path) -> None:
    item = sentinel2_scene(tmp_path / "scenes")
    config = _config(tmp_path / "w", Source(url=str(write_catalog(tmp_path / "scenes", [item]))))
    warehouse = config.warehouse.open(create=True)
    key = warehouse.stage([StagedItem(item, "")])
    result = index_batch.fn(config.warehouse, "s2", key, config.settings())
    assert (result.items, result.failed) == (1, 0)


# --- runs


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """Two Sentinel-2 scenes and a Landsat scene; `scenes` is the only folder that may be read."""
    folder = tmp_path / "scenes"
    return write_catalog(folder, _items(folder)[:3])


def _items(folder: Path) -> list[dict[str, Any]]:
    days = ("2024-06-15", "2024-06-25", "2024-07-05")
    scenes = [
        sentinel2_scene(folder, item_id=f"S2B_32TMT_{day}", when=f"{day}T10:30:31Z", seed=n)
        for n, day in enumerate(days)
    ]
    return [scenes[0], scenes[1], landsat_l2_scene(folder), scenes[2]]


def _config(root: Path | str, source: Source, **more: Any) -> IndexConfig:
    storage = more.pop("storage", Storage())
    settings = {"chip_size": 96, "batch_items": 2, "max_workers": 2, **more}
    return IndexConfig(warehouse=WarehouseConfig(root=str(root), storage=storage), source=source, **settings)


def _contents(config: WarehouseConfig) -> dict[str, str]:
    """Key -> sha256 of all there is in a warehouse."""
    warehouse = config.open()
    keys = [key for top in ("_staging", "collections", "combined", "datasets") for key in warehouse.store.list(top)]
    return {key: hashlib.sha256(warehouse.store.read(key)).hexdigest() for key in keys}


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> WarehouseConfig:
    """An empty place for a warehouse: a folder, or a bucket of an S3 server."""
    if request.param == "disk":
        return WarehouseConfig(root=str(tmp_path / "warehouse"))
    endpoint = request.getfixturevalue("s3_endpoint")
    bucket = f"flows-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"
    storage = Storage(endpoint=endpoint, region="us-east-1")
    fsspec.filesystem("s3", endpoint_url=endpoint).mkdir(bucket)
    return WarehouseConfig(root=f"s3://{bucket}/warehouse", storage=storage)


def _spec(**more: Any) -> ChipSpec:
    bands = (BandChoice(collection="sentinel-2-l2a", bands=("red", "nir")),)
    return ChipSpec(name="fields", index="all", bands=bands, size=96, limit=7, seed=3, shard_size=4, **more)


@server
@pytest.mark.usefixtures("prefect_server")
def test_the_three_flows_give_the_same_on_disk_and_on_s3_and_nothing_when_run_again(
    place: WarehouseConfig, catalog: Path
) -> None:
    roots = (str(catalog.parent),)
    index = IndexConfig(warehouse=place, source=Source(url=str(catalog)), chip_size=96, batch_items=1, max_workers=2)
    merge = MergeConfig(warehouse=place, name="all")
    materialize = MaterializeConfig(warehouse=place, spec=_spec(), local_roots=roots)

    first = index_items(index)
    assert {t.name: (t.new, t.failed) for t in first.collections} == {"landsat-c2-l2": (1, 0), "sentinel-2-l2a": (2, 0)}
    merged = merge_indexes(merge)
    assert (merged.changed, merged.items, merged.chips) == (True, 3, first.total.chips)
    made = materialize_chips(materialize)
    assert (made.changed, made.chips, made.shards, made.failed) == (True, 7, 2, 0)

    before = _contents(place)
    again = index_items(index)
    assert (again.total.new, again.total.updated, again.total.same, again.total.chips) == (0, 0, 3, 0)
    assert not merge_indexes(merge).changed
    assert not materialize_chips(materialize).changed
    assert _contents(place) == before

    _remember("rows", _rows(place.open()))
    _remember("shards", _arrays(place.open(), "fields"))


# What the flows gave on the first kind of store, for the second to agree with.
_REMEMBERED: dict[str, Any] = {}


def _remember(name: str, value: Any) -> None:
    assert _REMEMBERED.setdefault(name, value) == value


def _rows(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    table = warehouse.combined("all").dataset().to_table().sort_by("chip_id")
    columns = ["chip_id", "nodata_fraction", "cloud_fraction", "geometry"]
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def _arrays(warehouse: Warehouse, name: str) -> list[str | None]:
    lock = json.loads(warehouse.store.read(f"datasets/{name}/dataset.json"))
    return [shard["arrays_sha256"] for shard in lock["shards"]]


@server
@pytest.mark.usefixtures("prefect_server")
def test_only_what_is_new_or_changed_is_indexed(tmp_path: Path, catalog: Path) -> None:
    config = _config(tmp_path / "w", Source(url=str(catalog)))
    index_items(config)
    items = _items(tmp_path / "scenes")
    write_catalog(catalog.parent, items)
    added = index_items(config)
    assert (added.total.new, added.total.updated, added.total.same) == (1, 0, 3)
    assert added.fresh == {"landsat-c2-l2": (), "sentinel-2-l2a": ("S2B_32TMT_2024-07-05",)}
    items[0]["properties"]["eo:cloud_cover"] = 12.5
    write_catalog(catalog.parent, items)
    changed = index_items(config)
    assert (changed.total.new, changed.total.updated, changed.total.same) == (0, 1, 3)


@server
@pytest.mark.usefixtures("prefect_server")
def test_items_that_fail_are_reported_and_the_others_committed(tmp_path: Path, catalog: Path) -> None:
    scenes = sorted((catalog.parent / "sentinel-2-l2a").glob("*.json"))
    (catalog.parent / "S2B_32TMT_2024-06-15" / "scl.tif").write_text("<html>not found</html>")
    scenes[1].write_text("{half")
    config = _config(tmp_path / "w", Source(url=str(catalog)))
    outcome = index_items(config)
    assert (outcome.total.new, outcome.total.failed) == (1, 2)
    reasons = {failure.stage: failure for failure in outcome.failures}
    assert reasons["read"].item == "S2B_32TMT_2024-06-15"
    assert "scl" in reasons["read"].reason
    assert "not JSON" in reasons["discover"].reason
    again = index_items(config)
    total = again.total
    assert (total.new, total.same, total.failed, total.waiting, total.found) == (0, 1, 0, 2, 3)
    assert "to be tried again later" in index_summary(again)
    assert config.warehouse.open().collection("landsat-c2-l2").count() > 0
    elsewhere = config.model_copy(update={"warehouse": WarehouseConfig(root=str(tmp_path / "v")), "max_failed": 0})
    with pytest.raises(FailureBudgetError, match=r"2 of 3 items failed.*First: "):
        index_items(elsewhere)


@server
@pytest.mark.usefixtures("prefect_server")
def test_failures_are_retried_though_their_catalog_does_not_name_them_again(tmp_path: Path, catalog: Path) -> None:
    scl = catalog.parent / "S2B_32TMT_2024-06-15" / "scl.tif"
    whole = scl.read_bytes()
    scl.write_text("<html>not found</html>")
    config = _config(tmp_path / "w", Source(url=str(catalog), collections=("sentinel-2-l2a",)))
    assert index_items(config).total.failed == 1
    scl.write_bytes(whole)
    later = Source(url=str(catalog), collections=("sentinel-2-l2a",), datetime="2030")
    waiting = config.model_copy(update={"source": later})
    assert index_items(waiting).total.tried == 0, "not due"
    mended = index_items(waiting.model_copy(update={"retry_failed": True}))
    assert (mended.total.new, mended.total.failed) == (1, 0)
    version = config.warehouse.open().collection("sentinel-2-l2a")
    assert (version.failures().num_rows, version.items().num_rows) == (0, 2)
    assert version.version == 3, "one for each run: the second remembers a source that was not followed before"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without waiting."""
    for task in vars(tasks).values():
        if isinstance(task, Task):
            monkeypatch.setattr(task, "retry_delay_seconds", [0.01] * 3)


def _failing_first(real: Any, calls: list[str], *more: StacchipError) -> Any:
    """`real`, but its first call fails, and so do the next with errors of their own."""
    coming = iter((TransientStoreError("503: the store is busy"), *more))

    def flaky(*args: Any, **more: Any) -> Any:
        calls.append(real.__name__)
        if error := next(coming, None):
            raise error
        return real(*args, **more)

    return flaky


def _counted(real: Any, calls: list[str]) -> Any:
    def counting(*args: Any) -> Any:
        calls.append(real.__name__)
        return real(*args)

    return counting


@server
@pytest.mark.usefixtures("prefect_server", "at_once")
def test_a_store_that_fails_for_a_while_is_tried_again_at_every_step(
    tmp_path: Path, catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for step in ("classify", "stage", "index_batch", "merge"):
        monkeypatch.setattr(Warehouse, step, _failing_first(getattr(Warehouse, step), calls))
    lost = CommitConflictError("lost too many races")
    monkeypatch.setattr(Warehouse, "commit", _failing_first(Warehouse.commit, calls, lost))
    for step in ("prepare", "write_shard", "finish"):
        monkeypatch.setattr(tasks, step, _failing_first(getattr(tasks, step), calls))
    config = _config(tmp_path / "w", Source(url=str(catalog), collections=("sentinel-2-l2a",)))
    monkeypatch.setattr(WarehouseConfig, "open", _failing_first(WarehouseConfig.open, calls))

    outcome = index_items(config)
    assert (outcome.total.new, outcome.total.failed) == (2, 0)
    assert merge_indexes(MergeConfig(warehouse=config.warehouse, name="all")).items == 2
    made = materialize_chips(
        MaterializeConfig(warehouse=config.warehouse, spec=_spec(), local_roots=(str(catalog.parent),), max_workers=1)
    )
    assert (made.chips, made.failed) == (7, 0)
    expected = {"classify": 3, "stage": 2, "index_batch": 2, "commit": 3, "merge": 2, "prepare": 2, "finish": 2}
    assert {step: calls.count(step) for step in expected} == expected


@server
@pytest.mark.usefixtures("prefect_server")
def test_the_folders_of_a_source_are_looked_up_once_in_a_run(
    tmp_path: Path, catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    monkeypatch.setattr(IndexConfig, "settings", _counted(IndexConfig.settings, looks))
    index_items(_config(tmp_path / "w", Source(url=str(catalog))))
    assert looks == ["settings"]


@server
@pytest.mark.usefixtures("prefect_server")
def test_a_run_in_which_all_failed_says_so(tmp_path: Path, catalog: Path, caplog: pytest.LogCaptureFixture) -> None:
    (catalog.parent / "S2B_32TMT_2024-06-15" / "scl.tif").write_text("<html>not found</html>")
    (catalog.parent / "S2B_32TMT_2024-06-25" / "scl.tif").write_text("<html>not found</html>")
    config = _config(tmp_path / "w", Source(url=str(catalog), collections=("sentinel-2-l2a",)))
    outcome = index_items(config)
    assert (outcome.total.new, outcome.total.failed) == (0, 2)
    assert index_summary(outcome).startswith("**All 2 items tried failed: 0 new")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any(text.startswith("2 of 2 items failed (all of them); the first: S2B_32TMT_2024-06") for text in warnings)


@server
@pytest.mark.usefixtures("prefect_server")
def test_a_picture_that_can_not_be_drawn_is_a_warning(
    tmp_path: Path, catalog: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("nothing to draw")

    for name in ("coverage_pictures", "sample_of"):
        monkeypatch.setattr(pictures, name, broken)
    config = _config(tmp_path / "w", Source(url=str(catalog)))
    assert index_items(config).total.new == 3
    assert merge_indexes(MergeConfig(warehouse=config.warehouse, name="all")).changed
    roots = (str(catalog.parent),)
    assert materialize_chips(MaterializeConfig(warehouse=config.warehouse, spec=_spec(), local_roots=roots)).chips == 7
    assert sum("pictures could not be drawn" in record.getMessage() for record in caplog.records) == 3


@server
@pytest.mark.usefixtures("prefect_server")
def test_a_batch_that_fails_for_good_is_a_failure_of_its_items(
    tmp_path: Path, catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = Warehouse.index_batch

    def refusing(self: Warehouse, name: str, staged_key: str, settings: Any) -> Any:
        calls.append(name)
        if name == "landsat-c2-l2":
            raise InputError("refused for good")
        return real(self, name, staged_key, settings)

    monkeypatch.setattr(Warehouse, "index_batch", refusing)
    outcome = index_items(_config(tmp_path / "w", Source(url=str(catalog))))
    assert calls.count("landsat-c2-l2") == 1
    assert [(t.new, t.failed) for t in outcome.collections] == [(0, 1), (2, 0)]
    assert [failure.reason for failure in outcome.failures] == ["refused for good"]


@server
@pytest.mark.usefixtures("prefect_server")
def test_runs_leave_artifacts_to_look_at(tmp_path: Path, catalog: Path) -> None:
    from prefect.client.orchestration import get_client

    config = _config(tmp_path / "w", Source(url=str(catalog), collections=("sentinel-2-l2a",)), name="looked-at")
    index_items(config)
    merge_indexes(MergeConfig(warehouse=config.warehouse, name="artifacts"))
    with get_client(sync_client=True) as client:
        found = {artifact.key: artifact for artifact in client.read_artifacts(limit=200)}
    key = "index-looked-at"  # of this run alone: the server is shared by all tests
    assert {key, f"{key}-items", f"{key}-progress", "merge-artifacts", "merge-artifacts-sources"} <= set(found)
    page = str(found[key].data)
    assert "2 new, 0 updated" in page
    assert "![Coverage](data:image/svg+xml;base64," in page
    assert "![New chips of looked-at](data:image/png;base64," in page
    assert found[f"{key}-progress"].data == 100
