"""One system watched from outside: metrics of all roles against the requests' truth, and logs that tell everything but the text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from cli.system import System, SystemPlan, WorkerPlan
from shared.server import free_port
from tests.support.scrape import Scraped, scrape
from tests.support.waiting import eventually
from workers.fake_engine import BYTES_PER_TOKEN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("observed")]

WEIGHTS = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
QUESTION = "The quick brown xylophone considered its marmalade and wept for the lighthouse of Zanzibar until morning. " * 10
WORDS = ("xylophone", "marmalade", "lighthouse", "Zanzibar")
CUT = 128
ENOUGH_S = 60.0

Json = dict[str, Any]


@dataclass
class Watched:
    http: httpx2.AsyncClient
    gateway: int
    scheduler: int
    low: int
    high: int


@pytest_asyncio.fixture
async def watched() -> AsyncIterator[Watched]:
    """One worker of each end, every prompt cut behind two granules; all at debug level, in JSON."""
    scheduler, low, high = (free_port() for _ in range(3))
    fake = ("--engine", "fake", "--kv-mib", "8", "--staging-mib", "16", "--no-prefix-cache", "--metrics-port")
    plan = SystemPlan(
        model=WEIGHTS,
        served_model_name="demo",
        workers=(WorkerPlan("low", (*fake, str(low), "--slowdown", "4", "--role", "low")), WorkerPlan("high", (*fake, str(high)))),
        scheduler_options=("--policy", "fixed-cut", "--cut", str(CUT), "--metrics-port", str(scheduler)),
        log_level="debug",
        env={"HEADSTART_LOG_FORMAT": "json"},
    )
    async with System(plan) as system:
        async with httpx2.AsyncClient(base_url=system.urls[0], timeout=ENOUGH_S) as http:
            yield Watched(http, system.ports[0], scheduler, low, high)


async def test_what_is_measured_is_what_happened_and_no_log_tells_the_text(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    answers = await asyncio.gather(*(complete(watched, seed) for seed in range(4)))
    cancelled = await submit_and_cancel(watched)
    truth = [await explained(watched, answer["id"]) for answer in answers]
    assert all(story["tokens"]["cut"] == CUT for story in truth)

    async def settled() -> Scraped | None:
        """The step under way when the last request was cancelled keeps a block until it returns: a leak would keep it for good."""
        high = await scrape(watched.high)
        ended = high("headstart:request_success_total") == 5 and high("headstart:num_requests_running") == 0
        ended = ended and high("headstart:kv_cache_usage_perc") == 0
        return high if ended and (await scrape(watched.low))("headstart:num_head_starts") == 0 else None

    high = await eventually(settled, ENOUGH_S)
    assert high is not None
    low, scheduler, gateway = await scrape(watched.low), await scrape(watched.scheduler), await scrape(watched.gateway)
    the_owner_agrees(high, truth)
    the_giver_agrees(low, high, truth)
    the_scheduler_agrees(scheduler, truth)
    the_gateway_agrees(gateway, high, truth)
    for endpoint in (high, low, scheduler, gateway):
        labels = {label for _, pairs in endpoint.samples for label, _ in pairs}
        assert labels <= {
            "model_name",
            "finished_reason",
            "reason",
            "le",
            "direction",
            "result",
            "cause",
            "outcome",
            "job",
            "status",
            "phase",
        }

    read = capsys.readouterr().err
    outputs = [choice["text"] for answer in answers for choice in answer["choices"]]
    nothing_of_the_text_is_told(read, outputs)
    requests_are_told_by_fields(read, [*(answer["id"] for answer in answers), cancelled])


async def complete(watched: Watched, seed: int) -> Json:
    body = {"model": "demo", "prompt": QUESTION, "max_tokens": 20 + seed, "seed": seed, "ignore_eos": True}
    answer: Json = (await watched.http.post("/v1/completions", json=body)).raise_for_status().json()
    return answer


async def submit_and_cancel(watched: Watched) -> str:
    """Running, then cancelled: it counts as such."""
    body = {"model": "demo", "input": QUESTION, "max_output_tokens": 1500, "ignore_eos": True, "background": True}
    created: Json = (await watched.http.post("/v1/responses", json=body)).raise_for_status().json()

    async def running() -> bool:
        found: Json = (await watched.http.get(f"/v1/responses/{created['id']}")).json()
        return bool(found["status"] == "in_progress" and found["output"])

    await eventually(running, ENOUGH_S)
    (await watched.http.post(f"/v1/responses/{created['id']}/cancel")).raise_for_status()
    return str(created["id"])


async def explained(watched: Watched, public_id: str) -> Json:
    async def told() -> Json:
        story: Json = (await watched.http.get(f"/v1/requests/{public_id}/explain")).raise_for_status().json()
        return story if {"pulled", "taken"} <= {line["what"] for line in story["timeline"]} else {}

    return await eventually(told, ENOUGH_S)


def the_owner_agrees(high: Scraped, truth: list[Json]) -> None:
    prompts, pulled = sum(story["tokens"]["prompt"] for story in truth), sum(story["attempts"][-1]["pulled"] for story in truth)
    assert high("headstart:request_success_total", finished_reason="length") == 4
    assert high("headstart:request_success_total", finished_reason="abort") == 1
    assert high("headstart:e2e_request_latency_seconds_count") == 5
    assert high("headstart:time_to_first_token_seconds_count") == 5
    # The cancelled one has the same words as a message: its prompt is a little longer, and how much of it was generated is open.
    assert 1.2 * prompts <= high("headstart:prompt_tokens_total") <= 1.5 * prompts
    assert high("headstart:generation_tokens_total") > sum(story["tokens"]["generated"] for story in truth)
    assert high("headstart:inter_token_latency_seconds_count") >= sum(story["tokens"]["generated"] - 1 for story in truth)
    assert high("headstart:kv_transfer_bytes_total", direction="in") == (pulled + CUT) * BYTES_PER_TOKEN
    assert high("headstart:kv_transfers_total", direction="in", result="good") == 5
    assert high("headstart:kv_verification_failures_total") == high("headstart:recomputed_tokens_total") == 0
    assert high("headstart:num_preemptions_total") == 0


def the_giver_agrees(low: Scraped, high: Scraped, truth: list[Json]) -> None:
    assert low("headstart:head_starts_given_total") == low("headstart:head_starts_taken_total") == len(truth) + 1
    assert low("headstart:head_start_tokens_total", outcome="taken") == CUT * (len(truth) + 1)
    assert low("headstart:head_starts_wasted_total") == 0
    assert low("headstart:kv_transfer_bytes_total", direction="out") == high("headstart:kv_transfer_bytes_total", direction="in")
    assert low("headstart:generation_tokens_total") == 0


def the_scheduler_agrees(scheduler: Scraped, truth: list[Json]) -> None:
    requests = len(truth) + 1
    assert scheduler("headstart:scheduler_leading") == 1
    assert scheduler("headstart:workers") == 2
    assert scheduler("headstart:placements_total", job="assign", status="done") == requests
    assert scheduler("headstart:placements_total", job="assist", status="done") == requests
    assert scheduler("headstart:head_starts_total", outcome="taken") == requests
    assert scheduler("headstart:cut_tokens_sum") == CUT * requests
    assert scheduler("headstart:cut_tokens_bucket", le="64.0") == 0
    assert scheduler("headstart:request_queue_time_seconds_count") == requests
    assert scheduler("headstart:moves_total") == 0
    assert scheduler("headstart:decision_seconds_count") > 5 * requests


def the_gateway_agrees(gateway: Scraped, high: Scraped, truth: list[Json]) -> None:
    assert gateway("vllm:generation_tokens_total") == high("headstart:generation_tokens_total")
    assert gateway("vllm:prompt_tokens_total") == high("headstart:prompt_tokens_total")
    assert gateway("vllm:request_success_total") == len(truth) + 1


def nothing_of_the_text_is_told(read: str, outputs: list[str]) -> None:
    assert len(read) > 4_000, "at debug level there is much to read"
    for word in WORDS:
        assert word not in read
    for output in outputs:
        pieces = [piece for piece in output.split() if len(piece) > 6]
        assert pieces
        assert not [piece for piece in pieces if piece in read]


def requests_are_told_by_fields(read: str, public_ids: list[str]) -> None:
    lines = [json.loads(line) for line in read.splitlines() if line.startswith("{")]
    assert len(lines) == len(read.splitlines()), "every line is JSON"
    for public_id in public_ids:
        told = [line for line in lines if line.get("request") and public_id.endswith(line["request"])]
        assert {line["role"] for line in told} == {"gateway", "scheduler", "worker"}
        assert {line["worker"].split("#")[0] for line in told if line["role"] == "worker"} == {"high"}
        assert {line["attempt"] for line in told if line["event"] in ("assigned", "taken")} == {1}
