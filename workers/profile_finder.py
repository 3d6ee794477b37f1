"""The profile of a worker that starts: given, known to the pool, kept on this host, or measured now."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from shared.errors import ConfigError, FabricUnavailable
from shared.profile import Profile
from shared.profile_document import ProfileDocument, ProfileKey
from workers.device import spare_memory, usable_device
from workers.engine import Engine
from workers.link_fit import Link, fit_link, fitted_sizes, held_out_sizes, link_error
from workers.profile_files import find_file, keep_file, measuring_alone, read_profile
from workers.profile_key import profile_key
from workers.profile_link import measure_link
from workers.profile_progress import profile_progress
from workers.profiler import MAX_ROUNDS, Samples, measure

if TYPE_CHECKING:
    from workers.process import WorkerProcessSettings

log = logging.getLogger(__name__)

LINK = "link"
"""Among the held-out errors: transfers of sizes that were not fitted to."""
START_S = 6.0
"""A worker that starts measures itself for about so long; `headstart profile` takes its time."""


class Registry(Protocol):
    """The profiles that the pool knows (`shared.redis_profiles`)."""

    async def find(self, key: ProfileKey) -> ProfileDocument | None: ...

    async def store(self, document: ProfileDocument) -> None: ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """One that has just been made, with all that it saw."""

    document: ProfileDocument
    samples: Samples
    link: Link | None


async def find_or_measure(settings: WorkerProcessSettings, engine: Engine, registry: Registry) -> Profile:
    """Raises `ConfigError` for a `--profile` that cannot be used; whatever else is wrong costs a measurement."""
    if settings.profile is not None:
        return given_profile(settings, engine)
    key = profile_key(settings, engine)
    document = await _known_to_pool(registry, key)
    if document is None:
        document = _kept_or_measured(settings, engine, key)
        await _share(registry, document)
    else:
        keep_file(document)
    log.info("profile of %s, measured %s, held-out errors %s", key.device, document.measured_at, dict(document.held_out_errors))
    return document.profile


def given_profile(settings: WorkerProcessSettings, engine: Engine) -> Profile:
    """Of the file that the command line names, whatever it was measured on; that it differs is said."""
    assert settings.profile is not None
    document = read_profile(settings.profile)
    if differs := profile_key(settings, engine).differences(document.key):
        log.warning("--profile %s is used as told, although it is of %s", settings.profile, differs)
    return replace(document.profile, kv_bytes_per_token=engine.kv.bytes_per_token)


def measure_now(
    settings: WorkerProcessSettings,
    engine: Engine,
    seconds: float,
    *,
    max_rounds: int = MAX_ROUNDS,
    progress: Callable[[float], None] = lambda share: None,
) -> Measurement:
    """Steps, then the link. The engine serves nobody yet."""
    key, began = profile_key(settings, engine), perf_counter()
    samples = measure(engine, settings.token_budget, settings.max_sequences, seconds, max_rounds=max_rounds, progress=progress)
    link = measure_link(engine, settings.staging_bytes)
    profile = samples.profile(engine.kv.bytes_per_token)
    errors = {kind.value: error for kind, error in samples.errors(profile).items()}
    if link:
        link_s, link_bytes_per_s = fit_link(fitted_sizes(link))
        profile = replace(profile, link_s=link_s, link_bytes_per_s=link_bytes_per_s)
        if (error := link_error(link_s, link_bytes_per_s, held_out_sizes(link))) is not None:
            errors[LINK] = error
    document = ProfileDocument(
        key,
        profile,
        fitted_steps=len(samples.fitted),
        held_out_steps=len(samples.held_out),
        held_out_errors={kind: round(error, 4) for kind, error in errors.items()},
        kv_tokens=engine.total_blocks * engine.block_tokens,
        free_kv_tokens=spare_memory(usable_device(settings.device)) // engine.kv.bytes_per_token,
        link="UCX loopback" if link else "",
        seconds=round(perf_counter() - began, 1),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return Measurement(document, samples, link)


def _kept_or_measured(settings: WorkerProcessSettings, engine: Engine, key: ProfileKey) -> ProfileDocument:
    """Who waits for another's measurement may find that it was of the same."""
    if (kept := find_file(key)) is not None:
        return kept
    with measuring_alone():
        if (kept := find_file(key)) is not None:
            return kept
        with profile_progress() as progress:
            document = measure_now(settings, engine, START_S, progress=progress).document
        keep_file(document)
    return document


async def _known_to_pool(registry: Registry, key: ProfileKey) -> ProfileDocument | None:
    try:
        document = await registry.find(key)
    except (ConfigError, FabricUnavailable) as error:
        log.warning("the pool's profile is not used: %s", error)
        return None
    return document if document is not None and document.key == key else None


async def _share(registry: Registry, document: ProfileDocument) -> None:
    try:
        await registry.store(document)
    except FabricUnavailable as error:
        log.warning("the profile is not shared with the pool: %s", error)
