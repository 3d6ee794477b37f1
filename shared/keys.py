"""Every key in the server: THE table, and the only place that spells a key.

Between braces stands the hash tag: all keys of a pool share one, so that a script can change them in one step; logs spread
over `LOG_SHARDS` tags. `python -m shared.keys` prints `docs/keys.md`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from zlib import crc32

from shared.types import PoolId, RequestId, WorkerRef

LOG_SHARDS = 64
"""Fixed for ever: a log is found by its request id alone."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One kind of key. `<pool>`, `<shard>` and so on stand for what varies."""

    pattern: str
    kind: str
    """As the server's TYPE says, or `channel`."""
    holds: str
    writer: str
    reader: str
    expiry: str
    permanent: bool = False

    @property
    def tag(self) -> str:
        return self.pattern[self.pattern.index("{") : self.pattern.index("}") + 1]

    def matches(self, key: str) -> bool:
        pieces = re.split(r"<\w+>", self.pattern)
        return re.fullmatch("(.+)".join(map(re.escape, pieces)), key, re.DOTALL) is not None


MARK_KEY = "hs:{mark}:mark"
"""Written behind a group of writes that is to be durable: all pools' own."""
CELERY_PREFIX = "hs:{celery}:"
"""Of every key that Celery makes on its broker."""
ANY_KIND = "several"
LIVE = "`live_ttl_s` after the last write"
WORKER = "`worker_ttl_s` after the last write or report of a member"

TABLE: tuple[KeyRow, ...] = (
    KeyRow("hs:{<pool>}:epoch", "string", "epoch of the last leader", "scheduler", "every script of the leader", "never", permanent=True),
    KeyRow("hs:{<pool>}:leader", "string", "the leader's lease: its candidate", "scheduler", "scheduler", "the lease's time to live"),
    KeyRow("hs:{<pool>}:load", "hash", "bounds for submissions, as the leader sees them", "scheduler", "submit script", "`load_ttl_s`"),
    KeyRow("hs:{<pool>}:submit", "stream", "live requests in order of acceptance", "gateway; `close` deletes", "scheduler", LIVE),
    KeyRow("hs:{<pool>}:waiting", "set", "ids of the requests that are QUEUED", "scripts", "submit script", LIVE),
    KeyRow("hs:{<pool>}:reserved", "string", "bytes that live requests may come to need", "submit, close", "submit script", LIVE),
    KeyRow(
        "hs:{<pool>}:promised",
        "zset",
        "places in the line that were promised with `Retry-After`: for which body, and when",
        "submit script",
        "submit script",
        "135 s after the last promise",
    ),
    KeyRow("hs:{<pool>}:events", "stream", "news for the scheduler", "worker, gateway", "scheduler", "`events_ttl_s` after the last write"),
    KeyRow("hs:{<pool>}:members", "set", "workers that may be alive", "worker", "scheduler, gateway", "with its longest member"),
    KeyRow(
        "hs:{<pool>}:member:<worker>", "hash", "what a worker is and can do", "worker", "scheduler, gateway", "its own, renewed by reports"
    ),
    KeyRow("hs:{<pool>}:jobs:<worker>", "stream", "assignments and assist orders", "scheduler", "that worker", WORKER),
    KeyRow(
        "hs:{<pool>}:control:<worker>", "stream", "what must not wait behind a job", "scheduler, worker, gateway", "that worker", WORKER
    ),
    KeyRow(
        "hs:{<pool>}:request:<id>",
        "hash",
        "a request's record",
        "gateway, scheduler; owner at the end",
        "scheduler, gateway",
        f"{LIVE}; `retention_s` after its end by the leader's clock, `clock_step_s` later by the server's",
    ),
    KeyRow(
        "hs:{<pool>}:idempotency:<digest>",
        "hash",
        "the request that an idempotency key made",
        "gateway",
        "submit script",
        "with its request",
    ),
    KeyRow(
        "hs:{<pool>}:rate:<caller>",
        "hash",
        "what a caller has used of its rates",
        "gateway",
        "gateway",
        "two minutes after the last charge",
    ),
    KeyRow(
        "hs:{<pool>:l<shard>}:head:<id>",
        "hash",
        "a log's head: prompt, stored input items, fence, next indices, end",
        "gateway; scheduler raises the fence",
        "owner, gateway",
        f"{LIVE}; as its record, or after a response that goes on from it",
    ),
    KeyRow(
        "hs:{<pool>:l<shard>}:log:<id>",
        "stream",
        "a log's entries: tokens and the end",
        "owner of the attempt",
        "gateway, next owner",
        "with its head",
    ),
    KeyRow(
        "hs:{<pool>:l<shard>}:story:<id>",
        "list",
        "a request's timeline for `explain`",
        "everybody",
        "gateway",
        "`story_ttl_s` after the last write",
    ),
    KeyRow(
        "hs:{<pool>}:dead",
        "stream",
        "requests that too many crashes ended",
        "close",
        "gateway, dead-letters",
        "`dead_letter_ttl_s` after the last",
    ),
    KeyRow("hs:{<pool>}:agents", "set", "hosts whose agents may be alive", "agent", "scale, top", "with its longest lease"),
    KeyRow("hs:{<pool>}:agent:<host>", "hash", "an agent's lease: how it is reached, what it runs", "agent", "scale, top", "its own lease"),
    KeyRow(
        "hs:{<pool>}:profile:<digest>",
        "string",
        "a device's measured profile, JSON",
        "worker, `headstart profile`",
        "worker",
        "`profile_ttl_s` after it was last written or found",
    ),
    KeyRow(
        "hs:{celery}:<name>",
        ANY_KIND,
        "queues, bindings and answers of the control plane: Celery's own, a few for each host",
        "Celery",
        "Celery",
        "answers after a minute; empty queues vanish; bindings never",
        permanent=True,
    ),
    KeyRow(MARK_KEY, "string", "nothing: WAIT and WAITAOF stand behind it", "whoever waits for durability", "nobody", "a minute"),
    KeyRow("hs:{<pool>}:wake", "channel", "hint: logs that grew, and by what", "worker", "gateway", "-"),
)


