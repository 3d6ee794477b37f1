"""A role as a child process: started with its own session, its last lines kept, stopped by SIGTERM and at last by SIGKILL."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, field

from shared.processes import PARENT_VARIABLE

TAIL_LINES = 12
COMPLAINT = "headstart: "
"""How the one line begins that says what a person can mend."""


@dataclass(slots=True)
class Child:
    """One process of the system and how to start it again."""

    name: str
    args: list[str]
    env: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    tail: list[str] = field(default_factory=list)
    """The last lines it wrote to stderr, for when it dies early."""
    module: str = "cli"
    """What `python -m` runs: tests put in a worker with a fault lever."""
    starting: bool = True
    """While it is, its dying words are left for whoever started it to say, once."""
    _reader: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self, *, echo: bool) -> None:
        """A session of its own: Ctrl-C on the terminal reaches the parent alone, which then stops all in order."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self.module,
            *self.args,
            env={**os.environ, **self.env, PARENT_VARIABLE: str(os.getpid())},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._read_stderr(self.process, echo))

    async def _read_stderr(self, process: asyncio.subprocess.Process, echo: bool) -> None:
        assert process.stderr is not None
        async for raw in process.stderr:
            line = raw.decode(errors="replace").rstrip()
            self.tail = [*self.tail[1 - TAIL_LINES :], line]
            if echo and not (self.starting and line.startswith(COMPLAINT)):
                # A JSON line says itself whose it is, and must stay one.
                print(line if line.startswith("{") else f"{self.name}: {line}", file=sys.stderr, flush=True)

    async def last_words(self) -> str:
        """Of one that has ended: its own complaint where it made one, else the end of what it wrote."""
        if self._reader:
            # It may be dead before all it wrote has been read.
            await self._reader
        complaint = next((line for line in reversed(self.tail) if line.startswith(COMPLAINT)), None)
        return complaint.removeprefix(COMPLAINT) if complaint else "it did not start: " + " | ".join(self.tail[-3:])

    async def stop(self, timeout_s: float) -> None:
        """SIGTERM, then SIGKILL when it does not leave in time."""
        if self.process is None:
            return
        if self.running:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), timeout_s)
            except TimeoutError:
                self.process.kill()
        await self.process.wait()
        if self._reader:
            await self._reader
