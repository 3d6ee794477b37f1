"""The ASGI application: routes, errors, limits, and the tasks that live as long as it does."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import install_error_handlers
from gateway.limits import MAX_BODY_BYTES, MAX_HEADER_CHARS
from gateway.model_defaults import ModelDefaults
from gateway.pools import GatewayFabric, ServedModel
from gateway.routes import inference_routes, request_routes, response_routes
from gateway.routes_operator import model_routes, operator_routes, release, tokenizer_routes
from gateway.service import Gateway
from gateway.settings import GatewaySettings
from gateway.tokenizer import Encoder
from gateway.tracing import IncomingTrace
from shared.clock import Clock


def create_app(
    settings: GatewaySettings,
    fabric: GatewayFabric,
    tokenizer: Encoder,
    clock: Clock | None = None,
    more: Sequence[ServedModel] = (),
) -> FastAPI:
    """The gateway over fabrics and tokenizers that its caller opened and will close; `more` are further models."""
    served = ServedModel(settings.served_model_name, fabric, tokenizer, settings.model_tokens, ModelDefaults.read(settings.model))
    gateway = Gateway(settings, (served, *more), clock)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    app = FastAPI(title="Headstart", version=release(), lifespan=lifespan)
    app.state.gateway = gateway
    install_error_handlers(app)
    for routes in (inference_routes, response_routes, request_routes, model_routes, tokenizer_routes, operator_routes):
        app.include_router(routes(gateway))
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(RequestIds)
    app.add_middleware(IncomingTrace)
    return app


class BodyLimit:
    """Refuses a body beyond the limit where it is read: by its announced length, or as soon as more has come.

    The framework's own limit answers in plain text, which the clients' error handling cannot read.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        seen = int(announced) if announced.isdecimal() else 0
        read = 0

        async def receive_within_limit() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if max(seen, read) > self._max_bytes:
                raise HTTPException(413, f"The body is larger than {self._max_bytes} bytes: send less text.")
            return message

        await self._app(scope, receive_within_limit, send)


class RequestIds:
    """Every answer carries `x-request-id`: the one the client chose, or a new one. Plain ASGI, so that streams pass untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _chosen(Headers(scope=scope)) or f"req_{secrets.token_hex(12)}"

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


def _chosen(headers: Headers) -> str:
    chosen = headers.get("x-request-id", "")
    return chosen if len(chosen) <= MAX_HEADER_CHARS and chosen.isascii() and chosen.isprintable() else ""
