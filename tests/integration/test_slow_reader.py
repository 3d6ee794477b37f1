"""A client that does not read costs a bounded buffer, slows nobody, and misses nothing when it goes on."""

from __future__ import annotations

import asyncio
import json
import socket
from functools import partial
from pathlib import Path
from typing import Any

from gateway.settings import GatewaySettings
from gateway.tail import Following
from shared.types import RequestSpec
from tests.support.fake_owner import End, Hold, Say, Step
from tests.support.gateway_server import Stage, staged, until

ENTRIES, TEXT = 1200, "x" * 8192
"""Ten megabytes: more than the kernel keeps for a connection."""
KEPT = 32
BODY: dict[str, Any] = {"model": "org/tiny", "prompt": "slow", "max_tokens": 500, "stream": True}


def script(followed: asyncio.Event, spec: RequestSpec) -> tuple[Step, ...]:
    """Says nothing until the test holds the tail of its log: a log that has ended is followed no longer."""
    text = TEXT if len(spec.prompt) > 3 else ""
    return (Hold(followed), *(Say(f"{at} {text} ", 0) for at in range(ENTRIES)), Say("", 1), End())


async def test_one_that_never_reads_beside_two_that_do(tiny_model: Path) -> None:
    settings = GatewaySettings("", tiny_model, "org/tiny", poll_s=0.05, buffer_entries=KEPT)
    async with staged(settings) as stage:
        followed = asyncio.Event()
        stage.owner.script = partial(script, followed)
        reader, writer = await connect(stage)
        follower = stage.served.gateway.default.follower
        await until(lambda: len(follower) == 1)
        (tail,) = follower._tails.values()
        following = next(one for one in tail.consumers if isinstance(one, Following))
        followed.set()
        others = [stage.served.http.post("/v1/completions", json={**BODY, "prompt": "hi"}) for _ in range(2)]
        answers = await asyncio.gather(*others)
        assert all(numbers(answer.text) == list(range(ENTRIES)) for answer in answers)
        await until(lambda: tail.ended)
        assert following.drops >= 1, "its buffer was given up, not grown"
        assert len(following._buffer) <= KEPT
        assert not reader.at_eof()
        body = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        await writer.wait_closed()
        assert numbers(body.decode()) == list(range(ENTRIES)), "every entry once and in order"


async def connect(stage: Stage) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream that is asked for and not read: small buffers on our side, so that the gateway's fill."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    host, port = stage.served.url.removeprefix("http://").split(":")
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=sock, limit=2048)
    body = json.dumps(BODY)
    headers = f"host: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    writer.write(f"POST /v1/completions HTTP/1.0\r\n{headers}\r\n\r\n{body}".encode())
    return reader, writer


def numbers(stream: str) -> list[int]:
    """The numbers that the texts of a stream begin with."""
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    texts = [choice["text"] for event in events for choice in event["choices"]]
    return [int(text.split()[0]) for text in texts if text.strip()]
