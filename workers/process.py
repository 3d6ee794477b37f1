"""One worker process: engine, transport, core and loop put together; runs until it has drained."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from shared import logs
from shared.clock import SystemClock
from shared.durability import NOT_WAITING, Durability
from shared.errors import ConfigError, ModelRefused
from shared.fabric_settings import FabricSettings
from shared.messages import WorkerInfo
from shared.metrics import NO_DOOR, MetricsDoor, shown
from shared.patience import patiently
from shared.processes import on_stop_signals, spare_collector
from shared.profile import Profile
from shared.redis_fabric import RedisFabric
from shared.redis_profiles import ProfileRegistry
from shared.types import GRANULE_TOKENS, PoolId, WorkerId, WorkerRef
from workers.core import WorkerCore
from workers.engine import Engine
from workers.engine_thread import EngineThread
from workers.fake_engine import BYTES_PER_TOKEN, FakeEngine, FakeModel
from workers.grammar import Grammars
from workers.handover_alarm import HandoverAlarm
from workers.hf_detokenizer import HfDetokenizer
from workers.loop import LoopSettings, WorkerLoop
from workers.metrics import CountingWriter, WorkerMetrics
from workers.mover import Mover
from workers.output import LogWriter, OutputBook, OutputStage
from workers.settings import WorkerSettings
from workers.slowed_engine import SlowedEngine
from workers.tickets import Tickets
from workers.tracing import WorkerTracing
from workers.ucx_transport import UcxTransport
from workers.watchdog import limit_of

log = logging.getLogger(__name__)

ENGINES = ("torch", "fake")
FAKE_PROFILE = Profile(
    step_s=0.004,
    prefill_token_s=20e-6,
    prefill_pair_s=2e-9,
    decode_s=100e-6,
    decode_context_s=20e-9,
    kv_bytes_per_token=BYTES_PER_TOKEN,
)
"""What the engine without a model pretends to be."""


@dataclass(frozen=True, slots=True)
class WorkerProcessSettings:
    """What the command line decides."""

    redis_url: str = field(repr=False)
    model: Path
    engine: str = "torch"
    name: str = ""
    pool: str = "default"
    device: str = "cpu"
    dtype: str = "float32"
    token_budget: int = 512
    max_sequences: int = 32
    block_tokens: int = 16
    kv_bytes: int = 512 << 20
    staging_bytes: int = 128 << 20
    slowdown: float = 1.0
    role: str = ""
    usd_per_hour: float = 0.0
    threads: int = 0
    drain_s: float = 30.0
    step_limit_s: float = 0.0
    """Of a step, before its engine counts as hanging; 0: as the profile says."""
    max_assists: int = 2
    depth: int = 1
    prefix_cache: bool = True
    metrics: MetricsDoor = NO_DOOR
    pool_secret: str = field(default="", repr=False)
    """What tickets for pulls are made with; empty: the message server's password."""
    profile: Path | None = None
    """A profile's file, to be believed without measuring."""
    durability: Durability = NOT_WAITING
    fake_kv_bytes: int = BYTES_PER_TOKEN
    """KV bytes of one token of the engine without a model, rounded to what it can make."""

    def __post_init__(self) -> None:
        """What can be told without loading the model is told before."""
        _need(self.engine in ENGINES, f"--engine {self.engine}: choose one of {', '.join(ENGINES)}")
        _need(
            self.model.is_dir(), f"--model {self.model}: no such directory; give the directory of a transformers model with its tokenizer"
        )
        _need(
            self.block_tokens > 0 and GRANULE_TOKENS % self.block_tokens == 0,
            f"--block-tokens {self.block_tokens}: choose a divisor of {GRANULE_TOKENS}",
        )
        _need(
            self.profile is None or self.engine != "fake",
            f"--profile {self.profile}: the fake engine has a profile of its own; leave one of them out",
        )
        _need(
            self.token_budget >= self.max_sequences,
            f"--token-budget {self.token_budget} is too small for one decode of each of --max-sequences {self.max_sequences}: raise it",
        )

    @property
    def fake_kv_repeats(self) -> int:
        return self.fake_kv_bytes // BYTES_PER_TOKEN | 1


