"""What is deployed where: files of every environment, the image and what is started beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._triggers import DeploymentTriggerAdapter
from prefect.events import DeploymentEventTrigger

from deployments import render
from deployments.automations import HEARTBEAT_S, SILENT_S, crashed
from deployments.setup import with_variables
from flows.configured import (
    ENVIRONMENT_VARIABLE,
    FOLDER_VARIABLE,
    WAREHOUSE_VARIABLE,
    Environment,
    collection_names,
    load_deployed,
    load_environment,
)
from flows.index_items import IndexConfig, index_items
from flows.reindex_items import reindex_items
from stacchip_core import InputError, LookupFailedError, Warehouse
from stacchip_core.warehouse.store import Store
from tests.data import REPO
from tests.prefect_stack import Installation
from tests.scenes import sentinel2_scene

FOLDER = REPO / "deployments"
ENVIRONMENTS = sorted(path.stem for path in (FOLDER / "environments").glob("*.yaml"))
SECRET_WORDS = re.compile(
    r"(AKIA[0-9A-Z]{12,}|(password|secret|token|key)[a-z_]*\s*[:=]\s*[\"']?[A-Za-z0-9/+]{12,})", re.I
)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (ENVIRONMENT_VARIABLE, FOLDER_VARIABLE, WAREHOUSE_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_renders_to_deployments_that_name_flows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in ("staging", "production"):
        with pytest.raises(InputError, match="set STACCHIP_WAREHOUSE to the root"):
            load_environment(name)
        monkeypatch.setenv(WAREHOUSE_VARIABLE, "s3://bucket/prefix")
    environment = load_environment(name)
    found = render.render(environment)["deployments"]
    names = [one["name"] for one in found]
    assert len(set(names)) == len(names)
    files = (environment.collections, environment.combined, environment.datasets, environment.care)
    assert set(names) == {"reindex", *(name for own in files for name in own)}
    for one in found:
        path, _, flow = one["entrypoint"].partition(":")
        assert f"def {flow}(" in (REPO / path).read_text()
        assert one["work_pool"]["name"] == environment.pool
        for schedule in one["schedules"]:
            assert len(schedule["cron"].split()) == 5
            assert schedule["active"] is environment.schedules
        if "parameters" in one:
            assert one["parameters"]["config"]["warehouse"]["root"] == environment.warehouse.root  # type: ignore[union-attr]
        if one["name"] != "reindex":
            assert one["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_a_merge_follows_indexing_and_reindexing() -> None:
    found = render.render(load_environment("local"))["deployments"]
    (merge,) = [one for one in found if one["name"] == "demo-world"]
    trigger = DeploymentTriggerAdapter.validate_python({**merge["triggers"][0], "name": "x"})
    assert isinstance(trigger, DeploymentEventTrigger)
    matched: Any = trigger.match_related
    assert set(matched["prefect.resource.name"]) == {index_items.name, reindex_items.name}
    assert trigger.expect == {"prefect.flow-run.Completed"}


def test_a_wrong_file_is_named_with_the_nearest_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"url": "catalog.json"}
    files = Installation(
        tmp_path, "w", collections={"a": {"source": source, "chip_sise": 128}, "b": {"source": source}}
    )
    files.write()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match=r"collections/a\.yaml: unknown key 'chip_sise', did you mean 'chip_size'\?"):
        render.render(load_environment("local"))
    (tmp_path / "collections" / "b.yaml").write_text("source: {url: c.json}\ndeploy: {crom: '0 3 * * *'}\n")
    with pytest.raises(InputError, match=r"b\.yaml: unknown key 'crom', did you mean 'cron'\?"):
        load_deployed(IndexConfig, "collections", "b", load_environment("local"))
    with pytest.raises(LookupFailedError, match=r"no c\.yaml; there are a, b"):
        load_deployed(IndexConfig, "collections", "c", load_environment("local"))
    with pytest.raises(LookupFailedError, match=r"no moon\.yaml; there are local"):
        load_environment("moon")


def test_the_warehouse_of_an_environment_is_that_of_all_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WAREHOUSE_VARIABLE, "s3://mine/index")
    environment = load_environment("production")
    config, deploy = load_deployed(IndexConfig, "collections", "sentinel-2-l2a", environment)
    assert (config.warehouse.root, deploy.cron) == ("s3://mine/index", "0 3 * * *")
    assert config.source.url == "https://earth-search.aws.element84.com/v1"


def test_the_list_of_the_form_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "production")
    monkeypatch.setenv(WAREHOUSE_VARIABLE, "s3://bucket/prefix")
    assert collection_names() == ["sentinel-2-l2a"]


def test_no_file_holds_a_secret() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(files) > 10
    assert not [(path.name, found[0]) for path in files if (found := SECRET_WORDS.search(path.read_text()))]


def test_job_variables_are_added_to_those_of_before() -> None:
    template = {"job_configuration": {}, "variables": {"properties": {"env": {"default": {"A": "1"}}, "name": {}}}}
    env = with_variables(template, {"B": "2"})["variables"]["properties"]["env"]["default"]
    assert env == {"A": "1", "B": "2"}
    assert template["variables"]["properties"]["env"]["default"] == {"A": "1"}


def test_a_run_without_heartbeats_is_ended_within_three_minutes() -> None:
    trigger: Any = crashed().trigger
    assert trigger.within.total_seconds() == SILENT_S
    assert 3 * HEARTBEAT_S <= SILENT_S <= 150


# --- the image, and what is started beside it; there is no engine here to run them


def _compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return found


def test_compose_starts_what_is_promised_and_depends_on_what_it_starts() -> None:
    services = _compose()["services"]
    assert {"postgres", "prefect", "worker", "s3"} <= services.keys()
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, name
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other], (
                f"{name} waits for {other}"
            )
        assert service.get("image") or service.get("build"), name
        if "build" not in service:
            assert re.search(r":[^:]*\d", service["image"]), f"{name}: {service['image']} is not pinned"


def test_compose_publishes_on_this_machine_alone_and_takes_secrets_from_outside() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    for service in _compose()["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    asked = set(re.findall(r"\$\{([A-Z0-9_]+)", text))
    given = set(re.findall(r"^([A-Z0-9_]+)=", (FOLDER / "env.example").read_text(), re.M))
    assert asked == given
    assert "PREFECT_SERVER_API_AUTH_STRING" in _compose()["services"]["prefect"]["environment"]
    assert load_environment("compose").warehouse.storage.endpoint == "http://s3:9000"  # type: ignore[union-attr]


def test_the_image_is_pinned_runs_as_nobody_special_and_copies_what_is_there() -> None:
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    bases = [line[1] for line in lines if line[0] == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)
    assert [line[1] for line in lines if line[0] == "USER"] == ["stacchip"]
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().split()
    for line in lines:
        if line[0] == "COPY" and not line[1].startswith("--from"):
            for source in [part for part in line[1:-1] if not part.startswith("--")]:
                assert (REPO / source).exists(), source
                assert f"!{source}" in ignored, source


def test_environments_refuse_unknown_keys() -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        Environment.model_validate({"pool": "p", "colections": []})


def test_each_role_may_do_what_it_needs_and_no_more() -> None:
    def actions(role: str) -> set[str]:
        policy = json.loads((FOLDER / "policies" / f"{role}.json").read_text())
        assert {one["Effect"] for one in policy["Statement"]} == {"Allow"}
        assert {one["Resource"] for one in policy["Statement"]} == {
            "arn:aws:s3:::BUCKET",
            "arn:aws:s3:::BUCKET/PREFIX/*",
        }
        return {action for one in policy["Statement"] for action in one["Action"]}

    reader, writer, keeper = map(actions, ("reader", "writer", "keeper"))
    assert reader == {"s3:ListBucket", "s3:GetBucketLocation", "s3:GetObject"}
    assert writer - reader == {"s3:PutObject", "s3:AbortMultipartUpload"}
    assert keeper - writer == {"s3:DeleteObject"}


def test_a_writer_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the writer's policy rests on: opening, indexing and merging never call `delete`."""

    def refuse(self: object, key: str) -> None:
        raise AssertionError(f"deleted {key}")

    monkeypatch.setattr(Store, "delete", refuse)
    warehouse = Warehouse(tmp_path / "w", create=True, local_roots=[tmp_path])
    for seed in (1, 2):
        warehouse.index_items([sentinel2_scene(tmp_path / "s", item_id=f"S2_{seed}", seed=seed)], chip_size=96)
        warehouse.merge("all", warehouse.collections())
    assert warehouse.verify(deep=True).is_clean
