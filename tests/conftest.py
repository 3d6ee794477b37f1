"""Servers, started once per test process when first asked for. Whoever gets one gets it empty, and has its keys checked afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import redis_server
from tests.support.key_check import well_kept


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[str]:
    with redis_server.valkey() as url:
        yield url


@pytest.fixture(scope="session")
def redis_system_server() -> Iterator[str]:
    with redis_server.redis() as url:
        yield url


@pytest.fixture(scope="session")
def cluster_server() -> Iterator[str]:
    with redis_server.cluster() as url:
        yield url


@pytest.fixture
def valkey_url(valkey_server: str) -> Iterator[str]:
    """The embedded default."""
    with well_kept(valkey_server) as url:
        yield url


@pytest.fixture
def redis_url(redis_system_server: str) -> Iterator[str]:
    """The machine's own redis-server."""
    with well_kept(redis_system_server) as url:
        yield url


@pytest.fixture
def cluster_url(cluster_server: str) -> Iterator[str]:
    """Three nodes."""
    with well_kept(cluster_server) as url:
        yield url
