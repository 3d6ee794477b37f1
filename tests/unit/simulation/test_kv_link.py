"""The simulated wires keep the transport's promises: one end for each transfer, quarantine until nothing can write any more."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.simulation.devices import HIGH_END
from scheduler.simulation.faults import PlannedFault, Scenario, Schedule
from scheduler.simulation.kv_link import SimTransport
from scheduler.simulation.process import Process
from scheduler.simulation.steps import Fault, Step
from scheduler.simulation.world import World
from shared.types import TokenSpan, TransferId, WorkerId, WorkerRef
from workers.transport import Arrival, TransferHeader

BYTES = 1024


@dataclass
class End:
    """One worker's side, and what it was told."""

    world: World
    name: str
    arrivals: list[bytes] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.process = Process(self.world, self.name)
        self.ref = WorkerRef(WorkerId(self.name), "1")
        self.transport = SimTransport(self.process, self.ref, self.world.wires, HIGH_END)
        self.transport.start(self._arrived, lambda _, why: self.failures.append(why), lambda _, __, error: self.sent.append(error))

    def _arrived(self, arrival: Arrival) -> None:
        self.arrivals.append(bytes(arrival.payload))
        arrival.release()

    def send(self, to: End, transfer: int = 1) -> None:
        payload = self.transport.stage(BYTES)
        payload[:] = b"k" * BYTES
        header = TransferHeader(TransferId(transfer), "r", 1, TokenSpan(0, 64), b"", BYTES, ())
        self.transport.send(header, to.ref, b"", payload, 30.0)


def ends(*faults: Fault) -> tuple[World, End, End]:
    planned = tuple(PlannedFault(Step.TRANSFER, number, fault) for number, fault in enumerate(faults, 1))
    world = World(Schedule(1, Scenario(), planned))
    return world, End(world, "from"), End(world, "to")


def test_bytes_arrive_and_the_staging_memory_is_free_again() -> None:
    world, sender, receiver = ends()
    receiver.transport.receive(TransferId(1), sender.ref, BYTES, 2.0)
    sender.send(receiver)
    world.advance(5.0)
    assert receiver.arrivals == [b"k" * BYTES]
    assert sender.sent == [""]
    receiver.transport.check(idle=True)


def test_a_lost_transfer_ends_at_its_deadline_and_stays_quarantined() -> None:
    world, sender, receiver = ends(Fault.LOST)
    receiver.transport.receive(TransferId(1), sender.ref, BYTES, 2.0)
    sender.send(receiver)
    world.advance(5.0)
    assert receiver.arrivals == []
    assert receiver.failures == ["deadline"]
    assert receiver.transport.arena.quarantined_bytes > 0
    receiver.transport.drop_peer(sender.ref)
    assert receiver.transport.arena.quarantined_bytes == 0


def test_a_late_write_lands_in_quarantine_and_tells_nobody() -> None:
    world, sender, receiver = ends(Fault.LATE_WRITE)
    receiver.transport.receive(TransferId(1), sender.ref, BYTES, 0.5)
    sender.send(receiver)
    world.advance(20.0)
    assert receiver.arrivals == []
    assert receiver.failures == ["deadline"]
    assert receiver.transport.arena.quarantined_bytes == 0


def test_a_duplicate_finds_no_receive_any_more() -> None:
    world, sender, receiver = ends(Fault.DUPLICATED)
    receiver.transport.receive(TransferId(1), sender.ref, BYTES, 2.0)
    sender.send(receiver)
    world.advance(5.0)
    assert receiver.arrivals == [b"k" * BYTES]


def test_truncated_and_corrupted_bytes_are_other_bytes() -> None:
    world, sender, receiver = ends(Fault.TRUNCATED, Fault.CORRUPTED)
    for transfer in (1, 2):
        receiver.transport.receive(TransferId(transfer), sender.ref, BYTES, 2.0)
        sender.send(receiver, transfer)
    world.advance(5.0)
    short, wrong = sorted(receiver.arrivals, key=len)
    assert len(short) < BYTES
    assert len(wrong) == BYTES
    assert wrong != b"k" * BYTES


def test_a_killed_sender_sends_nothing_more() -> None:
    world, sender, receiver = ends()
    receiver.transport.receive(TransferId(1), sender.ref, BYTES, 2.0)
    sender.send(receiver)
    sender.process.alive = False
    world.advance(5.0)
    assert receiver.failures == ["deadline"]
