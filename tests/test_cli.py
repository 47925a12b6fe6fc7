"""The command `stacchip`: tables for people, JSON for programs, one line for what went wrong."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from stacchip_core.cli import app
from stacchip_core.cli.printing import size
from stacchip_core.warehouse.log import Log
from stacchip_core.warehouse.store import open_store
from stacchip_core.warehouse.warehouse import Warehouse
from tests.broken import WAYS, Folder
from tests.care import filled, flipped, grow, later, new_warehouse
from tests.data import REPO
from tests.warehouse_rows import Piece, commit_parts, part_of

COMMANDS = ("ls", "versions", "show", "diff", "tag", "verify", "expire", "vacuum", "repair", "files")


@dataclass(frozen=True, slots=True)
class Shell:
    """The command at one warehouse."""

    warehouse: Warehouse

    @property
    def where(self) -> list[str]:
        """Options that say where the warehouse is."""
        endpoint = self.warehouse.storage.endpoint
        return ["-w", self.warehouse.root, *(["--endpoint", endpoint] if endpoint else [])]

    def run(self, *words: str, code: int = 0) -> str:
        """Standard output of a command; its standard error where it fails."""
        done = CliRunner().invoke(app, [*self.where, *words], env={"COLUMNS": "200"})
        assert done.exit_code == code, done.output
        return done.stderr if code else done.stdout

    def json(self, *words: str) -> Any:
        """What a command says with --json."""
        return json.loads(self.run(*words, "--json"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A warehouse on disk that tests only read."""
    warehouse = Warehouse(tmp_path_factory.mktemp("w"), create=True)
    filled(warehouse.store)
    yield Shell(warehouse)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.server)])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    """A warehouse of the test's own."""
    warehouse = new_warehouse(request.param, request, tmp_path)
    filled(warehouse.store)
    return Shell(warehouse)


# --- looking


def test_ls_lists_the_indexes(local: Shell) -> None:
    found = local.json("ls")
    assert [(one["index"], one["version"], one["items"]) for one in found] == [
        ("combined/global", 3, 9),
        ("collections/naip", 2, 3),
        ("collections/s2", 8, 6),
    ]
    for row in found:
        version = local.warehouse.index(row["index"])
        assert (row["chips"], row["created_at"]) == (version.count(), version.entry.created_at)
    table = local.run("ls")
    assert all(row["index"] in table for row in found)


def test_versions_lists_what_each_did(local: Shell) -> None:
    found = local.json("versions", "s2")
    assert [one["version"] for one in found] == list(range(1, 9))
    assert (found[0]["new"], found[6]["failed"], found[7]["deleted"]) == (2, 1, 1)
    assert "deleted" in local.run("versions", "collections/s2")


def test_show_tells_what_a_version_holds(local: Shell) -> None:
    found = local.json("show", "global@2")
    version = local.warehouse.combined("global", 2)
    assert (found["version"], found["sha256"], found["chips"]) == (2, version.sha256, version.count())
    assert found["sources"] == [dict(source) for source in version.sources]
    assert found["grids"] == {"naip": ["256-256-drop"], "s2": ["256-256-drop"]}
    assert found["bytes"] == sum(info.size for info in version.files)
    assert version.sha256 in local.run("show", "global@2")
    assert local.json("show", "collections/s2")["version"] == 8


def test_show_prints_what_is_remembered_of_sources_as_json(shell: Shell) -> None:
    source = {"url": "https://stac.example", "collections": ["s2"], "memory": {"at": None}}
    store = shell.warehouse.store
    commit_parts(store, "s2", [part_of(store, "s2", [Piece(70)]).part], sources=[source])
    told = shell.run("show", "s2")
    assert all(word in told for word in ("url https://stac.example", 'collections ["s2"]', 'memory {"at": null}')), told


def test_diff_tells_what_changed(local: Shell) -> None:
    found = local.json("diff", "s2@6", "s2@8")
    assert {kind: [row["item_id"] for row in found[kind]] for kind in ("added", "removed", "changed")} == {
        "added": [],
        "removed": ["item-0001"],
        "changed": ["item-0000"],
    }
    assert found["counts"]["s2"]["items"] == {"added": 0, "removed": 1, "changed": 1}
    assert "1 items, 5 chips" in local.run("diff", "s2@6", "s2@8")
    assert local.json("diff", "s2@8", "s2")["counts"] == {}
    assert local.run("diff", "s2@8", "s2") == "no differences\n"


