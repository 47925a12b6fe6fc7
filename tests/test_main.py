"""`python -m flows`: the same flows by hand, with exit codes, and without tracebacks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flows.__main__ import main
from flows.configured import FOLDER_VARIABLE
from tests.data import REPO
from tests.prefect_stack import Installation
from tests.scenes import sentinel2_scene, write_catalog


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """An index configuration for one small scene."""
    folder = tmp_path / "scenes"
    catalog = write_catalog(folder, [sentinel2_scene(folder)])
    path = tmp_path / "index.yaml"
    path.write_text(f"warehouse: {{root: {tmp_path / 'w'}}}\nsource: {{url: {catalog}}}\nchip_size: 96\n")
    return path


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_an_index_and_a_merge_by_hand(config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "--config", str(config)]) == 0
    assert "1 new, 0 updated" in capfd.readouterr().err
    assert main(["index", "--config", str(config), "--set", "pictures=false"]) == 0
    assert "0 new, 0 updated, 1 the same" in capfd.readouterr().err
    merge = tmp_path / "merge.yaml"
    merge.write_text(f"warehouse: {{root: {tmp_path / 'w'}}}\nname: all\n")
    assert main(["merge", "--config", str(merge)]) == 0
    assert "all@1" in capfd.readouterr().err


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_reindex_and_maintain_by_hand_tell_in_json_what_they_would_do(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**yaml.safe_load(config.read_text()), "name": "s2"}
    Installation(tmp_path / "deployments", str(tmp_path / "w"), {"s2": values}).write()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "deployments"))
    assert main(["index", "--config", str(config), "--set", "name=s2", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["collections"][0]["new"] == 1
    reindex = tmp_path / "reindex.yaml"
    reindex.write_text("collection: s2\nwhich: everything\nreason: to see it\n")
    assert main(["reindex", "--config", str(reindex), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["is_dry_run"], told["items"], told["reason"]) == (True, 1, "to see it")
    assert main(["reindex", "--config", str(reindex), "--set", "which=items"]) == 2
    assert "no item ids are given" in " ".join(capfd.readouterr().err.split())
    care = tmp_path / "care.yaml"
    care.write_text(f"warehouse: {{root: {tmp_path / 'w'}}}\n")
    assert main(["maintain", "--config", str(care), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["problems"] == []


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_a_run_that_fails_says_why_without_a_traceback(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "--config", str(config), "--set", "source.url=http://127.0.0.1:1/"]) == 1
    shown = capfd.readouterr().err
    assert "TransientReadError" in shown
    assert "127.0.0.1:1" in shown
    assert "Traceback" not in shown


@pytest.fixture
def in_the_foreground() -> Iterator[None]:
    """Programs that a test starts heed Ctrl-C; what a shell runs in the background ignores it, as do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.server
@pytest.mark.usefixtures("in_the_foreground")
def test_ctrl_c_ends_a_run_at_once(config: Path) -> None:
    """A terminal sends it to every process of the run's group, and so to Prefect's own server too."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(120)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        command = [sys.executable, "-m", "flows", "index", "--config", str(config), "--set", f"source.url={url}"]
        run = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            connection, _ = silent.accept()  # the run waits for an answer that never comes
            with connection:
                os.killpg(run.pid, signal.SIGINT)
                _, shown = run.communicate(timeout=30)
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
                run.communicate()
    assert run.returncode == 130, shown
    assert "interrupted" in shown
    assert "Traceback" not in shown


def test_wrong_input_is_named_in_one_line(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "--config", str(config), "--set", "chip_sise=128"]) == 2
    shown = capfd.readouterr().err
    assert "did you mean 'chip_size'?" in " ".join(shown.split())
    assert "Traceback" not in shown
    assert main(["index", "--config", "nothing.yaml"]) == 2
    assert main(["index", "--config", str(config), "--set", "name=[1"]) == 2
    shown = capfd.readouterr().err
    assert "--set name=[1" in shown
    assert "Traceback" not in shown


def test_the_command_line_starts_without_loading_prefect() -> None:
    """`--help` answers at once, and settings are in the environment before Prefect reads them."""
    code = "import sys, flows.__main__; print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
