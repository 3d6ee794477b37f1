"""KV transfers within one process, with every fault on demand: the transport of tests, the simulator and one-process demos.

A `LoopbackHub` is the wire. With `immediate=True` bytes land while they are sent; else they take the link's time and land when
somebody moves the clock: `hub.advance(now)`. Deadlines and delays always wait for the clock, so it must be kept moving. Memory
behaves as with the real one: bytes are read from the sender's buffer when they land, they land in a staging region, and a
region given up stays in quarantine until nothing can write to it any more.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.errors import TransportError
from shared.types import TransferId, WorkerRef
from workers.staging import Region, StagingArena
from workers.transport import Arrival, OnArrival, OnFailure, OnSent, TransferHeader

DEFAULT_ARENA_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one send. Fields combine."""

    delay_s: float = 0.0
    lose: bool = False
    """The sender is told that all went well; nothing arrives."""
    truncate_to: int | None = None
    """Bytes of payload that arrive."""
    corrupt: tuple[int, ...] = ()
    """Offsets of payload bytes that arrive changed, as far as the payload reaches."""
    stall: bool = False
    """The sender sleeps until `hub.wake(sender)`, and writes then, whoever has given up meanwhile."""
    duplicate: bool = False
    header: Callable[[TransferHeader], TransferHeader] | None = None
    """Replaces the header: one of another attempt, say."""


NO_FAULT = Fault()


@dataclass(slots=True)
class _Rule:
    fault: Fault
    sender: WorkerRef | None
    requester: WorkerRef | None
    transfer: TransferId | None
    times: int

    def matches(self, send: _Sending) -> bool:
        wanted = (self.sender, self.requester, self.transfer)
        facts = (send.sender, send.requester, send.header.transfer)
        return self.times > 0 and all(want in (None, fact) for want, fact in zip(wanted, facts, strict=True))


@dataclass(eq=False, slots=True)
class _Sending:
    sender: WorkerRef
    requester: WorkerRef
    header: TransferHeader
    payload: memoryview
    fault: Fault = NO_FAULT
    over: bool = False


@dataclass(eq=False, slots=True)
class _Receiving:
    sender: WorkerRef
    region: Region
    posted: float
    given_up: bool = False


@dataclass(order=True, slots=True)
class _Due:
    at: float
    order: int
    action: Callable[[], None] = field(compare=False)


