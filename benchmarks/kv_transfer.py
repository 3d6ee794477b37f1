"""KV transfer between two processes of one host, beside UCX's own `ucx_perftest` in the same run and at the same sizes.

Three figures per size, medians of interleaved rounds: `ucx_perftest -t tag_bw`; our transport from a staged buffer to a landed
one, both warm; and the whole path from the sender's paged blocks to the receiver's: gather, digest, send, verify, scatter. Its
bytes are read and written four more times, on the same two cores, so no ratio is promised for it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.kv_transfer_peer import Peer
from benchmarks.rows import Row, write_rows

MIB = 1 << 20
BATCH_MIB = 32
CONTIGUOUS_TARGET = 0.8


def main() -> None:
    arguments = _arguments()
    sizes = [size * MIB for size in arguments.mib]
    perftest: dict[int, list[float]] = {size: [] for size in sizes}
    contiguous: dict[int, list[float]] = {size: [] for size in sizes}
    whole: dict[int, list[float]] = {size: [] for size in sizes}
    arena_bytes = max(arguments.bytes_mib * MIB, 4 * max(sizes))
    with Peer("receiver", arena_bytes) as receiver, Peer("sender", arena_bytes) as sender:
        for _ in range(arguments.rounds):
            for size in sizes:
                perftest[size].append(run_perftest(size, max(4, arguments.bytes_mib * MIB // size)))
                contiguous[size].append(run_contiguous(receiver, sender, size, arguments.bytes_mib))
                whole[size].append(run_blocks(receiver, sender, size, arguments.bytes_mib))
    write_rows("kv_transfer", [row for size in sizes for row in _rows(size, perftest[size], contiguous[size], whole[size])])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--bytes-mib", type=int, default=1024, help="moved per figure and round")
    return parser.parse_args()


def _rows(size: int, perftest: list[float], contiguous: list[float], whole: list[float]) -> list[Row]:
    other = statistics.median(perftest)
    return [
        Row(f"contiguous, {size // MIB} MiB", "GB/s", statistics.median(contiguous), other, "ucx_perftest", CONTIGUOUS_TARGET),
        Row(f"block to verified block, {size // MIB} MiB", "GB/s", statistics.median(whole), other, "ucx_perftest", None),
    ]


def run_contiguous(receiver: Peer, sender: Peer, size: int, bytes_mib: int) -> float:
    """GB/s from the first send to the last arrival. All is announced before: `ucx_perftest` announces nothing either."""
    for count in (max(1, BATCH_MIB * MIB // size), max(4, bytes_mib * MIB // size)):  # the first to warm up
        addresses = receiver.ask("announce", count, size, "contiguous", sender.ref)
        started = time.perf_counter()
        sender.tell("send", count, size, "contiguous", receiver.ref, addresses)
        receiver.wait_done()
        seconds = time.perf_counter() - started
    return count * size / seconds / 1e9


def run_blocks(receiver: Peer, sender: Peer, size: int, bytes_mib: int) -> float:
    """GB/s from paged blocks to verified paged blocks, announced meanwhile, two batches of 32 MiB or of one transfer ahead."""
    batch = max(1, BATCH_MIB * MIB // size)
    batches, announced = max(4, bytes_mib * MIB // (size * batch)), 0
    started = time.perf_counter()
    for done in range(batches):
        while announced < min(batches, done + 2):
            addresses = receiver.ask("announce", batch, size, "blocks", sender.ref)
            sender.tell("send", batch, size, "blocks", receiver.ref, addresses)
            announced += 1
        receiver.wait_done()
    return batches * batch * size / (time.perf_counter() - started) / 1e9


def run_perftest(size: int, iterations: int) -> float:
    """GB/s that `ucx_perftest` reports for tag matching over the same transports."""
    port = _free_port()
    library = _ucx_folder()
    command = [str(library / "bin" / "ucx_perftest"), "-p", str(port)]
    environment = {**os.environ, "UCX_TLS": os.environ.get("UCX_TLS", "^cma"), "LD_LIBRARY_PATH": str(library / "lib")}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        test = [*command, "127.0.0.1", "-t", "tag_bw", "-s", str(size), "-n", str(iterations), "-w", "2"]
        return _run_client(test, environment)
    finally:
        server.kill()
        server.wait()


def _run_client(command: list[str], environment: dict[str, str]) -> float:
    """Tries until the server listens; it says so nowhere."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        if found := re.search(r"^Final:\s+(.*)$", answer.stdout, re.MULTILINE):
            return float(found[1].split()[5]) * MIB / 1e9
        time.sleep(0.05)
    raise SystemExit(f"ucx_perftest gave no figure: {answer.stdout}{answer.stderr}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ucx_folder() -> Path:
    found = importlib.util.find_spec("libucx")
    if found is None or not found.submodule_search_locations:
        sys.exit("the package libucx, which brings ucx_perftest, is not installed")
    return Path(found.submodule_search_locations[0])


if __name__ == "__main__":
    main()
