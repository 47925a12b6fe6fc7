"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from flows.environment import prepare_environment
from tests.data import REPO
from tests.s3_fake import CREDENTIALS, S3Fake

# A shared machine may stand still for a second: how long an example takes says nothing about the law under test.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Before any test imports Prefect: its state stays in the repository's cache, and it tells nobody of its runs.
prepare_environment(home=REPO / ".cache" / "prefect")


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server for this test run alone; its start takes some 20 seconds."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """Credentials that every S3 server of the tests takes, in the environment."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def s3_endpoint(s3_credentials: None) -> Iterator[str]:
    """URL of an S3 server (moto's) for this test run alone, on 127.0.0.1; its credentials are in the environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def _s3_fake(s3_credentials: None) -> Iterator[S3Fake]:
    with S3Fake() as fake:
        yield fake


@pytest.fixture
def s3_fake(_s3_fake: S3Fake) -> S3Fake:
    """An S3 server with a lock and faults, empty; its credentials are in the environment. It starts in milliseconds."""
    _s3_fake.clear()
    return _s3_fake
