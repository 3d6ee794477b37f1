"""Tiny random models of many architectures, saved as checkpoints, whose greedy outputs vary.

Weights as small as the default initialisation's make a random model repeat one token whatever it reads, so that a test of
its KV would pass with any KV; these are initialised with larger ones, and `greedy` checks that they vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from tests.support.tiny_configs import CONTEXT, LLAMA_LIKE, VOCABULARY, WINDOW, tiny_config
from workers.model_loader import quiet_transformers

__all__ = [
    "CONTEXT", "LLAMA_LIKE", "REFUSED", "SERVED", "VARIANTS", "VOCABULARY", "WINDOW",
    "Reference", "prompt_of", "reference", "save_tiny",
]  # fmt: skip


Variant = tuple[str, dict[str, Any]]
"""A model type, and what differs from its tiny configuration."""

_SERVED = """
afmoe apertus arcee aria_text axk1 beam biogpt bitnet cohere cohere2 cohere2_moe ctrl cwm deepseek_v2 deepseek_v3 dots1 ernie4_5
ernie4_5_moe exaone4 exaone_moe flex_olmo flint fuyu gemma gemma2 gemma3_text gemma3n_text gemma4_text gemma4_unified_text glm glm4
glm4_moe glm4_moe_lite gpt-sw3 gpt2 gpt_bigcode gpt_neox gpt_oss granite granite_swa granitemoe granitemoe_swa granitemoeshared helium
hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe kolibri1 laguna llama longcat_flash mellum
mimo_v2_flash minicpm3 minimax_m2 ministral ministral3 mistral mixtral modernbert-decoder nanochat nemotron olmo olmo2 olmo3 olmoe
opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma youtu
"""
SERVED: tuple[str, ...] = tuple(_SERVED.split())
"""Model types that pass the proofs, each with a parity test."""

VARIANTS: dict[str, Variant] = {
    "llama 3 RoPE": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2, sliding": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
    "yarn RoPE": (
        "qwen3",
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 128}},
    ),
}
"""Settings that change the computation of a model type, by a name for the test."""

REFUSED: dict[str, str] = {
    "falcon": "0 of its 2 attention layers",
    "gptj": "0 of its 2 attention layers",
    "mpt": "takes no position_ids",
    "bloom": "takes no position_ids",
    "bert": "neither causal nor a sliding window",
    "doge": "builds an attention mask of its own",
    "diffllama": r"2 of its 2 attention layers call the attention interface \(4 calls\)",
    "lfm2_moe": "layers of type conv",
    "falcon_h1": "layers of type hybrid",
    "qwen3_next": "layers of type linear_attention",
    "llama4_text": "layers of type chunked_attention",
    "deepseek_v32": "layers of type indexed_attention",
    "minimax_m3_vl_text": "layers of type minimax_m3_sparse",
    "moshi": "its cache keeps 24 tokens, but its mask shows 512",
    "rwkv": "takes no position_ids",
}
"""Model types that must be refused, one or more for every reason, and the reason."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The unpacked model of a checkpoint: what any serving of it is measured against."""

    path: Path
    model: Any

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The `count` tokens that `generate()` adds to `prompt`, never stopping early."""
        ids = torch.tensor([list(prompt)])
        out = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None)
        return [int(token) for token in out[0, len(prompt) :]]

    def logprobs(self, tokens: Sequence[int], start: int) -> list[float]:
        """Teacher-forced log-probability of each of `tokens[start:]` given all before it, from one full forward."""
        with torch.inference_mode():
            rows = self.model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0].float().log_softmax(-1)
        return [float(rows[at - 1, tokens[at]]) for at in range(start, len(tokens))]


def save_tiny(model_type: str, folder: Path, *, seed: int = 0, config: Any = None) -> Path:
    """Writes a random checkpoint of `model_type` (or of `config`) into `folder` and returns it."""
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = config if config is not None else tiny_config(model_type)
        model = hf.AutoModelForCausalLM.from_config(made)
        model.save_pretrained(folder)
    return folder


def reference(folder: Path) -> Reference:
    """The checkpoint in `folder` as plain transformers runs it, in float32 with eager attention."""
    with quiet_transformers():
        model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model.generation_config.pad_token_id = 0
    return Reference(folder, model)


def prompt_of(length: int, salt: int = 0) -> tuple[int, ...]:
    """A prompt whose ids vary without a short period."""
    return tuple((at * at * 31 + at * 7 + salt * 53 + 11) % (VOCABULARY - 1) + 1 for at in range(length))
