"""The wires between workers under the virtual clock: a `KvTransport` with the arena, the quarantine and the faults of a real one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from scheduler.simulation.process import Process
from scheduler.simulation.steps import Fault, Step
from shared.profile import Profile
from shared.types import TransferId, WorkerRef
from workers.staging import Region, StagingArena
from workers.transport import Arrival, OnArrival, OnFailure, OnSent, TransferHeader

ARENA_BYTES = 1 << 17


@dataclass(slots=True)
class _Receive:
    region: Region
    sender: WorkerRef
    posted: float
    wanted: bool = True


@dataclass(slots=True)
class _Send:
    """`landed` once the bytes are on the other side or lost on the way: the payload is read until then."""

    header: TransferHeader
    requester: WorkerRef
    payload: memoryview
    ended: bool = False


Wires = dict[WorkerRef, "SimTransport"]
"""Who can be reached: shared by all transports of a world."""


class SimTransport:
    """One incarnation's end of the wires. Bytes are read from the sender's memory when they land, not before."""

    def __init__(self, process: Process, ref: WorkerRef, wires: Wires, profile: Profile) -> None:
        self._process = process
        self._ref = ref
        self._wires = wires
        self._profile = profile
        self.arena = StagingArena(memoryview(bytearray(ARENA_BYTES)))
        self._receives: dict[TransferId, _Receive] = {}
        self._sends: list[_Send] = []
        self._staged: dict[int, Region] = {}
        wires[ref] = self

    def start(self, on_arrival: OnArrival, on_failure: OnFailure, on_sent: OnSent) -> None:
        self._on_arrival, self._on_failure, self._on_sent = on_arrival, on_failure, on_sent

    # -- receiving

    def receive(self, transfer: TransferId, sender: WorkerRef, nbytes: int, deadline_s: float) -> bytes:
        self._receives[transfer] = _Receive(self.arena.allocate(nbytes), sender, self._process.world.now)
        self._process.after(deadline_s, lambda: self._give_up(transfer, "deadline"))
        return str(self._ref).encode()

    def abandon(self, transfer: TransferId) -> None:
        self._give_up(transfer, "abandoned")

    def _give_up(self, transfer: TransferId, why: str) -> None:
        receive = self._receives.get(transfer)
        if receive is not None and receive.wanted:
            receive.wanted = False
            self.arena.quarantine(receive.region)
            self._on_failure(transfer, why)

    def land(self, header: TransferHeader, data: bytes) -> None:
        """Bytes come out of the wire into the region that was posted for them, wanted or not."""
        receive = self._receives.pop(header.transfer, None)
        if receive is None:
            return
        region = receive.region
        region.view[: len(data)] = data[: region.nbytes]
        if not receive.wanted:
            self.arena.lift(region)
            return
        seconds = self._process.world.now - receive.posted
        arrival = Arrival(header.transfer, header, region.view[: len(data)], seconds, lambda: self.arena.free(region))
        self._process.moment(Step.WORKER_RECEIVING, lambda: self._on_arrival(arrival))

    # -- sending

    def stage(self, nbytes: int) -> memoryview:
        region = self.arena.allocate(nbytes)
        self._staged[id(region.view)] = region
        return region.view

    def unstage(self, payload: memoryview) -> None:
        self.arena.free(self._staged.pop(id(payload)))

    def send(self, header: TransferHeader, requester: WorkerRef, address: bytes, payload: memoryview, deadline_s: float) -> None:
        send = _Send(header, requester, payload)
        self._sends.append(send)
        fault = self._process.world.plan.strike(Step.TRANSFER)
        half = self._profile.link_s / 2 + len(payload) / self._profile.link_bytes_per_s / 2
        if fault is Fault.LATE_WRITE:
            half += self._process.world.rng.uniform(1.0, 4.0)
        arrives = partial(self._process.after, half, partial(self._sent, send, fault))
        self._process.after(half, partial(self._process.moment, Step.WORKER_SENDING, arrives))
        self._process.after(deadline_s, lambda: self._end(send, "deadline"))

    def _sent(self, send: _Send, fault: Fault | None) -> None:
        """The bytes leave the wire; a requester that is dead never takes them, and then only its end or the deadline ends the send."""
        peer = self._wires.get(send.requester)
        if send.ended or peer is None:
            return
        delay = 0.0
        for data in self._as_received(bytes(send.payload), fault):
            self._process.tell(f"moves {len(data)} bytes to {send.requester}", send.header.transfer)
            self._process.world.after(delay, partial(peer.run_land, send.header, data))
            delay = self._process.world.rng.uniform(0.1, 4.0)
        self._end(send, "")

    def run_land(self, header: TransferHeader, data: bytes) -> None:
        self._process.run(lambda: self.land(header, data))

    def _as_received(self, data: bytes, fault: Fault | None) -> tuple[bytes, ...]:
        if fault is Fault.LOST:
            return ()
        if fault is Fault.TRUNCATED:
            return (data[: self._process.world.rng.randrange(len(data))],)
        if fault is Fault.CORRUPTED:
            at = self._process.world.rng.randrange(len(data))
            return (data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :],)
        return (data, data) if fault is Fault.DUPLICATED else (data,)

    def _end(self, send: _Send, error: str) -> None:
        if not send.ended:
            send.ended = True
            self._sends.remove(send)
            self._on_sent(send.header.transfer, send.requester, error)

    # -- the end of a peer, or of oneself

    def drop_peer(self, peer: WorkerRef) -> None:
        for transfer, receive in list(self._receives.items()):
            if receive.sender == peer:
                self._give_up(transfer, "peer lost")
                self.arena.lift(self._receives.pop(transfer).region)
        for send in [send for send in self._sends if send.requester == peer]:
            self._end(send, "peer lost")

    def close(self) -> None:
        self._wires.pop(self._ref, None)

    def check(self, idle: bool) -> None:
        """Conservation of the arena; when the worker is idle nothing is held."""
        self.arena.check()
        if idle and self.arena.held_bytes:
            raise AssertionError(f"{self._ref} is idle and holds staging memory: {self.arena!r}")
