"""Carries out the core's transfer commands: gather, digest, send; receive, verify, scatter.

One thread does all of it, so a transfer's steps never race each other, and neither the model nor the loop waits for bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec

from shared.errors import TransportError
from shared.messages import Control, Pull, PullRefused
from shared.types import GRANULE_TOKENS, TokenSpan, TransferId, WorkerRef
from workers.engine import Engine
from workers.events import AbandonPull, DropPeer, PullEnded, SendEnded, SendKv, StartPull
from workers.tickets import OPEN, Tickets
from workers.transport import Arrival, KvTransport, TransferHeader
from workers.verify import Expected, good_prefix, granule_digests

log = logging.getLogger(__name__)

SEND_DEADLINE_S = 30.0

P = ParamSpec("P")

TransferCommand = StartPull | AbandonPull | SendKv | DropPeer
OnTransfer = Callable[[PullEnded | SendEnded], None]
TellWorker = Callable[[WorkerRef, Control], None]


class Mover:
    """`put` from any thread; `on_event` and `tell_worker` are called on the mover's thread."""

    def __init__(
        self,
        ref: WorkerRef,
        engine: Engine,
        transport: KvTransport,
        tell_worker: TellWorker,
        on_event: OnTransfer,
        tickets: Tickets = OPEN,
    ) -> None:
        self._ref = ref
        self._engine = engine
        self._transport = transport
        self._tell_worker = tell_worker
        self._on_event = on_event
        self._tickets = tickets
        self._pulls: dict[TransferId, StartPull] = {}
        self._sends: dict[tuple[TransferId, WorkerRef], memoryview] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mover")
        self._granule_bytes = GRANULE_TOKENS * engine.kv.bytes_per_token

    def start(self) -> None:
        self._transport.start(
            on_arrival=lambda arrival: self._later(self._arrived, arrival),
            on_failure=lambda transfer, error: self._later(self._failed, transfer, error),
            on_sent=lambda transfer, requester, error: self._later(self._sent, transfer, requester, error),
        )

    def put(self, command: TransferCommand) -> None:
        match command:
            case StartPull():
                self._later(self._pull, command)
            case AbandonPull():
                self._later(self._transport.abandon, command.transfer)
            case SendKv():
                self._later(self._send, command)
            case DropPeer():
                self._later(self._transport.drop_peer, command.peer)

    def stop(self) -> None:
        self._thread.submit(self._transport.close).result()
        self._thread.shutdown()

    def _later(self, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        future = self._thread.submit(step, *args, **kwargs)
        future.add_done_callback(lambda done: log.error("a transfer step failed", exc_info=error) if (error := done.exception()) else None)

    # -- receiving

    def _pull(self, pull: StartPull) -> None:
        nbytes = len(pull.span) * self._engine.kv.bytes_per_token
        try:
            address = self._transport.receive(pull.transfer, pull.source, nbytes, pull.deadline_s)
        except TransportError as error:
            self._on_event(PullEnded(pull.transfer, 0, 0, 0.0, str(error)))
            return
        self._pulls[pull.transfer] = pull
        fingerprint = self._engine.kv.fingerprint
        asked = Pull(pull.transfer, pull.assist, pull.request_id, pull.attempt, pull.span, self._ref, address, fingerprint)
        self._tell_worker(pull.source, self._tickets.signed(asked, pull.source))

    def _arrived(self, arrival: Arrival) -> None:
        pull = self._pulls.pop(arrival.transfer, None)
        if pull is None:
            arrival.release()
            return
        fingerprint = self._engine.kv.fingerprint
        expected = Expected(pull.transfer, pull.request_id, pull.attempt, pull.span, fingerprint, self._granule_bytes)
        good, bad, why = good_prefix(arrival.header, arrival.payload, expected)
        if bad:
            told = {"request": pull.request_id, "attempt": pull.attempt}
            log.warning("transfer %d from %s: %d bad granules: %s", pull.transfer, pull.source, len(bad), why, extra=told)
        nbytes = len(arrival.payload)
        try:
            if good and pull.blocks:
                span = TokenSpan(pull.span.start, pull.span.start + good)
                self._engine.scatter(pull.blocks, span, arrival.payload[: good * self._engine.kv.bytes_per_token])
        except Exception as error:
            # Every pull ends in exactly one event, or its blocks would stay in flight for ever.
            log.exception("transfer %d arrived but could not be copied in", pull.transfer)
            good, why = 0, f"{type(error).__name__}: {error}"
        arrival.release()
        self._on_event(PullEnded(pull.transfer, good, nbytes, arrival.seconds, why))

    def _failed(self, transfer: TransferId, error: str) -> None:
        if self._pulls.pop(transfer, None) is not None:
            self._on_event(PullEnded(transfer, 0, 0, 0.0, error))

    # -- sending

    def _send(self, send: SendKv) -> None:
        try:
            payload = self._transport.stage(len(send.span) * self._engine.kv.bytes_per_token)
        except TransportError as error:
            self._tell_worker(send.requester, PullRefused(send.transfer, self._ref, str(error)))
            self._on_event(SendEnded(send.transfer, send.requester, str(error)))
            return
        self._sends[send.transfer, send.requester] = payload
        try:
            self._fill(send, payload)
            self._transport.send(self._header(send, payload), send.requester, send.address, payload, SEND_DEADLINE_S)
        except Exception as error:
            # Every send ends in exactly one event, for the same reason; the receiver's deadline does the rest.
            log.exception("transfer %d could not be sent", send.transfer)
            self._sent(send.transfer, send.requester, f"{type(error).__name__}: {error}")

    def _fill(self, send: SendKv, payload: memoryview) -> None:
        """A trial has no blocks: nobody's KV leaves with it, nor what the arena held before."""
        if send.blocks:
            self._engine.gather(send.blocks, send.span, payload)
        else:
            payload[:] = bytes(len(payload))

    def _header(self, send: SendKv, payload: memoryview) -> TransferHeader:
        return TransferHeader(
            transfer=send.transfer,
            request_id=send.request_id,
            attempt=send.attempt,
            span=send.span,
            fingerprint=self._engine.kv.fingerprint,
            granule_bytes=self._granule_bytes,
            digests=granule_digests(payload, self._granule_bytes),
        )

    def _sent(self, transfer: TransferId, requester: WorkerRef, error: str) -> None:
        payload = self._sends.pop((transfer, requester), None)
        if payload is not None:
            self._transport.unstage(payload)
            self._on_event(SendEnded(transfer, requester, error))
