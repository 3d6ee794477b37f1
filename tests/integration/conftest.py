"""A gateway to play with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.settings import GatewaySettings
from tests.support.gateway_server import Stage, staged
from tests.support.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest_asyncio.fixture
async def stage(tiny_model: Path) -> AsyncIterator[Stage]:
    settings = GatewaySettings(redis_url="", model=tiny_model, served_model_name="org/tiny", ping_s=0.05, poll_s=0.05)
    async with staged(settings) as stage:
        yield stage
