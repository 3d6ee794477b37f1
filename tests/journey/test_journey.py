"""The living manual: one request from door to door, through real processes, over every kind of message server.

The steps are those of `docs/architecture.md`. The engine has no model, so that what each prompt must be answered is known.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from tokenizers import Tokenizer

from cli.system import System, SystemPlan, WorkerPlan
from shared.messages import Report, WorkerInfo
from shared.redis_fabric import RedisFabric
from shared.types import SamplingParams
from tests.support.key_check import TestServer, looked_into, misplaced_keys
from tests.support.waiting import eventually
from workers.detokenizer import SafeText
from workers.fake_engine import BYTES_PER_TOKEN, FakeModel, reference_tokens
from workers.hf_detokenizer import HfDetokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("journey")]

WEIGHTS = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
MODEL = FakeModel(vocab_size=2048, eos_token_ids=frozenset({1}), max_model_tokens=2048)
QUESTION = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife. " * 8
CUT = 128
ENOUGH_S = 60.0

Json = dict[str, Any]


@dataclass(frozen=True)
class Pool:
    """Two gateways of one pool, and a look into its server."""

    one: httpx2.AsyncClient
    other: httpx2.AsyncClient
    fabric: RedisFabric
    server: TestServer


@pytest_asyncio.fixture(params=["embedded", "redis", "cluster"])
async def pool(request: pytest.FixtureRequest) -> AsyncIterator[Pool]:
    """One worker of each end, every prompt cut behind two granules."""
    fixture = {"redis": "redis_system_server", "cluster": "cluster_server"}.get(request.param)
    server = request.getfixturevalue(fixture) if fixture else None
    if server:
        server.client.flushall()
    async with System(plan_of(server.url if server else "")) as system:
        fabric = await RedisFabric.connect(system.redis_url)
        one, other = (httpx2.AsyncClient(base_url=url, timeout=ENOUGH_S) for url in system.urls)
        with looked_into(system.redis_url) as look:
            async with one, other:
                yield Pool(one, other, fabric, look)
            await fabric.disconnect()


def plan_of(redis_url: str) -> SystemPlan:
    fake = ("--engine", "fake")
    return SystemPlan(
        model=WEIGHTS,
        served_model_name="demo",
        workers=(WorkerPlan("low", (*fake, "--slowdown", "4", "--role", "low")), WorkerPlan("high", fake)),
        redis_url=redis_url,
        ports=(0, 0),
        scheduler_options=("--policy", "fixed-cut", "--cut", str(CUT)),
    )


# -- what must be answered


@cache
def prompt_tokens() -> tuple[int, ...]:
    """The question as the model's chat template writes it down."""
    tokenizer = Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
    return tuple(tokenizer.encode(f"<|bos|><|user|>{QUESTION.strip()}<|eos|><|assistant|>", add_special_tokens=False).ids)


def right_text(count: int, **sampling: Any) -> str:
    """The reference's tokens as text."""
    text = SafeText(HfDetokenizer(WEIGHTS).open(prompt_tokens()), ())
    tokens = reference_tokens(prompt_tokens(), SamplingParams(count, ignore_eos=True, **sampling), MODEL)
    return "".join(text.push(token).text for token in tokens) + text.finish().text


