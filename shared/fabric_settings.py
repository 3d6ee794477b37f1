"""The fabric's bounds and times to live."""

from __future__ import annotations

from dataclasses import dataclass

from shared.durability import NOT_WAITING, Durability
from shared.messages import Submission

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FabricSettings:
    """Every role of one pool should run with the same values; nothing breaks if they differ for a while."""

    max_waiting: int = 10_000
    """Queued requests beyond which submissions are refused, where the leader publishes no bound of its own."""
    max_predicted_wait_s: float = 600.0
    """A predicted wait beyond which submissions are refused."""
    max_reserved_bytes: int = 1024 * _MIB
    """What all live requests together may come to need in the server.

    A server with less than twice that `maxmemory` counts with half of it."""
    request_bytes: int = 4096
    """Reserved for any request: record, head, story."""
    prompt_token_bytes: int = 8
    log_token_bytes: int = 48
    """Reserved for each token that a request may generate: id, text, log probability, its share of an entry."""

    live_ttl_s: int = 86_400
    """A request that nobody has touched for so long is forgotten."""
    retention_s: int = 600
    """An ended request can be read for so long. The leader deletes it then, by its own clock."""
    clock_step_s: int = 3600
    """By the server's clock it lives so much longer: set forward by that much, it takes nothing early. Without a leader it lapses then."""
    story_ttl_s: int = 3600
    dead_letter_ttl_s: int = 7 * 24 * 3600
    """A request that crashes ended can be replayed for so long."""
    dead_letters_max: int = 1000
    """Of a pool, about; the oldest go first."""
    worker_ttl_s: int = 120
    """A worker's streams outlive its last report by so long."""
    load_ttl_s: int = 30
    """A published load counts for so long."""
    events_ttl_s: int = 3600
    profile_ttl_s: int = 2_592_000
    """A measured profile that no worker has asked for in so long is forgotten."""

    events_max: int = 20_000
    """Entries kept, about: a new leader heals what was trimmed from records and reports."""
    worker_stream_max: int = 4096
    story_max: int = 256

    durability: Durability = NOT_WAITING
    """What must have happened to a write before a request is accepted or a token visible; a server that cannot is refused."""
    durable_wait_s: float = 3.0
    """How long a server may take for it, where it is asked by WAIT or WAITAOF; below `command_timeout_s`."""

    command_timeout_s: float = 5.0
    """How long an answer of the server may take; blocking reads have that much beyond their time."""
    connect_timeout_s: float = 5.0

    @property
    def ended_ttl_s(self) -> int:
        return self.retention_s + self.clock_step_s

    def reservation(self, submission: Submission) -> int:
        """Bytes that a request may come to need in the server until it is closed: a bound, not a measurement."""
        tokens = submission.max_tokens * submission.num_choices
        return self.request_bytes + self.prompt_token_bytes * submission.num_prompt + self.log_token_bytes * tokens
