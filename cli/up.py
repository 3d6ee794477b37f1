"""`headstart up`: everything on one machine until Ctrl-C."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from cli.system import System, SystemPlan, WorkerPlan, need_model_dir, threads_each
from gateway.api_keys import rules_in
from gateway.settings import ExtraModel, need_distinct, need_keys
from shared.durability import NOT_WAITING, Durability
from shared.processes import on_stop_signals


@dataclass(frozen=True, slots=True)
class UpSettings:
    """What the command line decides."""

    model: Path
    low: int
    high: int
    host: str
    port: int
    redis_url: str = field(repr=False)
    pool: str
    served_model_name: str
    dtype: str
    low_slowdown: float
    log_level: str
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    no_auth: bool = False
    api_keys_file: Path | None = None
    extra_models: tuple[ExtraModel, ...] = ()
    durability: Durability = NOT_WAITING
    engine: str = "torch"

    def __post_init__(self) -> None:
        need_model_dir(self.model)
        need_distinct(self.served_model_name, self.pool, self.extra_models)
        need_keys(self.host, bool(self.api_keys or rules_in(self.api_keys_file)), no_auth=self.no_auth)


def plan_up(settings: UpSettings, devices: list[str]) -> SystemPlan:
    """Who runs where: every model gets as many workers.

    `devices` are the accelerators, fastest first; high-end workers take them first, the CPU serves the rest.

    Where low- and high-end workers would share one kind of device, the low-end ones are slowed down to play their part.
    """
    models = (None, *settings.extra_models)
    seats = [("high", at, extra) for at in range(settings.high) for extra in models]
    seats += [("low", at, extra) for at in range(settings.low) for extra in models]
    placed = list(zip(seats, [*devices, *["cpu"] * len(seats)], strict=False))
    on_cpu = sum(device == "cpu" for _, device in placed)
    high_kinds = {device.split(":")[0] for (kind, _, _), device in placed if kind == "high"}
    workers = []
    for (kind, at, extra), device in placed:
        options = ["--engine", settings.engine, "--device", device, "--dtype", settings.dtype, "--role", kind]
        if device == "cpu":
            options += ["--threads", str(threads_each(on_cpu))]
        if kind == "low" and device.split(":")[0] in high_kinds:
            options += ["--slowdown", str(settings.low_slowdown)]
        name = f"{kind}-{at + 1}{f'-{extra.pool}' if extra else ''}"
        workers.append(WorkerPlan(name, tuple(options), model=extra))
    return SystemPlan(
        model=settings.model,
        served_model_name=settings.served_model_name,
        workers=tuple(workers),
        redis_url=settings.redis_url,
        pool=settings.pool,
        host=settings.host,
        ports=(settings.port,),
        api_keys=settings.api_keys,
        no_auth=settings.no_auth,
        log_level=settings.log_level,
        api_keys_file=settings.api_keys_file,
        extra_models=settings.extra_models,
        durability=settings.durability,
    )


def accelerators() -> list[str]:
    """CUDA devices by memory, largest first."""
    import torch

    if not torch.cuda.is_available():
        return []
    sizes = {f"cuda:{at}": torch.cuda.get_device_properties(at).total_memory for at in range(torch.cuda.device_count())}
    return sorted(sizes, key=lambda name: -sizes[name])


async def run_up(settings: UpSettings) -> None:
    """Returns after everything has stopped."""
    stop = asyncio.Event()
    on_stop_signals(stop.set)
    console = Console(stderr=True)
    plan = plan_up(settings, accelerators())
    with console.status("starting") as status:
        starting = asyncio.create_task(_started(System(plan, lambda what: status.update(what))))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        stopped.cancel()
        system = starting.result()
    names = [settings.served_model_name, *(extra.name for extra in settings.extra_models)]
    try:
        console.print(
            f"[bold]{', '.join(names)}[/] at {system.urls[0]}/v1 with {settings.low} low-end and {settings.high} high-end"
            f"{' each' if settings.extra_models else ''}"
        )
        console.print("Ctrl-C stops all; a second one at once.")
        system.children.keep_running()
        await stop.wait()
    finally:
        with console.status("stopping"):
            await system.__aexit__()


async def _started(system: System) -> System:
    return await system.__aenter__()