def chat(count: int, **more: Any) -> Json:
    return {"model": "demo", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": count, "ignore_eos": True, **more}


def response(count: int) -> Json:
    return {"model": "demo", "input": QUESTION, "max_output_tokens": count, "ignore_eos": True, "background": True, "seed": 7}


# -- the journey


async def test_the_journey(pool: Pool) -> None:
    """One system, as it takes a while to start; each part is a story of its own."""
    await in_head_start_take_pull_steps_out(pool)
    await a_stream_goes_on_at_another_gateway(pool)
    await a_response_in_the_background_is_polled(pool)
    await a_cancelled_request_ends_and_leaves_nothing(pool)
    assert not misplaced_keys(pool.server.client)


async def in_head_start_take_pull_steps_out(pool: Pool) -> None:
    # In, accepted, waited, given a head start, taken, pulled, verified, stepped, written, out.
    chunks = [data async for data in stream(pool.one, chat(24, temperature=0, stream=True))]
    assert "".join(map(text_of, chunks)) == right_text(24, temperature=0.0)
    assert [chunk["sequence_number"] for chunk in chunks] == list(range(len(chunks)))
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"

    # Explained, by a gateway that had nothing to do with it.
    story = await eventually(lambda: explained(pool, chunks[0]["id"]), ENOUGH_S)
    (attempt,) = story["attempts"]
    low, high = attempt["source"], attempt["owner"]
    assert (low.split("#")[0], high.split("#")[0]) == ("low", "high")
    assert (attempt["attempt"], attempt["cut"], attempt["pulled"], attempt["recomputed"]) == (1, CUT, CUT, 0)
    assert [row["worker"] for row in attempt["considered"]] == [high]
    assert story["workers"] == {"considered": [high], "gave_head_start": [low], "owned": [high]}
    assert story["tokens"]["prefill_computed_by"] == {low: CUT, high: len(prompt_tokens()) - CUT}
    assert story["tokens"]["generated"] == 24
    assert (story["transfers"]["count"], story["transfers"]["bytes"]) == (1, CUT * BYTES_PER_TOKEN)
    assert 0 <= story["times"]["ttft_ms"] <= story["times"]["total_ms"]
    steps = [line["what"] for line in story["timeline"]]
    assert [step for step in steps if step in ("submitted", "pulled", "first token", "finished")] == [
        "submitted",
        "pulled",
        "first token",
        "finished",
    ]

    # Closed: nothing waits, and every block of both workers is free again.
    await eventually(lambda: nothing_waits(pool), ENOUGH_S)
    await eventually(lambda: every_block_is_free(pool), ENOUGH_S)


async def a_stream_goes_on_at_another_gateway(pool: Pool) -> None:
    seen: list[Json] = []
    async for data in stream(pool.one, chat(40, temperature=0.8, seed=11, stream=True)):
        seen.append(data)
        if len(seen) == 10:
            break
    last = str(seen[-1]["sequence_number"])
    resumed = [data async for data in stream(pool.other, None, f"/v1/requests/{seen[0]['id']}/stream", {"Last-Event-ID": last})]
    everything = [*seen, *resumed]
    assert [data["sequence_number"] for data in everything] == list(range(len(everything)))
    assert "".join(map(text_of, everything)) == right_text(40, temperature=0.8, seed=11)


async def a_response_in_the_background_is_polled(pool: Pool) -> None:
    created = (await pool.one.post("/v1/responses", json=response(32))).raise_for_status().json()
    assert created["status"] in ("queued", "in_progress")

    async def ended() -> Json:
        found: Json = (await pool.other.get(f"/v1/responses/{created['id']}")).raise_for_status().json()
        return {} if found["status"] in ("queued", "in_progress") else found

    answer = await eventually(ended, ENOUGH_S)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["output"][0]["content"][0]["text"] == right_text(32, temperature=1.0, seed=7)
    assert answer["usage"]["input_tokens"] == len(prompt_tokens())


async def a_cancelled_request_ends_and_leaves_nothing(pool: Pool) -> None:
    created = (await pool.one.post("/v1/responses", json=response(1500))).raise_for_status().json()
    path = f"/v1/responses/{created['id']}"
    (await pool.other.post(f"{path}/cancel")).raise_for_status()

    async def cancelled() -> bool:
        return bool((await pool.one.get(path)).json()["status"] == "cancelled")

    await eventually(cancelled, ENOUGH_S)
    await eventually(lambda: nothing_waits(pool), ENOUGH_S)
    await eventually(lambda: every_block_is_free(pool), ENOUGH_S)


# -- the pieces


async def stream(
    http: httpx2.AsyncClient, body: Json | None, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None
) -> AsyncIterator[Json]:
    """The JSON of every SSE event to `[DONE]`; leaving early closes the connection."""
    async with http.stream("POST" if body else "GET", path, json=body, headers=headers) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                return
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended without [DONE]")


def text_of(chunk: Json) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


async def explained(pool: Pool, public_id: str) -> Json:
    """Empty until the workers have told all: their lines are written after the log."""
    story: Json = (await pool.other.get(f"/v1/requests/{public_id}/explain")).raise_for_status().json()
    told = {line["what"] for line in story["timeline"]}
    return story if {"head_start", "assigned", "taken", "pulled", "finished"} <= told else {}


async def nothing_waits(pool: Pool) -> bool:
    return not await pool.fabric.read_submissions("0-0")


async def every_block_is_free(pool: Pool) -> bool:
    """By the latest report of every worker."""
    members = await pool.fabric.members()
    latest = {event.ref: event for _, event in await pool.fabric.read_events("0-0", count=10000) if isinstance(event, Report)}
    return len(members) == 2 and all(_is_free(member, latest.get(member.ref)) for member in members)


def _is_free(member: WorkerInfo, report: Report | None) -> bool:
    return report is not None and not report.owned and not report.assists and report.credit.blocks == member.total_blocks
