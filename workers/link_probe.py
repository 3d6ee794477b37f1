"""Trial transfers: what the link from a host takes is measured before the first request rests on it.

When a worker sees a host that it has not measured, it asks one worker there for a few transfers of nothing but zeros, small and
large, by the messages, the tickets, the transport and the checks of real pulls. Their fit goes to the core, which tells the
scheduler; from then on real pulls correct it (`workers.peer_links`). One transfer at a time, one host at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeGuard
from zlib import crc32

from shared.messages import Control, Pull, PullRefused, WorkerInfo
from shared.types import GRANULE_TOKENS, AssistId, RequestId, TokenSpan, TransferId, WorkerRef
from workers.events import LinkProbed, PullEnded, SendEnded, SendKv, StartPull
from workers.link_fit import Link, fit_link, fitted_sizes, growing_sizes, held_out_sizes, link_error
from workers.peer_links import MOST_HOSTS

log = logging.getLogger(__name__)

PROBE = AssistId("")
"""No head start goes by this name: a worker of an earlier release refuses, and the trial fails."""
PROBE_TRANSFERS = 1 << 47
"""Transfers from here on are trials; the core counts its own from 1."""
ROUNDS = 3
MOST_BYTES = 16 << 20
"""Of one trial transfer."""
DEADLINE_S = 5.0
AGAIN_S = 600.0
"""A link is measured anew after this."""
AFTER_FAILURE_S = 30.0
"""One that could not be measured is tried again."""


def is_trial(event: object) -> TypeGuard[PullEnded | SendEnded]:
    return isinstance(event, PullEnded | SendEnded) and event.transfer >= PROBE_TRANSFERS


def is_refusal(message: Control) -> TypeGuard[PullRefused]:
    """Of a trial that this worker asked for."""
    return isinstance(message, PullRefused) and message.transfer >= PROBE_TRANSFERS


def answer_to(pull: Pull, fingerprint: bytes, staging_bytes: int, bytes_per_token: int) -> SendKv | None:
    """What a worker sends for a trial: zeros, at most what a trial may ask for; None: it does not."""
    granules, rest = divmod(len(pull.span), GRANULE_TOKENS)
    if pull.fingerprint != fingerprint or rest or granules > most_granules(staging_bytes, GRANULE_TOKENS * bytes_per_token):
        return None
    return SendKv(pull.transfer, pull.request_id, pull.attempt, pull.requester, pull.address, pull.span, ())


def most_granules(staging_bytes: int, granule_bytes: int) -> int:
    """Of one trial transfer. Real pulls need the arena, and a giver may be asked by several at once: large granules come alone."""
    if not granule_bytes or granule_bytes > staging_bytes // 4:
        return 0
    return max(1, min(MOST_BYTES, staging_bytes // 16) // granule_bytes)


@dataclass(slots=True)
class _Trial:
    """All transfers of one host's measurement; `left` are the granules of those to come."""

    peer: WorkerRef
    host: str
    left: list[int]
    taken: dict[int, list[float]] = field(default_factory=dict)
    transfer: TransferId | None = None
    granules: int = 0
    began: float = 0.0

    def give_up(self, granules: int) -> None:
        """No transfer so large, or larger."""
        self.left = [size for size in self.left if size < granules]
        self.taken = {size: taken for size, taken in self.taken.items() if size < granules}

    def least(self, granules: int) -> float:
        """But for the very first transfer, which made the link."""
        taken = self.taken[granules]
        return min(taken[1:] if granules == min(self.taken) and len(taken) > 1 else taken)


class LinkProbe:
    """`look` after every look at the members, `ended` for every `PullEnded` of a trial; both on the loop."""

    def __init__(
        self, ref: WorkerRef, fingerprint: bytes, granule_bytes: int, staging_bytes: int, start: Callable[[StartPull], None]
    ) -> None:
        self._ref, self._fingerprint, self._granule_bytes, self._start = ref, fingerprint, granule_bytes, start
        most = most_granules(staging_bytes, granule_bytes)
        self._sizes = growing_sizes(most) if most else []
        self._transfers = PROBE_TRANSFERS
        self._tried: dict[str, float] = {}
        """When each host was last tried."""
        self._trial: _Trial | None = None

    def look(self, members: Iterable[WorkerInfo], now: float) -> None:
        """Begins with a host that is due, if nothing is under way."""
        if self._trial is not None or not self._sizes:
            return
        due = [info for info in members if self._is_due(info, now)]
        if not due:
            return
        # Not the first one: all workers see the same list, and would all ask the same peer.
        info = min(due, key=lambda one: crc32(f"{self._ref} {one.ref}".encode()))
        self._tried[info.host] = now
        # The first transfer makes the link's UCX workers: it is not counted.
        self._trial = _Trial(info.ref, info.host, [self._sizes[0], *(size for _ in range(ROUNDS) for size in self._sizes)])
        self._next(self._trial, now)

    def _is_due(self, info: WorkerInfo, now: float) -> bool:
        if info.ref == self._ref or info.fingerprint != self._fingerprint:
            return False
        tried = self._tried.get(info.host)
        return len(self._tried) < MOST_HOSTS if tried is None else now - tried >= AGAIN_S

    def ended(self, event: PullEnded, now: float) -> LinkProbed | None:
        """The figure, once the last transfer is there. After one that fails only smaller ones are tried: the peer's arena may be."""
        trial = self._trial
        if trial is None or event.transfer != trial.transfer:
            return None
        if event.good_tokens < trial.granules * GRANULE_TOKENS:
            trial.give_up(trial.granules)
        else:
            trial.taken.setdefault(trial.granules, []).append(now - trial.began)
        if trial.left:
            self._next(trial, now)
            return None
        self._trial = None
        if trial.taken:
            return self._figure(trial)
        log.info("the link from %s is not measured: %s", trial.host, event.error or "not all of a trial arrived")
        self._tried[trial.host] = now - AGAIN_S + AFTER_FAILURE_S
        return None

    def _next(self, trial: _Trial, now: float) -> None:
        self._transfers += 1
        trial.transfer, trial.granules, trial.began = TransferId(self._transfers), trial.left.pop(0), now
        span = TokenSpan(0, trial.granules * GRANULE_TOKENS)
        self._start(StartPull(trial.transfer, RequestId(""), 1, PROBE, trial.peer, span, (), DEADLINE_S))

    def _figure(self, trial: _Trial) -> LinkProbed:
        link: Link = [(granules * self._granule_bytes, trial.least(granules)) for granules in sorted(trial.taken)]
        link_s, link_bytes_per_s = fit_link(fitted_sizes(link))
        error = link_error(link_s, link_bytes_per_s, held_out_sizes(link))
        told = "nothing held out" if error is None else f"held-out error {error:.1%}"
        log.info("link from %s: %.3f ms and %.2f GB/s, %s", trial.host, link_s * 1e3, link_bytes_per_s / 1e9, told)
        return LinkProbed(trial.host, link_s, link_bytes_per_s)
