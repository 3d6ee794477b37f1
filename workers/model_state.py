"""Whether a model remembers anything from one forward to the next: what it remembers would pass from one request to another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from shared.errors import ModelRefused


@contextmanager
def unchanged_state(model: Any) -> Iterator[None]:
    """Raises `ModelRefused` at its end if a buffer, or a tensor that a module holds, is new or has another value."""
    before = {name: tensor.clone() for name, tensor in held_tensors(model).items()}
    yield
    for name, tensor in held_tensors(model).items():
        if name not in before or not _same(before[name], tensor):
            raise ModelRefused(f"it keeps state from one forward to the next ({name})")


def held_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Every buffer, and every tensor that is a plain attribute of a module, alone or in a list, tuple or dict; no parameters."""
    found: dict[str, torch.Tensor] = dict(model.named_buffers())
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                found |= {f"{path}.{name}{place}": tensor for place, tensor in _tensors(value)}
    return found


def _tensors(value: object) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
        yield "", value
    elif isinstance(value, list | tuple):
        yield from ((f"[{at}]", one) for at, one in enumerate(value) if isinstance(one, torch.Tensor))
    elif isinstance(value, dict):
        yield from ((f"[{at!r}]", one) for at, one in value.items() if isinstance(one, torch.Tensor))


def _same(before: torch.Tensor, after: torch.Tensor) -> bool:
    return before.shape == after.shape and before.dtype == after.dtype and bool(torch.equal(before, after))
