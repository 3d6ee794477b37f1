"""The routes: thin over the service. `/v1` speaks OpenAI; `/v1/requests` is ours and works for every request."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from gateway.api_types import ChatRequest, CompletionRequest, ResponseRequest, Sampling
from gateway.asks import Ask, ask_chat, ask_completion, ask_response
from gateway.errors import RequestEnded, Unauthorized
from gateway.explain import explain
from gateway.fold import Fold, Json, Kind
from gateway.folds import fold_of
from gateway.intake import Caller, digest, unknown_model
from gateway.limits import MAX_HEADER_CHARS
from gateway.service import Gateway
from gateway.streams import EventStream, client_gone, wait_for_end
from shared.errors import BadRequest
from shared.types import Phase

StartingAfter = Annotated[int, Query(ge=-1, description="Send the events after this sequence number.")]


class Desk:
    """What the routes have in common: who calls, and how an accepted request is answered."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def owner_key(self, request: Request) -> str:
        """Whose requests this caller may see. Raises `Unauthorized`."""
        keys = self.gateway.settings.api_keys
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        # Every key is compared, whichever matches: the time says nothing.
        matches = sum(hmac.compare_digest(key.encode(), known.encode()) for known in keys)
        if keys and not (scheme.lower() == "bearer" and matches):
            raise Unauthorized("Send one of this server's API keys as 'Authorization: Bearer KEY'.")
        return self.gateway.settings.owner_of(key)

    def caller(self, request: Request, body: Sampling) -> Caller:
        key = request.headers.get("idempotency-key", "")
        if len(key) > MAX_HEADER_CHARS:
            raise BadRequest(f"'Idempotency-Key' has at most {MAX_HEADER_CHARS} characters.", "Idempotency-Key", "invalid_value")
        return Caller(self.owner_key(request), key, digest(request.url.path, body.model_dump_json()))

    async def answer(self, request: Request, body: Sampling, ask: Ask) -> Response:
        """Accepts, then streams, answers at once (background), or answers at the end."""
        accepted = await self.gateway.intake.accept(ask, self.caller(request, body))
        fold = fold_of(accepted.head)
        if fold.api.stream:
            return self.stream(fold, fresh=accepted.fresh)
        if fold.api.background:
            return JSONResponse((await self.gateway.replay(accepted.head)).answer())
        with self.gateway.open(fold, fresh=accepted.fresh) as session:
            if not await wait_for_end(session, request):
                return client_gone()
        return JSONResponse(finished_answer(fold))

    def stream(self, fold: Fold, *, fresh: bool = False, after: int = -1, with_id: bool = False) -> EventStream:
        opening = self.gateway.open(fold, fresh=fresh)
        ping_s, gauge = self.gateway.settings.ping_s, self.gateway.metrics.streams
        return EventStream(opening, ping_s=ping_s, after=after, with_id=with_id, open_streams=gauge)


def finished_answer(fold: Fold) -> Json:
    """A response carries its failure in its status; for the older APIs a failure is an error."""
    end = fold.transcript.end
    if end is not None and end.phase is not Phase.FINISHED and fold.api.kind is not Kind.RESPONSE:
        raise RequestEnded(end)
    return fold.answer()


def inference_routes(gateway: Gateway) -> APIRouter:
    router, desk = APIRouter(prefix="/v1"), Desk(gateway)

    @router.post("/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await desk.answer(request, body, ask_chat(body))

    @router.post("/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await desk.answer(request, body, ask_completion(body))

    @router.post("/responses")
    async def responses(body: ResponseRequest, request: Request) -> Response:
        return await desk.answer(request, body, ask_response(body))

    @router.get("/responses/{response_id}")
    async def retrieve(response_id: str, request: Request, stream: bool = False, starting_after: StartingAfter = -1) -> Response:
        head = await gateway.find(response_id, desk.owner_key(request), Kind.RESPONSE)
        if not stream:
            return JSONResponse((await gateway.replay(head)).answer())
        await gateway.check_resume(head, starting_after)
        return desk.stream(fold_of(head), after=starting_after)

    @router.post("/responses/{response_id}/cancel")
    async def cancel(response_id: str, request: Request) -> Response:
        head = await gateway.find(response_id, desk.owner_key(request), Kind.RESPONSE)
        return JSONResponse((await gateway.cancel(head)).answer())

    return router


def request_routes(gateway: Gateway) -> APIRouter:
    router, desk = APIRouter(prefix="/v1/requests"), Desk(gateway)

    @router.get("/{request_id}/stream")
    async def stream(
        request_id: str,
        request: Request,
        starting_after: StartingAfter = -1,
        last_event_id: Annotated[int, Header(ge=-1)] = -1,
    ) -> Response:
        """Every event of a request as SSE with `id:`, whichever API it came by; a browser's `EventSource` resumes by itself."""
        head = await gateway.find(request_id, desk.owner_key(request))
        after = max(starting_after, last_event_id)
        await gateway.check_resume(head, after)
        return desk.stream(fold_of(head), after=after, with_id=True)

    @router.post("/{request_id}/cancel")
    async def cancel(request_id: str, request: Request) -> Response:
        fold = await gateway.cancel(await gateway.find(request_id, desk.owner_key(request)))
        end = fold.transcript.end
        return JSONResponse({"id": fold.public_id, "object": "request", "status": end.phase if end else "cancelling"})

    @router.get("/{request_id}/explain")
    async def explanation(request_id: str, request: Request) -> Response:
        head = await gateway.find(request_id, desk.owner_key(request))
        entries = await gateway.fabric.read_log(head.spec.request_id)
        fold = fold_of(head)
        fold.feed_all(logged.entry for logged in entries)
        record = await gateway.fabric.record(head.spec.request_id)
        return JSONResponse(explain(fold, entries, record, await gateway.fabric.story(head.spec.request_id)))

    return router


def model_routes(gateway: Gateway) -> APIRouter:
    router, desk = APIRouter(prefix="/v1/models"), Desk(gateway)
    name = gateway.settings.served_model_name
    card: Json = {
        "id": name,
        "object": "model",
        "created": gateway.started_ms // 1000,
        "owned_by": "headstart",
        "max_model_len": gateway.settings.model_tokens,
    }

    @router.get("")
    async def models(request: Request) -> Response:
        desk.owner_key(request)
        return JSONResponse({"object": "list", "data": [card]})

    @router.get("/{model:path}")
    async def model(model: str, request: Request) -> Response:
        desk.owner_key(request)
        if model != name:
            raise unknown_model(model, name)
        return JSONResponse(card)

    return router


def operator_routes(gateway: Gateway) -> APIRouter:
    """Open without a key: for probes and scrapers."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> Response:
        """The process lives and answers."""
        return Response(status_code=200)

    @router.get("/ready")
    async def ready() -> Response:
        """New requests are welcome: not while draining, nor while the message server is out of reach."""
        return Response(status_code=503 if gateway.draining or not gateway.follower.connected else 200)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(gateway.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
