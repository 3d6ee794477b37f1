"""Real gateway processes on a real server: one dies, another goes on with the same numbers; one is asked to leave, and drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from openai import APIConnectionError, AsyncOpenAI

from shared.redis_fabric import RedisFabric
from tests.support.fake_owner import End, FakeOwner, Hold, Say, Step
from tests.support.gateway_process import GatewayProcess, gateway_process

PARTS = tuple(f"part {index} " for index in range(12))
CUT = 5


@dataclass
class Cluster:
    url: str
    fabric: RedisFabric
    owner: FakeOwner
    gate: asyncio.Event


@pytest_asyncio.fixture
async def cluster(valkey_url: str) -> AsyncIterator[Cluster]:
    """A pool whose fake owner says the first parts, and the rest once the gate opens."""
    fabric = await RedisFabric.connect(valkey_url)
    gate = asyncio.Event()
    steps: tuple[Step, ...] = (*map(Say, PARTS[:CUT]), Hold(gate), *map(Say, PARTS[CUT:]), End())
    async with FakeOwner(fabric, lambda spec: steps).working() as owner:
        yield Cluster(valkey_url, fabric, owner, gate)
    await fabric.disconnect()


def openai_at(gateway: GatewayProcess) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True)


async def two_gateways(stack: AsyncExitStack, cluster: Cluster, model: Path) -> tuple[GatewayProcess, GatewayProcess]:
    starts = [stack.enter_async_context(gateway_process(cluster.url, model)) for _ in range(2)]
    first, second = await asyncio.gather(*starts)
    return first, second


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_stream_goes_on_at_another_gateway_after_a_sigkill(cluster: Cluster, tiny_model: Path) -> None:
    async with AsyncExitStack() as stack:
        first, second = await two_gateways(stack, cluster, tiny_model)
        client = await stack.enter_async_context(openai_at(first))
        stream = await client.responses.create(model="tiny", input="hi", stream=True, background=True)
        seen = [await stream.__anext__() for _ in range(5 + CUT)]
        first.kill()
        with pytest.raises(APIConnectionError):
            await stream.__anext__()
        cluster.gate.set()

        response_id = seen[0].response.id  # type: ignore[union-attr]
        other = await stack.enter_async_context(openai_at(second))
        rest = [event async for event in await other.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)]
        everything = [event async for event in await other.responses.retrieve(response_id, stream=True)]

        assert [event.sequence_number for event in (*seen, *rest)] == list(range(len(everything)))
        assert [event.model_dump() for event in (*seen, *rest)] == [event.model_dump() for event in everything]
        assert "".join(event.delta for event in everything if event.type == "response.output_text.delta") == "".join(PARTS)
        assert len(cluster.owner.seen) == 1


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_sigterm_lets_open_streams_end_and_exits_in_order(cluster: Cluster, tiny_model: Path) -> None:
    async with gateway_process(cluster.url, tiny_model) as gateway, openai_at(gateway) as client:
        stream = await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True)
        await stream.__anext__()
        gateway.terminate()
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if text == "".join(PARTS[:CUT]):
                cluster.gate.set()
        assert text == "".join(PARTS)
        assert await gateway.process.wait() == 0