class LoopbackHub:
    """The wire between the transports of one process. Thread-safe; callbacks run on the thread that sends or advances."""

    def __init__(self, *, immediate: bool = False, link_s: float = 0.0, bytes_per_s: float = float("inf")) -> None:
        self.lock = threading.RLock()
        self.now = 0.0
        self._immediate = immediate
        self._link_s = link_s
        self._bytes_per_s = bytes_per_s
        self._peers: dict[WorkerRef, LoopbackTransport] = {}
        self._rules: list[_Rule] = []
        self._queue: list[_Due] = []
        self._order = 0
        self._stalled: list[_Sending] = []

    # -- time

    def advance(self, now: float) -> None:
        """Moves the clock to `now` and delivers everything that is due by then, in order."""
        while action := self._next_action(now):
            action()

    def next_due(self) -> float | None:
        """When the next delivery or deadline is due."""
        with self.lock:
            return self._queue[0].at if self._queue else None

    def _next_action(self, now: float) -> Callable[[], None] | None:
        with self.lock:
            if not self._queue or self._queue[0].at > now:
                self.now = max(self.now, now)
                return None
            due = heapq.heappop(self._queue)
            self.now = max(self.now, due.at)
            return due.action

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        with self.lock:
            self._order += 1
            heapq.heappush(self._queue, _Due(self.now + seconds, self._order, action))

    def soon(self, action: Callable[[], None]) -> None:
        """Now if deliveries are immediate, else with the next advance."""
        self.after(0.0, action)
        if self._immediate:
            self.advance(self.now)

    # -- faults

    def inject(
        self,
        fault: Fault,
        *,
        sender: WorkerRef | None = None,
        requester: WorkerRef | None = None,
        transfer: TransferId | None = None,
        times: int = 1,
    ) -> None:
        """The next `times` sends that match suffer this; rules apply in the order given, one per send."""
        with self.lock:
            self._rules.append(_Rule(fault, sender, requester, transfer, times))

    def wake(self, sender: WorkerRef) -> None:
        """A stalled sender goes on where it was: its bytes are written now."""
        with self.lock:
            awake = [send for send in self._stalled if send.sender == sender]
            self._stalled = [send for send in self._stalled if send.sender != sender]
        for send in awake:
            self.soon(lambda send=send: self._land(send))  # type: ignore[misc]

    def _fault_for(self, send: _Sending) -> Fault:
        for rule in self._rules:
            if rule.matches(send):
                rule.times -= 1
                return rule.fault
        return NO_FAULT

    # -- peers and bytes

    def join(self, ref: WorkerRef, transport: LoopbackTransport) -> None:
        with self.lock:
            self._peers[ref] = transport

    def leave(self, ref: WorkerRef) -> None:
        with self.lock:
            self._peers.pop(ref, None)

    def post(self, send: _Sending) -> None:
        with self.lock:
            send.fault = self._fault_for(send)
            if send.fault.stall:
                self._stalled.append(send)
                return
        self.after(self._seconds(send), lambda: self._land(send))
        if self._immediate:
            self.advance(self.now)

    def _seconds(self, send: _Sending) -> float:
        link = 0.0 if self._immediate else self._link_s + len(send.payload) / self._bytes_per_s
        return link + send.fault.delay_s

    def _land(self, send: _Sending) -> None:
        """The bytes reach the receiver, as they are in the sender's memory at this moment."""
        peer = self._peers.get(send.requester)
        if send.over:
            return
        if peer is not None and not send.fault.lose:
            for _ in range(2 if send.fault.duplicate else 1):
                peer.land(self._header(send), self._bytes(send), send.sender)
        self._peers[send.sender].sent(send, "" if peer is not None else f"{send.requester} is gone")

    def _header(self, send: _Sending) -> TransferHeader:
        return send.fault.header(send.header) if send.fault.header else send.header

    def _bytes(self, send: _Sending) -> bytearray:
        data = bytearray(() if send.header.error else send.payload)
        for offset in send.fault.corrupt:
            if offset < len(data):
                data[offset] ^= 0xFF
        return data if send.fault.truncate_to is None else data[: send.fault.truncate_to]


