"""What the routes have in common: who calls, and how an accepted request is answered."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse

from gateway.api_types import Sampling
from gateway.asks import Ask
from gateway.conversations import Conversations
from gateway.errors import RequestEnded
from gateway.fold import Fold, Json, Kind
from gateway.intake import Caller, digest
from gateway.limits import MAX_HEADER_CHARS
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
        return Caller(self.owner_key(request), key, digest(request.url.path, body.model_dump_json()))

    async def answer(self, request: Request, ask: Ask, caller: Caller) -> Response:
        """Accepts, then streams, answers at once (background), or answers at the end."""
        pool = self.gateway.pool_of(ask.model)
        accepted = await self.gateway.intake_of(ask.model).accept(ask, caller)
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


def finished_answer(fold: Fold) -> Json:
    """A response carries its failure in its status; for the older APIs a failure is an error."""
    end = fold.end
    if end is not None and end.phase is not Phase.FINISHED and fold.api.kind is not Kind.RESPONSE:
        raise RequestEnded(end)
    return fold.answer()
