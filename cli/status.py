"""`headstart status`: who is there and what waits, read from the message server alone."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from shared.messages import Report, WorkerInfo
from shared.redis_fabric import RedisFabric
from shared.types import Phase, PoolId, WorkerRef


async def show_status(redis_url: str, pool: str, *, as_json: bool) -> None:
    """Prints a table, or one JSON object."""
    fabric = await RedisFabric.connect(redis_url, PoolId(pool))
    try:
        members = await fabric.members()
        reports = await _latest_reports(fabric)
        phases = await live_phases(fabric)
        dead = (await fabric.pool_status()).dead_letters
    finally:
        await fabric.disconnect()
    workers = [_row(member, reports.get(member.ref)) for member in members]
    if as_json:
        print(json.dumps({"pool": pool, "requests": phases, "dead_letters": dead, "workers": workers}, indent=2))
    else:
        _print(pool, phases, workers)
        if dead:
            Console().print(f"{dead} dead letters: `headstart dead-letters list`")


async def _latest_reports(fabric: RedisFabric) -> dict[WorkerRef, Report]:
    reports: dict[WorkerRef, Report] = {}
    after = "0-0"
    while events := await fabric.read_events(after, count=5000):
        reports |= {event.ref: event for _, event in events if isinstance(event, Report)}
        after = events[-1][0]
    return reports


async def live_phases(fabric: RedisFabric) -> dict[str, int]:
    """Live requests by phase."""
    counts = dict.fromkeys((Phase.QUEUED.value, Phase.RUNNING.value, Phase.MOVING.value), 0)
    after = "0-0"
    while submissions := await fabric.read_submissions(after, count=1000):
        for _, submission in submissions:
            record = await fabric.record(submission.request_id)
            if record and record.phase.value in counts:
                counts[record.phase.value] += 1
        after = submissions[-1][0]
    return counts


def _row(info: WorkerInfo, report: Report | None) -> dict[str, Any]:
    return {
        "worker": str(info.ref.worker),
        "incarnation": info.ref.incarnation,
        "model": info.model,
        "device": info.device,
        "host": info.host,
        "prefill_tokens_per_s": round(info.profile.prefill_tokens_per_s()),
        "state": report.state.value if report else "silent",
        "owned": len(report.owned) if report else 0,
        "head_starts": len(report.assists) if report else 0,
        "credit": dataclasses.asdict(report.credit) if report else None,
        "blocks": info.total_blocks,
    }


def _print(pool: str, phases: dict[str, int], workers: list[dict[str, Any]]) -> None:
    console = Console()
    console.print(f"pool [bold]{pool}[/]: " + ", ".join(f"{count} {phase}" for phase, count in phases.items()))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    words = ("worker", "device", "state")
    for name in (*words, "prefill\ntokens/s", "owned", "head\nstarts", "free\nblocks", "credit\ntokens"):
        table.add_column(name, justify="left" if name in words else "right", overflow="fold")
    for row in workers:
        credit = row["credit"] or {"blocks": 0, "tokens": 0}
        cells = (row["worker"], row["device"], row["state"], row["prefill_tokens_per_s"], row["owned"], row["head_starts"])
        table.add_row(*map(str, cells), f"{credit['blocks']}/{row['blocks']}", str(credit["tokens"]))
    console.print(table)
