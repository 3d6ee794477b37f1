"""What one key may do in a minute is refused before anything is queued, and told in headers; another key is not touched by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.api_keys import rule_of
from gateway.settings import GatewaySettings
from shared.rates import Rates
from tests.support.fake_owner import End, Say
from tests.support.gateway_server import Stage, staged, until

BODY: dict[str, Any] = {"model": "org/tiny", "prompt": "hi", "max_tokens": 10}


@asynccontextmanager
async def limited(model: Path, *rates: Rates, **options: Any) -> AsyncIterator[Stage]:
    """A stage whose keys are `key-0`, `key-1` and so on."""
    rules = tuple(rule_of(f"key-{at}", rates=one) for at, one in enumerate(rates))
    async with staged(GatewaySettings("", model, "org/tiny", key_rules=rules, poll_s=0.05, **options)) as stage:
        stage.plays(Say("a", 4), End())
        yield stage


async def post(stage: Stage, key: int = 0, **changes: Any) -> httpx2.Response:
    return await stage.served.http.post("/v1/completions", json={**BODY, **changes}, headers={"authorization": f"Bearer key-{key}"})


def spent(stage: Stage) -> list[str]:
    return [call for call in stage.fabric.calls if call in ("create_log", "submit")]


async def test_requests_a_minute(tiny_model: Path) -> None:
    async with limited(tiny_model, Rates(requests=2), Rates()) as stage:
        left = [(await post(stage)).headers["x-ratelimit-remaining-requests"] for _ in range(2)]
        assert left == ["1", "0"]
        before = spent(stage)
        refused = await post(stage)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-ratelimit-limit-requests"] == "2"
        assert refused.headers["x-ratelimit-reset-requests"].endswith("s")
        assert spent(stage) == before, "refused before anything was queued"
        free = await post(stage, key=1)
        assert free.status_code == 200
        assert not [name for name in free.headers if name.startswith("x-ratelimit")]


async def test_tokens_are_taken_at_their_most_and_come_back_at_the_end(tiny_model: Path) -> None:
    async with limited(tiny_model, Rates(tokens=40)) as stage:
        answer = await post(stage)
        used = answer.json()["usage"]["total_tokens"]
        (bucket,) = stage.fabric.buckets.values()
        await until(lambda: bucket.tokens <= used)
        assert bucket.tokens > used - 4, "the minute gives some back, too"
        taken = 40 - int(answer.headers["x-ratelimit-remaining-tokens"])
        assert taken == answer.json()["usage"]["prompt_tokens"] + 10 > used
        assert (await post(stage, max_tokens=2, n=2)).headers["x-ratelimit-remaining-tokens"] < "40"
        too_large = await post(stage, max_tokens=60)
        assert (too_large.status_code, too_large.json()["error"]["code"]) == (429, "request_too_large")
        assert too_large.headers["x-should-retry"] == "false"
        assert "retry-after" not in too_large.headers
        before = spent(stage)
        bucket.tokens = 39
        later = await post(stage)
        assert (later.status_code, later.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(later.headers["retry-after"]) <= 60
        assert spent(stage) == before


async def test_what_is_not_accepted_costs_no_tokens(tiny_model: Path) -> None:
    async with limited(tiny_model, Rates(tokens=40)) as stage:
        stage.fabric.model.publish_load(0, 1, 0, 10_000.0)
        busy = await post(stage)
        assert (busy.status_code, busy.json()["error"]["code"]) == (429, "too_many_requests")
        (bucket,) = stage.fabric.buckets.values()
        await until(lambda: bucket.tokens == 0)


async def test_without_keys_all_share_the_gateways_rate(tiny_model: Path) -> None:
    async with limited(tiny_model, requests_per_minute=1) as stage:
        assert [(await post(stage, key)).status_code for key in (1, 2)] == [200, 429]


async def test_a_stream_tells_what_is_left_too(tiny_model: Path) -> None:
    async with limited(tiny_model, Rates(requests=3)) as stage:
        assert (await post(stage, stream=True)).headers["x-ratelimit-remaining-requests"] == "2"


@pytest.mark.parametrize(("header", "body", "kept"), [("2.5", None, 2.5), ("9", 3, 3.0), ("3", 9, 3.0)])
async def test_a_timeout_may_come_as_a_header(tiny_model: Path, header: str, body: float | None, kept: float) -> None:
    async with staged(GatewaySettings("", tiny_model, "org/tiny")) as stage:
        sent = {**BODY, "timeout_s": body}
        answer = await stage.served.http.post("/v1/completions", json=sent, headers={"x-request-timeout": header})
        assert answer.status_code == 200
        (held,) = stage.fabric.model._state.held.values()
        assert held.record.submission.timeout_s == kept


@pytest.mark.parametrize("header", ["", "soon", "nan", "0", "-1", "inf", "1e9"])
async def test_a_timeout_that_is_none_is_named(tiny_model: Path, header: str) -> None:
    async with staged(GatewaySettings("", tiny_model, "org/tiny")) as stage:
        answer = await stage.served.http.post("/v1/completions", json=BODY, headers={"x-request-timeout": header})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-request-timeout")
        assert spent(stage) == []
