"""`headstart top`: the pool, live, read from the message server alone."""

from __future__ import annotations

import asyncio

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.status import live_phases
from cli.top_figures import Frame, ReportBook, WorkerRow, worker_rows
from shared.messages import AgentInfo, ManagedState, Report
from shared.processes import on_stop_signals
from shared.redis_agents import AgentRegistry
from shared.redis_fabric import RedisFabric
from shared.types import PoolId

WORDS = ("worker", "role", "state")
COLOURS = {"ready": "green", "draining": "yellow", "silent": "red"}


class Watcher:
    """Reads frames; each goes on where the last one stopped reading."""

    def __init__(self, fabric: RedisFabric, pool: str) -> None:
        self._fabric = fabric
        self._pool = pool
        self._book = ReportBook()
        self._after = "0-0"

    async def frame(self) -> Frame:
        members = await self._fabric.members()
        while events := await self._fabric.read_events(self._after, count=5000):
            for entry_id, event in events:
                if isinstance(event, Report):
                    self._book.add(entry_id, event)
            self._after = events[-1][0]
        self._book.keep(member.ref for member in members)
        agents = await AgentRegistry.of(self._fabric).agents()
        return Frame(self._pool, await live_phases(self._fabric), tuple(worker_rows(members, self._book)), agents)


async def run_top(redis_url: str, pool: str, *, once: bool, every_s: float) -> None:
    """One frame with `once` or without a terminal; else a frame every `every_s` until Ctrl-C."""
    console = Console(highlight=False)
    fabric = await RedisFabric.connect(redis_url, PoolId(pool))
    try:
        watcher = Watcher(fabric, pool)
        if once or not console.is_terminal:
            console.print(draw(await watcher.frame()))
        else:
            await _watch(watcher, console, every_s)
    finally:
        await fabric.disconnect()


async def _watch(watcher: Watcher, console: Console, every_s: float) -> None:
    stop = asyncio.Event()
    on_stop_signals(stop.set)
    with Live(draw(await watcher.frame()), console=console, auto_refresh=False, screen=True) as screen:
        while not stop.is_set():
            try:
                async with asyncio.timeout(every_s):
                    await stop.wait()
            except TimeoutError:
                screen.update(draw(await watcher.frame()), refresh=True)


def draw(frame: Frame) -> Group:
    """Fits 80 columns."""
    phases = ", ".join(f"{count} {phase}" for phase, count in frame.phases.items())
    head = Text.assemble("pool ", (frame.pool, "bold"), f": {phases}; {frame.tokens_per_s:.0f} tokens/s")
    parts = [head, _workers(frame.workers) if frame.workers else Text("no worker has joined", "yellow")]
    return Group(*parts, *(_agent(agent) for agent in frame.agents))


def _workers(rows: tuple[WorkerRow, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in (*WORDS, "run", "wait", "head\nstarts", "offered\ntokens", "tokens\n/s", "KV\nuse", "prefill\ntokens/s"):
        table.add_column(name, justify="left" if name in WORDS else "right", overflow="fold")
    for row in rows:
        state = Text(row.state, COLOURS.get(row.state, ""))
        counts = (row.running, row.waiting, row.head_starts, row.offered_tokens, f"{row.tokens_per_s:.0f}", f"{row.kv_use:.0%}")
        table.add_row(row.name, row.role, state, *map(str, counts), f"{row.prefill_tokens_per_s:.0f}")
    return table


def _agent(agent: AgentInfo) -> Text:
    """A line for each agent, and one for each of its workers that is not simply running."""
    count = sum(row.state is ManagedState.RUNNING for row in agent.workers)
    line = Text.assemble("agent ", (agent.host, "bold"), f": {count} of {len(agent.workers)} workers run")
    for row in agent.workers:
        if row.state is not ManagedState.RUNNING:
            style = "red" if row.state is ManagedState.GIVEN_UP else "yellow"
            line.append(f"\n  {row.name} {row.state.value}, {row.restarts} restarts", style)
            line.append(f": {row.complaint}" if row.complaint else "")
    return line
