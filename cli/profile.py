"""`headstart profile`: measures this device as a worker would serve with it, shows what came of it, keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from shared.profile import Profile
from shared.profile_document import ProfileDocument
from shared.redis_fabric import RedisFabric
from shared.redis_profiles import ProfileRegistry
from shared.types import PoolId
from workers.process import WorkerProcessSettings, build_engine
from workers.profile_files import keep_file, measuring_alone, write_profile
from workers.profile_finder import LINK, Measurement, measure_now
from workers.profile_progress import profile_progress
from workers.profile_shapes import StepClass

MAX_ROUNDS = 24
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """What the command line decides."""

    worker: WorkerProcessSettings
    seconds: float
    output: Path | None


async def run_profile(settings: ProfileSettings, console: Console | None = None) -> ProfileDocument:
    """Measures, prints, writes `--output`, keeps it for workers of this host, and stores it in the pool where a server is named."""
    engine = build_engine(settings.worker)
    try:
        with measuring_alone(), profile_progress() as progress:
            measured = measure_now(settings.worker, engine, settings.seconds, max_rounds=MAX_ROUNDS, progress=progress)
    finally:
        engine.close()
    document, console = measured.document, console or Console()
    show(measured, console)
    keep_file(document)
    if settings.output is not None:
        write_profile(settings.output, document)
        console.print(f"written to {settings.output}")
    if settings.worker.redis_url:
        await _store(settings.worker, document)
        console.print(f"stored in pool {settings.worker.pool}")
    return document


async def _store(worker: WorkerProcessSettings, document: ProfileDocument) -> None:
    fabric = await RedisFabric.connect(worker.redis_url, PoolId(worker.pool))
    try:
        await ProfileRegistry.of(fabric).store(document)
    finally:
        await fabric.disconnect()


def show(measured: Measurement, console: Console) -> None:
    document = measured.document
    key = document.key
    console.print(f"[bold]{key.device}[/]: {key.model}, {key.dtype}, {key.engine}", highlight=False, soft_wrap=True)
    rounds = f"{measured.samples.rounds} rounds in {document.seconds:.1f} s"
    console.print(f"{document.fitted_steps} shapes of steps fitted, {document.held_out_steps} held out, {rounds}", highlight=False)
    console.print(_terms(document.profile))
    console.print(_errors(measured))
    console.print(_link(measured))
    held, free = document.kv_tokens, document.free_kv_tokens
    console.print(f"KV cache: {held:,} tokens, free memory has room for {free:,} more", highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left")
    return table


def _terms(profile: Profile) -> Table:
    table = _table("a step takes", "")
    table.add_row("once", f"{profile.step_s * 1e3:.3f} ms")
    table.add_row("tokens that it takes along in that", f"{profile.free_tokens:.0f}")
    table.add_row("each token beyond them" if profile.free_tokens else "each prefill token", f"{profile.prefill_token_s * 1e6:.2f} us")
    table.add_row("1,000 pairs of prefill tokens that attend", f"{profile.prefill_pair_s * 1e9:.3f} us")
    table.add_row("each decode", f"{profile.decode_s * 1e6:.2f} us")
    table.add_row("1,000 tokens of a decode's context", f"{profile.decode_context_s * 1e9:.2f} us")
    return table


def _errors(measured: Measurement) -> Table:
    table = _table("held out", "median error")
    for kind in StepClass:
        error = measured.document.held_out_errors.get(kind.value)
        table.add_row(kind.value, "not measured" if error is None else f"{error:.1%}")
    if (error := measured.document.held_out_errors.get(LINK)) is not None:
        table.add_row("KV transfer", f"{error:.1%}")
    return table


def _link(measured: Measurement) -> Table:
    table = _table("KV transfer", "measured", "fitted")
    if measured.link is None:
        table.add_row("NOT MEASURED: no UCX here, the profile has a default", "", "")
    for nbytes, seconds in measured.link or ():
        profile = measured.document.profile
        table.add_row(
            f"{nbytes / MIB:.2f} MiB", f"{seconds * 1e3:.2f} ms", f"{(profile.link_s + nbytes / profile.link_bytes_per_s) * 1e3:.2f} ms"
        )
    return table
