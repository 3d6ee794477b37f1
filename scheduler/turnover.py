"""How fast a line that never empties is worked off: prefill and decode on every owner, as many at once as memory holds. Pure arithmetic.

A fluid picture of steady work with requests that are all alike: in each step of an owner `d` sequences decode one token, and the prompts
that take their places are prefilled beside them, `d * prompt / output` tokens a step. A step of that shape takes what the owner's profile
says, so the owner takes `d / (output * step_s)` requests a second. `d` is what its KV memory, its places and its token budget hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.profile import Profile, StepShape

ROUNDS = 3
"""Of the search for the rate at which head starts and takes agree."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What decides an owner's pace."""

    profile: Profile
    token_budget: int
    places: int
    """Sequences at once."""
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Ask:
    """The request that all are like."""

    prompt: float
    """Tokens to prefill."""
    output: float
    """Tokens of one choice, at least 1."""
    choices: float = 1.0

    @property
    def held(self) -> float:
        """Tokens of KV memory, at most: what the scheduler reserves."""
        return self.prompt + self.choices * self.output


@dataclass(frozen=True, slots=True)
class Turnover:
    """Requests a second that leave the line."""

    takes_per_s: float = 0.0
    kv_takes_per_s: float = 0.0
    """If KV memory alone bounded how many run at once: its tokens, over those of one request and the seconds it holds them."""


def turnover(owners: Sequence[Owner], helpers_tokens_per_s: float, ask: Ask) -> Turnover:
    """Of all owners together; head starts spare them the prefill that low-ends get done in the meantime."""
    return Turnover(_with_help(owners, helpers_tokens_per_s, ask, False), _with_help(owners, helpers_tokens_per_s, ask, True))


def _with_help(owners: Sequence[Owner], helpers_tokens_per_s: float, ask: Ask, memory_alone: bool) -> float:
    left, rate = ask.prompt, 0.0
    for _ in range(ROUNDS if helpers_tokens_per_s > 0 else 1):
        rate = sum(_takes_per_s(owner, ask, left, memory_alone) for owner in owners)
        left = max(1.0, ask.prompt - helpers_tokens_per_s / rate) if rate > 0 else ask.prompt
    return rate


def _takes_per_s(owner: Owner, ask: Ask, prefill: float, memory_alone: bool) -> float:
    sequences = max(ask.choices, owner.kv_tokens / ask.held * ask.choices)
    if not memory_alone:
        sequences = min(sequences, float(owner.places))
    per_decode = prefill / (ask.output * ask.choices)
    decodes = min(sequences, owner.token_budget / (1.0 + per_decode))
    context = ask.prompt + ask.output / 2
    step_s = owner.profile.step_seconds(_shape(decodes, decodes * per_decode, ask.prompt, context))
    return decodes / (ask.output * ask.choices * max(step_s, 1e-9))


def _shape(decodes: float, prefill: float, prompt: float, context: float) -> StepShape:
    """Each prefill token attends to half of its prompt on average."""
    return StepShape(round(prefill), round(prefill * prompt / 2), max(1, round(decodes)), round(decodes * context))
