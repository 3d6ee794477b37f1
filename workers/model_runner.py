"""One forward of a model over the paged cache: a `StepPlan` in, the logits of its sampled rows out."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from shared.errors import EngineError
from workers.attention import PagedAttention
from workers.engine import StepPlan
from workers.step_layout import StepLayout


class ModelRunner:
    """Runs `model` with its attention modules attached to one `PagedAttention`."""

    def __init__(self, model: Any, attention: PagedAttention) -> None:
        self._model = model
        self._attention = attention
        self._device = attention.cache.data.device
        self._selects_rows = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def logits(self, plan: StepPlan, previous: torch.Tensor | None) -> torch.Tensor:
        """Float32 logits `[R, V]` of the plan's sampled rows; `previous` holds the tokens that the plan before sampled."""
        tokens = self._tokens(plan, previous)
        rows = torch.tensor([sample.row for sample in plan.samples], dtype=torch.int64, device=self._device)
        cache = self._attention.cache
        native = self._attention.native is not None
        self._attention.step = StepLayout(plan, cache.block_tokens, cache.data.dtype, self._device, native=native)
        try:
            return self._forward(tokens, self._to_device(plan.positions), rows).float()
        finally:
            self._attention.step = None

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        arguments = {"input_ids": tokens[None], "position_ids": positions[None], "use_cache": False}
        if self._selects_rows:
            logits: torch.Tensor = self._model(**arguments, logits_to_keep=rows).logits[0]
            return logits
        whole: torch.Tensor = self._model(**arguments).logits[0]
        return whole[rows]

    def _tokens(self, plan: StepPlan, previous: torch.Tensor | None) -> torch.Tensor:
        """The plan's token ids, with what the previous plan sampled put in its places without leaving the device."""
        tokens = self._to_device(plan.token_ids)
        if not (plan.inputs >= 0).any():
            return tokens
        if previous is None or plan.inputs.max() >= len(previous):
            raise EngineError(f"step {plan.step} takes tokens that the plan before it did not sample")
        inputs = self._to_device(plan.inputs)
        return torch.where(inputs >= 0, previous[inputs.clamp(min=0)], tokens)

    def _to_device(self, array: np.typing.NDArray[np.int32]) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self._device, non_blocking=True)


def check_plan(plan: StepPlan, total_blocks: int, block_tokens: int, max_model_tokens: int) -> None:
    """Raises `EngineError` for a plan whose arrays do not fit each other or the cache: on a device that would be silent."""
    flat = len(plan.token_ids)
    if not (len(plan.inputs) == len(plan.positions) == len(plan.slots) == flat and plan.starts[-1] == flat > 0):
        raise EngineError(f"step {plan.step}: its arrays disagree on the number of tokens, or it has none")
    queries = np.diff(plan.starts)
    if len(queries) != len(plan.contexts) or (queries < 0).any() or (plan.contexts < queries).any():
        raise EngineError(f"step {plan.step}: starts and contexts disagree")
    if plan.contexts.max() > max_model_tokens or plan.positions.min() < 0 or plan.positions.max() >= max_model_tokens:
        raise EngineError(f"step {plan.step}: beyond the model's {max_model_tokens} tokens")
    if plan.slots.min() < 0 or plan.slots.max() >= total_blocks * block_tokens:
        raise EngineError(f"step {plan.step}: a slot is outside the cache")
    _check_tables(plan, total_blocks, block_tokens)
    if any(not 0 <= sample.row < flat for sample in plan.samples):
        raise EngineError(f"step {plan.step}: a sampled row is not one of its {flat} tokens")


def _check_tables(plan: StepPlan, total_blocks: int, block_tokens: int) -> None:
    used = np.arange(plan.block_tables.shape[1]) < -(-plan.contexts // block_tokens)[:, None]
    if plan.block_tables.shape[1] * block_tokens < plan.contexts.max():
        raise EngineError(f"step {plan.step}: its block tables are shorter than its contexts")
    if ((plan.block_tables < 0) | (plan.block_tables >= total_blocks))[used].any():
        raise EngineError(f"step {plan.step}: a block is outside the cache")
