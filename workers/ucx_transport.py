"""KV transport over UCX: shared memory on one host, TCP or RDMA between hosts, as UCX finds. See `docs/transport.md`."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from functools import partial

from shared.errors import ConfigError, TransportError
from shared.types import TransferId, WorkerRef
from workers.transport import OnArrival, OnFailure, OnSent, TransferHeader
from workers.ucx_binding import Context, version
from workers.ucx_board import STUCK_S, Board, Callbacks
from workers.ucx_inbound import Expected
from workers.ucx_outbound import Sending
from workers.ucx_progress import ProgressThread
from workers.ucx_staging import PinnedArena
from workers.ucx_wire import segments

log = logging.getLogger("headstart.transport")

_DEFAULTS = {"RNDV_THRESH": "inf", "POSIX_FIFO_SIZE": "64", "SYSV_FIFO_SIZE": "64"}
"""No rendezvous: it makes the receiver answer each message, and UCX 1.21 crashes (`ucp_proto_rndv_send_reply`) if its sender has
just died. Eager messages need no answer; over shared memory both measured alike. FIFOs of 64 times 8 KiB stay in a core's second
cache, where UCX's 256 do not: 5 to 10 % more bytes a second. What the environment says (`UCX_RNDV_THRESH`, ...) wins."""

_CMA_ALIASES = {"all": "^cma", "sm": "posix,sysv", "shm": "posix,sysv"}


class UcxTransport:
    """`KvTransport` by UCX's tag matching, with one UCX worker per peer incarnation and direction.

    `receive`, `stage` and `unstage` answer at once, except that the first transfer with an incarnation makes its UCX worker
    (some ten milliseconds). Everything else is done by the progress thread, which also makes all callbacks.
    """

    def __init__(self, ref: WorkerRef, arena_bytes: int, *, stuck_s: float = STUCK_S) -> None:
        """`stuck_s`: how long the late bytes of a transfer given up are waited for before its link is destroyed."""
        self._ref, self._stuck_s = ref, stuck_s
        self._staging = PinnedArena(arena_bytes)
        self._thread: ProgressThread | None = None
        self._context: Context | None = None

    def start(self, on_arrival: OnArrival, on_failure: OnFailure, on_sent: OnSent) -> None:
        """Raises `TransportError` if UCX is not there, `ConfigError` for a `UCX_TLS` that cannot be served."""
        options = ucx_options(os.environ)
        context = self._context = Context(options)
        callbacks = Callbacks(on_arrival, on_failure, on_sent)
        self._thread = ProgressThread(lambda: Board(context, self._staging, callbacks, self._stuck_s), f"kv-transport {self._ref}")
        self._thread.start()
        log.info("%s transfers KV by UCX %s with %s, arena %r", self._ref, version(), options, self._staging)

    def receive(self, transfer: TransferId, sender: WorkerRef, nbytes: int, deadline_s: float) -> bytes:
        """Expects `nbytes` of payload from `sender` within `deadline_s` seconds; returns the address to put into `Pull`."""
        segments(nbytes)
        region = self._staging.allocate(nbytes)
        now = time.monotonic()
        try:
            expected = Expected(transfer, region, nbytes, now, now + deadline_s)
            return self._running().ask(lambda board: board.expect(sender, expected))
        except TransportError:
            self._staging.release(region)
            raise

    def abandon(self, transfer: TransferId) -> None:
        self._running().tell(lambda board: board.abandon(transfer))

    def send(self, header: TransferHeader, requester: WorkerRef, address: bytes, payload: memoryview, deadline_s: float) -> None:
        """Sends header and payload within `deadline_s` seconds. With `header.error`, the header alone."""
        sending = Sending(header, payload, self._staging.region_of(payload), time.monotonic() + deadline_s)
        self._running().tell(partial(Board.send, requester=requester, address=address, sending=sending))

    def stage(self, nbytes: int) -> memoryview:
        return self._staging.allocate(nbytes).view if nbytes else memoryview(bytearray())

    def unstage(self, payload: memoryview) -> None:
        """Gives a send buffer back; one that UCX may still read is quarantined until it no longer does."""
        if not len(payload):
            return
        region = self._staging.region_of(payload)
        if region is None:
            raise TransportError("not a send buffer of this arena, or already given back")
        self._staging.release(region)

    def drop_peer(self, peer: WorkerRef) -> None:
        self._running().tell(lambda board: board.drop(peer))

    def close(self) -> None:
        """Ends what is under way (as failed), destroys every UCX worker, ends the thread. May be called twice."""
        if self._thread is not None:
            self._thread.stop()
            self._thread = None
        if self._context is not None:
            self._context.close()
            self._context = None

    @property
    def arena(self) -> PinnedArena:
        """For figures and conservation checks."""
        return self._staging

    @property
    def operations(self) -> int:
        """Sends and receives that UCX has started and not completed, late ones included."""
        return self._running().ask(lambda board: board.flying)

    def _running(self) -> ProgressThread:
        if self._thread is None:
            raise TransportError("the transport is not running")
        return self._thread


def ucx_options(environment: Mapping[str, str]) -> dict[str, str]:
    """What UCX is told beyond its own defaults. Raises `ConfigError` for a `UCX_TLS` that cannot be served."""
    defaults = {name: value for name, value in _DEFAULTS.items() if f"UCX_{name}" not in environment}
    return {"TLS": without_cma(environment.get("UCX_TLS", "all")), **defaults}


def without_cma(transports: str) -> str:
    """`UCX_TLS` as the user set it, but never with CMA: with it, a killed sender takes the receiver down (8 of 8 times).

    Raises `ConfigError` if nothing is left.
    """
    if transports.startswith("^"):
        names = transports[1:].split(",")
        return transports if "cma" in names else f"{transports},cma"
    allowed = [_CMA_ALIASES.get(name, name) for name in transports.split(",") if name != "cma"]
    if "^cma" in allowed:
        return "^cma"
    if not allowed:
        raise ConfigError("UCX_TLS=cma leaves no transport: a killed sender would abort its receivers; use e.g. UCX_TLS=shm,tcp")
    return ",".join(allowed)
