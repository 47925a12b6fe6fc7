"""Mirroring: the same bytes under names of our own, whole or not there, and items that refer to the copies alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from stacchip_core import Indexer, Storage, Warehouse, mirror
from stacchip_core.cli import app
from stacchip_core.errors import StoreError
from stacchip_core.sources.source import Source
from stacchip_core.warehouse import copying
from stacchip_core.warehouse.commit import Commit
from stacchip_core.warehouse.mirror import folder_of, name_of
from stacchip_core.warehouse.store import open_store
from tests.broken import Folder, tiny_item
from tests.data import REPO
from tests.file_server import serve
from tests.scenes import sentinel2_scene, write_catalog


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of all published files."""
    found = [path for path in folder.rglob("*") if path.is_file() and "_staging" not in path.parts]
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """A static catalog of two Sentinel-2 items."""
    folder = tmp_path / "scenes"
    days = ("2024-06-15", "2024-06-25")
    return write_catalog(
        folder,
        [sentinel2_scene(folder, item_id=f"S2_{day}", when=f"{day}T10:00:00Z", seed=n) for n, day in enumerate(days)],
    )


def test_copies_are_the_bytes_and_the_items_refer_to_them(catalog: Path, tmp_path: Path) -> None:
    done = mirror(Source(url=str(catalog)), tmp_path / "mine", assets=["red", "scl"])
    assert (len(done.items), done.copied, done.kept, done.failures) == (2, 4, 0, ())
    for item in done.items:
        original = json.loads((catalog.parent / "sentinel-2-l2a" / f"{item['id']}.json").read_text())
        for key in ("red", "scl"):
            asset, before = item["assets"][key], original["assets"][key]
            copy, source = Path(asset["href"]), catalog.parent / item["id"] / f"{key}.tif"
            assert copy.read_bytes() == source.read_bytes() and copy.is_relative_to(tmp_path / "mine")
            assert (asset["file:size"], asset["file:checksum"]) == (source.stat().st_size, "1220" + sha256(source))
            assert {name: asset[name] for name in before if name != "href"} == {
                name: value for name, value in before.items() if name != "href"
            }
        assert item["properties"] == original["properties"] and item["geometry"] == original["geometry"]
        beside = json.loads((Path(item["assets"]["red"]["href"]).parent / "item.json").read_text())
        assert beside["assets"]["red"]["href"] == "./red.tif"


def test_the_index_of_the_copies_is_the_index_of_the_originals_and_needs_them_no_more(
    catalog: Path, tmp_path: Path
) -> None:
    paths = sorted((catalog.parent / "sentinel-2-l2a").glob("S2_*.json"))
    before = [Indexer(path, chip_size=96, local_roots=[catalog.parent]).create_index().table for path in paths]
    done = mirror(paths, tmp_path / "mine", assets=["red", "scl"], local_roots=[catalog.parent])
    catalog.parent.rename(tmp_path / "gone")
    after = [Indexer(item, chip_size=96, local_roots=[tmp_path / "mine"]).create_index().table for item in done.items]
    assert all(one.equals(other) for one, other in zip(before, after, strict=True))
    warehouse = Warehouse(tmp_path / "w", create=True, local_roots=[tmp_path / "mine"])
    commit = warehouse.index_items(done.items, chip_size=96)
    assert isinstance(commit, Commit) and (commit.new, commit.failed) == (2, 0)
    beside = [next((tmp_path / "mine").rglob(f"{item['id']}-*/item.json")) for item in done.items]
    assert all(len(Indexer(path, chip_size=96).create_index()) == 25 for path in beside), "the item file by itself"


