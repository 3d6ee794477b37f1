"""Many streams on one gateway, through real processes: nothing is lost, doubled or held up, and the server sees few connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from benchmarks.sse_client import Stream, open_stream
from cli.system import System, SystemPlan, WorkerPlan
from shared.types import SamplingParams
from tests.support.key_check import looked_into
from tests.support.waiting import eventually
from workers.detokenizer import SafeText
from workers.fake_engine import FakeModel, reference_tokens
from workers.hf_detokenizer import HfDetokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("streams")]

WEIGHTS = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
MODEL = FakeModel(vocab_size=2048, eos_token_ids=frozenset({1}), max_model_tokens=2048)
STREAMS = 250
TOKENS = 12
LONG = 1500
"""Tokens of the answer that is left unread for a while: more events than are held for one client."""
MOST_CONNECTIONS = 16
"""Of all processes together: each has one for its commands, one for each stream that it waits for, and the gateway one for hints."""


@pytest_asyncio.fixture
async def system() -> AsyncIterator[System]:
    options = ("--engine", "fake", "--max-sequences", str(STREAMS + 8), "--token-budget", "2048", "--block-tokens", "64", "--kv-mib", "8")
    async with System(SystemPlan(model=WEIGHTS, served_model_name="demo", workers=(WorkerPlan("worker", options),))) as running:
        yield running


def prompt(number: int) -> list[int]:
    return [10 + number, 300, 400 + number]


@cache
def right_text(number: int, count: int) -> str:
    asked = tuple(prompt(number))
    text = SafeText(HfDetokenizer(WEIGHTS).open(asked), ())
    tokens = reference_tokens(asked, SamplingParams(count, temperature=0.0, ignore_eos=True), MODEL)
    return "".join(text.push(token).text for token in tokens) + text.finish().text


async def ask(system: System, number: int, count: int) -> Stream:
    body = {"model": "demo", "prompt": prompt(number), "max_tokens": count, "temperature": 0, "ignore_eos": True, "stream": True}
    return await open_stream(system.urls[0], "/v1/completions", body)


def said(stream: Stream) -> str:
    """The whole answer; its events are numbered without a gap or a double."""
    events: list[dict[str, Any]] = stream.events()
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return "".join(event["choices"][0]["text"] for event in events)


async def test_every_stream_gets_every_token_once_and_a_client_that_stops_reading_holds_up_nobody(system: System) -> None:
    lazy = await ask(system, 0, LONG)
    await eventually(lambda: _has_begun(lazy), 60)
    assert lazy.transport is not None
    lazy.transport.pause_reading()

    streams = await asyncio.gather(*(ask(system, number, TOKENS) for number in range(1, STREAMS + 1)))
    with looked_into(system.redis_url) as server:
        connections = server.client.client_list()
    assert len(connections) <= MOST_CONNECTIONS + 1, "the one more is who asks"
    await asyncio.gather(*(stream.done for stream in streams))
    assert [said(stream) for stream in streams] == [right_text(number, TOKENS) for number in range(1, STREAMS + 1)]

    assert not lazy.done.done()
    lazy.transport.resume_reading()
    await lazy.done
    assert said(lazy) == right_text(0, LONG)
    for stream in (lazy, *streams):
        stream.close()


async def _has_begun(stream: Stream) -> bool:
    return stream.frames > 1
