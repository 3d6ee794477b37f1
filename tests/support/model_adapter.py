"""The in-memory model behind the fabric's asynchronous face."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any


class ModelAdapter:
    """Every method of the model as a coroutine; nothing ever blocks, so `block_ms` means nothing."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._model, name)

        async def call(*args: Any, block_ms: int = 0, **named: Any) -> Any:
            return method(*args, **named)

        return call
