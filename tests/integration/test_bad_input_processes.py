"""Each bad input against a running system: its 4xx by name, nothing left in the server or a worker, and the next request works."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from cli.system import System, SystemPlan, WorkerPlan
from gateway.limits import MAX_BODY_BYTES
from shared.messages import Report
from shared.redis_fabric import RedisFabric
from shared.types import PoolId
from tests.support.key_check import looked_into, misplaced_keys
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("bad-input")]

DEMO = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
POOL = "bad-input"
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HUNDRED_MB = 100 << 20
ENOUGH_S = 60.0


@dataclass(frozen=True)
class Bad:
    """A request, and what is said about it."""

    path: str
    body: dict[str, Any] | bytes
    status: int
    about: str
    """`param` of the error; empty where no parameter is to blame."""


def completion(**asked: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": "The whale", "max_tokens": 4, **asked}


def chat(**asked: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": "The whale?"}], "max_tokens": 4, **asked}


def schema(of: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": of, "strict": True}}}


BAD = {
    "a wrong type": Bad(COMPLETIONS, completion(max_tokens="many"), 400, "max_tokens"),
    "an unknown model": Bad(COMPLETIONS, completion(model="gpt-17"), 404, "model"),
    "an empty prompt": Bad(COMPLETIONS, completion(prompt=""), 400, "prompt"),
    "no messages": Bad(CHAT, chat(messages=[]), 400, "messages"),
    "a prompt beyond the model": Bad(COMPLETIONS, completion(prompt=[5] * 100_000), 400, "prompt"),
    "an answer beyond the KV memory": Bad(COMPLETIONS, completion(max_tokens=1_000_000), 400, "max_tokens"),
    "n of nothing": Bad(COMPLETIONS, completion(n=0), 400, "n"),
    "a huge n": Bad(COMPLETIONS, completion(n=10**9), 400, "n"),
    "a negative temperature": Bad(COMPLETIONS, completion(temperature=-1), 400, "temperature"),
    "a schema that is none": Bad(CHAT, chat(**schema({"type": "whale"})), 400, "response_format"),
    "a schema that refers to nothing": Bad(CHAT, chat(**schema({"$ref": "#/nowhere"})), 400, "response_format"),
    "a stop list too long": Bad(COMPLETIONS, completion(stop=["a", "b", "c", "d", "e"]), 400, "stop"),
    "invalid UTF-8": Bad(COMPLETIONS, b'{"model": "demo", "prompt": "\xff\xfe"}', 400, ""),
    "truncated JSON": Bad(COMPLETIONS, b'{"model": "demo", "prompt": "The wh', 400, ""),
    "a body of 100 MB": Bad(COMPLETIONS, b" " * HUNDRED_MB, 413, ""),
    "an unknown id before": Bad(RESPONSES, {"model": "demo", "input": "hi", "previous_response_id": "resp_0"}, 404, "previous_response_id"),
}


@dataclass
class Running:
    http: httpx2.AsyncClient
    server: Any


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running() -> AsyncIterator[Running]:
    """At the end the worker holds nothing and every key is as the table says."""
    worker = WorkerPlan("one", ("--engine", "fake", "--kv-mib", "1", "--no-prefix-cache"))
    async with (
        System(SystemPlan(DEMO, "demo", (worker,), pool=POOL)) as system,
        httpx2.AsyncClient(base_url=system.urls[0], timeout=60) as http,
    ):
        with looked_into(system.redis_url) as server:
            yield Running(http, server.client)
            fabric = await RedisFabric.connect(system.redis_url, PoolId(POOL))
            try:
                await eventually(lambda: _holds_nothing(fabric), ENOUGH_S)
                assert not misplaced_keys(server.client)
            finally:
                await fabric.disconnect()


async def _holds_nothing(fabric: RedisFabric) -> bool:
    (member,) = await fabric.members()
    reports = [event for _, event in await fabric.read_events("0-0", count=10_000) if isinstance(event, Report)]
    return bool(reports) and not reports[-1].owned and reports[-1].credit.blocks == member.total_blocks


@pytest.mark.parametrize("what", BAD)
async def test_it_is_refused_by_name_and_leaves_nothing(running: Running, what: str) -> None:
    bad, before = BAD[what], set(_of_requests(running))
    answer = await running.http.post(bad.path, **_sent(bad.body))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"] or "") == (bad.status, bad.about), error
    assert len(error["message"]) > 10
    assert set(_of_requests(running)) == before
    await it_works(running)


@pytest.mark.parametrize("path", ["/v1/responses/resp_0", "/v1/requests/0/stream", "/v1/requests/0/explain"])
async def test_an_unknown_id_is_a_404(running: Running, path: str) -> None:
    before = set(_of_requests(running))
    answer = await running.http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert set(_of_requests(running)) == before
    await it_works(running)


async def test_a_stream_cannot_be_resumed_beyond_its_end(running: Running) -> None:
    made = await it_works(running)
    answer = await running.http.get(f"/v1/requests/{made['id']}/stream?starting_after=9999")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "starting_after")
    await it_works(running)


async def test_the_limit_of_a_body_is_what_is_written_down(running: Running) -> None:
    """One byte less is read, and refused for what is in it."""
    answer = await running.http.post(COMPLETIONS, **_sent(b"x" * MAX_BODY_BYTES))
    assert answer.status_code == 400
    assert (await running.http.post(COMPLETIONS, **_sent(b"x" * (MAX_BODY_BYTES + 1)))).status_code == 413


def _sent(body: dict[str, Any] | bytes) -> dict[str, Any]:
    return {"content": body, "headers": {"content-type": "application/json"}} if isinstance(body, bytes) else {"json": body}


def _of_requests(running: Running) -> Iterator[str]:
    """Keys that a request makes."""
    return (key for key in map(bytes.decode, running.server.scan_iter(count=1000)) if any(f":{kind}:" in key for kind in KINDS))


KINDS = ("head", "log", "request", "idempotency")
"""Not stories: those of the request before may be written a moment later."""


async def it_works(running: Running) -> dict[str, Any]:
    answer = await running.http.post(COMPLETIONS, json=completion(ignore_eos=True))
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    assert made["usage"]["completion_tokens"] == 4
    return made
