"""An HTTP server that stops when it is told to, and drains."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from gateway.service import Gateway
from gateway.settings import GatewaySettings
from shared.errors import ConfigError

log = logging.getLogger(__name__)


async def run_app(app: FastAPI, settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Runs the application on the settings' address until `stop` is set, and drains it. Raises `ConfigError` if it is taken."""
    listening = listen(settings.host, settings.port)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_s)),
    )
    server = Server(config)
    log.info("%s listens on http://%s:%d", settings.gateway_id, settings.host, listening.getsockname()[1])
    stopping = asyncio.create_task(_stop(server, app.state.gateway, stop))
    try:
        await server.serve(sockets=[listening])
    finally:
        stopping.cancel()


class Server(uvicorn.Server):
    """uvicorn without its own signal handlers: who runs it says when to stop."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def _stop(server: Server, gateway: Gateway, stop: asyncio.Event) -> None:
    await stop.wait()
    log.info("draining: %r", gateway)
    gateway.draining = True
    server.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that port 0 is known before the first request."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Its connections inherit it. asyncio sets it only where a socket says its protocol; without it a token waits 40 ms for an ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigError(f"--host {host} --port {port} cannot be listened on ({error.strerror}): choose another port") from error
    return listening
