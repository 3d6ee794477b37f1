"""The gateway's own listening socket."""

from __future__ import annotations

import socket

from gateway.server import listen


def test_a_connection_sends_each_token_at_once() -> None:
    """Without TCP_NODELAY a token waits until the client has acknowledged the one before: 40 ms."""
    with listen("127.0.0.1", 0) as listening:
        listening.listen()
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
