"""Handles on `tests.support.ucx_worker` processes: ask, wait for events, kill, stop."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


class UcxProcess:
    """One worker process. Events that nobody has waited for yet are kept in order."""

    def __init__(self, name: str, arena_bytes: int, environment: dict[str, str] | None = None) -> None:
        self.ref = [name, f"{name}-{time.monotonic_ns():x}"]
        self._process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.support.ucx_worker", *self.ref, str(arena_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONMALLOC": "default", **(environment or {})},
        )
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._seen: list[dict[str, Any]] = []
        self.stderr = ""
        self._threads = [threading.Thread(target=self._read_out, daemon=True), threading.Thread(target=self._read_err, daemon=True)]
        for thread in self._threads:
            thread.start()

    def _read_out(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))

    def _read_err(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.stderr += line

    def ask(self, do: str, **arguments: Any) -> Any:
        """The command's value. Raises `AssertionError` with the error if it failed."""
        self.tell(do, **arguments)
        answer = self.wait("answer")
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def tell(self, do: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def outcome(self, transfer: int) -> dict[str, Any]:
        """How a receive ended: `failed` or `arrived`."""
        return self.wait("failed arrived", transfer)

    def wait(self, event: str, transfer: int | None = None, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """The next such event (of several, if names are listed); others stay for later."""
        until = time.monotonic() + patience_s
        while True:
            for seen in self._seen:
                if seen["event"] in event.split() and transfer in (None, seen.get("transfer")):
                    self._seen.remove(seen)
                    return seen
            self._seen.append(self._next(event, transfer, until))

    def _next(self, event: str, transfer: int | None, until: float) -> dict[str, Any]:
        while time.monotonic() < until:
            try:
                return self._events.get(timeout=0.1)
            except queue.Empty:
                if not self.alive:
                    break
        state = "still runs" if self.alive else f"ended with {self._process.returncode}"
        raise AssertionError(f"no {event} of {transfer}: the process {state}; saw {self._seen}; stderr {self.stderr[-2000:]}")

    def until(self, do: str, wanted: Any, patience_s: float = PATIENCE_S) -> None:
        """Asks until `wanted(answer)`."""
        end = time.monotonic() + patience_s
        while not wanted(answer := self.ask(do)):
            assert time.monotonic() < end, f"{do} still answers {answer}"
            time.sleep(0.01)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> int:
        """Closes stdin, so the process closes its transport and leaves; its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        status = self._process.wait(timeout=PATIENCE_S)
        for thread in self._threads:
            thread.join(timeout=PATIENCE_S)
        return status

    def clean_up(self) -> None:
        if self.alive:
            self._process.send_signal(signal.SIGCONT)
            self.kill()
        for thread in self._threads:
            thread.join(timeout=PATIENCE_S)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def ucx_processes(*names: str, arena_bytes: int, environment: dict[str, str] | None = None) -> Iterator[list[UcxProcess]]:
    with ExitStack() as stack:
        started = [UcxProcess(name, arena_bytes, environment) for name in names]
        for process in started:
            stack.callback(process.clean_up)
        for process in started:
            process.wait("ready")
        yield started
