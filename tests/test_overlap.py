"""One run at a time for a collection, by a limit of Prefect's that makes itself."""

from __future__ import annotations

import threading
import time

import pytest
from prefect import get_client

from flows import overlap
from flows.overlap import OverlapError, alone, ensure_limit, slot_of


@pytest.mark.parametrize(
    ("title", "name"), [("naip", "collection-naip"), ("Sentinel 2, L1/L2", "collection-sentinel-2-l1-l2")]
)
def test_a_slot_is_named_for_its_collection(title: str, name: str) -> None:
    assert slot_of(title) == name


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_a_second_run_is_refused_or_waits_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "REFUSED_AFTER_S", 0.5)
    seen = []

    def wait() -> None:
        with alone("one", "wait"):
            seen.append("after")

    with alone("one", "refuse"):
        with (
            pytest.raises(OverlapError, match=r"'one': another run is at work on it.*set overlap to 'wait'"),
            alone("one", "refuse"),
        ):
            seen.append("never")
        with alone("other", "refuse"):
            seen.append("beside")
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(1)
        seen.append("before")
    waiting.join(120)
    assert seen == ["beside", "before", "after"]
    with pytest.raises(KeyError, match="of the body"), alone("one", "refuse"):
        raise KeyError("of the body")
    with alone("one", "refuse"):  # an error gives the slot back
        pass


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_a_limit_that_is_there_keeps_what_it_allows() -> None:
    with get_client(sync_client=True) as client:
        ensure_limit(client, "collection-many", 3)
        ensure_limit(client, "collection-many")
        assert client.read_global_concurrency_limit_by_name("collection-many").limit == 3
