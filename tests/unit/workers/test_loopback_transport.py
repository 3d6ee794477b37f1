"""The loopback's faults: what each one does to the bytes, and to the memory they were meant for."""

from __future__ import annotations

import pytest

from shared.errors import TransportError
from shared.types import TokenSpan, TransferId, WorkerId, WorkerRef
from workers.loopback_transport import Fault, LoopbackHub, LoopbackTransport
from workers.transport import Arrival, TransferHeader

GIVER, OWNER = WorkerRef(WorkerId("giver"), "1"), WorkerRef(WorkerId("owner"), "1")
T = TransferId(1)


class Wire:
    """A giver that sends 64 bytes to an owner."""

    def __init__(self, *, immediate: bool = False) -> None:
        self.hub = LoopbackHub(immediate=immediate, link_s=0.01)
        self.giver, self.owner = LoopbackTransport(self.hub, GIVER, 1 << 16), LoopbackTransport(self.hub, OWNER, 1 << 16)
        self.arrivals: list[Arrival] = []
        self.failures: list[str] = []
        self.sent: list[str] = []
        for transport in (self.giver, self.owner):
            transport.start(
                self.arrivals.append,
                lambda _, error: self.failures.append(error),
                lambda _transfer, _requester, error: self.sent.append(error),
            )

    def transfer(self, transfer: TransferId = T, deadline_s: float = 2.0) -> memoryview:
        address = self.owner.receive(transfer, GIVER, 64, deadline_s)
        payload = self.giver.stage(64)
        payload[:] = bytes(range(64))
        self.giver.send(TransferHeader(transfer, "r", 1, TokenSpan(0, 64), b"", 64, (0,)), OWNER, address, payload, 5.0)
        return payload

    def check(self) -> None:
        self.giver.check()
        self.owner.check()


def test_bytes_take_the_links_time() -> None:
    wire = Wire()
    wire.transfer()
    wire.hub.advance(0.009)
    assert not wire.arrivals
    wire.hub.advance(0.01)
    assert bytes(wire.arrivals[0].payload) == bytes(range(64))
    assert wire.arrivals[0].seconds == pytest.approx(0.01)


def test_an_immediate_hub_delivers_while_it_sends() -> None:
    wire = Wire(immediate=True)
    wire.transfer()
    assert (len(wire.arrivals), wire.sent) == (1, [""])


def test_bytes_are_read_when_they_land_not_when_they_are_sent() -> None:
    wire = Wire()
    payload = wire.transfer()
    payload[0] = 99
    wire.hub.advance(1.0)
    assert wire.arrivals[0].payload[0] == 99


def test_a_buffer_that_is_being_sent_cannot_be_given_back() -> None:
    wire = Wire()
    payload = wire.transfer()
    with pytest.raises(TransportError, match="still being sent"):
        wire.giver.unstage(payload)
    wire.hub.advance(1.0)
    wire.giver.unstage(payload)
    assert wire.giver.arena.free_bytes == wire.giver.arena.capacity


@pytest.mark.parametrize(
    ("fault", "payload"),
    [
        (Fault(truncate_to=10), bytes(range(10))),
        (Fault(corrupt=(0, 63)), bytes([255, *range(1, 63), 192])),
        (Fault(duplicate=True), bytes(range(64))),
        (Fault(delay_s=0.5), bytes(range(64))),
    ],
)
def test_what_arrives_of_a_faulty_send(fault: Fault, payload: bytes) -> None:
    wire = Wire()
    wire.hub.inject(fault)
    wire.transfer()
    wire.hub.advance(1.0)
    assert [bytes(arrival.payload) for arrival in wire.arrivals] == [payload]
    assert wire.sent == [""]
    wire.check()


def test_a_lost_send_is_a_success_to_its_sender_and_a_deadline_to_its_receiver() -> None:
    wire = Wire()
    wire.hub.inject(Fault(lose=True))
    wire.transfer()
    wire.hub.advance(3.0)
    assert (wire.sent, wire.failures, wire.arrivals) == ([""], ["deadline"], [])
    assert wire.owner.arena.quarantined_bytes == 4096
    wire.owner.drop_peer(GIVER)
    assert wire.owner.arena.free_bytes == wire.owner.arena.capacity


def test_a_sender_that_wakes_writes_into_quarantined_memory_and_nowhere_else() -> None:
    wire = Wire()
    wire.hub.inject(Fault(stall=True))
    wire.transfer()
    wire.hub.advance(3.0)
    assert (wire.sent, wire.failures) == ([], ["deadline"])
    other = wire.owner.arena.allocate(64)
    wire.hub.wake(GIVER)
    wire.hub.advance(4.0)
    assert bytes(other.view) == bytes(64)
    assert (wire.sent, wire.arrivals) == ([""], [])
    assert wire.owner.arena.quarantined_bytes == 0
    wire.check()


def test_a_sender_that_wakes_after_its_peer_was_dropped_reaches_nobody() -> None:
    wire = Wire()
    wire.hub.inject(Fault(stall=True))
    wire.transfer()
    wire.owner.drop_peer(GIVER)
    wire.hub.wake(GIVER)
    wire.hub.advance(1.0)
    assert (wire.failures, wire.arrivals) == (["peer lost"], [])


def test_a_rule_strikes_only_what_it_names_and_as_often_as_it_says() -> None:
    wire = Wire()
    wire.hub.inject(Fault(lose=True), transfer=TransferId(2), sender=GIVER, requester=OWNER)
    for number in (1, 2, 3):
        wire.transfer(TransferId(number))
    wire.hub.advance(1.0)
    assert [arrival.transfer for arrival in wire.arrivals] == [1, 3]


def test_a_closed_receiver_is_gone_for_its_sender() -> None:
    wire = Wire()
    wire.transfer()
    wire.owner.close()
    wire.hub.advance(1.0)
    assert wire.sent == [f"{OWNER} is gone"]


def test_a_closed_sender_ends_what_it_was_sending() -> None:
    wire = Wire()
    wire.transfer()
    wire.giver.close()
    wire.hub.advance(3.0)
    assert (wire.sent, wire.failures) == (["peer lost"], ["deadline"])


def test_a_wrong_address_is_refused() -> None:
    wire = Wire()
    with pytest.raises(TransportError, match="is no address of"):
        wire.giver.send(TransferHeader(T, "r", 1, TokenSpan(0, 64), b"", 64, ()), OWNER, b"elsewhere", memoryview(b""), 1.0)


def test_two_releases_of_one_arrival_are_a_bug_that_is_named() -> None:
    wire = Wire()
    wire.transfer()
    wire.hub.advance(1.0)
    wire.arrivals[0].release()
    with pytest.raises(AssertionError, match="is not held"):
        wire.arrivals[0].release()