def test_files_are_a_path_a_line(local: Shell) -> None:
    lines = local.run("files", "global@2").splitlines()
    rows = sum(pq.ParquetFile(line).metadata.num_rows for line in lines)
    assert rows == local.warehouse.combined("global", 2).count()
    items = local.run("files", "global@2", "--items").splitlines()
    assert sum(pq.ParquetFile(line).metadata.num_rows for line in items) == 10
    assert [one["url"] for one in local.json("files", "global@2")] == lines


@pytest.mark.parametrize("number", [3, 8])
def test_files_of_a_collection_hold_all_its_live_items(local: Shell, number: int) -> None:
    """Not those of its newest commit alone."""
    live = local.warehouse.collection("s2", number).items()["key"].to_pylist()
    lines = local.run("files", f"s2@{number}", "--items").splitlines()
    rows = [row for line in lines for row in pq.read_table(line, columns=["key", "op"]).to_pylist()]
    assert {row["key"] for row in rows if row["op"] not in ("failed", "delete")} >= set(live)
    assert len(set(lines)) == len(lines) > 1


def test_a_bucket_is_read_by_url(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    shell = Shell(new_warehouse("s3", request, tmp_path))
    filled(shell.warehouse.store)
    lines = shell.run("files", "global").splitlines()
    assert all(line.startswith(f"{shell.warehouse.root}/combined/global/data/") for line in lines)
    fs = shell.warehouse.store.fs
    assert sum(pq.read_table(fs.open(line)).num_rows for line in lines) == shell.warehouse.combined("global").count()


def test_all_that_says_how_to_get_there_is_taken(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    shell = Shell(new_warehouse("s3", request, tmp_path))
    filled(shell.warehouse.store)
    how = ["--region", "eu-west-1", "--anonymous", "--requester-pays"]
    done = CliRunner().invoke(app, [*shell.where, *how, "ls", "--json"])
    assert len(json.loads(done.stdout)) == 3
    refused = CliRunner().invoke(app, ["-w", shell.warehouse.root, "--endpoint", "http://127.0.0.1:9", "ls"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)


# --- taking care


def test_tags_are_set_listed_used_and_deleted(shell: Shell) -> None:
    shell.run("tag", "paper", "global@2")
    assert [(one["name"], one["index"], one["version"]) for one in shell.json("tag")] == [
        ("paper", "combined/global", 2)
    ]
    assert shell.json("show", "global@paper")["version"] == 2
    assert shell.json("versions", "global")[1]["tags"] == ["paper"]
    assert "paper" in shell.run("versions", "global")
    assert "tag 'paper' names combined/global version 2" in shell.run("tag", "paper", "s2@1", code=1)
    assert shell.json("tag", "--delete", "paper") == []
    assert "no tag 'paper' to delete; there are none" in shell.run("tag", "--delete", "paper", code=1)


def test_of_a_damaged_index_the_error_is_listed_beside_the_others(shell: Shell) -> None:
    shell.warehouse.store.delete(Log(shell.warehouse.store, "collections/s2").key(1))
    done = CliRunner().invoke(app, [*shell.where, "ls", "--json"])
    assert done.exit_code == 1
    rows = {row["index"]: row for row in json.loads(done.stdout)}
    assert [rows[name].get("version") for name in ("combined/global", "collections/naip")] == [3, 2]
    assert "is missing, though version" in rows["collections/s2"]["error"]
    table = CliRunner().invoke(app, [*shell.where, "ls"])
    assert (table.exit_code, "is missing, though version" in table.stdout) == (1, True)


def test_one_index_under_two_names_can_be_compared(local: Shell) -> None:
    assert local.json("diff", "global@1", "combined/global@2") == local.json("diff", "global@1", "global@2")
    assert local.json("diff", "collections/s2@6", "s2") == local.json("diff", "s2@6", "s2")


def test_old_versions_expire_and_their_files_go(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch, 2)
    told = shell.json("expire", "s2", "--keep", "1", "--days", "1")
    assert (told["added"], told["is_dry_run"], shell.json("show", "s2")["version"]) == (7, True, 8)
    assert "would be expired, with --yes" in shell.run("expire", "s2", "--keep", "1", "--days", "1")
    assert shell.json("expire", "s2", "--keep", "1", "--days", "1", "--yes")["added"] == 7
    assert "expired up to" in shell.run("expire", "global", "--keep", "1", "--days", "1", "--yes")
    message = "collection 's2' version 2 expired; versions 8 to 9 can be read"
    assert message in shell.run("show", "s2@2", code=1)
    assert "expired" in shell.run("versions", "s2")
    later(monkeypatch, 30)
    told = shell.json("vacuum")
    assert told["is_dry_run"]
    assert told["files"]
    assert "would be removed, with --yes" in shell.run("vacuum")
    assert shell.warehouse.verify(deep=True).is_clean
    done = shell.json("vacuum", "--yes")
    assert {one["path"] for one in told["files"]} <= {one["path"] for one in done["files"]}
    assert not set(shell.warehouse.store.list("combined")) & {one["path"] for one in done["files"]}
    assert "a grace period of 24 hours" in shell.run("vacuum", "--grace-days", "1", code=1)


def test_a_vacuum_of_many_files_lists_some(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        shell.warehouse.store.write(f"collections/s2/data/orphan-{number}.parquet", b"x")
    later(monkeypatch, 30)
    *table, more, total = shell.run("vacuum").splitlines()
    assert sum(" B " in line or " kB " in line for line in table) == 20
    assert more == f"and {int(total.split()[0]) - 20} more; --json lists them all"


def test_damage_is_told_by_the_exit_code_and_mended(shell: Shell) -> None:
    assert "no problems; checked" in shell.run("verify")
    store = shell.warehouse.store
    path = shell.warehouse.combined("global").files[0].path
    body = store.read(path)
    store.write(path, flipped(body, len(body) // 2))
    assert "no problems" in shell.run("verify"), "sizes are right"
    done = CliRunner().invoke(app, [*shell.where, "verify", "--deep", "--json"])
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert [problem["path"] for problem in report["problems"]] == [path]
    assert shell.json("repair")["actions"][0]["path"] == "combined/global"
    assert shell.warehouse.combined("global").version == 3
    assert "what older ones lack, `stacchip verify --deep` tells" in shell.run("repair", "--yes")
    assert shell.warehouse.combined("global").version == 4
    store.write(Log(store, "collections/s2").key(3), b"{")
    CliRunner().invoke(app, [*shell.where, "verify"])
    left = CliRunner().invoke(app, [*shell.where, "repair", "--yes"])
    assert left.exit_code == 1
    assert "restore the object from a backup" in left.stdout


def test_nothing_to_mend_is_said(local: Shell) -> None:
    assert local.run("repair") == "nothing to mend\n"
    assert local.json("repair") == {"is_dry_run": True, "actions": [], "left": []}


def test_the_documented_commands_run(tmp_path: Path) -> None:
    page = (REPO / "docs" / "care.md").read_text(encoding="utf-8")
    lines = page.partition("```sh\n")[2].partition("```")[0].splitlines()
    warehouse = Warehouse(tmp_path, create=True)
    grow(warehouse.store, 2, name="sentinel-2-l2a", collection="sentinel-2-l2a")
    warehouse.merge("world", ["sentinel-2-l2a"])
    said = {line: Shell(warehouse).run(*shlex.split(line)[1:]) for line in lines}
    assert {shlex.split(line)[1] for line in lines} == set(COMMANDS)
    assert "combined/world" in said["stacchip ls"]
    assert warehouse.tags() == []


# --- what goes wrong


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "nope"], "no index 'nope'; there are combined/global, collections/naip, collections/s2"),
        (["show", "global@99"], "combined/global has no version 99; it has"),
        (["show", "global@nope"], "no tag 'nope'; there are none yet"),
        (["versions", "A/b"], "'A/b' is no index"),
    ],
)
def test_errors_are_one_line(local: Shell, words: list[str], message: str) -> None:
    error = local.run(*words, code=1)
    assert message in error
    assert error.startswith("stacchip: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["nope"],
        ["show"],
        ["show", "global@"],
        ["show", "@3"],
        ["diff", "global@1", "s2@2"],
        ["tag", "paper"],
        ["tag", "--delete"],
        ["tag", "paper", "global", "--delete"],
        ["expire", "s2", "--keep", "0"],
        ["expire", "s2", "--days", "9999999"],
        ["expire", "s2", "--days", "inf"],
        ["vacuum", "--grace-days", "1e12"],
        ["vacuum", "--grace-days", "-inf"],
        ["expire", "s2", "--days", "nan"],
        ["vacuum", "--grace-days", "nan"],
    ],
)
def test_misuse_has_its_own_exit_code(local: Shell, words: list[str]) -> None:
    assert local.run(*words, code=2)


def test_a_place_without_a_warehouse_is_said(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["-w", str(tmp_path), "ls"])
    assert (done.exit_code, "is no warehouse" in done.stderr) == (1, True)
    assert not list(tmp_path.iterdir()), "looking makes nothing"


def test_the_environment_says_where(local: Shell) -> None:
    done = CliRunner().invoke(app, ["ls", "--json"], env={"STACCHIP_WAREHOUSE": local.warehouse.root})
    assert len(json.loads(done.stdout)) == 3


def test_an_empty_warehouse_has_empty_tables(tmp_path: Path) -> None:
    shell = Shell(Warehouse(tmp_path, create=True))
    assert (shell.run("ls"), shell.json("ls"), shell.json("tag")) == ("", [], [])
    assert shell.json("vacuum")["files"] == []
    assert open_store(tmp_path).exists("_format.json")


# --- as a process


def test_json_is_all_that_is_printed_by_the_process(local: Shell) -> None:
    command = [sys.executable, "-c", "from stacchip_core.cli import app; app()", *local.where, "-v", "verify", "--json"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True, env={**os.environ})
    assert json.loads(done.stdout)["is_clean"]


def test_help_names_all_commands_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom stacchip_core.cli import app\n"
        "print(CliRunner().invoke(app, ['--help']).stdout)\n"
        "print({'pyarrow', 'numpy', 'pydantic', 'rasterio', 'fsspec', 'shapely'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    *text, loaded = done.stdout.strip().splitlines()
    assert loaded == "set()"
    assert all(any(f" {name} " in line for line in text) for name in COMMANDS)


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_500_000, "1.5 MB"), (2e9, "2.0 GB"), (3e15, "3000.0 TB")],
)
def test_sizes_are_said_as_people_do(count: float, words: str) -> None:
    assert size(count) == words


