"""`headstart demo`: a whole system on this machine, prompts at once, answers streaming in, and where each prompt was cut."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cli.system import System, SystemPlan, WorkerPlan, need_model_dir

DEMO_MODEL = Path(__file__).parents[1] / "examples" / "demo_model" / "weights"
PROMPTS_FILE = Path(__file__).parents[1] / "examples" / "demo_model" / "prompts.txt"
MAX_TOKENS = 48
PROMPT_COPIES = (1, 2, 3, 4)
"""Prompts of unlike length: the passage once, twice, ..."""


@dataclass(slots=True)
class Answer:
    """One prompt's progress on the screen."""

    number: int
    prompt: str
    text: str = ""
    state: str = "waiting"
    request_id: str = ""
    ttft_s: float = 0.0
    story: dict[str, Any] = field(default_factory=dict)


def demo_plan(model: Path) -> SystemPlan:
    """One fast and two slow workers; a small token budget, so that prompts wait and get their head start."""
    need_model_dir(model)
    common = ("--threads", "1", "--kv-mib", "64", "--staging-mib", "32")
    high = WorkerPlan("high-1", (*common, "--token-budget", "128"))
    low = tuple(WorkerPlan(f"low-{at}", (*common, "--token-budget", "128", "--slowdown", "3")) for at in (1, 2))
    return SystemPlan(model=model, served_model_name="demo", workers=(high, *low), echo=False)


async def run_demo(model: Path | None, prompts: int) -> int:
    """0 when every answer arrived and at least one prompt got a head start (with more than one prompt)."""
    console = Console()
    plan = demo_plan(model or DEMO_MODEL)
    answers = [Answer(at + 1, prompt) for at, prompt in enumerate(demo_prompts(prompts))]
    with console.status("starting a message server, a scheduler, three workers and a gateway") as status:
        system = System(plan, lambda what: status.update(what))
        await system.__aenter__()
    try:
        console.print(f"Everything runs: {system.urls[0]}/v1. {prompts} prompts at once, to one fast worker and two slow ones:")
        with Live(_screen(answers), console=console, refresh_per_second=12, transient=True) as live:
            asking = asyncio.gather(*(_ask(system.urls[0], answer) for answer in answers))
            while not asking.done():
                await asyncio.sleep(0.08)
                live.update(_screen(answers))
            await asking
        console.print(_screen(answers))
        console.print(_table(answers))
        return _verdict(console, answers)
    finally:
        with console.status("stopping"):
            await system.__aexit__()


def demo_prompts(count: int) -> list[str]:
    passages = [passage.strip() for passage in PROMPTS_FILE.read_text().split("\n\n") if passage.strip()]
    return ["\n".join([passages[at % len(passages)]] * PROMPT_COPIES[at % len(PROMPT_COPIES)]) for at in range(count)]


async def _ask(url: str, answer: Answer) -> None:
    body = {"model": "demo", "prompt": answer.prompt, "max_tokens": MAX_TOKENS, "temperature": 0.7, "seed": answer.number, "stream": True}
    began = time.monotonic()
    async with httpx2.AsyncClient(timeout=300) as client:
        async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    _take(answer, json.loads(line.removeprefix("data: ")), time.monotonic() - began)
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


def _screen(answers: list[Answer]) -> Group:
    colours = {"waiting": "dim", "streaming": "cyan", "done": "green"}
    panels = []
    for answer in answers:
        opening = " ".join(answer.prompt.split())[:60]
        body = Text(f"{opening}… ", style="dim") + Text(" ".join(answer.text.split()), style="bold")
        panels.append(
            Panel(body, title=f"{answer.number} {answer.state}", title_align="left", border_style=colours.get(answer.state, "red"))
        )
    return Group(*panels)


def _table(answers: list[Answer]) -> Table:
    table = Table(title="Where each prompt was cut", title_justify="left")
    for name in ("#", "prompt", "cut at", "prefill tokens by", "owner", "moved", "pull", "waited", "TTFT"):
        table.add_column(name, justify="left" if name in ("prefill tokens by", "owner") else "right")
    for answer in answers:
        table.add_row(str(answer.number), *_row(answer))
    return table


def _row(answer: Answer) -> tuple[str, ...]:
    tokens, moved, times, workers = (answer.story[key] for key in ("tokens", "transfers", "times", "workers"))
    shares = ", ".join(f"{_short(name)} {count}" for name, count in tokens["prefill_computed_by"].items())
    return (
        f"{tokens['prompt']} tokens",
        str(tokens["cut"]),
        shares,
        ", ".join(_short(name) for name in workers["owned"]),
        f"{moved['bytes'] / 1e3:.0f} kB" if moved["bytes"] else "-",
        f"{1e3 * moved['seconds']:.1f} ms" if moved["bytes"] else "-",
        f"{times['queued_ms']} ms",
        f"{1e3 * answer.ttft_s:.0f} ms",
    )


def _short(worker: str) -> str:
    return worker.split("#")[0]


def _verdict(console: Console, answers: list[Answer]) -> int:
    failed = [answer for answer in answers if answer.state != "done"]
    ahead = sum(answer.story["tokens"]["cut"] for answer in answers)
    prompt = sum(answer.story["tokens"]["prompt"] for answer in answers)
    started = sum(answer.story["tokens"]["cut"] > 0 for answer in answers)
    complete = f"{len(answers) - len(failed)} of {len(answers)} answers complete"
    console.print(f"{complete}; {started} prompts got a head start: {ahead} of {prompt} prompt tokens")
    return 1 if failed or (len(answers) > 1 and not started) else 0
