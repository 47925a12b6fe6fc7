"""Processes that are started end when told to, with all they have started, however stubborn."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from deployments import processes
from deployments.processes import Place, ProcessError, descendants, free_port, tail, wait_for

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    return Place(tmp_path, free_port(), variables={"PYTHONPATH": str(tmp_path)})


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ENDS_WITHIN_S", 0.5)
    one = place.start("stubborn", "stubborn")
    deadline = time.monotonic() + 60
    while not (text := one.log.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(text)
    assert descendants(one.process.pid) == {child}
    place.stop()
    assert (one.is_alive, place.running) == (False, [])
    deadline = time.monotonic() + 60
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_that_ends_before_it_answers_is_an_error_with_its_last_words(place: Place) -> None:
    one = place.start("broken", "no_such_module_anywhere")
    with pytest.raises(ProcessError, match=r"broken ended with 1; .*No module named"):
        wait_for(one, f"{place.url}/api/health")
    assert "no_such_module_anywhere" in tail(one.log)


def test_processes_see_none_of_this_machines_prefect(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "mine")
    own = place.environment
    assert "PREFECT_API_KEY" not in own
    assert own["PREFECT_API_URL"] == f"http://127.0.0.1:{place.port}/api"
    assert own["PREFECT_HOME"] == str(place.home)
    assert os.environ["PREFECT_API_KEY"] == "mine"
