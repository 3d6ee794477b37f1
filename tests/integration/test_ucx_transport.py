"""The UCX transport between real processes: what it carries, how it refuses, what it leaves behind."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator

import pytest

from shared.errors import ConfigError, TransportError
from shared.types import TransferId, WorkerId, WorkerRef
from tests.support.ucx_process import UcxProcess, ucx_processes
from tests.support.ucx_worker import header_of
from workers.transport import Arrival
from workers.ucx_transport import UcxTransport, ucx_options, without_cma
from workers.ucx_wire import SEGMENT_BYTES, pack_frame, segment, split_tag, tag, unpack_frame

MIB = 1 << 20
ARENA = 96 * MIB
SELF = WorkerRef(WorkerId("self"), "1")

pytestmark = pytest.mark.xdist_group("ucx")


@pytest.fixture
def pair() -> Iterator[tuple[UcxProcess, UcxProcess]]:
    with ucx_processes("receiver", "sender", arena_bytes=ARENA) as (receiver, sender):
        yield receiver, sender


def transfer(receiver: UcxProcess, sender: UcxProcess, number: int, nbytes: int, deadline_s: float = 30) -> None:
    address = receiver.ask("receive", transfer=number, sender=sender.ref, nbytes=nbytes, deadline_s=deadline_s)
    sender.ask("send", transfer=number, requester=receiver.ref, address=address, nbytes=nbytes, deadline_s=deadline_s)


def assert_arrived(receiver: UcxProcess, number: int, nbytes: int) -> None:
    arrived = receiver.wait("arrived", number)
    assert arrived["right"]
    assert arrived["nbytes"] == nbytes


def assert_empty_arena(process: UcxProcess) -> None:
    process.until("arena", lambda arena: arena == {"free": ARENA, "quarantined": 0})


@pytest.mark.parametrize("transports", ["", "tcp", "posix"])
def test_every_size_arrives_whole_over_shared_memory_and_over_tcp(transports: str) -> None:
    sizes = (1, 63, 8192, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES + 4097)
    environment = {"UCX_TLS": transports} if transports else None
    with ucx_processes("receiver", "sender", arena_bytes=ARENA, environment=environment) as (receiver, sender):
        for number, nbytes in enumerate(sizes, start=1):
            transfer(receiver, sender, number, nbytes)
            assert_arrived(receiver, number, nbytes)
            assert sender.wait("sent", number)["error"] == ""
        assert_empty_arena(receiver)
        assert_empty_arena(sender)
        assert (receiver.end(), sender.end()) == (0, 0)
        assert (receiver.stderr, sender.stderr) == ("", "")


def test_an_empty_payload_is_a_header_alone(pair: tuple[UcxProcess, UcxProcess]) -> None:
    receiver, sender = pair
    transfer(receiver, sender, 1, 0)
    assert_arrived(receiver, 1, 0)
    assert_empty_arena(receiver)


def test_two_hundred_transfers_of_mixed_sizes_both_ways_at_once(pair: tuple[UcxProcess, UcxProcess]) -> None:
    sizes = random.Random(7).choices([100, 9000, 70_000, MIB, 3 * MIB, 9 * MIB], [3, 3, 3, 3, 2, 1], k=200)
    ways = itertools.cycle([pair, pair[::-1]])
    under_way: list[tuple[UcxProcess, UcxProcess, int, int]] = []
    for number, (nbytes, (receiver, sender)) in enumerate(zip(sizes, ways, strict=False), start=1):
        transfer(receiver, sender, number, nbytes)
        under_way.append((receiver, sender, number, nbytes))
        if len(under_way) == 6:
            _finish(*under_way.pop(0))
    for each in under_way:
        _finish(*each)
    for process in pair:
        assert_empty_arena(process)


def _finish(receiver: UcxProcess, sender: UcxProcess, number: int, nbytes: int) -> None:
    assert_arrived(receiver, number, nbytes)
    assert sender.wait("sent", number)["error"] == ""


def test_a_sender_that_has_nothing_says_why(pair: tuple[UcxProcess, UcxProcess]) -> None:
    receiver, sender = pair
    address = receiver.ask("receive", transfer=1, sender=sender.ref, nbytes=MIB, deadline_s=30)
    sender.ask("send", transfer=1, requester=receiver.ref, address=address, nbytes=0, deadline_s=30, error="evicted")
    assert receiver.wait("failed", 1)["reason"] == "evicted"
    assert_empty_arena(receiver)


def test_a_payload_of_another_length_is_refused(pair: tuple[UcxProcess, UcxProcess]) -> None:
    receiver, sender = pair
    address = receiver.ask("receive", transfer=1, sender=sender.ref, nbytes=20 * MIB, deadline_s=30)
    sender.ask("send", transfer=1, requester=receiver.ref, address=address, nbytes=12 * MIB, deadline_s=30)
    reason = receiver.wait("failed", 1)["reason"]
    assert "12582912" in reason or "4194304" in reason
    assert_empty_arena(receiver)
    transfer(receiver, sender, 2, 20 * MIB)
    assert_arrived(receiver, 2, 20 * MIB)


def test_a_full_arena_refuses_at_once_and_nothing_leaks(pair: tuple[UcxProcess, UcxProcess]) -> None:
    receiver, sender = pair
    with pytest.raises(AssertionError, match="TransportError"):
        receiver.ask("receive", transfer=1, sender=sender.ref, nbytes=ARENA + 1, deadline_s=30)
    receiver.ask("receive", transfer=2, sender=sender.ref, nbytes=ARENA, deadline_s=30)
    with pytest.raises(AssertionError, match="TransportError"):
        receiver.ask("receive", transfer=3, sender=sender.ref, nbytes=1, deadline_s=30)
    receiver.ask("abandon", transfer=2)
    assert receiver.wait("failed", 2)["reason"] == "abandoned"
    assert_empty_arena(receiver)


def test_an_idle_transport_sleeps(pair: tuple[UcxProcess, UcxProcess]) -> None:
    receiver, sender = pair
    transfer(receiver, sender, 1, MIB)
    assert_arrived(receiver, 1, MIB)
    seen: list[int] = []

    def asleep(wakes: int) -> bool:
        seen.append(wakes)
        return seen[-20:] == [wakes] * 20

    receiver.until("wakes", asleep)


def test_a_gil_bound_neighbour_slows_a_transfer_but_does_not_stop_it(pair: tuple[UcxProcess, UcxProcess]) -> None:
    receiver, sender = pair
    receiver.ask("hog_gil")
    sender.ask("hog_gil")
    transfer(receiver, sender, 1, 32 * MIB)
    assert_arrived(receiver, 1, 32 * MIB)


def test_closing_ends_what_is_under_way_and_leaves_no_thread() -> None:
    failed: list[tuple[TransferId, str]] = []
    before = threading.active_count()
    transport = UcxTransport(SELF, MIB)
    transport.start(_unexpected, lambda number, reason: failed.append((number, reason)), _unexpected)
    transport.receive(TransferId(1), SELF, 1000, 30.0)
    transport.close()
    transport.close()
    assert [number for number, _ in failed] == [1]
    assert threading.active_count() == before
    with pytest.raises(TransportError, match="not running"):
        transport.receive(TransferId(2), SELF, 1000, 30.0)
    transport.arena.check()
    assert transport.arena.quarantined_bytes == 0


def _unexpected(*arguments: object) -> None:
    raise AssertionError(f"unexpected callback with {arguments}")


def test_within_one_process_a_worker_hands_over_to_itself() -> None:
    arrivals: list[tuple[bytes, int]] = []
    done = threading.Event()

    def on_arrival(arrival: Arrival) -> None:
        arrivals.append((bytes(arrival.payload), arrival.header.attempt))
        arrival.release()
        done.set()

    transport = UcxTransport(SELF, 4 * MIB)
    transport.start(on_arrival, _unexpected, lambda *sent: None)
    try:
        address = transport.receive(TransferId(1), SELF, 70_000, 30.0)
        payload = transport.stage(70_000)
        payload[:] = b"kv" * 35_000
        transport.send(header_of(1, payload), SELF, address, payload, 30.0)
        assert done.wait(30)
    finally:
        transport.close()
    transport.unstage(payload)
    assert arrivals == [(b"kv" * 35_000, 1)]
    with pytest.raises(TransportError, match="already given back"):
        transport.unstage(payload)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("all", "^cma"),
        ("tcp", "tcp"),
        ("shm,tcp", "posix,sysv,tcp"),
        ("sm,cma", "posix,sysv"),
        ("rc,cma,self", "rc,self"),
        ("^tcp", "^tcp,cma"),
        ("^cma,tcp", "^cma,tcp"),
    ],
)
def test_ucx_tls_is_respected_without_cma(given: str, used: str) -> None:
    assert without_cma(given) == used


def test_the_environment_wins_over_our_options_except_for_cma() -> None:
    assert ucx_options({}) == {"TLS": "^cma", "RNDV_THRESH": "inf", "POSIX_FIFO_SIZE": "64", "SYSV_FIFO_SIZE": "64"}
    chosen = ucx_options({"UCX_TLS": "tcp,cma", "UCX_RNDV_THRESH": "1M"})
    assert chosen["TLS"] == "tcp"
    assert "RNDV_THRESH" not in chosen


def test_cma_alone_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="UCX_TLS=cma"):
        without_cma("cma")


def test_tags_and_segments() -> None:
    assert split_tag(tag(TransferId((1 << 48) - 1), 65_535)) == ((1 << 48) - 1, 65_535)
    assert [segment(part, 2 * SEGMENT_BYTES + 5) for part in (1, 3, 4)] == [
        slice(0, SEGMENT_BYTES),
        slice(2 * SEGMENT_BYTES, 2 * SEGMENT_BYTES + 5),
        slice(2 * SEGMENT_BYTES + 5, 2 * SEGMENT_BYTES + 5),
    ]


@pytest.mark.parametrize("cut", [0, 4, 5, 20])
def test_a_cut_frame_is_garbled(cut: int) -> None:
    frame = pack_frame(header_of(3, b"payload"), 7)
    assert unpack_frame(memoryview(frame)) == (header_of(3, b"payload"), 7)
    with pytest.raises(TransportError, match="garbled"):
        unpack_frame(memoryview(frame[:cut]))
