"""The routes that make, follow and end requests. `/v1` speaks OpenAI; `/v1/requests` is ours and works for every request."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from gateway.api_types import ChatRequest, CompletionRequest, ResponseRequest
from gateway.asks import ask_chat, ask_completion, ask_response
from gateway.desk import Desk, StartingAfter
from gateway.explain import explain
from gateway.limits import MAX_ID_CHARS
from gateway.service import Gateway, bare_id
from shared.errors import BadRequest

Order = Literal["asc", "desc"]
PageSize = Annotated[int, Query(ge=1, le=100)]
After = Annotated[str, Query(max_length=MAX_ID_CHARS)]


def inference_routes(gateway: Gateway) -> APIRouter:
    router, desk = APIRouter(prefix="/v1"), Desk(gateway)

    @router.post("/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        caller = desk.caller(request, body)
        return await desk.answer(request, ask_chat(gateway.with_defaults(body)), caller)

    @router.post("/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        caller = desk.caller(request, body)
        return await desk.answer(request, ask_completion(gateway.with_defaults(body)), caller)

    return router


def response_routes(gateway: Gateway) -> APIRouter:
    router, desk = APIRouter(prefix="/v1/responses"), Desk(gateway)

    @router.post("")
    async def create(body: ResponseRequest, request: Request) -> Response:
        caller = desk.caller(request, body)
        gateway.pool_of(body.model)
        previous = body.previous_response_id or ""
        before = await desk.conversations.before(previous, caller.owner_key) if previous else []
        return await desk.answer(request, ask_response(gateway.with_defaults(body), before, bare_id(previous)), caller)

    @router.get("/{response_id}")
    async def retrieve(response_id: str, request: Request, stream: bool = False, starting_after: StartingAfter = -1) -> Response:
        found = await desk.conversations.find(response_id, desk.owner_key(request))
        _refuse_query(request)
        if not stream:
            return JSONResponse((await gateway.replay(found)).answer())
        await gateway.check_resume(found, starting_after)
        return desk.stream(found.pool, found.fold(), after=starting_after)

    @router.get("/{response_id}/input_items")
    async def input_items(response_id: str, request: Request, after: After = "", limit: PageSize = 20, order: Order = "desc") -> Response:
        found = await desk.conversations.find(response_id, desk.owner_key(request))
        return JSONResponse(desk.conversations.input_items(found, after=after, limit=limit, newest_first=order == "desc"))

    @router.post("/{response_id}/cancel")
    async def cancel(response_id: str, request: Request) -> Response:
        found = await desk.conversations.find(response_id, desk.owner_key(request))
        return JSONResponse((await gateway.cancel(found)).answer())

    @router.delete("/{response_id}")
    async def delete(response_id: str, request: Request) -> Response:
        found = await desk.conversations.find(response_id, desk.owner_key(request))
        return JSONResponse(await desk.conversations.delete(found))

    return router


def _refuse_query(request: Request) -> None:
    """What a response tells is settled when it is made. Raises `BadRequest`."""
    for name in ("include", "include[]", "include_obfuscation"):
        if request.query_params.get(name, "false") != "false":
            message = f"'{name}' is not supported here: send 'include' when the response is created."
            raise BadRequest(message, name.removesuffix("[]"), "unsupported_parameter")


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
        found = await gateway.find(request_id, desk.owner_key(request))
        after = max(starting_after, last_event_id)
        await gateway.check_resume(found, after)
        return desk.stream(found.pool, found.fold(), after=after, with_id=True)

    @router.post("/{request_id}/cancel")
    async def cancel(request_id: str, request: Request) -> Response:
        fold = await gateway.cancel(await gateway.find(request_id, desk.owner_key(request)))
        return JSONResponse({"id": fold.public_id, "object": "request", "status": fold.end.phase if fold.end else "cancelling"})

    @router.get("/{request_id}/explain")
    async def explanation(request_id: str, request: Request) -> Response:
        found = await gateway.find(request_id, desk.owner_key(request))
        fabric, head = found.pool.fabric, found.head
        entries = await fabric.read_log(head.spec.request_id)
        fold = found.pool.fold_of(head)
        fold.feed_all(logged.entry for logged in entries)
        record = await fabric.record(head.spec.request_id)
        page = explain(fold, entries, record, await fabric.story(head.spec.request_id))
        return JSONResponse({**page, "parts": [one.spec.request_id for one in found.heads]})

    return router
