"""The fluid bound: what a cluster could serve if work were a liquid, without queues, whole steps or whole requests.

A linear programme over which device computes which share of the prefill (by position in the prompt, for attention is quadratic)
and of the decode tokens. Each device has one second a second: of its steps' fixed parts, of its linear layers (computing
or reading weights, whichever takes longer), of attention. A step holds at most the token budget, and at most as many decodes as
requests fit into the KV memory. No policy can beat it: everything is at its average, and every share is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

from scheduler.simulation.serving.plan import BLOCK_TOKENS, ClusterPlan
from scheduler.simulation.serving.roofline import Device
from scheduler.simulation.serving.stages import Stage, cut_into_stages
from scheduler.simulation.serving.trace import Arrival
from shared.profile import StepShape

SEGMENT_TOKENS = 256
"""Prompt positions are told apart in segments of so many tokens; within one, attention has its least cost: the bound stays a bound."""


@dataclass(frozen=True, slots=True)
class Bound:
    requests_per_s: float
    prefill_share: tuple[float, ...]
    """Of each device, in the order of the cluster's workers."""
    decode_share: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Costs:
    """Seconds on one device."""

    step: float
    weights: float
    token: float
    pair: float
    context: float
    decodes: float
    """Requests that decode at once, at most."""


def fluid_bound(plan: ClusterPlan, arrivals: Sequence[Arrival]) -> Bound:
    """Requests a second that no policy can exceed with this cluster, these lengths and this token budget."""
    devices = [worker for worker in plan.workers for _ in range(worker.count)]
    outputs, prompts, context = _lengths(arrivals)
    kept = [min(worker.blocks(plan.model) * BLOCK_TOKENS / context, worker.max_sequences) for worker in devices]
    costs = [_costs(worker.device(plan.model), room) for worker, room in zip(devices, kept, strict=True)]
    segments = _segments(prompts)
    return _solve(costs, segments, float(outputs.mean()), context, plan.token_budget)


def pipeline_bound(plan: ClusterPlan, arrivals: Sequence[Arrival]) -> Bound:
    """The same for pipeline parallelism, which the bound above does not cover: there a device holds the KV of some layers alone,
    so more requests decode at once than where it holds all layers. Every token passes every stage, so no rate can exceed what
    any one stage could serve by itself."""
    stages = cut_into_stages(plan)
    outputs, prompts, context = _lengths(arrivals)
    room = min(stage.kv_tokens for stage in stages) / context
    most = min(room, *(worker.max_sequences for worker in plan.workers))
    bounds = [_solve([_costs(stage, most)], _segments(prompts), float(outputs.mean()), context, plan.token_budget) for stage in stages]
    slowest = min(bounds, key=lambda bound: bound.requests_per_s)
    shares = tuple(stage.share for stage in stages)
    return Bound(slowest.requests_per_s, shares, shares)


def _lengths(arrivals: Sequence[Arrival]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Outputs, prompts, and the mean context of a decode, in tokens."""
    outputs = np.array([one.output_tokens for one in arrivals], float)
    prompts = np.array([one.prompt_tokens for one in arrivals], float)
    return outputs, prompts, float((outputs * (prompts + (outputs + 1) / 2)).sum() / outputs.sum())


def _segments(prompts: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    """`(tokens a request has here on average, least pairs a token costs here)`."""
    starts = np.arange(0, prompts.max(), SEGMENT_TOKENS)
    return [(float(np.clip(prompts - start, 0, SEGMENT_TOKENS).mean()), float(start + 1)) for start in starts]


def _costs(device: Device | Stage, decodes: float) -> _Costs:
    """The roofline's parts, read off by differences: this file knows the shape of the model and none of its constants."""
    one = device.step_seconds(StepShape(1, 0, 0, 0))
    large = 1 << 20
    token = device.step_seconds(StepShape(large, 0, 0, 0)) - device.step_seconds(StepShape(large - 1, 0, 0, 0))
    at_large = device.step_seconds(StepShape(large, 0, 0, 0))
    step = at_large - large * token
    pair = (device.step_seconds(StepShape(1, 1_000_000, 0, 0)) - one) / 1e6
    context = (device.step_seconds(StepShape(1, 0, 0, 1_000_000)) - one) / 1e6
    return _Costs(step, one - step, token, pair, context, decodes)


def _solve(costs: list[_Costs], segments: list[tuple[float, float]], output: float, context: float, budget: int) -> Bound:
    """Variables: the rate, then for each device steps/s, seconds of linear layers, decode tokens/s, prefill tokens/s by segment."""
    width = 3 + len(segments)
    columns = 1 + width * len(costs)
    upper: list[npt.NDArray[np.float64]] = []
    limits: list[float] = []

    def at_most(limit: float, **at: float) -> None:
        row = np.zeros(columns)
        for name, value in at.items():
            row[int(name[1:])] = value
        upper.append(row)
        limits.append(limit)

    for number, cost in enumerate(costs):
        steps, linear, decode = (1 + number * width + offset for offset in range(3))
        prefills = range(decode + 1, decode + 1 + len(segments))
        pairs = {f"c{at}": cost.pair * pair for at, (_, pair) in zip(prefills, segments, strict=True)}
        tokens = {f"c{at}": 1.0 for at in prefills}
        at_most(1.0, **{f"c{steps}": cost.step, f"c{linear}": 1.0, f"c{decode}": cost.context * context}, **pairs)
        at_most(0.0, **{f"c{linear}": -1.0, f"c{decode}": cost.token}, **dict.fromkeys(tokens, cost.token))
        at_most(0.0, **{f"c{linear}": -1.0, f"c{steps}": cost.weights})
        at_most(0.0, **{f"c{steps}": -float(budget), f"c{decode}": 1.0}, **tokens)
        at_most(0.0, **{f"c{steps}": -cost.decodes, f"c{decode}": 1.0})
    equal = np.zeros((1 + len(segments), columns))
    for number in range(len(costs)):
        first = 1 + number * width
        equal[0, first + 2] = 1.0
        for at in range(len(segments)):
            equal[1 + at, first + 3 + at] = 1.0
    equal[:, 0] = [-output, *(-tokens for tokens, _ in segments)]
    aim = np.zeros(columns)
    aim[0] = -1.0
    found = linprog(aim, A_ub=np.array(upper), b_ub=limits, A_eq=equal, b_eq=np.zeros(len(equal)), method="highs")
    if not found.success:
        raise AssertionError(f"the fluid bound has no solution: {found.message}")
    return _bound(found.x, width, len(costs))


def _bound(x: npt.NDArray[np.float64], width: int, devices: int) -> Bound:
    parts = x[1:].reshape(devices, width)
    prefill, decode = parts[:, 3:].sum(axis=1), parts[:, 2]
    return Bound(float(x[0]), tuple(prefill / max(prefill.sum(), 1e-12)), tuple(decode / max(decode.sum(), 1e-12)))