@dataclass(frozen=True, slots=True)
class LogKeys:
    """The keys of one log; `shard` is in 0..`LOG_SHARDS` - 1."""

    shard: int
    head: str
    entries: str
    story: str


class Keys:
    """Builds every key of one pool."""

    def __init__(self, pool: PoolId) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", pool):
            raise ValueError(f"pool {pool!r} must be 1 to 64 letters, digits, '.', '_' or '-'")
        self.pool = pool
        self.prefix = f"hs:{{{pool}}}:"
        self.epoch = self.prefix + "epoch"
        self.leader = self.prefix + "leader"
        self.load = self.prefix + "load"
        self.submit = self.prefix + "submit"
        self.waiting = self.prefix + "waiting"
        self.reserved = self.prefix + "reserved"
        self.promised = self.prefix + "promised"
        self.dead = self.prefix + "dead"
        self.events = self.prefix + "events"
        self.members = self.prefix + "members"
        self.agents = self.prefix + "agents"
        self.wake = self.prefix + "wake"

    def request(self, request_id: RequestId) -> str:
        return f"{self.prefix}request:{request_id}"

    def idempotency(self, key: str) -> str:
        """Clients choose idempotency keys, of any length: their digest names ours."""
        return f"{self.prefix}idempotency:{blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"

    def rate(self, caller: str) -> str:
        return f"{self.prefix}rate:{caller}"

    def member(self, worker: WorkerRef) -> str:
        return f"{self.prefix}member:{worker}"

    def agent(self, host: str) -> str:
        return f"{self.prefix}agent:{host}"

    def profile(self, digest: str) -> str:
        return f"{self.prefix}profile:{digest}"

    def jobs(self, worker: WorkerRef) -> str:
        return f"{self.prefix}jobs:{worker}"

    def control(self, worker: WorkerRef) -> str:
        return f"{self.prefix}control:{worker}"

    def log(self, request_id: RequestId) -> LogKeys:
        return _log_keys(self.pool, request_id)


@lru_cache(maxsize=4096)
def _log_keys(pool: PoolId, request_id: RequestId) -> LogKeys:
    """A writer asks for them with every token."""
    shard = log_shard(request_id)
    prefix = f"hs:{{{pool}:l{shard}}}:"
    return LogKeys(shard, f"{prefix}head:{request_id}", f"{prefix}log:{request_id}", f"{prefix}story:{request_id}")


def log_shard(request_id: RequestId) -> int:
    """Where a log lives: the same in every process and release."""
    return crc32(request_id.encode()) % LOG_SHARDS


def row_of(key: str) -> KeyRow | None:
    """The table's row for a key, None for a key that is not ours."""
    return next((row for row in TABLE if row.matches(key)), None)


def markdown() -> str:
    """`docs/keys.md`."""
    lines = [
        "# Every key in the server",
        "",
        "Generated from `shared/keys.py` by `python -m shared.keys > docs/keys.md`; a test compares them. Times to live are settings of",
        "`shared/fabric_settings.py`. A script touches keys of one hash tag only, so that all of it runs on a cluster.",
        "",
        "| key | type | hash tag | holds | writer | reader | expiry |",
        "|---|---|---|---|---|---|---|",
    ]
    cells = ((f"`{r.pattern}`", r.kind, f"`{r.tag}`", r.holds, r.writer, r.reader, r.expiry) for r in TABLE)
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)]) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
