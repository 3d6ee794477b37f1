"""Servers, started once per test process when first asked for. Whoever gets one gets it empty, and has its keys checked afterwards."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import redis_server
from tests.support.key_check import TestServer, looked_into

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


@pytest.fixture(scope="session", autouse=True)
def _profiles_of_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Workers of tests keep their profiles among themselves, and leave the user's alone."""
    os.environ["HEADSTART_PROFILES"] = str(tmp_path_factory.mktemp("profiles"))


@pytest.fixture(autouse=True)
def _logging_stays_on() -> Iterator[None]:
    """A command that silences its process, called within a test, must not silence the tests behind it."""
    before = logging.root.manager.disable
    yield
    logging.disable(before)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[TestServer]:
    with redis_server.valkey() as url, looked_into(url) as server:
        yield server


@pytest.fixture(scope="session")
def redis_system_server() -> Iterator[TestServer]:
    with redis_server.redis() as url, looked_into(url) as server:
        yield server


@pytest.fixture(scope="session")
def cluster_server() -> Iterator[TestServer]:
    with redis_server.cluster() as url, looked_into(url) as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: TestServer) -> Iterator[str]:
    """The embedded default."""
    with valkey_server.well_kept() as url:
        yield url


@pytest.fixture
def redis_url(redis_system_server: TestServer) -> Iterator[str]:
    """The machine's own redis-server."""
    with redis_system_server.well_kept() as url:
        yield url


@pytest.fixture
def cluster_url(cluster_server: TestServer) -> Iterator[str]:
    """Three nodes."""
    with cluster_server.well_kept() as url:
        yield url
