"""The real engine: any decoder-only transformers model that passes its proofs, over a paged KV cache.

One thread of its own runs the model, so that `launch` returns at once and the steps of a depth-2 pipeline follow each
other without a gap; `gather` and `scatter` run in their callers' threads.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from shared.errors import EngineError, HeadstartError
from shared.types import BlockId, TokenSpan
from workers.attention import PagedAttention
from workers.device import StepTimer, usable_device
from workers.engine import StepPlan, StepResult
from workers.grammar import Grammars
from workers.kv_layout import ITEM_BYTES, values_per_token
from workers.model_loader import load_model
from workers.model_runner import ModelRunner, check_plan
from workers.paged_cache import fit_blocks
from workers.sampling import Chosen, choose
from workers.uneven_cache import cache_for

DEPTH = 2
"""Plans that may be outstanding."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a step sampled, on its way to the host: to be read after `timer.wait()`."""

    on_device: torch.Tensor
    """The tokens where the next step takes them from."""
    chosen: Chosen
    timer: StepTimer

    def known(self) -> list[int]:
        """Waits for the tokens."""
        self.timer.wait()
        ids: list[int] = self.chosen.tokens.tolist()
        return ids


class TorchEngine:
    """`workers.engine.Engine` over torch and transformers.

    `kv_bytes` bounds the cache (by default a share of the free memory), `max_model_tokens` the context (by default what
    the model allows), `dtype` `auto` and an absent `wire_dtype` are the checkpoint's own. Raises `ConfigError` for a bad option or missing
    files, `ModelRefused` for a model that would be served wrong.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        block_tokens: int = 16,
        kv_bytes: int | None = None,
        max_model_tokens: int | None = None,
        wire_dtype: str | None = None,
    ) -> None:
        self._device = usable_device(device)
        loaded = load_model(model_path, device=self._device, dtype=dtype, wire_dtype=wire_dtype, max_model_tokens=max_model_tokens)
        self.kv = loaded.kv
        self.block_tokens = block_tokens
        self.max_model_tokens = loaded.max_model_tokens
        self.eos_token_ids = loaded.eos_token_ids
        dtype = loaded.dtype
        block_bytes = block_tokens * values_per_token(self.kv) * ITEM_BYTES[dtype]
        self.total_blocks = fit_blocks(block_bytes, block_tokens, kv_bytes, self._device)
        self._cache = cache_for(self.kv, block_tokens, self.total_blocks, getattr(torch, dtype), self._device)
        self._runner = ModelRunner(loaded.model, PagedAttention(self._cache, loaded.layers))
        self._model_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._launched: deque[tuple[int, Future[_Answer]]] = deque()
        self._previous: _Answer | None = None
        """What the last step sampled; None if it failed. Used by the model's thread alone."""
        self._grammars = Grammars(Path(model_path) / "tokenizer.json", loaded.eos_token_ids)
        self._name = f"{loaded.model.config.model_type} {dtype} {device}"

    def __repr__(self) -> str:
        return f"<TorchEngine {self._name} [blocks {self.total_blocks} x {self.block_tokens} | launched {len(self._launched)}]>"

    def launch(self, plan: StepPlan) -> None:
        if len(self._launched) >= DEPTH:
            raise EngineError(f"step {plan.step}: {DEPTH} plans are already outstanding; collect one first")
        self._launched.append((plan.step, self._model_thread.submit(self._run, plan)))

    def collect(self) -> StepResult:
        if not self._launched:
            raise EngineError("there is no launched plan to collect")
        step, future = self._launched.popleft()
        try:
            answer = future.result()
            seconds = answer.timer.wait()
        except HeadstartError:
            raise
        except Exception as error:
            raise EngineError(f"step {step} failed: {type(error).__name__}: {error}") from error
        tokens, logprobs, top = answer.chosen
        likeliest = top.by_row(len(tokens)) if top else ()
        return StepResult(step, tuple(tokens.tolist()), tuple(logprobs.tolist()), seconds, likeliest, answer.timer.computing_s)

    def gather(self, blocks: tuple[BlockId, ...], span: TokenSpan, out: memoryview) -> None:
        self._cache.gather(blocks, span, out)

    def scatter(self, blocks: tuple[BlockId, ...], span: TokenSpan, data: memoryview) -> None:
        self._cache.scatter(blocks, span, data)

    def close(self) -> None:
        """Waits for what runs and ends the model's thread. Results that nobody collected are lost."""
        self._model_thread.shutdown(wait=True, cancel_futures=True)
        self._grammars.close()
        self._launched.clear()

    @torch.inference_mode()
    def _run(self, plan: StepPlan) -> _Answer:
        timer = StepTimer(self._device)
        previous, self._previous = self._previous, None
        check_plan(plan, self.total_blocks, self.block_tokens, self.max_model_tokens)
        # The grammars' masks are made while the forward runs.
        bound = self._grammars.bind(plan.samples, previous.known if previous else list)
        known = previous.on_device if previous else None
        logits = self._runner.logits(plan, known)
        chosen = choose(logits, bound.result() if bound else plan.samples, known, tuple(self.eos_token_ids))
        self._previous = _Answer(chosen.tokens, chosen.on_host(), timer)
        timer.stop()
        return self._previous
