"""What a simulated world is made of: the parts, each replaceable so that a bug can be planted, and the clients."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING

from scheduler.core import SchedulerCore
from scheduler.settings import SchedulerSettings
from scheduler.simulation.answer import FAKE_MODEL, Letters, expected_answer
from scheduler.simulation.client import Client, Habits
from scheduler.simulation.devices import HIGH_END, LOW_END
from scheduler.simulation.faults import Scenario, Schedule
from scheduler.simulation.kv_link import SimTransport
from scheduler.simulation.scheduler_shell import SchedulerShell
from scheduler.simulation.steps import Step
from scheduler.simulation.worker_shell import WorkerShell
from shared.clock import Clock
from shared.fabric_model import FabricModel, Watcher
from shared.messages import Submission, WorkerInfo
from shared.prefixes import prefix_hashes
from shared.types import NO_GATEWAY, RequestId, RequestSpec, SamplingParams, WorkerId, WorkerRef
from workers.core import WorkerCore
from workers.fake_engine import FakeEngine
from workers.output import OutputBook
from workers.settings import WorkerSettings

if TYPE_CHECKING:
    from scheduler.simulation.world import World

FIRST_S = 0.4
"""Nobody comes before."""
BLOCK_TOKENS = 16
TOKEN_BUDGET = 128
HIGH_SEQUENCES, LOW_SEQUENCES = 4, 2
MODEL = "fake"


class Parts:
    """The real ones. A planted bug overrides one of these."""

    def fabric(self, clock: Clock, watch: Watcher) -> FabricModel:
        return FabricModel(clock, watch=watch)

    def scheduler(self, world: World, name: str) -> SchedulerShell:
        return SchedulerShell(world, name, SchedulerCore(scheduler_settings(world.schedule.scenario)))

    def worker_core(self, settings: WorkerSettings) -> WorkerCore:
        return WorkerCore(settings)

    def worker(self, world: World, worker: WorkerId, incarnation: str) -> WorkerShell:
        ref = WorkerRef(worker, incarnation)
        engine = FakeEngine(
            FAKE_MODEL,
            total_blocks=_blocks(worker, world.schedule.scenario),
            block_tokens=BLOCK_TOKENS,
            fault=lambda plan: "planned" if world.plan.strike(Step.ENGINE_STEP) else None,
        )
        info = worker_info(ref, engine)
        core = self.worker_core(worker_settings(info, engine, world.schedule.scenario))
        shell = self.worker_shell(world, info, core, engine)
        shell.connect(self.transport(shell))
        return shell

    def worker_shell(self, world: World, info: WorkerInfo, core: WorkerCore, engine: FakeEngine) -> WorkerShell:
        return WorkerShell(world, info, core, engine, OutputBook(Letters(), world.clock))

    def transport(self, shell: WorkerShell) -> SimTransport:
        return SimTransport(shell, shell.ref, shell.world.wires, shell.info.profile)


def scheduler_settings(scenario: Scenario) -> SchedulerSettings:
    return SchedulerSettings(default_output_tokens=scenario.reserved_output, max_crashes=scenario.max_crashes)


def _blocks(worker: WorkerId, scenario: Scenario) -> int:
    return scenario.high_blocks if worker.startswith("high") else scenario.low_blocks


def worker_info(ref: WorkerRef, engine: FakeEngine) -> WorkerInfo:
    high = ref.worker.startswith("high")
    return WorkerInfo(
        ref=ref,
        model=MODEL,
        fingerprint=engine.kv.fingerprint,
        device="high-end" if high else "low-end",
        host="simulated",
        profile=HIGH_END if high else LOW_END,
        block_tokens=engine.block_tokens,
        total_blocks=engine.total_blocks,
        max_sequences=HIGH_SEQUENCES if high else LOW_SEQUENCES,
        token_budget=TOKEN_BUDGET,
        max_model_tokens=engine.max_model_tokens,
    )


def worker_settings(info: WorkerInfo, engine: FakeEngine, scenario: Scenario) -> WorkerSettings:
    return WorkerSettings(
        ref=info.ref,
        fingerprint=info.fingerprint,
        block_tokens=info.block_tokens,
        total_blocks=info.total_blocks,
        token_budget=info.token_budget,
        max_sequences=info.max_sequences,
        max_model_tokens=info.max_model_tokens,
        eos_token_ids=engine.eos_token_ids,
        kv_bytes_per_token=engine.kv.bytes_per_token,
        profile=info.profile,
        depth=scenario.depth,
        expected_output_tokens=scenario.reserved_output,
    )


def make_clients(world: World) -> list[tuple[float, Client]]:
    """(arrival, client) for each request: Poisson arrivals, everything about a client drawn from the seed."""
    scenario = world.schedule.scenario
    arrivals = list(accumulate((world.rng.expovariate(scenario.arrivals_per_s) for _ in range(scenario.requests)), initial=FIRST_S))[1:]
    arrivals += sorted(world.rng.uniform(2.0, 9.0) for _ in range(scenario.stragglers))
    return [(arrival_s, make_client(world, number, arrival_s)) for number, arrival_s in enumerate(arrivals)]


def make_client(world: World, number: int, arrival_s: float) -> Client:
    rng, scenario = world.rng, world.schedule.scenario
    spec = make_spec(rng, number, arrival_s, world.schedule)
    submission = Submission(
        request_id=spec.request_id,
        num_prompt=len(spec.prompt),
        max_tokens=spec.sampling.max_tokens,
        created_ms=spec.created_ms,
        priority=rng.choice((0, 0, 0, 1, -1)),
        timeout_s=rng.choice((1.0, 8.0, 20.0)) if rng.random() < scenario.timeout_share else 0.0,
        background=rng.random() < scenario.background_share,
        gateway=NO_GATEWAY,
        num_choices=spec.sampling.n,
        prefix=prefix_hashes(spec.prompt, spec.salt),
    )
    return Client(world, spec, submission, make_habits(rng, scenario))


def make_spec(rng: Random, number: int, arrival_s: float, schedule: Schedule) -> RequestSpec:
    scenario = schedule.scenario
    prompt = tuple(rng.randrange(FAKE_MODEL.vocab_size) for _ in range(rng.choice(scenario.prompts)))
    sampling = make_sampling(rng, scenario)
    prompt, salt = _as_others(prompt, number, schedule)
    spec = RequestSpec(RequestId(f"r{number}"), MODEL, prompt, sampling, int(1000 * arrival_s), salt)
    if rng.random() >= scenario.stop_share:
        return spec
    text = expected_answer(spec, rng.randrange(sampling.n)).text
    at = rng.randrange(max(1, len(text)))
    stop = (text[at : at + rng.randint(1, 4)] or "zz", "zq")
    return replace(spec, sampling=replace(sampling, stop=stop))


def make_sampling(rng: Random, scenario: Scenario) -> SamplingParams:
    """Several choices are drawn, so that they differ; some requests are drawn with penalties, which read what was generated."""
    top = 2 if rng.random() < 0.1 else 0
    sampling = SamplingParams(max_tokens=rng.randint(*scenario.outputs), temperature=0.0, seed=rng.getrandbits(31), top_logprobs=top)
    if rng.random() >= scenario.sampled_share:
        return sampling
    penalty = rng.choice((0.0, 0.0, 0.0, 1.5))
    return replace(sampling, n=rng.choice((1, 2, 3, 4)), temperature=rng.choice((0.7, 1.0)), frequency_penalty=penalty)


def _as_others(prompt: tuple[int, ...], number: int, schedule: Schedule) -> tuple[tuple[int, ...], str]:
    """The prompt with the beginning of one of two texts that all tenants use, and its tenant's salt; drawn apart from all else."""
    scenario, seed = schedule.scenario, schedule.seed
    rng = Random(seed * 15_485_863 + number)
    if rng.random() >= scenario.shared_share:
        return prompt, ""
    text = Random(seed * 32_452_843 + rng.randrange(2))
    shared = [text.randrange(FAKE_MODEL.vocab_size) for _ in range(128)][: rng.choice((64, 100, 128))]
    return (*shared, *prompt[len(shared) :]), f"tenant-{rng.randrange(scenario.tenants)}"


def make_habits(rng: Random, scenario: Scenario) -> Habits:
    leaves = rng.random() < scenario.leave_share
    return Habits(
        cancels_after_s=rng.uniform(0.05, 2.5) if rng.random() < scenario.cancel_share else None,
        leaves_after_s=rng.uniform(0.05, 2.0) if leaves else None,
        returns_after_s=rng.choice((0.5, 3.0, 8.0, 14.0)) if leaves and rng.random() < 0.7 else None,
        idempotent=rng.random() < 0.5,
    )
