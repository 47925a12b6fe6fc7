"""Parameters of the flows: forms that Prefect can draw, files that say what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from flows.config import WarehouseConfig, load_config
from flows.index_items import IndexConfig
from flows.maintain import MaintainConfig
from flows.materialize_chips import MaterializeConfig
from flows.merge_indexes import MergeConfig
from flows.reindex_items import ReindexConfig
from stacchip_core import InputError, Storage
from tests.data import REPO

CONFIGS: tuple[type[BaseModel], ...] = (IndexConfig, MergeConfig, MaterializeConfig, ReindexConfig, MaintainConfig)


@pytest.mark.parametrize("model", CONFIGS)
def test_forms_have_titles_descriptions_and_places(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
        fields = part.get("properties", {})
        assert sorted(field.get("position", -1) for field in fields.values()) == list(range(len(fields))), name
        for key, field in fields.items():
            assert field.get("title") or "$ref" in field, f"{name}.{key}"
            assert field.get("description"), f"{name}.{key}"


@pytest.mark.parametrize("model", CONFIGS)
def test_forms_have_nothing_that_prefect_can_not_draw(model: type[BaseModel]) -> None:
    """Unions other than with None, and free-form objects, come out as raw JSON editors or broken."""

    def walk(part: Any, where: str) -> Iterator[str]:
        if isinstance(part, dict):
            kinds = [kind for kind in part.get("anyOf", []) if kind != {"type": "null"}]
            if len(kinds) > 1 or "discriminator" in part or "oneOf" in part:
                yield where
            if part.get("type") == "object" and "properties" not in part:
                yield where
            for key, value in part.items():
                yield from walk(value, f"{where}.{key}")

    assert not list(walk(model.model_json_schema(), model.__name__))


@pytest.mark.parametrize("model", CONFIGS)
def test_unknown_keys_are_refused_and_values_frozen(model: type[BaseModel]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        model.model_validate({"colour": "blue"})
    assert model.model_config.get("frozen")


def test_wrong_configuration_files_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "index.yaml"

    def message(text: str, *overrides: str) -> str:
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            load_config(IndexConfig, path, overrides)
        return str(caught.value)

    path.write_text("warehouse: s3://chips/index\nsource: {url: c.json}\n")
    assert load_config(IndexConfig, path).warehouse == WarehouseConfig(root="s3://chips/index")
    whole = "warehouse: {root: w}\nsource: {url: c.json}\n"
    assert "key 'source' is missing" in message("warehouse: {root: w}")
    assert "did you mean 'chip_size'?" in message(f"{whole}chip_sise: 256")
    assert "did you mean 'collections'?" in message("warehouse: {root: w}\nsource: {url: c, collection: x}")
    assert "index.yaml" in message("- a list")
    assert "found 8" in message(whole, "chip_size=8")
    assert "key=value" in message(whole, "chip_size")
    assert "not keys and values" in message(whole, "chip_size.x=1", "chip_size.x.y=1")
    assert "--set name=[1: " in message(whole, "name=[1")
    assert "--set source.datetime=2024-02-31: day is out of range" in message(whole, "source.datetime=2024-02-31")
    assert "--set warehouse..root=x: expected" in message(whole, "warehouse..root=x")
    assert "'chip_size' holds 0, not keys" in message(f"{whole}chip_size: 0\n", "chip_size.x=1")
    assert "index.yaml: day is out of range" in message("name: 2024-02-31")
    path.write_text(whole)
    changed = load_config(IndexConfig, path, ["source.max_items=3", "source.datetime=2024-05-01", "name=s2"])
    assert (changed.source.max_items, changed.source.datetime, changed.name) == (3, "2024-05-01", "s2")
    deep = load_config(IndexConfig, path, ["warehouse.storage.region=us-west-2", "warehouse.storage.anonymous=true"])
    assert (deep.warehouse.root, deep.warehouse.storage) == ("w", Storage(region="us-west-2", anonymous=True))
    with pytest.raises(InputError, match=r"nothing\.yaml"):
        load_config(IndexConfig, tmp_path / "nothing.yaml")


def test_shipped_configurations_fit_their_models() -> None:
    folder = REPO / "deployments"
    models: dict[str, type[BaseModel]] = {
        "collections": IndexConfig,
        "combined": MergeConfig,
        "datasets": MaterializeConfig,
        "care": MaintainConfig,
    }
    for name, model in models.items():
        files = sorted((folder / name).glob("*.yaml"))
        assert files
        for path in files:
            load_config(model, path)


@pytest.mark.parametrize("is_asked", [False, True])
def test_files_are_asked_where_the_configuration_says_so(is_asked: bool) -> None:
    values = {"warehouse": {"root": "w"}, "source": {"url": "c.json"}, "ask_files": is_asked}
    assert IndexConfig.model_validate(values).settings().ask_files is is_asked