async def serve(settings: WorkerProcessSettings) -> None:
    """Loads, proves, profiles, joins; runs until SIGTERM or SIGINT and the drain that follows."""
    ref = WorkerRef(WorkerId(settings.name or f"{socket.gethostname()}-{os.getpid()}"), new_incarnation())
    logs.bind(worker=str(ref))
    engine = build_engine(settings)
    how = FabricSettings(durability=settings.durability)
    fabric = await patiently(lambda: RedisFabric.connect(settings.redis_url, PoolId(settings.pool), how))
    await patiently(fabric.check_versions)
    profile = await patiently(lambda: profile_of(settings, engine, fabric))
    core = WorkerCore(core_settings(settings, ref, engine, profile))
    tickets = Tickets.of_pool(settings.pool, settings.pool_secret, settings.redis_url)
    info = worker_info(settings, ref, engine, profile)
    limit_s = settings.step_limit_s or limit_of(profile, core.settings)
    habits = LoopSettings(drain_s=settings.drain_s, step_limit_s=limit_s, staging_bytes=settings.staging_bytes)
    loop = WorkerLoop(core, fabric, info, SystemClock(), habits, tickets)
    metrics = WorkerMetrics(core, SystemClock())
    fabric.on_undecodable = metrics.undecodable
    loop.watches += [metrics.watch, HandoverAlarm(metrics.alarmed).watch, WorkerTracing(ref, SystemClock()).watch]

    async def open_writer() -> LogWriter:
        return CountingWriter(await RedisFabric.connect(settings.redis_url, PoolId(settings.pool), how), metrics)

    loop.attach(
        EngineThread(engine, loop.from_thread),
        Mover(ref, engine, UcxTransport(ref, settings.staging_bytes), loop.tell_worker_from_thread, loop.from_thread, tickets),
        OutputStage(
            OutputBook(HfDetokenizer(settings.model), SystemClock()),
            open_writer,
            loop.from_thread,
        ),
    )
    on_stop_signals(loop.drain)
    log.info("%s serves %s on %s: %.0f prefill tokens/s", ref, settings.model.name, settings.device, profile.prefill_tokens_per_s())
    spare_collector()
    try:
        with shown(metrics.registry, settings.metrics):
            await loop.run()
    finally:
        await fabric.disconnect()
        engine.close()


def new_incarnation() -> str:
    """Sorts in the order of starting: a new leader that finds two lives of one worker id believes the later."""
    return f"{SystemClock().wall_ms():011x}{secrets.token_hex(2)}"


def build_engine(settings: WorkerProcessSettings) -> Engine:
    """Raises `ModelRefused` or `ConfigError` with the remedy."""
    engine = _fake(settings) if settings.engine == "fake" else _real(settings)
    return SlowedEngine(engine, settings.slowdown) if settings.slowdown > 1 else engine


def _fake(settings: WorkerProcessSettings) -> Engine:
    """Speaks the model's vocabulary, computes nothing."""
    config = json.loads((settings.model / "config.json").read_text())
    eos = config.get("eos_token_id")
    model = FakeModel(
        vocab_size=config["vocab_size"],
        eos_token_ids=frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos]),
        max_model_tokens=config["max_position_embeddings"],
        repeats=settings.fake_kv_repeats,
    )
    total_blocks = min(settings.kv_bytes // (model.kv.bytes_per_token * settings.block_tokens), 65536)
    grammars = Grammars(settings.model / "tokenizer.json", model.eos_token_ids)
    return FakeEngine(
        model, block_tokens=settings.block_tokens, total_blocks=total_blocks, profile=FAKE_PROFILE, sleep=time.sleep, grammars=grammars
    )


def _real(settings: WorkerProcessSettings) -> Engine:
    """torch is imported here alone: a worker without a model starts without it."""
    import torch

    from workers.torch_engine import TorchEngine

    if settings.threads:
        torch.set_num_threads(settings.threads)
    try:
        return TorchEngine(
            settings.model, device=settings.device, dtype=settings.dtype, block_tokens=settings.block_tokens, kv_bytes=settings.kv_bytes
        )
    except ModelRefused as refusal:
        remedy = "it would be answered wrongly here: choose another model, of the Llama, Qwen, Mistral or Gemma families for instance"
        raise ModelRefused(f"--model {settings.model}: {refusal}; {remedy}") from None


async def profile_of(settings: WorkerProcessSettings, engine: Engine, fabric: RedisFabric) -> Profile:
    """The device's profile: known, measured now, or what the engine without a model pretends."""
    if settings.engine == "fake":
        return pretended(settings, engine)
    from workers.profile_finder import find_or_measure

    return await find_or_measure(settings, engine, ProfileRegistry.of(fabric))


def pretended(settings: WorkerProcessSettings, engine: Engine) -> Profile:
    return replace(FAKE_PROFILE.scaled(settings.slowdown), kv_bytes_per_token=engine.kv.bytes_per_token)


def core_settings(settings: WorkerProcessSettings, ref: WorkerRef, engine: Engine, profile: Profile) -> WorkerSettings:
    return WorkerSettings(
        ref=ref,
        fingerprint=engine.kv.fingerprint,
        block_tokens=engine.block_tokens,
        total_blocks=engine.total_blocks,
        token_budget=settings.token_budget,
        max_sequences=settings.max_sequences,
        max_model_tokens=engine.max_model_tokens,
        eos_token_ids=engine.eos_token_ids,
        kv_bytes_per_token=engine.kv.bytes_per_token,
        profile=profile,
        depth=settings.depth,
        prefix_cache=settings.prefix_cache,
        max_assists=settings.max_assists,
    )


def worker_info(settings: WorkerProcessSettings, ref: WorkerRef, engine: Engine, profile: Profile) -> WorkerInfo:
    return WorkerInfo(
        ref=ref,
        model=settings.model.name,
        fingerprint=engine.kv.fingerprint,
        device=settings.device,
        host=socket.gethostname(),
        profile=profile,
        block_tokens=engine.block_tokens,
        total_blocks=engine.total_blocks,
        max_sequences=settings.max_sequences,
        token_budget=settings.token_budget,
        max_model_tokens=engine.max_model_tokens,
        prefix_cache=settings.prefix_cache,
        role=settings.role,
        usd_per_hour=settings.usd_per_hour,
    )


def _need(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)
