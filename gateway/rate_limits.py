"""Requests and tokens per minute of each API key, taken before any work is queued; the message server keeps them for all gateways.

A request takes one request at once, and, when its tokens are counted, its prompt and the most that it may generate. What it did
not generate is given back at its end.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Protocol

from gateway.fold import LogLost
from gateway.tail import Entries
from shared.errors import FabricError, HeadstartError
from shared.messages import LogTokens
from shared.rates import Allowance, Rates

log = logging.getLogger(__name__)

EVERYBODY = "everybody"
"""Who calls where no keys are needed: all of them together."""


class RateLimited(HeadstartError):
    """This caller asks faster than its key allows."""

    def __init__(self, message: str, rates: Rates, left: Allowance) -> None:
        super().__init__(message)
        self.too_large = left.retry_after_s < 0
        again = {"x-should-retry": "false"} if self.too_large else {"Retry-After": str(max(1, math.ceil(left.retry_after_s)))}
        self.headers = headers_of(rates, left) | again


class RateFabric(Protocol):
    async def charge(self, caller: str, rates: Rates, requests: int, tokens: int) -> Allowance: ...


class RateLimits:
    """Of all models of this gateway together."""

    def __init__(self, fabric: RateFabric) -> None:
        self._fabric = fabric
        self._refunds: set[asyncio.Task[None]] = set()

    async def take_request(self, owner_key: str, rates: Rates) -> dict[str, str]:
        """The headers that tell what is left. Raises `RateLimited`."""
        if not rates:
            return {}
        left = await self._fabric.charge(owner_key or EVERYBODY, rates, 1, 0)
        if not left.granted:
            raise RateLimited(f"More than {rates.requests} requests a minute for this API key.", rates, left)
        return headers_of(rates, left)

    async def take_tokens(self, owner_key: str, rates: Rates, tokens: int) -> dict[str, str]:
        """The same. Raises `RateLimited`."""
        if not rates.tokens:
            return {}
        left = await self._fabric.charge(owner_key or EVERYBODY, rates, 0, tokens)
        if left.granted:
            return headers_of(rates, left)
        asked = f"This request may take {tokens} tokens, prompt and output together"
        if left.retry_after_s < 0:
            raise RateLimited(f"{asked}: more than the {rates.tokens} a minute of this API key. Ask for fewer.", rates, left)
        raise RateLimited(f"{asked}: this API key has {left.tokens_left} of its {rates.tokens} a minute left.", rates, left)

    def give_back(self, owner_key: str, rates: Rates, tokens: int) -> None:
        """Soon: whoever calls does not wait, and what is lost on the way comes back with the minute."""
        if rates.tokens and tokens > 0:
            task = asyncio.create_task(self._give_back(owner_key or EVERYBODY, rates, tokens))
            self._refunds.add(task)
            task.add_done_callback(self._refunds.discard)

    async def _give_back(self, caller: str, rates: Rates, tokens: int) -> None:
        try:
            await self._fabric.charge(caller, rates, 0, -tokens)
        except FabricError as error:
            log.debug("tokens not given back: %s", error)

    def refund(self, owner_key: str, rates: Rates, most_tokens: int) -> Refund:
        """Follows a request to its end, and gives back what it did not generate of `most_tokens`."""
        return Refund(self, owner_key, rates, most_tokens)


class Refund:
    """A consumer of one request's log."""

    def __init__(self, limits: RateLimits, owner_key: str, rates: Rates, most_tokens: int) -> None:
        self._limits = limits
        self._owner_key = owner_key
        self._rates = rates
        self._left = most_tokens

    def push(self, entries: Entries) -> None:
        for logged in entries:
            if isinstance(logged.entry, LogTokens):
                self._left -= len(logged.entry.token_ids)
            else:
                self._limits.give_back(self._owner_key, self._rates, self._left)
                self._left = 0

    def fail(self, error: LogLost) -> None:
        """How much it generated is not known: nothing comes back."""


def headers_of(rates: Rates, left: Allowance) -> dict[str, str]:
    """As OpenAI names and writes them."""
    headers: dict[str, str] = {}
    kinds = (
        ("requests", rates.requests, left.requests_left, left.requests_full_s),
        ("tokens", rates.tokens, left.tokens_left, left.tokens_full_s),
    )
    for kind, limit, remaining, full_s in kinds:
        if limit:
            figures = (("limit", str(limit)), ("remaining", str(remaining)), ("reset", _duration(full_s)))
            headers |= {f"x-ratelimit-{what}-{kind}": figure for what, figure in figures}
    return headers


def _duration(seconds: float) -> str:
    """`350ms`, `12s`, `1m5s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