def test_what_is_there_and_unchanged_stays(catalog: Path, tmp_path: Path) -> None:
    source = Source(url=str(catalog))
    mirror(source, tmp_path / "mine", assets=["red", "scl"])
    before = {name: facts for name, facts in files(tmp_path / "mine").items() if name.endswith(".tif")}
    again = mirror(source, tmp_path / "mine", assets=["red", "scl"])
    assert (again.copied, again.kept, len(again.items)) == (0, 4, 2)
    assert {name: facts for name, facts in files(tmp_path / "mine").items() if name.endswith(".tif")} == before
    red = catalog.parent / "S2_2024-06-15" / "red.tif"
    red.write_bytes((catalog.parent / "S2_2024-06-25" / "red.tif").read_bytes())
    changed = mirror(source, tmp_path / "mine", assets=["red", "scl", "nir"])
    assert (changed.copied, changed.kept) == (3, 3)
    assert next((tmp_path / "mine").rglob("S2_2024-06-15-*/red.tif")).read_bytes() == red.read_bytes()
    next((tmp_path / "mine").rglob("S2_2024-06-25-*/scl.tif")).unlink()
    assert mirror(source, tmp_path / "mine", assets=["red", "scl"]).copied == 1, "one that is gone comes back"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("gone", r"item tiny-00000: asset 'data': .*is not there"),
        ("checksum", r"asset 'data': the file's sha256 is \w+, and its item says 0000"),
        ("name", r"no asset or band 'red' to mirror; it has data"),
        ("shorter", r"asset 'data': the file (ends after|was replaced while)"),
    ],
)
def test_an_item_that_fails_is_told_and_leaves_no_file_under_a_final_name(
    change: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.made(tmp_path / "in", 1, {})
    if change == "gone":
        (folder.path / "whole.tif").unlink()
    if change == "checksum":
        item = tiny_item(0)
        item["assets"]["data"]["file:checksum"] = "1220" + "0" * 64
        folder.write(0, item)
    if change == "shorter":
        real = copying.LocalOriginal.read
        monkeypatch.setattr(copying.LocalOriginal, "read", lambda self, start, stop: real(self, start, stop - 9))
    (failure,) = mirror(folder.paths, tmp_path / "out", assets=["red" if change == "name" else "data"]).failures
    assert re.search(said, failure.reason), failure.reason
    assert not files(tmp_path / "out")


def test_a_destination_that_can_not_be_written_ends_the_run(tmp_path: Path) -> None:
    folder = Folder.made(tmp_path / "in", 3, {})
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError):
        mirror(folder.paths, tmp_path / "out")


@pytest.mark.slow
def test_a_killed_run_carries_on_and_never_leaves_half_a_file(tmp_path: Path) -> None:
    folder = Folder.made(tmp_path / "in", 40, {})
    (folder.path / "whole.tif").write_bytes(os.urandom(2 * 2**20))
    code = (
        "import sys; from pathlib import Path; from stacchip_core import mirror; "
        "mirror(sorted(Path(sys.argv[1]).glob('*.json')), sys.argv[2])"
    )
    whole = sha256(folder.path / "whole.tif")
    kept = 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(folder.path), str(tmp_path / "out")], cwd=REPO
        ) as process:
            for _ in range(3000):
                if len(list((tmp_path / "out").rglob("data.tif"))) > kept + 3 or process.poll() is not None:
                    break
                try:
                    process.wait(0.01)
                except subprocess.TimeoutExpired:
                    continue
            process.send_signal(signal.SIGKILL)
        copies = list((tmp_path / "out").rglob("data.tif"))
        assert all(sha256(path) == whole for path in copies)
        kept = len(copies)
    assert kept > 0
    done = mirror(folder.paths, tmp_path / "out")
    assert (len(done.items), done.copied + done.kept) == (40, 40) and done.kept >= kept - 12
    assert len(list((tmp_path / "out").rglob("item.json"))) == 40


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_names_never_hold_a_raw_id_and_differ_where_ids_do(one: str, other: str) -> None:
    first, second = folder_of({"collection": "c", "id": one}), folder_of({"collection": "c", "id": other})
    assert (first == second) == (one == other)
    for name in (first, name_of(one, f"https://h/{one}.tif")):
        assert all(part and part not in (".", "..") and part.isascii() for part in name.split("/"))
    assert (name_of(one, "a.tif") == name_of(other, "a.tif")) == (one == other)
    assert name_of("item", "x.json") != "item.json"


# --- over the network


