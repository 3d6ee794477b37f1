"""The routes about the server: its models, its tokenizers, its state."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gateway.api_types import DetokenizeRequest, TokenizeRequest
from gateway.desk import Desk
from gateway.fold import Json
from gateway.pools import ModelPool
from gateway.service import Gateway
from gateway.tools_messages import chat_message
from shared.errors import BadRequest, FabricError


def model_routes(gateway: Gateway) -> APIRouter:
    router, desk = APIRouter(prefix="/v1/models"), Desk(gateway)

    def card(pool: ModelPool) -> Json:
        created = gateway.started_ms // 1000
        return {"id": pool.name, "object": "model", "created": created, "owned_by": "headstart", "max_model_len": pool.model_tokens}

    @router.get("")
    async def models(request: Request) -> Response:
        desk.owner_key(request)
        return JSONResponse({"object": "list", "data": [card(pool) for pool in gateway.pools.values()]})

    @router.get("/{model:path}")
    async def model(model: str, request: Request) -> Response:
        desk.owner_key(request)
        return JSONResponse(card(gateway.pool_of(model)))

    return router


def tokenizer_routes(gateway: Gateway) -> APIRouter:
    """What a prompt costs, by the names that vLLM gave the routes."""
    router, desk = APIRouter(), Desk(gateway)

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest, request: Request) -> Response:
        """The tokens that a prompt, or messages under the chat template, become."""
        desk.owner_key(request)
        pool = gateway.pool_of(gateway.default.name if body.model is None else body.model)
        ids = await _ids(body, pool)
        names = [pool.encoder.bytes_of(token).decode("utf-8", "replace") for token in ids] if body.return_token_strs else None
        return JSONResponse({"count": len(ids), "max_model_len": pool.model_tokens, "tokens": ids, "token_strs": names})

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
        """The text of tokens, special ones included."""
        desk.owner_key(request)
        pool = gateway.pool_of(gateway.default.name if body.model is None else body.model)
        strange = next((at for at, token in enumerate(body.tokens) if token >= pool.encoder.vocabulary), None)
        if strange is not None:
            message = f"'tokens[{strange}]' is {body.tokens[strange]}: token ids are 0 to {pool.encoder.vocabulary - 1}."
            raise BadRequest(message, f"tokens[{strange}]", "invalid_value")
        return JSONResponse({"prompt": await pool.encoder.decode(body.tokens)})

    return router


async def _ids(body: TokenizeRequest, pool: ModelPool) -> tuple[int, ...]:
    if (body.prompt is None) == (body.messages is None):
        raise BadRequest("Send either 'prompt' or 'messages'.", "prompt", "invalid_value")
    if body.messages is not None:
        return await pool.encoder.encode_chat([chat_message(one) for one in body.messages], "messages")
    return await pool.encoder.encode_text(body.prompt or "", "prompt", add_special_tokens=body.add_special_tokens is not False)


def operator_routes(gateway: Gateway) -> APIRouter:
    """Open without a key: for probes and scrapers. Nothing here tells of a single request."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> Response:
        """The process lives and answers."""
        return Response(status_code=200)

    @router.get("/ready")
    async def ready() -> Response:
        """New requests would be served: every model has a leader and a worker, the server answers, this gateway does not drain."""
        reasons = [f"{name}: {reason}" for name in gateway.pools if (reason := await _unready(gateway, name))]
        if gateway.draining:
            reasons.append("this gateway drains")
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    @router.get("/version")
    async def version_() -> Response:
        return JSONResponse({"version": release()})

    @router.get("/load")
    async def load() -> Response:
        """`server_load`: requests that clients of this gateway wait for; then every pool, whoever asked."""
        waiting = sum(len(pool.listeners) for pool in gateway.pools.values())
        return JSONResponse({"server_load": waiting, "models": {name: await _load(pool) for name, pool in gateway.pools.items()}})

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(gateway.default.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


async def _unready(gateway: Gateway, name: str) -> str:
    try:
        return await gateway.pools[name].ready()
    except FabricError:
        return "the message server cannot be reached"


async def _load(pool: ModelPool) -> Json:
    status, members = await pool.fabric.pool_status(), await pool.fabric.members()
    return {
        "live": status.live,
        "waiting": status.waiting,
        "running": max(0, status.live - status.waiting),
        "predicted_wait_s": status.predicted_wait_s,
        "workers": len(members),
        "leader": bool(status.leader),
        "dead_letters": status.dead_letters,
    }


def release() -> str:
    """The installed version."""
    try:
        return version("headstart")
    except PackageNotFoundError:
        return "unknown"
