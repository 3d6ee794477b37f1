"""`headstart demo`: a whole system on this machine, prompts at once, answers streaming in, and where each prompt was cut."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.live import Live

from cli.demo_view import Answer, cuts, live, panels
from cli.system import System, SystemPlan, WorkerPlan, need_model_dir

DEMO_MODEL = Path(__file__).parents[1] / "examples" / "demo_model" / "weights"
PROMPTS_FILE = Path(__file__).parents[1] / "examples" / "demo_model" / "prompts.txt"
MAX_TOKENS = 48
PROMPT_COPIES = (2, 3, 4, 5)
"""Prompts of unlike length: a passage twice, three times, ..."""
WANTED_CUTS = 2
ROUNDS = 3
"""How often the prompts are sent at most, until that many of them were cut: on a busy machine chance has its say."""


def demo_plan(model: Path) -> SystemPlan:
    """One fast and two slow workers; a token budget of one granule, so that prompts wait and get their head start.

    Without cached prefixes: the prompts are repetitions and may be sent again, and what is cached needs no head start.
    """
    need_model_dir(model)
    common = ("--threads", "1", "--kv-mib", "64", "--staging-mib", "32", "--token-budget", "64", "--no-prefix-cache")
    low = tuple(WorkerPlan(f"low-{at}", (*common, "--slowdown", "2", "--role", "low")) for at in (1, 2))
    return SystemPlan(model=model, served_model_name="demo", workers=(WorkerPlan("high-1", common), *low), echo=False)


async def run_demo(model: Path | None, prompts: int) -> int:
    """0 when every answer arrived and enough prompts got a head start (of one alone none can)."""
    console = Console()
    plan = demo_plan(model or DEMO_MODEL)
    with console.status("starting a message server, a scheduler, three workers and a gateway") as status:
        system = System(plan, lambda what: status.update(what))
        await system.__aenter__()
    try:
        console.print(f"Everything runs: {system.urls[0]}/v1. {prompts} prompts at once, to one fast worker and two slow ones:")
        wanted = min(WANTED_CUTS, prompts - 1)
        answers: list[Answer] = []
        for _ in range(ROUNDS):
            answers = await _round(console, system.urls[0], prompts)
            if sum(answer.cut > 0 for answer in answers) >= wanted or _failed(answers):
                break
        console.print(panels(answers))
        console.print(cuts(answers))
        return _verdict(console, answers, wanted)
    finally:
        with console.status("stopping"):
            await system.__aexit__()


async def _round(console: Console, url: str, prompts: int) -> list[Answer]:
    """All prompts at once; returns when all have ended."""
    answers = [Answer(at + 1, prompt) for at, prompt in enumerate(demo_prompts(prompts))]
    with Live(live(answers), console=console, refresh_per_second=12, transient=True) as screen:
        asking = asyncio.gather(*(_ask(url, answer) for answer in answers))
        while not asking.done():
            await asyncio.sleep(0.08)
            screen.update(live(answers))
        await asking
    return answers


def demo_prompts(count: int) -> list[str]:
    passages = [passage.strip() for passage in PROMPTS_FILE.read_text(encoding="utf-8").split("\n\n") if passage.strip()]
    return ["\n".join([passages[at % len(passages)]] * PROMPT_COPIES[at % len(PROMPT_COPIES)]) for at in range(count)]


async def _ask(url: str, answer: Answer) -> None:
    body = {"model": "demo", "prompt": answer.prompt, "max_tokens": MAX_TOKENS, "temperature": 0.7, "seed": answer.number, "stream": True}
    began = time.monotonic()
    async with httpx2.AsyncClient(timeout=300) as client:
        async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
            if response.status_code != 200:
                answer.state = f"failed: {(await response.aread()).decode(errors='replace')}"
                return
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    _take(answer, json.loads(line.removeprefix("data: ")), time.monotonic() - began)
        if answer.request_id:
            answer.story = (await client.get(f"{url}/v1/requests/{answer.request_id}/explain")).json()
    answer.state = "done" if answer.state == "streaming" else answer.state


def _take(answer: Answer, chunk: dict[str, Any], elapsed_s: float) -> None:
    if "error" in chunk:
        answer.state = f"failed: {chunk['error']['message']}"
        return
    answer.request_id = chunk["id"]
    answer.ttft_s = answer.ttft_s or elapsed_s
    answer.state = "streaming"
    answer.text += "".join(choice["text"] for choice in chunk["choices"])


def _failed(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.state != "done"]


def _verdict(console: Console, answers: list[Answer], wanted: int) -> int:
    failed = _failed(answers)
    ahead, prompt = sum(answer.cut for answer in answers), sum(answer.story["tokens"]["prompt"] for answer in answers if answer.story)
    started = sum(answer.cut > 0 for answer in answers)
    complete = f"{len(answers) - len(failed)} of {len(answers)} answers complete"
    console.print(f"{complete}; {started} prompts got a head start: {ahead} of {prompt} prompt tokens")
    return 1 if failed or started < wanted else 0
