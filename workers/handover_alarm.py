"""Pulls that bring nothing, one after the other: every prefill is paid twice and every answer is right, so nobody would notice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from workers.events import PullEnded, WorkerCommand, WorkerEvent

log = logging.getLogger(__name__)

BARREN = 5
"""Pulls without one good token after which it is no accident."""


class HandoverAlarm:
    """A watch of the worker's loop: says it once at level `error`, counts it, and begins anew with the first pull that brings something."""

    def __init__(self, count: Callable[[str], None]) -> None:
        self._count = count
        self._barren = 0

    def watch(self, events: Sequence[WorkerEvent], _: Sequence[WorkerCommand]) -> None:
        for event in events:
            if isinstance(event, PullEnded):
                self._ended(event)

    def _ended(self, event: PullEnded) -> None:
        self._barren = 0 if event.good_tokens else self._barren + 1
        if self._barren == BARREN:
            self._count("pulls_fail")
            log.error(
                "%d pulls in a row brought no KV, the last one with %r: head starts are computed twice; check the network between the "
                "hosts, UCX_TLS and UCX_NET_DEVICES, and that all workers have the same pool secret",
                BARREN,
                event.error or "nothing usable",
            )
