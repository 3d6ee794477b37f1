"""How a careful client speaks to gateways that come and go: an idempotency key, another gateway, resumption by number."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx2

Json = dict[str, Any]

PATIENCE_S = 150.0
"""After this a request counts as lost."""
PAUSE_S = 0.2
SILENCE_S = 20.0
"""A stream that says nothing for so long, not even a ping, is read again elsewhere."""


class Lost(Exception):
    """No answer, whatever was tried."""


class Wrong(Exception):
    """An answer that breaks a promise."""


class Twice(Wrong):
    """The same token or event a second time."""


@dataclass(slots=True)
class Door:
    urls: Sequence[str]
    http: httpx2.AsyncClient
    refusals: dict[int, int] = field(default_factory=dict)
    """Answers by status that were tried again."""
    cuts: int = 0
    """Connections that broke."""
    _turn: count[int] = field(default_factory=count)

    def _next(self) -> str:
        return self.urls[next(self._turn) % len(self.urls)]

    async def ask(self, method: str, path: str, body: Json | None = None, key: str = "", missing: bool = False) -> Json:
        """Until a gateway answers for good. `missing`: a 404 is an answer. Raises `Lost`, `Wrong`."""
        deadline = time.monotonic() + PATIENCE_S
        headers = {"Idempotency-Key": key} if key else {}
        while time.monotonic() < deadline:
            try:
                answer = await self.http.request(method, f"{self._next()}{path}", json=body, headers=headers)
            except httpx2.HTTPError:
                self.cuts += 1
            else:
                if answer.is_success or (missing and answer.status_code == 404):
                    found: Json = answer.json()
                    return found
                if not await self._again(answer.status_code, answer.text):
                    raise Wrong(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            await asyncio.sleep(PAUSE_S)
        raise Lost(f"{method} {path}: no answer in {PATIENCE_S:.0f} s")

    async def _again(self, status: int, text: str) -> bool:
        self.refusals[status] = self.refusals.get(status, 0) + 1
        return status in (429, 503)

    async def events(self, path: str, body: Json, key: str) -> AsyncGenerator[Json, None]:
        """Every event once and in order, over as many connections as it takes. Raises `Lost`, `Wrong`."""
        number, public_id, silent_since = -1, "", time.monotonic()
        while time.monotonic() - silent_since < PATIENCE_S:
            again = f"/v1/requests/{public_id}/stream?starting_after={number}" if public_id and number >= 0 else ""
            try:
                async with self._opened(again, path, body, key) as response:
                    if not response.is_success:
                        text = (await response.aread()).decode()
                        if not await self._again(response.status_code, text):
                            raise Wrong(f"{again or path}: {response.status_code} {text[:300]}")
                    else:
                        async for event in _frames(response):
                            if event is None:
                                return
                            found = event.get("sequence_number")
                            if found is None:
                                raise Wrong(f"{again or path}: {event}")
                            if again and found <= number:
                                raise Twice(f"{public_id}: event {found} again, after {number}")
                            if found > number + 1:
                                raise Wrong(f"{public_id}: event {found} after {number}")
                            if found <= number:
                                continue  # The same request asked for again by its key: told from its start.
                            number, silent_since = found, time.monotonic()
                            public_id = public_id or str(event.get("id") or event.get("response", {}).get("id", ""))
                            yield event
            except (httpx2.HTTPError, TimeoutError):
                self.cuts += 1
            await asyncio.sleep(PAUSE_S)
        raise Lost(f"{public_id or path}: nothing new after event {number} in {PATIENCE_S:.0f} s")

    def _opened(self, again: str, path: str, body: Json, key: str) -> Any:
        if again:
            return self.http.stream("GET", f"{self._next()}{again}")
        return self.http.stream("POST", f"{self._next()}{path}", json=body, headers={"Idempotency-Key": key})


async def _frames(response: httpx2.Response) -> AsyncIterator[Json | None]:
    """The JSON of each frame, then None at the stream's end. A broken connection raises, or ends without it."""
    lines = response.aiter_lines()
    while True:
        async with asyncio.timeout(SILENCE_S):
            line = await anext(lines, None)
        if line is None:
            raise httpx2.ReadError("the stream ended without its end")
        if line == "data: [DONE]":
            yield None
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
