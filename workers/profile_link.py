"""Measures the KV link: real pulls, by the code that serves them, between two UCX transports of this process.

What a pull takes is gather, digest, send, receive, verify and scatter; the profile wants it as a fixed part and bytes a second. A
loopback tells what this host does to the bytes; what a network between hosts does is measured there (`workers.link_probe`).
"""

from __future__ import annotations

import logging
import queue
from itertools import count
from time import perf_counter

from shared.errors import ConfigError, TransportError
from shared.messages import Control, Pull
from shared.types import GRANULE_TOKENS, AssistId, BlockId, RequestId, TokenSpan, TransferId, WorkerId, WorkerRef
from workers.engine import Engine
from workers.events import PullEnded, SendEnded, SendKv, StartPull
from workers.link_fit import Link, growing_sizes
from workers.mover import Mover
from workers.transport import KvTransport

log = logging.getLogger(__name__)

GIVER, TAKER = WorkerRef(WorkerId("profile-giver"), "1"), WorkerRef(WorkerId("profile-taker"), "1")
ROUNDS = 8
ENOUGH_S = 5.0
"""No further round is begun after this."""
DEADLINE_S = 10.0
MOST_GRANULES = 64


def measure_link(engine: Engine, staging_bytes: int) -> Link | None:
    """None where UCX is not: said in the log, since the profile then has a default link. The engine serves nobody yet."""
    try:
        from workers.ucx_transport import UcxTransport

        transports = [UcxTransport(ref, staging_bytes) for ref in (GIVER, TAKER)]
        return measure_pulls(engine, transports[0], transports[1], staging_bytes)
    except (ImportError, OSError, ConfigError, TransportError) as error:
        log.warning("the KV link is NOT measured, its profile is a default: %s", error)
        return None


def measure_pulls(engine: Engine, giving: KvTransport, taking: KvTransport, staging_bytes: int) -> Link:
    """Pulls of growing size between two started-from-here transports, which are closed afterwards. Raises `TransportError`."""
    pulls = _Pulls(engine, giving, taking)
    try:
        sizes = _sizes(engine, staging_bytes)
        pulls.take(sizes[0])  # The first one makes the UCX workers of both ends.
        until = perf_counter() + ENOUGH_S
        rounds = [[pulls.take(granules) for granules in sizes]]
        while len(rounds) < ROUNDS and perf_counter() < until:
            rounds.append([pulls.take(granules) for granules in sizes])
    finally:
        pulls.stop()
    granule_bytes = GRANULE_TOKENS * engine.kv.bytes_per_token
    return [(size * granule_bytes, min(taken)) for size, taken in zip(sizes, zip(*rounds, strict=True), strict=True)]


def _sizes(engine: Engine, staging_bytes: int) -> list[int]:
    """Granules of one pull, as far as two of them fit into the cache and one into staging."""
    granule_bytes = GRANULE_TOKENS * engine.kv.bytes_per_token
    most = min(MOST_GRANULES, staging_bytes // 2 // granule_bytes, engine.total_blocks * engine.block_tokens // GRANULE_TOKENS // 2)
    if most < 1:
        raise TransportError("not one granule fits into staging and twice into the cache")
    return growing_sizes(most)


class _Pulls:
    """Both ends of one link over one engine: the first half of its blocks gives, the second takes."""

    def __init__(self, engine: Engine, giving: KvTransport, taking: KvTransport) -> None:
        self._fingerprint = engine.kv.fingerprint
        self._each = GRANULE_TOKENS // engine.block_tokens
        self._second = engine.total_blocks // 2
        self._ended: queue.SimpleQueue[tuple[float, PullEnded | SendEnded]] = queue.SimpleQueue()
        self._numbers = count(1)
        self._giver = Mover(GIVER, engine, giving, lambda _, message: None, self._note)
        self._taker = Mover(TAKER, engine, taking, self._ask_giver, self._note)
        self._started: list[Mover] = []
        for mover in (self._giver, self._taker):
            mover.start()
            self._started.append(mover)

    def take(self, granules: int) -> float:
        """Seconds from the wish to the blocks. Raises `TransportError` if not all of it arrived."""
        span = TokenSpan(0, granules * GRANULE_TOKENS)
        transfer = TransferId(next(self._numbers))
        began = ended = perf_counter()
        blocks = self._blocks(self._second, granules)
        self._taker.put(StartPull(transfer, RequestId("profile"), 1, AssistId("profile"), GIVER, span, blocks, DEADLINE_S))
        for at, event in (self._wait(), self._wait()):
            if isinstance(event, PullEnded) and event.good_tokens < len(span):
                raise TransportError(f"a pull of {len(span)} tokens failed: {event.error}")
            ended = at if isinstance(event, PullEnded) else ended
        return ended - began

    def stop(self) -> None:
        for mover in self._started:
            mover.stop()

    def _note(self, event: PullEnded | SendEnded) -> None:
        self._ended.put((perf_counter(), event))

    def _wait(self) -> tuple[float, PullEnded | SendEnded]:
        try:
            return self._ended.get(timeout=2 * DEADLINE_S)
        except queue.Empty:
            raise TransportError("a transfer never ended") from None

    def _ask_giver(self, _: WorkerRef, message: Control) -> None:
        if isinstance(message, Pull):
            blocks = self._blocks(0, len(message.span) // GRANULE_TOKENS)
            self._giver.put(self._send(message, blocks))

    def _send(self, pull: Pull, blocks: tuple[BlockId, ...]) -> SendKv:
        return SendKv(pull.transfer, pull.request_id, pull.attempt, pull.requester, pull.address, pull.span, blocks)

    def _blocks(self, first: int, granules: int) -> tuple[BlockId, ...]:
        return tuple(map(BlockId, range(first, first + granules * self._each)))
