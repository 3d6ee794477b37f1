"""What every KV transport promises. To add one: a factory in `TRANSPORTS`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import pytest

from shared.errors import TransportError
from shared.types import TokenSpan, TransferId, WorkerId, WorkerRef
from workers.loopback_transport import LoopbackHub, LoopbackTransport
from workers.transport import Arrival, KvTransport, TransferHeader
from workers.ucx_transport import UcxTransport
from workers.verify import Expected, good_prefix, granule_digests

GRANULE_BYTES = 1024
ARENA_BYTES = 1 << 20
GIVER, OWNER = WorkerRef(WorkerId("giver"), "1"), WorkerRef(WorkerId("owner"), "1")


@dataclass
class End:
    """One transport and what it called back."""

    ref: WorkerRef
    transport: KvTransport
    arrivals: list[Arrival] = field(default_factory=list)
    failures: list[tuple[TransferId, str]] = field(default_factory=list)
    sent: list[tuple[TransferId, WorkerRef, str]] = field(default_factory=list)

    def start(self) -> None:
        self.transport.start(
            self.arrivals.append,
            lambda transfer, error: self.failures.append((transfer, error)),
            lambda transfer, requester, error: self.sent.append((transfer, requester, error)),
        )


@dataclass
class Pair:
    giver: End
    owner: End
    pump: Callable[[float], None]
    """Lets this many seconds pass, or moves the clock by them."""

    def wait(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        passed = 0.0
        while not condition():
            assert passed < seconds, f"not within {seconds} s; failures {self.owner.failures}, sent {self.giver.sent}"
            self.pump(0.005)
            passed += 0.005


PairFactory = Callable[[], AbstractContextManager[Pair]]
"""Two started transports with an arena of `ARENA_BYTES` each."""


@contextmanager
def loopback() -> Iterator[Pair]:
    hub = LoopbackHub(link_s=0.001, bytes_per_s=1e9)
    giver, owner = (End(ref, LoopbackTransport(hub, ref, ARENA_BYTES)) for ref in (GIVER, OWNER))
    for end in (giver, owner):
        end.start()
    yield Pair(giver, owner, lambda seconds: hub.advance(hub.now + seconds))
    for end in (giver, owner):
        end.transport.close()


def real_time(seconds: float) -> None:
    """`pump` for transports with threads of their own."""
    time.sleep(seconds)


@contextmanager
def ucx() -> Iterator[Pair]:
    giver, owner = (End(ref, UcxTransport(ref, ARENA_BYTES)) for ref in (GIVER, OWNER))
    for end in (giver, owner):
        end.start()
    yield Pair(giver, owner, real_time)
    for end in (giver, owner):
        end.transport.close()


TRANSPORTS: list[tuple[str, PairFactory]] = [("loopback", loopback), ("ucx", ucx)]


@pytest.fixture(params=[factory for _, factory in TRANSPORTS], ids=[name for name, _ in TRANSPORTS])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with request.param() as pair:
        yield pair


def send(pair: Pair, transfer: TransferId, address: bytes, granules: int, salt: int = 0, error: str = "") -> memoryview:
    payload = pair.giver.transport.stage(granules * GRANULE_BYTES)
    payload[:] = content(granules, salt)
    span = TokenSpan(0, 64 * granules)
    digests = granule_digests(payload, GRANULE_BYTES)
    header = TransferHeader(transfer, "r", 1, span, b"layout", GRANULE_BYTES, digests, error)
    pair.giver.transport.send(header, OWNER, address, payload, 5.0)
    return payload


def content(granules: int, salt: int) -> bytes:
    return bytes((at * 7 + at // 251 + salt) % 256 for at in range(granules * GRANULE_BYTES))


@pytest.mark.parametrize("granules", [1, 3, 100])
def test_what_is_sent_arrives_and_proves_itself(pair: Pair, granules: int) -> None:
    transfer = TransferId(1)
    address = pair.owner.transport.receive(transfer, GIVER, granules * GRANULE_BYTES, 5.0)
    payload = send(pair, transfer, address, granules)
    pair.wait(lambda: bool(pair.owner.arrivals and pair.giver.sent))
    arrival = pair.owner.arrivals[0]
    expected = Expected(transfer, "r", 1, TokenSpan(0, 64 * granules), b"layout", GRANULE_BYTES)
    assert good_prefix(arrival.header, arrival.payload, expected) == (64 * granules, (), "")
    assert bytes(arrival.payload) == content(granules, 0)
    assert pair.giver.sent == [(transfer, OWNER, "")]
    arrival.release()
    pair.giver.transport.unstage(payload)
    assert not pair.owner.failures


def test_two_transfers_do_not_mix(pair: Pair) -> None:
    first, second = TransferId(1), TransferId(2)
    addresses = [pair.owner.transport.receive(transfer, GIVER, 4 * GRANULE_BYTES, 5.0) for transfer in (first, second)]
    send(pair, second, addresses[1], 4, salt=2)
    send(pair, first, addresses[0], 4, salt=1)
    pair.wait(lambda: len(pair.owner.arrivals) == 2)
    assert {arrival.transfer: bytes(arrival.payload) for arrival in pair.owner.arrivals} == {
        first: content(4, 1),
        second: content(4, 2),
    }


def test_a_receive_nobody_answers_fails_once_at_its_deadline(pair: Pair) -> None:
    pair.owner.transport.receive(TransferId(1), GIVER, GRANULE_BYTES, 0.05)
    pair.wait(lambda: bool(pair.owner.failures))
    pair.pump(0.1)
    assert [transfer for transfer, _ in pair.owner.failures] == [1]
    assert not pair.owner.arrivals


def test_an_abandoned_receive_fails_at_once_and_only_once(pair: Pair) -> None:
    pair.owner.transport.receive(TransferId(1), GIVER, GRANULE_BYTES, 0.2)
    pair.owner.transport.abandon(TransferId(1))
    pair.owner.transport.abandon(TransferId(1))
    pair.wait(lambda: bool(pair.owner.failures), seconds=0.15)
    pair.pump(0.3)
    assert len(pair.owner.failures) == 1


def test_a_late_sender_reaches_nobody(pair: Pair) -> None:
    """The owner has given up; the bytes come all the same: no arrival, and the giver gets its buffer back."""
    address = pair.owner.transport.receive(TransferId(1), GIVER, GRANULE_BYTES, 5.0)
    pair.owner.transport.abandon(TransferId(1))
    pair.wait(lambda: bool(pair.owner.failures))
    send(pair, TransferId(1), address, 1)
    pair.wait(lambda: bool(pair.giver.sent), seconds=6.0)
    assert not pair.owner.arrivals


def test_what_is_abandoned_is_reused_only_when_nothing_can_write_to_it(pair: Pair) -> None:
    """A transport that can take an unbegun receive back may reuse its region at once; one that cannot says the arena is full."""
    granules = (ARENA_BYTES - 2 * 4096) // GRANULE_BYTES
    old = pair.owner.transport.receive(TransferId(1), GIVER, granules * GRANULE_BYTES, 5.0)
    pair.owner.transport.abandon(TransferId(1))
    pair.wait(lambda: bool(pair.owner.failures))
    giver = GIVER
    try:
        address = pair.owner.transport.receive(TransferId(2), giver, granules * GRANULE_BYTES, 5.0)
    except TransportError:
        pair.owner.transport.drop_peer(GIVER)
        pair.owner.transport.receive(TransferId(3), WorkerRef(WorkerId("giver"), "2"), granules * GRANULE_BYTES, 5.0)
        return
    first = send(pair, TransferId(1), old, granules, salt=1)
    pair.wait(lambda: bool(pair.giver.sent))
    pair.giver.transport.unstage(first)
    send(pair, TransferId(2), address, granules, salt=2)
    pair.wait(lambda: bool(pair.owner.arrivals))
    (arrival,) = pair.owner.arrivals
    assert (arrival.transfer, bytes(arrival.payload)) == (TransferId(2), content(granules, 2))


def test_a_dead_peer_fails_what_was_posted_for_it(pair: Pair) -> None:
    pair.owner.transport.receive(TransferId(1), GIVER, GRANULE_BYTES, 30.0)
    pair.owner.transport.drop_peer(GIVER)
    pair.wait(lambda: bool(pair.owner.failures))
    assert [transfer for transfer, _ in pair.owner.failures] == [1]


def test_a_full_arena_says_so(pair: Pair) -> None:
    with pytest.raises(TransportError):
        pair.owner.transport.receive(TransferId(1), GIVER, 2 * ARENA_BYTES, 5.0)
    with pytest.raises(TransportError):
        pair.giver.transport.stage(2 * ARENA_BYTES)


def test_a_sender_that_sends_nothing_says_why(pair: Pair) -> None:
    address = pair.owner.transport.receive(TransferId(1), GIVER, GRANULE_BYTES, 5.0)
    send(pair, TransferId(1), address, 1, error="no such assist")
    pair.wait(lambda: bool(pair.owner.arrivals or pair.owner.failures))
    expected = Expected(TransferId(1), "r", 1, TokenSpan(0, 64), b"layout", GRANULE_BYTES)
    believed = [good_prefix(arrival.header, arrival.payload, expected) for arrival in pair.owner.arrivals]
    assert believed in ([], [(0, (0,), "no such assist")])
    assert [reason for *_, reason in (*believed, *pair.owner.failures)] == ["no such assist"]


def test_a_freed_buffer_serves_again(pair: Pair) -> None:
    for _ in range(5):
        payload = pair.giver.transport.stage(ARENA_BYTES // 2)
        pair.giver.transport.unstage(payload)
