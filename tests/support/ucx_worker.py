"""A process with one `UcxTransport`, driven by JSON lines on stdin; answers and events are JSON lines on stdout.

Run as `python -m tests.support.ucx_worker NAME INCARNATION ARENA_BYTES`. Payloads are pseudo-random bytes of a seed, so that both
sides know them; `arrived` events carry the digest of what came.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from shared.errors import HeadstartError
from shared.types import TokenSpan, TransferId, WorkerId, WorkerRef
from workers.transport import Arrival, TransferHeader
from workers.ucx_binding import Context, Endpoint, Operation, Worker
from workers.ucx_transport import UcxTransport, ucx_options
from workers.ucx_wire import pack_frame, segment, segments, tag

BEGINNING = 3
"""Turns after the header in which a half transfer pushes bytes of its first segment; one fills a shared-memory FIFO at most, half a MiB.
Without them a quick sender stops before the receiver has seen any of it."""
_stdout_lock = threading.Lock()


def payload_bytes(seed: int, nbytes: int) -> bytes:
    return np.random.default_rng(seed).bytes(nbytes)


def header_of(transfer: int, payload: bytes | memoryview, error: str = "") -> TransferHeader:
    return TransferHeader(
        transfer=TransferId(transfer),
        request_id=f"r{transfer}",
        attempt=1,
        span=TokenSpan(0, 64),
        fingerprint=b"layout",
        granule_bytes=len(payload),
        digests=(xxh3_64_intdigest(payload),),
        error=error,
    )


def _post(endpoint: Endpoint, message: list[Any]) -> Operation:
    number, part, what = message
    return endpoint.send(tag(TransferId(number), part), _raw_bytes(number, what))


def say(**event: Any) -> None:
    with _stdout_lock:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


class Driver:
    def __init__(self, ref: WorkerRef, arena_bytes: int) -> None:
        self.transport = UcxTransport(ref, arena_bytes, stuck_s=float(os.environ.get("TEST_STUCK_S", "30")))
        self.transport.start(self.on_arrival, self.on_failure, self.on_sent)
        self.staged: dict[tuple[str, int], list[memoryview]] = {}
        self.kept: dict[int, Arrival] = {}
        self.filled: list[memoryview] = []
        self.raw: list[tuple[Context, Worker, Endpoint, list[Operation]]] = []
        self.keep_arrivals = False
        self.hurry = threading.Event()

    # -- callbacks

    def on_arrival(self, arrival: Arrival) -> None:
        right = arrival.header.digests == (xxh3_64_intdigest(arrival.payload),)
        nbytes = len(arrival.payload)
        if self.keep_arrivals:
            self.kept[arrival.transfer] = arrival
        else:
            arrival.release()
        say(event="arrived", transfer=arrival.transfer, right=right, nbytes=nbytes, seconds=arrival.seconds)

    def on_failure(self, transfer: TransferId, reason: str) -> None:
        say(event="failed", transfer=transfer, reason=reason)

    def on_sent(self, transfer: TransferId, requester: WorkerRef, error: str) -> None:
        payloads = self.staged.get((str(requester), transfer))
        if payloads:
            self.transport.unstage(payloads.pop(0))
        say(event="sent", transfer=transfer, error=error)

    # -- commands

    def receive(self, transfer: int, sender: list[str], nbytes: int, deadline_s: float) -> str:
        return self.transport.receive(TransferId(transfer), _ref(sender), nbytes, deadline_s).hex()

    def send(
        self, transfer: int, requester: list[str], address: str, nbytes: int, deadline_s: float, error: str = "", foreign: bool = False
    ) -> None:
        """`foreign`: the payload is not in the arena."""
        data = payload_bytes(transfer, nbytes)
        payload = memoryview(bytearray(nbytes)) if foreign else self.transport.stage(nbytes)
        payload[:] = data
        to = _ref(requester)
        if not foreign:
            self.staged.setdefault((str(to), transfer), []).append(payload)
        self.transport.send(header_of(transfer, data, error), to, bytes.fromhex(address), payload, deadline_s)

    def raw_send(self, address: str, messages: list[list[Any]], pace_s: float = 0.0002) -> None:
        """Sends `[transfer, part, bytes]` as they are; bytes is a number of zeros, hex, or `{"frame": nbytes}` for a right header."""
        context = Context(ucx_options(os.environ))
        worker = context.worker()
        endpoint = worker.connect(bytes.fromhex(address))
        operations = [_post(endpoint, message) for message in messages]
        self.raw.append((context, worker, endpoint, operations))
        threading.Thread(target=self._push, args=(worker, operations, pace_s), daemon=True).start()

    def half_send(self, transfer: int, address: str, nbytes: int) -> None:
        """Starts a right transfer and stops in the middle, the last segment not even begun, until `push_on`."""
        self.hurry.clear()
        parts = range(1, segments(nbytes) + 1)
        *first, last = [[transfer, part, len(range(nbytes)[segment(part, nbytes)])] for part in parts]
        context = Context(ucx_options(os.environ))
        worker = context.worker()
        endpoint = worker.connect(bytes.fromhex(address))
        begun: list[list[Any]] = [[transfer, 0, {"frame": nbytes}], *first]
        operations = [_post(endpoint, message) for message in begun]
        self.raw.append((context, worker, endpoint, operations))
        threading.Thread(target=self._push_half, args=(worker, endpoint, operations, last), daemon=True).start()

    def push_on(self) -> None:
        self.hurry.set()

    def _push_half(self, worker: Worker, endpoint: Endpoint, operations: list[Operation], last: list[Any]) -> None:
        while not operations[0].done():
            worker.progress()
            time.sleep(0.0002)
        for _ in range(BEGINNING):
            worker.progress()
            time.sleep(0.005)
        say(event="halfway")
        self.hurry.wait()
        operations.append(_post(endpoint, last))
        self._push(worker, operations, 0.0)

    def _push(self, worker: Worker, operations: list[Operation], pace_s: float) -> None:
        while not all(operation.done() for operation in operations):
            worker.progress()
            time.sleep(pace_s)
        for _ in range(100):
            worker.progress()
        say(event="pushed", statuses=[operation.status for operation in operations])

    def flying(self) -> int:
        return self.transport.operations

    def abandon(self, transfer: int) -> None:
        self.transport.abandon(TransferId(transfer))

    def drop_peer(self, peer: list[str]) -> None:
        self.transport.drop_peer(_ref(peer))

    def keep(self, on: bool) -> None:
        self.keep_arrivals = on

    def release(self, transfer: int) -> None:
        self.kept.pop(transfer).release()

    def fill(self, nbytes: int) -> int:
        """Takes every free region of `nbytes`, fills it with a pattern, and keeps it: returns how many."""
        try:
            while True:
                view = self.transport.stage(nbytes)
                np.frombuffer(view, np.uint8)[:] = 0xA5
                self.filled.append(view)
        except HeadstartError:
            return len(self.filled)

    def foreign(self) -> int:
        """Bytes in the filled regions that are no longer the pattern; gives the regions back."""
        count = sum(int((np.frombuffer(view, np.uint8) != 0xA5).sum()) for view in self.filled)
        for view in self.filled:
            self.transport.unstage(view)
        self.filled = []
        return count

    def arena(self) -> dict[str, int]:
        self.transport.arena.check()
        return {"free": self.transport.arena.free_bytes, "quarantined": self.transport.arena.quarantined_bytes}

    def resources(self) -> dict[str, int]:
        """What this process holds, once the transport has done all it was told."""
        assert self.transport.operations >= 0
        with open("/proc/self/maps") as maps:
            shared = sum("SYSV" in line or "ucx_shm" in line for line in maps)
        return {"threads": threading.active_count(), "descriptors": len(os.listdir("/proc/self/fd")), "shared_maps": shared}

    def wakes(self) -> int:
        """How often the progress thread has gone to sleep so far."""
        thread = next(thread for thread in threading.enumerate() if thread.name.startswith("kv-transport"))
        with open(f"/proc/self/task/{thread.native_id}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))

    def hog_gil(self) -> None:
        """Starts a thread that never gives the GIL up by itself."""

        def hog() -> None:
            while True:
                sum(range(1000))

        threading.Thread(target=hog, daemon=True).start()

    def close(self) -> None:
        self.transport.close()


def _raw_bytes(transfer: int, what: Any) -> memoryview:
    if isinstance(what, int):
        return memoryview(bytes(what))
    if isinstance(what, str):
        return memoryview(bytes.fromhex(what))
    data = payload_bytes(transfer, what["frame"])
    return memoryview(pack_frame(header_of(transfer, data), len(data)))


def _ref(parts: list[str]) -> WorkerRef:
    return WorkerRef(WorkerId(parts[0]), parts[1])


def main() -> None:
    driver = Driver(_ref(sys.argv[1:3]), int(sys.argv[3]))
    say(event="ready")
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop("do")
        try:
            say(event="answer", value=getattr(driver, name)(**command))
        except HeadstartError as error:
            say(event="answer", error=f"{type(error).__name__}: {error}")
    driver.close()


if __name__ == "__main__":
    main()
