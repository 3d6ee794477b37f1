"""A gateway as a process of its own, started and ended as an operator would."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class GatewayProcess:
    process: asyncio.subprocess.Process
    url: str

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@asynccontextmanager
async def gateway_process(redis_url: str, model: Path, *options: str) -> AsyncIterator[GatewayProcess]:
    """Yields once it listens; what it says on stderr is told when it does not."""
    arguments = ["-m", "gateway", "--redis-url", redis_url, "--model", str(model), "--served-model-name", "tiny", "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield GatewayProcess(process, await _address(process))
    finally:
        if process.returncode is None:
            process.kill()
        # Reads the pipe to its end too, so that no transport is left behind.
        await process.communicate()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    told: list[str] = []
    async with asyncio.timeout(100):
        async for line in process.stderr:
            told.append(line.decode())
            if "listens on" in told[-1]:
                return str(json.loads(told[-1])["event"]).split()[-1]
    raise AssertionError(f"the gateway did not come up: {''.join(told)}")
