"""The nouns every role uses: ids, spans, sampling, limits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, NewType

GRANULE_TOKENS = 64
"""Tokens in one wire granule: a cut and a transfer are always whole granules. Local block sizes divide it."""

RequestId = NewType("RequestId", str)
WorkerId = NewType("WorkerId", str)
GatewayId = NewType("GatewayId", str)
AssistId = NewType("AssistId", str)
TransferId = NewType("TransferId", int)
"""Unique within the incarnation of the receiver that issued it; at most 48 bits, so that it fits in a transport tag."""
BlockId = NewType("BlockId", int)
PoolId = NewType("PoolId", str)

NO_GATEWAY = GatewayId("")


class WorkerRef(NamedTuple):
    """One life of one worker process: a restart keeps the id and changes the incarnation.

    A tuple: the scheduler looks up by it some twenty times in each decision, and a dataclass is hashed and compared in Python.
    """

    worker: WorkerId
    incarnation: str

    def __str__(self) -> str:
        return f"{self.worker}#{self.incarnation}"


class JobSeq(NamedTuple):
    """Position of a job in the order a scheduler issued it; a later leader always counts higher."""

    epoch: int
    number: int


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Half-open range `[start, stop)` of token positions."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"span [{self.start}, {self.stop}) must satisfy 0 <= start <= stop")

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen.

    `temperature` 0 is greedy. `seed` is always set by the gateway, so that any worker draws the same noise.
    Order, as elsewhere: bias, grammar, penalties, temperature, `top_k`, `top_p`, `min_p`. Logprobs are of the raw logits.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    n: int = 1
    """Choices, each with noise of its own from the same seed."""
    top_k: int = 0
    """Only the so many likeliest tokens; 0: all."""
    min_p: float = 0.0
    """Only tokens at least so likely as this share of the likeliest one's probability."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    """Both count generated tokens only, as OpenAI's."""
    repetition_penalty: float = 1.0
    """Over prompt and generated tokens, as transformers'."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """`(token id, added to its logit)`."""
    top_logprobs: int = 0
    """Likeliest alternatives to log with each token."""
    min_tokens: int = 0
    """No end-of-sequence token before so many generated tokens."""
    grammar: str = ""
    """What the answer must match, as JSON text (see `shared/grammar.py`); empty: anything."""


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """What a worker must know to compute a request: stored once in the log's head and passed by reference."""

    request_id: RequestId
    model: str
    prompt: tuple[int, ...]
    """Prompt token ids, at least one."""
    sampling: SamplingParams
    created_ms: int
    """Wall clock at submission, for people to read; no decision depends on it."""
    salt: str = ""
    """Of the tenant: cached prefixes are shared only under an equal one."""
    trace: str = ""
    """Trace context of who accepted it (see `shared.tracing`); empty: nobody traces it."""


class Phase(StrEnum):
    """Where a request is in its life (see `shared.request.TRANSITIONS`)."""

    QUEUED = "queued"
    RUNNING = "running"
    MOVING = "moving"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


class FinishReason(StrEnum):
    """Why a choice ended, as the client is told."""

    STOP = "stop"
    LENGTH = "length"


class MoveCause(StrEnum):
    """Why a request left its owner; only `CRASH` counts towards the dead-letter limit."""

    CRASH = "crash"
    RETURNED = "returned"
    LOST_JOB = "lost_job"


def whole_granules(tokens: int) -> int:
    """The largest multiple of the granule that is at most `tokens`."""
    return tokens // GRANULE_TOKENS * GRANULE_TOKENS
