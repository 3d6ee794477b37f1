"""A sender that dies or stalls in mid-transfer, lies, or sends too little: the receiver lives, and no byte goes astray."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.ucx_process import UcxProcess, ucx_processes
from tests.support.ucx_worker import header_of, payload_bytes
from workers.ucx_wire import SEGMENT_BYTES, pack_frame

MIB = 1 << 20
NBYTES = 3 * SEGMENT_BYTES
ARENA = 4 * NBYTES
PARTS = NBYTES // SEGMENT_BYTES
EMPTY = {"free": ARENA, "quarantined": 0}

pytestmark = pytest.mark.xdist_group("ucx")


@pytest.fixture
def receiver() -> Iterator[UcxProcess]:
    with ucx_processes("receiver", arena_bytes=ARENA) as (process,):
        yield process


def begin(receiver: UcxProcess, sender: UcxProcess, number: int, deadline_s: float, messages: list[list[object]] | None = None) -> None:
    """Announces transfer `number` of `NBYTES` and lets a bare sender send these messages, by default the right header and zeros."""
    address = receiver.ask("receive", transfer=number, sender=sender.ref, nbytes=NBYTES, deadline_s=deadline_s)
    right = [[number, 0, {"frame": NBYTES}], *([number, part, SEGMENT_BYTES] for part in range(1, PARTS + 1))]
    sender.ask("raw_send", address=address, messages=right if messages is None else messages)


def whole_transfer(receiver: UcxProcess, sender: UcxProcess, number: int) -> None:
    address = receiver.ask("receive", transfer=number, sender=sender.ref, nbytes=NBYTES, deadline_s=60)
    sender.ask("send", transfer=number, requester=receiver.ref, address=address, nbytes=NBYTES, deadline_s=60)
    assert receiver.wait("arrived", number)["right"]
    assert sender.wait("sent", number)["error"] == ""


def stall(receiver: UcxProcess, sender: UcxProcess, number: int, deadline_s: float) -> str:
    """Stops the sender in mid-transfer, with a segment under way; the reason of the failure that follows."""
    address = receiver.ask("receive", transfer=number, sender=sender.ref, nbytes=NBYTES, deadline_s=deadline_s)
    sender.ask("half_send", transfer=number, address=address, nbytes=NBYTES)
    sender.wait("halfway")
    sender.signal(signal.SIGSTOP)
    return str(receiver.wait("failed", number)["reason"])


def wake(sender: UcxProcess) -> None:
    """What it had under way, and the rest, comes late."""
    sender.signal(signal.SIGCONT)
    sender.ask("push_on")


@pytest.mark.parametrize("transports", ["", "tcp"])
def test_a_killed_sender_fails_the_transfer_and_nothing_else(transports: str) -> None:
    environment = {"UCX_TLS": transports} if transports else None
    with ucx_processes("receiver", "survivor", arena_bytes=ARENA, environment=environment) as (receiver, survivor):
        quarantined, resources = [], []
        for number in range(1, 9):
            with ucx_processes(f"sender{number}", arena_bytes=ARENA, environment=environment) as (sender,):
                address = receiver.ask("receive", transfer=number, sender=sender.ref, nbytes=NBYTES, deadline_s=2)
                sender.ask("half_send", transfer=number, address=address, nbytes=NBYTES)
                sender.wait("halfway")
                sender.kill()
            outcome = receiver.outcome(number)  # the kernel may have had all of it already
            assert outcome["event"] == "arrived" or outcome["reason"].startswith("deadline")
            quarantined.append(receiver.ask("arena")["quarantined"])
            receiver.ask("drop_peer", peer=sender.ref)
            receiver.until("arena", lambda arena: arena == EMPTY)
            resources.append(receiver.ask("resources"))
        assert NBYTES in quarantined, "none was killed in the middle"
        assert resources == resources[:1] * 8, "a dropped peer leaves a thread, a descriptor or shared memory behind"
        whole_transfer(receiver, survivor, 100)
        assert receiver.end() == 0
        assert receiver.stderr == ""


def test_a_sender_that_stalls_past_the_deadline_writes_into_no_reused_memory(receiver: UcxProcess) -> None:
    with ucx_processes("sender", arena_bytes=ARENA) as (sender,):
        assert stall(receiver, sender, 1, deadline_s=1).startswith("deadline")
        assert receiver.ask("arena")["quarantined"] == NBYTES
        assert receiver.ask("fill", nbytes=MIB) == (ARENA - NBYTES) // MIB
        wake(sender)
        receiver.until("arena", lambda arena: arena["quarantined"] == 0)
        assert receiver.ask("foreign") == 0
        whole_transfer(receiver, sender, 2)
        receiver.until("arena", lambda arena: arena == EMPTY)


def test_a_stalled_sender_that_was_dropped_writes_nowhere_when_it_wakes(receiver: UcxProcess) -> None:
    with ucx_processes("sender", arena_bytes=ARENA) as (sender,):
        stall(receiver, sender, 1, deadline_s=1)
        receiver.ask("drop_peer", peer=sender.ref)
        receiver.until("arena", lambda arena: arena == EMPTY)
        assert receiver.ask("fill", nbytes=MIB) == ARENA // MIB
        wake(sender)
        assert sender.ask("resources")
        assert receiver.ask("foreign") == 0
        whole_transfer(receiver, sender, 2)


def test_one_pair_survives_one_timeout_after_another(receiver: UcxProcess) -> None:
    with ucx_processes("sender", arena_bytes=ARENA) as (sender,):
        for number in range(1, 5):
            assert stall(receiver, sender, number, deadline_s=1).startswith("deadline")
            wake(sender)
            whole_transfer(receiver, sender, 10 + number)
        receiver.until("arena", lambda arena: arena == EMPTY)


def test_abandoning_a_transfer_whose_bytes_never_came_frees_its_memory_at_once(receiver: UcxProcess) -> None:
    with ucx_processes("sender", arena_bytes=ARENA) as (sender,):
        for number in range(1, 20):
            address = receiver.ask("receive", transfer=number, sender=sender.ref, nbytes=NBYTES, deadline_s=60)
            receiver.ask("abandon", transfer=number)
            assert receiver.wait("failed", number)["reason"] == "abandoned"
            assert receiver.ask("arena") == EMPTY
        sender.ask("send", transfer=19, requester=receiver.ref, address=address, nbytes=NBYTES, deadline_s=60)
        whole_transfer(receiver, sender, 20)
        assert sender.wait("sent", 19)["error"] == "", "bytes that come for nobody are refused, and their sender goes on"
        sender.until("arena", lambda arena: arena == EMPTY)


def test_abandoning_in_mid_transfer_quarantines_until_the_late_bytes_have_come(receiver: UcxProcess) -> None:
    with ucx_processes("sender", arena_bytes=ARENA) as (sender,):
        address = receiver.ask("receive", transfer=1, sender=sender.ref, nbytes=NBYTES, deadline_s=60)
        sender.ask("half_send", transfer=1, address=address, nbytes=NBYTES)
        sender.wait("halfway")
        receiver.ask("abandon", transfer=1)
        assert receiver.wait("failed", 1)["reason"] == "abandoned"
        assert receiver.ask("arena") == {"free": ARENA - NBYTES, "quarantined": NBYTES}
        sender.ask("push_on")
        receiver.until("arena", lambda arena: arena == EMPTY)


def test_a_lost_header_fails_at_the_deadline(receiver: UcxProcess) -> None:
    with ucx_processes("sender", arena_bytes=ARENA) as (sender,):
        begin(receiver, sender, 1, 1, [[1, part, SEGMENT_BYTES] for part in range(1, PARTS + 1)])
        assert receiver.wait("failed", 1)["reason"].endswith("not the header")
        assert sender.wait("pushed")["statuses"] == [0] * PARTS
        receiver.until("arena", lambda arena: arena == EMPTY)
        whole_transfer(receiver, sender, 2)


@pytest.mark.parametrize("frame", ["", "00", b"not a frame of ours".hex(), b"HSKV\x01\xc1".hex(), "00" * 100_000])
def test_a_garbled_header_is_refused(receiver: UcxProcess, frame: str) -> None:
    with ucx_processes("sender", arena_bytes=ARENA) as (sender,):
        begin(receiver, sender, 1, 60, [[1, 0, frame], [1, 1, SEGMENT_BYTES]])
        assert receiver.wait("failed", 1)["reason"].startswith("garbled header")
        receiver.until("arena", lambda arena: arena == EMPTY)
        whole_transfer(receiver, sender, 2)


def test_another_transfers_header_is_refused(receiver: UcxProcess) -> None:
    frame = pack_frame(header_of(99, payload_bytes(99, 10)), NBYTES).hex()
    with ucx_processes("sender", arena_bytes=ARENA) as (sender,):
        begin(receiver, sender, 1, 60, [[1, 0, frame]])
        assert "of transfer 99" in receiver.wait("failed", 1)["reason"]


@pytest.mark.parametrize(
    ("length", "reason"),
    [(0, "has 0 bytes"), (1, "has 1 bytes"), (SEGMENT_BYTES - 1, "has 8388607 bytes"), (SEGMENT_BYTES + 1, "truncated")],
)
def test_a_segment_that_is_short_or_long_is_refused(receiver: UcxProcess, length: int, reason: str) -> None:
    with ucx_processes("sender", arena_bytes=ARENA) as (sender,):
        begin(receiver, sender, 1, 60, [[1, 0, {"frame": NBYTES}], [1, 1, SEGMENT_BYTES], [1, 2, length]])
        failed = receiver.wait("failed", 1)["reason"]
        assert failed.startswith("part 2")
        assert reason in failed
        receiver.until("arena", lambda arena: arena == EMPTY)
        whole_transfer(receiver, sender, 2)


def test_a_payload_that_stops_early_fails_at_the_deadline_without_quarantine(receiver: UcxProcess) -> None:
    with ucx_processes("sender", arena_bytes=ARENA) as (sender,):
        begin(receiver, sender, 1, 1, [[1, 0, {"frame": NBYTES}], [1, 1, SEGMENT_BYTES]])
        assert "2 of 4 parts" in receiver.wait("failed", 1)["reason"]
        assert receiver.ask("arena") == EMPTY
        whole_transfer(receiver, sender, 2)


def test_late_bytes_that_never_come_give_their_memory_back_in_the_end() -> None:
    with ucx_processes("receiver", "sender", arena_bytes=ARENA, environment={"TEST_STUCK_S": "0.5"}) as (receiver, sender):
        stall(receiver, sender, 1, deadline_s=1)
        receiver.until("arena", lambda arena: arena == EMPTY)
        wake(sender)
        whole_transfer(receiver, sender, 2)


def test_a_send_nobody_expects_and_a_repeated_one_go_nowhere(receiver: UcxProcess) -> None:
    with ucx_processes("sender", arena_bytes=ARENA) as (sender,):
        address = receiver.ask("receive", transfer=1, sender=sender.ref, nbytes=NBYTES, deadline_s=60)
        receiver.ask("receive", transfer=2, sender=sender.ref, nbytes=NBYTES, deadline_s=60)
        for number in (7, 1, 1, 8, 2):
            sender.ask("send", transfer=number, requester=receiver.ref, address=address, nbytes=NBYTES, deadline_s=60)
            assert sender.wait("sent", number)["error"] == ""
        assert receiver.wait("arrived", 1)["right"]
        assert receiver.wait("arrived", 2)["right"]
        receiver.until("arena", lambda arena: arena == EMPTY)
        sender.until("arena", lambda arena: arena == EMPTY)


@pytest.mark.parametrize("foreign", [False, True])
def test_a_requester_that_stalls_costs_the_sender_no_memory_for_good(foreign: bool) -> None:
    with ucx_processes("receiver", "sender", arena_bytes=ARENA) as (receiver, sender):
        whole_transfer(receiver, sender, 1)
        address = receiver.ask("receive", transfer=2, sender=sender.ref, nbytes=NBYTES, deadline_s=60)
        receiver.signal(signal.SIGSTOP)
        sender.ask("send", transfer=2, requester=receiver.ref, address=address, nbytes=NBYTES, deadline_s=0.5, foreign=foreign)
        assert sender.wait("sent", 2)["error"] == "deadline"
        assert sender.ask("arena")["quarantined"] == (0 if foreign else NBYTES)
        receiver.signal(signal.SIGCONT)
        if not foreign:
            assert receiver.wait("arrived", 2)["right"], "late for its sender, in time for its receiver"
        sender.until("arena", lambda arena: arena == EMPTY)
        whole_transfer(receiver, sender, 3)


def test_a_killed_requester_costs_the_sender_nothing_once_it_is_dropped() -> None:
    with ucx_processes("receiver", "sender", "other", arena_bytes=ARENA) as (receiver, sender, other):
        address = receiver.ask("receive", transfer=1, sender=sender.ref, nbytes=NBYTES, deadline_s=60)
        receiver.kill()
        sender.ask("send", transfer=1, requester=receiver.ref, address=address, nbytes=NBYTES, deadline_s=1)
        assert sender.wait("sent", 1)["error"] != ""
        sender.ask("drop_peer", peer=receiver.ref)
        sender.until("arena", lambda arena: arena == EMPTY)
        whole_transfer(other, sender, 2)
        assert sender.end() == 0
