"""One side of the KV transfer benchmark: a process with a transport and a stand-in paged KV cache of numpy blocks."""

from __future__ import annotations

import multiprocessing
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from shared.types import TokenSpan, TransferId, WorkerId, WorkerRef
from workers.transport import Arrival, TransferHeader
from workers.ucx_transport import UcxTransport

BLOCK_BYTES = 64 << 10
"""Of one block in one layer's K or V, as a paged cache has them: 16 tokens of 8 heads of 128 in two bytes, twice over."""
GRANULE_BYTES = 1 << 20
DEADLINE_S = 120.0


class Peer:
    """The handle in the benchmark's process."""

    _early = 0
    """Batches whose end was read while another answer was awaited."""

    def __init__(self, name: str, arena_bytes: int) -> None:
        self.ref = WorkerRef(WorkerId(name), "1")
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self.ref, arena_bytes, theirs))

    def __enter__(self) -> Peer:
        self._process.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.send(None)
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.kill()

    def tell(self, *command: Any) -> None:
        self._connection.send(command)

    def ask(self, *command: Any) -> Any:
        self.tell(*command)
        return self._wait("addresses")

    def wait_done(self) -> None:
        """Every transfer of the next batch has landed, and if of blocks, is verified and scattered."""
        self._wait("done")

    def _wait(self, wanted: str) -> Any:
        if wanted == "done" and self._early:
            self._early -= 1
            return None
        while True:
            if not self._connection.poll(DEADLINE_S):
                raise SystemExit(f"{self.ref} does not answer")
            what, value = self._connection.recv()
            if what == "failed":
                raise SystemExit(f"{self.ref}: {value}")
            if what == wanted:
                return value
            self._early += what == "done"


class _Side:
    def __init__(self, ref: WorkerRef, arena_bytes: int, connection: Connection) -> None:
        self._connection = connection
        self._transport = UcxTransport(ref, arena_bytes)
        self._cache: npt.NDArray[np.uint8] = np.random.default_rng(1).integers(0, 256, (arena_bytes // BLOCK_BYTES, BLOCK_BYTES), np.uint8)
        self._order = np.random.default_rng(2).permutation(len(self._cache))
        self._kinds: dict[TransferId, str] = {}
        self._payloads: dict[TransferId, memoryview] = {}
        self._batches: deque[int] = deque()
        """Transfers of each announced batch that have not ended."""
        self._next = 0
        self._verifier = ThreadPoolExecutor(1)
        self._lock = threading.Lock()
        self._transport.start(self._on_arrival, self._on_failure, self._on_sent)
        self._touch(arena_bytes)

    def announce(self, count: int, size: int, kind: str, sender: WorkerRef) -> None:
        """Expects a batch of transfers, and tells where each is to be sent."""
        self._batches.append(count)
        transfers = [self._new_transfer() for _ in range(count)]
        self._kinds.update(dict.fromkeys(transfers, kind))
        self._say("addresses", [self._transport.receive(transfer, sender, size, DEADLINE_S) for transfer in transfers])

    def send(self, count: int, size: int, kind: str, requester: WorkerRef, addresses: list[bytes]) -> None:
        for address in addresses:
            payload = self._transport.stage(size)
            digests = self._gather(payload) if kind == "blocks" else ()
            header = TransferHeader(self._new_transfer(), "r", 1, TokenSpan(0, 64), b"layout", GRANULE_BYTES, digests)
            self._payloads[header.transfer] = payload
            self._transport.send(header, requester, address, payload, DEADLINE_S)

    def _new_transfer(self) -> TransferId:
        self._next += 1
        return TransferId(self._next)

    def close(self) -> None:
        self._transport.close()
        self._verifier.shutdown()

    def _touch(self, arena_bytes: int) -> None:
        """The kernel maps pages at their first use: that is not what is measured."""
        view = self._transport.stage(arena_bytes)
        np.frombuffer(view, np.uint8)[:] = 1
        self._transport.unstage(view)

    def _say(self, what: str, value: Any = None) -> None:
        with self._lock:
            self._connection.send((what, value))

    def _gather(self, payload: memoryview) -> tuple[int, ...]:
        blocks = np.frombuffer(payload, np.uint8).reshape(-1, BLOCK_BYTES)
        np.take(self._cache, self._order[: len(blocks)], axis=0, out=blocks, mode="clip")
        return _digests(payload)

    def _scatter(self, arrival: Arrival) -> None:
        if arrival.header.digests != _digests(arrival.payload):
            self._say("failed", "the digests differ")
        blocks = np.frombuffer(arrival.payload, np.uint8).reshape(-1, BLOCK_BYTES)
        self._cache[self._order[: len(blocks)]] = blocks
        arrival.release()
        self._one_done()

    def _on_arrival(self, arrival: Arrival) -> None:
        if self._kinds.pop(arrival.transfer) == "blocks":
            self._verifier.submit(self._scatter, arrival)
            return
        arrival.release()
        self._one_done()

    def _one_done(self) -> None:
        self._batches[0] -= 1
        if not self._batches[0]:
            self._batches.popleft()
            self._say("done")

    def _on_failure(self, transfer: TransferId, reason: str) -> None:
        self._say("failed", reason)

    def _on_sent(self, transfer: TransferId, requester: WorkerRef, error: str) -> None:
        self._transport.unstage(self._payloads.pop(transfer))


def _digests(payload: memoryview) -> tuple[int, ...]:
    return tuple(xxh3_64_intdigest(payload[start : start + GRANULE_BYTES]) for start in range(0, len(payload), GRANULE_BYTES))


def _serve(ref: WorkerRef, arena_bytes: int, connection: Connection) -> None:
    side = _Side(ref, arena_bytes, connection)
    while (command := connection.recv()) is not None:
        if command[0] == "announce":
            side.announce(*command[1:])
        else:
            side.send(*command[1:])
    side.close()