@pytest.mark.server
def test_files_behind_http_are_copied_by_ranges_and_their_signatures_kept_nowhere(tmp_path: Path) -> None:
    folder = Folder.made(tmp_path / "in", 2, {})
    item = tiny_item(1, "whole.tif?sig=CANARY&se=2030", note="kept")
    item["assets"]["other"] = {"href": "other.tif?sig=CANARY", "type": "image/tiff"}
    item["assets"]["data"]["alternate"] = {"s3": {"href": "s3://elsewhere/whole.tif"}}
    folder.write(1, item)
    with serve(folder.path) as server:
        done = mirror([f"{server.url}/tiny-0000{n}.json" for n in (0, 1)], tmp_path / "out", assets=["data"])
        assert (done.copied, done.failures) == (2, ())
        first, second = done.items
        assert sha256(Path(first["assets"]["data"]["href"])) == sha256(folder.path / "whole.tif")
        assert second["assets"]["data"]["alternate"] == {"original": {"href": f"{server.url}/whole.tif"}}
        assert second["assets"]["other"]["href"] == f"{server.url}/other.tif", "not copied: where it was"
        assert second["links"] == [
            {"rel": "canonical", "href": f"{server.url}/tiny-00001.json", "type": "application/geo+json"}
        ]
        assert not [path for path in (tmp_path / "out").rglob("*.json") if "CANARY" in path.read_text()]
        server.fault("/whole.tif", 403)
        refused = mirror([f"{server.url}/tiny-00000.json"], tmp_path / "other", assets=["data"]).failures
    assert [(one.item, one.cause) for one in refused] == [("tiny-00000", "forbidden")]


def buckets(endpoint: str, *names: str) -> Any:
    fs = fsspec.filesystem("s3", endpoint_url=endpoint, use_listings_cache=False)
    for name in names:
        fs.mkdir(name)
    return fs


@pytest.mark.server
def test_between_buckets_of_one_server_no_bytes_pass_here(
    s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.made(tmp_path / "in", 1, {})
    fs = buckets(s3_endpoint, "mirror-from", "mirror-to")
    fs.put_file(str(folder.path / "whole.tif"), "mirror-from/a/whole.tif")
    storage = Storage(endpoint=s3_endpoint, region="us-east-1")

    def never(*_: object) -> bytes:
        raise AssertionError("bytes were read")

    monkeypatch.setattr(copying.StoredOriginal, "read", never)
    item = tiny_item(0, "s3://mirror-from/a/whole.tif")
    done = mirror([item], "s3://mirror-to/p", storage=storage, destination_storage=storage)
    assert (done.copied, done.failures) == (1, ())
    (mirrored,) = done.items
    href = mirrored["assets"]["data"]["href"]
    assert href.startswith("s3://mirror-to/p/tiny/tiny-00000-")
    assert fs.cat_file(href) == (folder.path / "whole.tif").read_bytes()
    assert mirrored["assets"]["data"]["alternate"]["original"]["href"] == "s3://mirror-from/a/whole.tif"
    assert mirror([item], "s3://mirror-to/p", storage=storage, destination_storage=storage).kept == 1
    warehouse = Warehouse(tmp_path / "w", create=True)
    commit = warehouse.index_items(done.items, chip_size=16, storage=storage)
    assert isinstance(commit, Commit) and (commit.new, commit.failed) == (1, 0)


@pytest.mark.server
def test_from_a_bucket_to_a_folder_and_back_bytes_pass_here(s3_endpoint: str, tmp_path: Path) -> None:
    folder = Folder.made(tmp_path / "in", 1, {})
    fs = buckets(s3_endpoint, "mirror-up")
    storage = Storage(endpoint=s3_endpoint, region="us-east-1")
    (up,) = mirror(folder.paths, "s3://mirror-up/x", destination_storage=storage).items
    assert fs.cat_file(up["assets"]["data"]["href"]) == (folder.path / "whole.tif").read_bytes()
    (down,) = mirror([up], tmp_path / "down", storage=storage).items
    assert sha256(Path(down["assets"]["data"]["href"])) == sha256(folder.path / "whole.tif")
    gone = tiny_item(1, "s3://mirror-up/nowhere.tif")
    (failure,) = mirror([gone], tmp_path / "down", storage=storage).failures
    assert failure.cause == "not-found"
    assert isinstance(open_store("s3://mirror-up/x", storage).look(f"{folder_of(up)}/data.tif").etag, str)


def test_the_command_mirrors_a_catalog(catalog: Path, tmp_path: Path) -> None:
    words = ["mirror", str(catalog), str(tmp_path / "mine"), "--collection", "sentinel-2-l2a", "--assets", "red,scl"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["items"], found["copied"], found["failures"]) == (2, 4, [])
    assert "2 items: 0 files copied (0 B), 4 were there" in CliRunner().invoke(app, words).stdout
    (catalog.parent / "S2_2024-06-15" / "red.tif").unlink()
    ill = CliRunner().invoke(app, words)
    assert ill.exit_code == 1 and "✗ S2_2024-06-15 (not-found)" in ill.stdout
