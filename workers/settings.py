"""What a worker core must be told about its worker."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import ConfigError
from shared.profile import Profile
from shared.types import GRANULE_TOKENS, WorkerRef


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """One incarnation of one worker. Raises `ConfigError` for what could never work."""

    ref: WorkerRef
    fingerprint: bytes
    """Of the KV wire layout: only equal ones hand over."""
    block_tokens: int
    total_blocks: int
    token_budget: int
    """Tokens in one step, decodes and prefill chunks together."""
    max_sequences: int
    max_model_tokens: int
    eos_token_ids: frozenset[int] = frozenset()
    kv_bytes_per_token: int = 0
    profile: Profile | None = None
    """For the deadline of a pull; None: the floor alone."""
    depth: int = 1
    """Steps launched and not collected, 1 or 2."""
    max_assists: int = 2
    """Head starts advanced at the same time, the oldest ones."""
    report_s: float = 0.5
    assist_ttl_s: float = 60.0
    pull_floor_s: float = 2.0
    pull_ceiling_s: float = 30.0
    """However slow a link has been measured, for what its profile does not say: a sender waits no longer either."""
    pull_patience: float = 4.0
    """A pull may take this many times what the profile says before it is given up."""
    watermark_blocks: int = 0
    """Free blocks that no prefill but the oldest may take: room for decodes to grow."""
    expected_output_tokens: int = 64
    """First guess of what a request still generates; learned from then on."""
    max_failures: int = 3
    """Different requests that fail alone, with no good step between them, before the worker calls itself broken."""
    prefix_cache: bool = True
    """Blocks keep their contents after their sequence has ended, for the next one that begins alike."""

    def __post_init__(self) -> None:
        _require(self.depth in (1, 2), f"depth must be 1 or 2, not {self.depth}")
        _require(GRANULE_TOKENS % self.block_tokens == 0, f"block_tokens must divide {GRANULE_TOKENS}, {self.block_tokens} does not")
        _require(self.total_blocks > self.watermark_blocks >= 0, "watermark_blocks must be at least 0 and below total_blocks")
        _require(self.max_sequences >= 1, "max_sequences must be at least 1")
        _require(self.token_budget >= self.max_sequences, "token_budget must hold one decode of each of max_sequences")


def _require(holds: bool, remedy: str) -> None:
    if not holds:
        raise ConfigError(remedy)
