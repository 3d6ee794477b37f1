"""What the routes have in common: who calls, and how an accepted request is answered."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse

from gateway.api_types import Sampling
from gateway.asks import Ask
from gateway.conversations import Conversations
from gateway.errors import RequestEnded
from gateway.fold import Fold, Json, Kind
from gateway.intake import Accepted, Caller, digest
from gateway.limits import MAX_HEADER_CHARS, MAX_TIMEOUT_S
from gateway.pools import ModelPool
from gateway.service import Found, Gateway
from gateway.streams import EventStream, client_gone, wait_for_end
from shared.errors import BadRequest
from shared.types import Phase

StartingAfter = Annotated[int, Query(ge=-1, description="Send the events after this sequence number.")]


class Desk:
    """One per router; it holds nothing of its own."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.conversations = Conversations(gateway)

    def owner_key(self, request: Request) -> str:
        """Whose requests this caller may see. Raises `Unauthorized`."""
        return self.gateway.keyring.owner_of(request.headers.get("authorization", ""))

    def caller(self, request: Request, body: Sampling) -> Caller:
        key = request.headers.get("idempotency-key", "")
        if len(key) > MAX_HEADER_CHARS:
            raise BadRequest(f"'Idempotency-Key' has at most {MAX_HEADER_CHARS} characters.", "Idempotency-Key", "invalid_value")
        tenant = self.gateway.keyring.tenant_of(request.headers.get("authorization", ""))
        return Caller(tenant.owner_key, key, digest(request.url.path, body.model_dump_json()), tenant.rates)

    async def answer(self, request: Request, ask: Ask, caller: Caller) -> Response:
        """Accepts, then streams, answers at once (background), or answers at the end."""
        timeout_s = header_timeout_s(request)
        if timeout_s:
            ask = replace(ask, timeout_s=min(timeout_s, ask.timeout_s or timeout_s))
        accepted = await self.gateway.intake_of(ask.model).accept(ask, caller)
        response = await self._answer(request, ask, accepted)
        response.headers.update(accepted.rate_headers)
        return response

    async def _answer(self, request: Request, ask: Ask, accepted: Accepted) -> Response:
        pool = self.gateway.pool_of(ask.model)
        found = Found(pool, accepted.heads) if accepted.fresh else await self.gateway.whole(pool, accepted.heads[0])
        fold = found.fold()
        if fold.api.stream:
            return self.stream(pool, fold, fresh=accepted.fresh)
        if fold.api.background:
            return JSONResponse((await self.gateway.replay(found)).answer())
        with self.gateway.open(pool, fold, fresh=accepted.fresh) as session:
            if not await wait_for_end(session, request):
                return client_gone()
        return JSONResponse(finished_answer(fold))

    def stream(self, pool: ModelPool, fold: Fold, *, fresh: bool = False, after: int = -1, with_id: bool = False) -> EventStream:
        opening = self.gateway.open(pool, fold, fresh=fresh)
        ping_s, gauge = self.gateway.settings.ping_s, pool.metrics.streams
        return EventStream(opening, ping_s=ping_s, after=after, with_id=with_id, open_streams=gauge)


def header_timeout_s(request: Request) -> float:
    """`x-request-timeout`, for clients whose body is not theirs to change; 0: none. Raises `BadRequest`."""
    text = request.headers.get("x-request-timeout")
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if 0 < seconds <= MAX_TIMEOUT_S:
        return seconds
    message = f"'x-request-timeout' must be a number of seconds above 0, at most {MAX_TIMEOUT_S:.0f}."
    raise BadRequest(message, "x-request-timeout", "invalid_value")


def finished_answer(fold: Fold) -> Json:
    """A response carries its failure in its status; for the older APIs a failure is an error."""
    end = fold.end
    if end is not None and end.phase is not Phase.FINISHED and fold.api.kind is not Kind.RESPONSE:
        raise RequestEnded(end)
    return fold.answer()