# --- failures


def test_failures_are_listed_by_cause_and_tried_again(tmp_path: Path) -> None:
    folder = Folder.made(tmp_path / "items", 8, dict(enumerate(WAYS)))
    warehouse = Warehouse(tmp_path / "w", create=True, local_roots=[folder.path])
    warehouse.index_items(folder.paths, chip_size=16)
    shell = Shell(warehouse)
    found = shell.json("failures", "tiny")
    assert [one["cause"] for one in found] == sorted(WAYS) and {one["attempts"] for one in found} == {1}
    (lost,) = shell.json("failures", "tiny@1", "--cause", "not-found")
    assert (lost["item_id"], lost["stage"]) == ("tiny-00000", "read")
    assert "1 not-found: a file is not there" in shell.run("failures", "collections/tiny")
    assert "no cause 'gone'; there are not-found" in shell.run("failures", "tiny", "--cause", "gone", code=2)
    again = CliRunner().invoke(app, [*shell.where, "retry-failed", "tiny", "--local-root", str(folder.path), "--json"])
    assert (again.exit_code, json.loads(again.stdout)["failed_again"]) == (1, 5)
    for number in folder.broken:
        folder.mend(number)
    done = shell.json("retry-failed", "tiny", "--local-root", str(folder.path))
    assert (done["new"], done["failed"]) == (5, 0)
    assert "no items failed" in shell.run("failures", "tiny")


@pytest.mark.parametrize("name", ["../../outside", "/etc", "a/b", "Fields", ""])
def test_a_dataset_is_called_by_a_name_alone(local: Shell, name: str) -> None:
    for command in (["report", name], ["verify", name], ["diff", name, "fields"]):
        assert "is no name of a dataset" in " ".join(local.run("dataset", *command, code=2).split())
