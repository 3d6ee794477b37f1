"""One worker process: engine, transport, core and loop put together; runs until it has drained."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from shared.redis_fabric import RedisFabric

from shared.clock import SystemClock
from shared.errors import ConfigError
from shared.messages import WorkerInfo
from shared.processes import on_stop_signals
from shared.profile import Profile
from shared.types import PoolId, WorkerId, WorkerRef
from workers.core import WorkerCore
from workers.detokenizer import Detokenizer
from workers.engine import Engine
from workers.engine_thread import EngineThread
from workers.loop import WorkerLoop
from workers.mover import Mover
from workers.output import OutputBook, OutputStage
from workers.settings import WorkerSettings
from workers.slowed_engine import SlowedEngine
from workers.ucx_transport import UcxTransport

log = logging.getLogger(__name__)

FAKE = "fake"


@dataclass(frozen=True, slots=True)
class WorkerProcessSettings:
    """What the command line decides."""

    redis_url: str
    model: str
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
    threads: int = 0


async def serve(settings: WorkerProcessSettings) -> None:
    """Loads, proves, profiles, joins; runs until SIGTERM or SIGINT and the drain that follows."""
    ref = WorkerRef(WorkerId(settings.name or f"{socket.gethostname()}-{os.getpid()}"), secrets.token_hex(4))
    engine, detokenizer = build_engine(settings)
    profile = measure(engine, settings)
    core = WorkerCore(core_settings(settings, ref, engine, profile))
    fabric = await RedisFabric.connect(settings.redis_url, PoolId(settings.pool))
    loop = WorkerLoop(core, fabric, worker_info(settings, ref, engine, profile), SystemClock())
    loop.attach(
        EngineThread(engine, loop.from_thread),
        Mover(ref, engine, UcxTransport(ref, settings.staging_bytes), loop.tell_worker_from_thread, loop.from_thread),
        OutputStage(
            OutputBook(detokenizer, SystemClock()),
            lambda: RedisFabric.connect(settings.redis_url, PoolId(settings.pool)),
            loop.from_thread,
        ),
    )
    on_stop_signals(loop.drain)
    log.info("%s serves %s on %s: %.0f prefill tokens/s", ref, settings.model, settings.device, profile.prefill_tokens_per_s())
    try:
        await loop.run()
    finally:
        await fabric.disconnect()
        engine.close()


def build_engine(settings: WorkerProcessSettings) -> tuple[Engine, Detokenizer]:
    """The engine and the detokenizer of its model. Raises `ModelRefused` or `ConfigError` with the remedy."""
    engine, detokenizer = _fake(settings) if settings.model == FAKE else _real(settings)
    return (SlowedEngine(engine, settings.slowdown) if settings.slowdown > 1 else engine), detokenizer


def _fake(settings: WorkerProcessSettings) -> tuple[Engine, Detokenizer]:
    raise NotImplementedError


def _real(settings: WorkerProcessSettings) -> tuple[Engine, Detokenizer]:
    """torch is imported here alone: a fake worker starts without it."""
    from workers.hf_detokenizer import HfDetokenizer
    from workers.torch_engine import TorchEngine

    model_dir = Path(settings.model)
    if not model_dir.is_dir():
        raise ConfigError(f"--model {settings.model}: no such directory; give the directory of a transformers model with its tokenizer")
    engine = TorchEngine(
        model_dir, device=settings.device, dtype=settings.dtype, block_tokens=settings.block_tokens, kv_bytes=settings.kv_bytes
    )
    return engine, HfDetokenizer(model_dir)


def measure(engine: Engine, settings: WorkerProcessSettings) -> Profile:
    from workers.profiler import profile_engine

    return profile_engine(engine, token_budget=settings.token_budget)


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
    )


def worker_info(settings: WorkerProcessSettings, ref: WorkerRef, engine: Engine, profile: Profile) -> WorkerInfo:
    return WorkerInfo(
        ref=ref,
        model=Path(settings.model).name,
        fingerprint=engine.kv.fingerprint,
        device=settings.device,
        host=socket.gethostname(),
        profile=profile,
        block_tokens=engine.block_tokens,
        total_blocks=engine.total_blocks,
        max_sequences=settings.max_sequences,
        token_budget=settings.token_budget,
        max_model_tokens=engine.max_model_tokens,
    )
