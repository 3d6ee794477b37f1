"""One suite, every fabric."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib import import_module
from importlib.util import find_spec
from typing import cast

import pytest

from shared.clock import SystemClock
from shared.fabric import Fabric
from shared.fabric_settings import FabricSettings
from shared.redis_fabric import RedisFabric, connect
from shared.types import PoolId
from tests.support.model_adapter import ModelAdapter

SERVERS = ("valkey", "redis", pytest.param("cluster", marks=pytest.mark.xdist_group("cluster")))


@pytest.fixture
def settings() -> FabricSettings:
    """Overridden by tests of a bound."""
    return FabricSettings()


@pytest.fixture(params=(*SERVERS, "model"))
def backend(request: pytest.FixtureRequest) -> str:
    """A server's address, or empty for the model."""
    if request.param != "model":
        return str(request.getfixturevalue(f"{request.param}_url"))
    if find_spec("shared.fabric_model") is None:
        pytest.skip("the model is not here yet: it is NOT tested")
    return ""


@pytest.fixture
async def fabric(backend: str, settings: FabricSettings) -> AsyncIterator[Fabric]:
    if not backend:
        yield _model(settings)
        return
    on_server = await connect(backend, PoolId("p"), settings)
    yield on_server
    await on_server.disconnect()


@pytest.fixture(params=SERVERS)
def server_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def redis_fabric(server_url: str, settings: FabricSettings) -> AsyncIterator[RedisFabric]:
    on_server = await connect(server_url, PoolId("p"), settings)
    yield on_server
    await on_server.disconnect()


def _model(settings: FabricSettings) -> Fabric:
    model = import_module("shared.fabric_model").FabricModel
    made = model(SystemClock(), memory_bytes=settings.max_reserved_bytes, max_predicted_wait_s=settings.max_predicted_wait_s)
    return cast(Fabric, ModelAdapter(made))
