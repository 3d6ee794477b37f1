"""A model cut into stages of layers, one per device: what each stage costs, and where to cut."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scheduler.simulation.serving.hardware import WEIGHT_BYTES, Model
from scheduler.simulation.serving.plan import ClusterPlan, WorkerPlan
from scheduler.simulation.serving.roofline import ACTIVATION_BYTES, MEMORY_SHARE, STEP_S, Device
from shared.errors import ConfigError
from shared.profile import StepShape

TYPICAL_CONTEXT = 1024
"""Of the decodes in the step by which stages are balanced."""
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Stage:
    """Some layers on one device; the first stage has the embedding, the last one the LM head."""

    name: str
    device: Device
    """Of the layers of this stage; without vocabulary where the LM head is not."""
    share: float
    """Of the model's layers."""
    kv_tokens: int
    """Tokens whose KV of these layers fits."""

    def step_seconds(self, shape: StepShape) -> float:
        """The engine's own part falls to the stages by their layers: together they pay it once, as one device would."""
        saved = self.device.slowdown * STEP_S * (1 - self.share) if shape.prefill_tokens + shape.decodes else 0.0
        return self.device.step_seconds(shape) - saved


def cut_into_stages(plan: ClusterPlan) -> list[Stage]:
    """The cut whose slowest stage is quickest at a full step of prefill and decodes, among those that memory allows.

    Stages are in the order of the cluster's workers. Raises `ConfigError` if there are fewer than two, or if nothing fits.
    """
    workers = [worker for worker in plan.workers for _ in range(worker.count)]
    if len(workers) < 2 or len(workers) > plan.model.layers:
        raise ConfigError(f"--policy pipeline-parallel: {plan.name} has {len(workers)} workers; it needs 2 to {plan.model.layers}")
    counts = _best_counts(plan, workers)
    return [_stage(plan.model, workers, at, layers, at) for at, layers in enumerate(counts)]


def _best_counts(plan: ClusterPlan, workers: list[WorkerPlan]) -> list[int]:
    """Layers of each stage, by dynamic programming over how many layers the first so many stages have."""
    layers = plan.model.layers
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for at in range(len(workers)):
        costs = {count: _cost(plan, workers, at, count) for count in range(1, layers + 1)}
        grown: dict[int, tuple[float, list[int]]] = {}
        for done, (slowest, counts) in best.items():
            for count in range(1, layers - done + 1):
                cost = max(slowest, costs[count])
                if cost < grown.get(done + count, (NEVER, []))[0]:
                    grown[done + count] = (cost, [*counts, count])
        best = grown
    if layers not in best:
        raise ConfigError(f"--policy pipeline-parallel: {plan.model.name} does not fit into the workers of {plan.name}")
    return best[layers][1]


def _cost(plan: ClusterPlan, workers: list[WorkerPlan], at: int, layers: int) -> float:
    stage = _stage(plan.model, workers, at, layers, at)
    if stage.kv_tokens < plan.model.max_tokens:
        return NEVER
    decodes = max(1, plan.token_budget // 8)
    prefill = max(1, plan.token_budget - decodes)
    return stage.step_seconds(StepShape(prefill, prefill * TYPICAL_CONTEXT // 2, decodes, decodes * TYPICAL_CONTEXT))


def _stage(model: Model, workers: list[WorkerPlan], at: int, layers: int, number: int) -> Stage:
    worker, last = workers[at], at == len(workers) - 1
    part = replace(model, layers=layers, vocabulary=model.vocabulary if last else 0)
    embeddings = model.head_parameters * ((at == 0) + last)
    weights = WEIGHT_BYTES * (part.layer_parameters + embeddings)
    room = worker.gpu.memory_bytes * MEMORY_SHARE - weights - ACTIVATION_BYTES
    fits = max(0, int(room / part.kv_bytes_per_token))
    share = layers / model.layers
    kv_tokens = fits if worker.kv_tokens is None else min(fits, int(worker.kv_tokens / share))
    name = worker.name if worker.count == 1 else f"{worker.name}-{number}"
    return Stage(name, Device(worker.gpu, part, worker.slowdown), share, kv_tokens)
