"""What a policy sees of the workers and of the waiting line, to look at and not to touch.

A worker is a picture, drawn anew when something about it changes. A waiting request is seen as it is, through protocols of what may
be read: a policy scans many and decides on one, so drawing each would cost more than deciding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from shared.profile import PeerLink, Profile
from shared.types import AssistId, RequestId, WorkerRef


class Amount(NamedTuple):
    """What a job takes from a worker, and what a worker has left."""

    tokens: int
    """Token budget of the coming step; the last job of a step may overdraw it."""
    blocks: int
    sequences: int

    def plus(self, other: Amount) -> Amount:
        return Amount(self.tokens + other.tokens, self.blocks + other.blocks, self.sequences + other.sequences)

    def minus(self, other: Amount) -> Amount:
        return Amount(self.tokens - other.tokens, self.blocks - other.blocks, self.sequences - other.sequences)


NOTHING = Amount(0, 0, 0)
FULL_SHARE = 32
"""A worker whose free KV memory is less than one part in so many counts as full."""


NO_LINKS: Mapping[str, PeerLink] = MappingProxyType({})


class WorkerView(NamedTuple):
    """One live worker, with everything promised to it already subtracted."""

    ref: WorkerRef
    profile: Profile
    fingerprint: bytes
    block_tokens: int
    total_blocks: int
    max_model_tokens: int
    token_budget: int
    ready: bool
    """Not draining. A worker that was not heard yet counts as ready: better wait a moment for a fast one."""
    free: Amount
    queued_tokens: int
    """Prefill that it still has before it: of the requests it owns, and of those promised to it."""
    owned: int
    """Requests that it owns or was promised."""
    head_starts: tuple[RequestId, ...]
    """Requests whose head start it holds, nobody has taken them."""
    speed: float
    """Prefill tokens per second of a fresh chunk."""
    decodes: int = 0
    """Requests that it decodes, as of its last report."""
    decode_context: int = 0
    """Tokens of context of those."""
    growing: int = 0
    """Head starts that it still has to compute. Finished ones only take memory."""
    role: str = ""
    """`low` or `high` where its operator said so; empty: its speed says."""
    growing_tokens: int = 0
    """Tokens of those that are not offered yet."""
    usd_per_hour: float = 0.0
    """0: unknown."""
    host: str = ""
    links: Mapping[str, PeerLink] = NO_LINKS
    """What it measured of its pulls, by the giver's host."""

    @property
    def capacity_tokens(self) -> int:
        """Tokens of one sequence that it could hold if it were empty."""
        return min(self.max_model_tokens, self.total_blocks * self.block_tokens)

    @property
    def soon_free(self) -> bool:
        """It will take a request after the coming step or two."""
        return self.queued_tokens <= self.token_budget and self.free.blocks > 0 and self.free.sequences > 0

    @property
    def full(self) -> bool:
        """Its decodes leave no place or hardly any KV memory: it could not take another request, however idle its next step is."""
        return self.owned + self.decodes > 0 and (self.free.sequences <= 0 or self.free.blocks * FULL_SHARE < self.total_blocks)


class HeadStartView(Protocol):
    """The partial prefill state that a low-end holds of a waiting prompt."""

    @property
    def assist(self) -> AssistId: ...
    @property
    def worker(self) -> WorkerRef: ...
    @property
    def offered(self) -> int:
        """Tokens that may be pulled now, whole granules."""

    @property
    def limit(self) -> int: ...
    @property
    def stopped(self) -> bool: ...


class WaitingView(Protocol):
    """One waiting request."""

    @property
    def request_id(self) -> RequestId: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def expected_output(self) -> int:
        """Tokens to reserve beside `num_tokens`."""

    @property
    def mean_output(self) -> int:
        """Tokens that requests like it generate on average."""

    @property
    def head_start(self) -> HeadStartView | None: ...
    @property
    def assists_lost(self) -> int:
        """Head starts of it that vanished."""

    @property
    def num_choices(self) -> int: ...
    @property
    def num_prompt(self) -> int:
        """Of `num_tokens`, those that all choices have in common."""

    @property
    def prefix(self) -> bytes:
        """Names of its beginnings (see `shared.prefixes`): who may hold them in cache."""

    @property
    def ttft_target_s(self) -> float:
        """Its own, or else the pool's; 0: none."""

    @property
    def itl_target_s(self) -> float:
        """The same."""


class WaitingLine(Protocol):
    """The backlog in order: priority, deadline, arrival."""

    def __len__(self) -> int: ...

    def first(self, count: int, skip: int = 0) -> Iterator[WaitingView]:
        """The first `count`, without the first `skip` of them."""
        ...

    def without_head_start(self, skip: int = 0) -> Iterator[WaitingView]:
        """In order, leaving out the first `skip` of the whole line."""
        ...

    def get(self, request_id: RequestId) -> WaitingView | None: ...

    def place(self, request_id: RequestId) -> int:
        """How many stand before it."""
        ...

    @property
    def mean_tokens(self) -> float:
        """Of the waiting requests; 0 if nobody waits."""
        ...


class Prefixes(Protocol):
    """Who should hold which beginnings of prompts in cache: a guess, good enough to prefer one worker to another."""

    def cached_tokens(self, ref: WorkerRef, prefix: bytes, num_tokens: int) -> int:
        """Whole granules, at most `num_tokens - 1`."""
        ...

    def holders(self, prefix: bytes, num_tokens: int) -> Iterator[WorkerRef]:
        """The longest beginning first."""
        ...


class NoPrefixes:
    """Nobody is known to hold anything."""

    def cached_tokens(self, ref: WorkerRef, prefix: bytes, num_tokens: int) -> int:
        return 0

    def holders(self, prefix: bytes, num_tokens: int) -> Iterator[WorkerRef]:
        return iter(())


NO_PREFIXES = NoPrefixes()


def nobody(ref: WorkerRef) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Roles:
    """Who may own requests, and who gives head starts. A worker may be neither."""

    owners: frozenset[WorkerRef] = frozenset()
    assistants: frozenset[WorkerRef] = frozenset()


class ClusterView(NamedTuple):
    """Valid for one decision: nothing in it changes while a policy looks."""

    workers: Mapping[WorkerRef, WorkerView]
    waiting: WaitingLine
    roles: Roles
    about_to_take: int = 0
    """Owners that will be free within a step or two: the first so many waiting requests need no head start."""
    prefixes: Prefixes = NO_PREFIXES
    is_free: Callable[[WorkerRef], bool] = nobody
    """Whether a worker is a free owner: it may be given a request now."""
    helper: WorkerRef | None = None
    """The first assistant that has room."""
    decode_bound: bool = False
    """Every owner is full: what waits, waits for their decodes to end and not for prefill."""
    prompt_tokens_per_s: float = 0.0
    """That arrive, lately."""