class LoopbackTransport:
    """`KvTransport` of one incarnation on a hub."""

    def __init__(self, hub: LoopbackHub, ref: WorkerRef, arena_bytes: int = DEFAULT_ARENA_BYTES) -> None:
        self.ref = ref
        self.arena = StagingArena(memoryview(bytearray(arena_bytes)))
        self._hub = hub
        self._receiving: dict[TransferId, _Receiving] = {}
        self._sending: list[_Sending] = []
        self._staged: dict[int, Region] = {}
        hub.join(ref, self)

    def start(self, on_arrival: OnArrival, on_failure: OnFailure, on_sent: OnSent) -> None:
        self._on_arrival, self._on_failure, self._on_sent = on_arrival, on_failure, on_sent

    # -- receiving

    def receive(self, transfer: TransferId, sender: WorkerRef, nbytes: int, deadline_s: float) -> bytes:
        with self._hub.lock:
            receiving = _Receiving(sender, self.landing_region(nbytes), self._hub.now)
            self._receiving[transfer] = receiving
        self._hub.after(deadline_s, lambda: self._give_up(transfer, receiving, "deadline"))
        return str(self.ref).encode()

    def landing_region(self, nbytes: int) -> Region:
        """Where bytes land before they are believed; a planted bug lets them land elsewhere."""
        return self.arena.allocate(nbytes)

    def abandon(self, transfer: TransferId) -> None:
        if receiving := self._receiving.get(transfer):
            self._hub.soon(lambda: self._give_up(transfer, receiving, "abandoned"))

    def _give_up(self, transfer: TransferId, receiving: _Receiving, why: str) -> None:
        """The caller is told at once. The region waits: whoever was asked to write there may still do so."""
        with self._hub.lock:
            if self._receiving.get(transfer) is not receiving or receiving.given_up:
                return
            receiving.given_up = True
            self.set_aside(receiving.region)
        self._on_failure(transfer, why)

    def set_aside(self, region: Region) -> None:
        self.arena.quarantine(region)

    def land(self, header: TransferHeader, data: bytearray, sender: WorkerRef) -> None:
        """Bytes come off the wire: into the region posted for this transfer, wanted or not; a duplicate meets none."""
        with self._hub.lock:
            receiving = self._receiving.get(header.transfer)
            if receiving is None or receiving.sender != sender:
                return
            del self._receiving[header.transfer]
            region = receiving.region
            count = min(len(data), len(region.view))
            region.view[:count] = data[:count]
            if receiving.given_up:
                self.arena.lift(region)
                return
        self._on_arrival(Arrival(header.transfer, header, region.view[:count], self._hub.now - receiving.posted, self._release(region)))

    def _release(self, region: Region) -> Callable[[], None]:
        def release() -> None:
            with self._hub.lock:
                self.arena.free(region)

        return release

    # -- sending

    def stage(self, nbytes: int) -> memoryview:
        with self._hub.lock:
            region = self.arena.allocate(nbytes)
            self._staged[id(region.view)] = region
            return region.view

    def unstage(self, payload: memoryview) -> None:
        with self._hub.lock:
            if any(send.payload is payload for send in self._sending):
                raise TransportError("the payload is still being sent")
            self.arena.free(self._staged.pop(id(payload)))

    def send(self, header: TransferHeader, requester: WorkerRef, address: bytes, payload: memoryview, deadline_s: float) -> None:
        """Raises `TransportError` if the address is not the requester's."""
        if address != str(requester).encode():
            raise TransportError(f"{address!r} is no address of {requester}")
        send = _Sending(self.ref, requester, header, payload)
        with self._hub.lock:
            self._sending.append(send)
        self._hub.post(send)

    def sent(self, send: _Sending, error: str) -> None:
        """The wire has let go of the payload."""
        with self._hub.lock:
            if send.over:
                return
            send.over = True
            self._sending.remove(send)
        self._on_sent(send.header.transfer, send.requester, error)

    # -- ends

    def drop_peer(self, peer: WorkerRef) -> None:
        """Every operation with this incarnation is over: what was posted for it fails, and quarantines are lifted."""
        for transfer in [transfer for transfer, receiving in self._receiving.items() if receiving.sender == peer]:
            self._give_up(transfer, self._receiving[transfer], "peer lost")
            with self._hub.lock:
                self.arena.lift(self._receiving.pop(transfer).region)
        for send in [send for send in self._sending if send.requester == peer]:
            self.sent(send, "peer lost")

    def close(self) -> None:
        for peer in {receiving.sender for receiving in self._receiving.values()} | {send.requester for send in self._sending}:
            self.drop_peer(peer)
        self._hub.leave(self.ref)

    def check(self) -> None:
        """The arena's books; what is held belongs to a transfer somebody knows of, or to an arrival not yet released."""
        self.arena.check()
        given_up = sum(receiving.region.size for receiving in self._receiving.values() if receiving.given_up)
        if self.arena.quarantined_bytes != given_up:
            raise AssertionError(f"{self.arena.quarantined_bytes} bytes in quarantine, {given_up} belong to abandoned receives")

    def __repr__(self) -> str:
        return f"<LoopbackTransport {self.ref} [receiving {len(self._receiving)} | sending {len(self._sending)}] {self.arena!r}>"
