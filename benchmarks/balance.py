"""Real unequal workers on one machine, every policy in turn: `python -m benchmarks.balance --trace FILE` (`make bench-balance`).

One high-end and one low-end worker, processes with a small random-weight model whose CPU a cgroup quota limits; a scaled piece of the
Azure conversation trace; each round runs every policy, in shuffled order. First all requests at once, then ours and the best
data-parallel variant at shares of that variant's throughput. What it measures and what it found: docs/balance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.balance_cell import Cell, measure
from benchmarks.balance_cgroup import Controller, find_controller
from benchmarks.balance_figures import DATA_PARALLEL, HIGH_ONLY, OURS, POLICIES, Cells, rows, table
from benchmarks.balance_model import WINDOW, save_model
from benchmarks.balance_plot import save_plot
from benchmarks.balance_system import HIGH, LOW, Limits, Rig, RigPlan, running
from benchmarks.balance_trace import scaled
from benchmarks.rows import RESULTS, write_rows
from scheduler.simulation.serving.trace import Arrival, at_rate, read_trace
from shared.processes import on_stop_signals

LOADS = (0.8, 0.95)
QUICK_POLICIES = (OURS, HIGH_ONLY, DATA_PARALLEL[-1])
WARM_UP = 30
"""Requests before the first cell that counts: caches fill, memory is touched."""
STOLEN, TRIES = 0.05, 3
"""Share of the processors' time that a machine's host may take from a cell, whatever its policy, before it is measured again; how often."""
SPEED_RATIO = (2.5, 3.5)
"""What passes for three times as fast."""


def main() -> None:
    options = parsed()
    controller = find_controller()
    if isinstance(controller, str):
        sys.exit(f"SKIPPED, nothing was measured: no worker's CPU can be limited here ({controller}); run it as root")
    cells = asyncio.run(stoppable(options, controller))
    print("\n" + table(cells) + "\n")
    report(cells, quick=options.quick)


def report(cells: Cells, *, quick: bool) -> None:
    """A quick run promises nothing and overwrites nothing."""
    if quick:
        print("\n".join(row.line() for row in rows(cells)))
        return
    write_rows("balance", rows(cells))
    (RESULTS / "balance_cells.json").write_text(json.dumps([cell.brief() for cell in cells], indent=1) + "\n")
    save_plot(cells, RESULTS / "balance.png")


async def stoppable(options: argparse.Namespace, controller: Controller) -> Cells:
    """A stop signal ends it in good order: neither a worker nor a CPU group stays behind."""
    measuring = asyncio.create_task(run(options, controller))

    def stop() -> None:
        measuring.cancel()

    on_stop_signals(stop)
    return await measuring


async def run(options: argparse.Namespace, controller: Controller) -> Cells:
    arrivals = scaled(read_trace(options.trace, options.requests), options.share, WINDOW)
    with tempfile.TemporaryDirectory(prefix="hs-balance-") as folder:
        model = save_model(Path(folder, "model"), options.hidden, options.layers)
        limits = {name: Limits(share, mib) for name, share, mib in zip((HIGH, LOW), options.cpu, options.kv_mib, strict=True)}
        async with running(RigPlan(model, limits, options.token_budget, options.max_sequences), controller) as rig:
            introduce(rig, arrivals, options.token_budget)
            return await _measured(rig, arrivals, options)


async def _measured(rig: Rig, arrivals: Sequence[Arrival], options: argparse.Namespace) -> Cells:
    if not options.quick:
        await measure(rig, OURS, at_rate(arrivals[:WARM_UP], 0), round_=0, load=0.0, seed=options.seed)
    cells = await _rounds(rig, options, options.rounds, options.policies, at_rate(arrivals, 0), 0.0, [])
    variant = Cells(cells).best(DATA_PARALLEL)
    for load in options.loads if variant else ():
        rate = load * Cells(cells).throughput(variant or "")
        cells = await _rounds(rig, options, options.tail_rounds, (OURS, variant or ""), at_rate(arrivals, rate), load, cells)
    return Cells(cells)


async def _rounds(
    rig: Rig, options: argparse.Namespace, rounds: int, policies: Sequence[str], arrivals: Sequence[Arrival], load: float, done: list[Cell]
) -> list[Cell]:
    """Every policy once in each round, in an order of the round's own."""
    cells = list(done)
    for round_ in range(rounds):
        order = random.Random(f"{options.seed} {load} {round_}").sample(policies, len(policies))
        for policy in order:
            cells.append(await undisturbed(rig, policy, arrivals, round_=round_, load=load, seed=options.seed + 1 + len(cells)))
    return cells


async def undisturbed(rig: Rig, policy: str, arrivals: Sequence[Arrival], *, round_: int, load: float, seed: int) -> Cell:
    """Where the host has given much of the processors' time to others, it is measured again; the quietest of all tries counts."""
    tries: list[Cell] = []
    for again in range(TRIES):
        tries.append(await measure(rig, policy, arrivals, round_=round_, load=load, seed=seed + 1000 * again))
        print(tries[-1].line(), flush=True)
        if tries[-1].stolen <= STOLEN:
            break
    return min(tries, key=lambda cell: cell.stolen)


def introduce(rig: Rig, arrivals: Sequence[Arrival], token_budget: int) -> None:
    """Says what the workers measured of themselves under their limits, and what the trace has become."""
    speeds = {str(member.ref.worker): member.profile.prefill_tokens_per_s(token_budget) for member in rig.members}
    for member in rig.members:
        kv = member.total_blocks * member.block_tokens
        print(f"{member.ref.worker}: {speeds[str(member.ref.worker)]:.0f} prefill tokens/s, {kv} tokens of KV, {member.profile}")
    ratio = speeds[HIGH] / speeds[LOW]
    print(f"the high-end prefills {ratio:.2f} times as fast" + ("" if SPEED_RATIO[0] <= ratio <= SPEED_RATIO[1] else ": NOT about three"))
    prompts, outputs = ([getattr(one, what) for one in arrivals] for what in ("prompt_tokens", "output_tokens"))
    print(f"{len(arrivals)} requests: prompts {sum(prompts) / len(prompts):.0f} tokens (at most {max(prompts)}), ", end="")
    print(f"answers {sum(outputs) / len(outputs):.0f} (at most {max(outputs)})", flush=True)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="balance")
    parser.add_argument("--trace", type=Path, required=True, help="AzureLLMInferenceTrace_conv.csv of the Azure public data set")
    parser.add_argument("--rounds", type=int, help="5 by default")
    parser.add_argument("--tail-rounds", type=int, default=8, help="at each of --loads: one round's p99 rests on three requests")
    parser.add_argument("--requests", type=int, help="in each cell; 300 by default")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, help="all by default")
    parser.add_argument("--loads", nargs="*", type=float, help="shares of the best data-parallel throughput; 0.8 and 0.95 by default")
    parser.add_argument("--quick", action="store_true", help="one round, 60 requests, three policies, no loads; writes nothing")
    parser.add_argument("--cpu", nargs=2, type=float, default=(0.9, 0.3), metavar=("HIGH", "LOW"), help="shares of one core")
    parser.add_argument("--kv-mib", nargs=2, type=int, default=(36, 12), metavar=("HIGH", "LOW"))
    parser.add_argument("--share", type=float, default=0.25, help="of the trace's lengths")
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--token-budget", type=int, default=256)
    parser.add_argument("--max-sequences", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    usual = (1, 60, QUICK_POLICIES, ()) if options.quick else (5, 300, POLICIES, LOADS)
    for name, value in zip(("rounds", "requests", "policies", "loads"), usual, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    main()
