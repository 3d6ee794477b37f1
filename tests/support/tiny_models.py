"""Tiny random models of many architectures, saved as checkpoints, whose greedy outputs vary.

Weights as small as the default initialisation's make a random model repeat one token whatever it reads, so that a test of
its KV would pass with any KV; these are initialised with larger ones, and `greedy` checks that they vary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from workers.model_loader import quiet_transformers

VOCABULARY = 128
WINDOW = 24
"""Sliding window of the tiny models that have one."""
CONTEXT = 512

LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}


def _llama_like(config: Callable[..., Any], **more: Any) -> Callable[[], Any]:
    return lambda: config(**{**LLAMA_LIKE, **more})


_GPT2_LIKE: dict[str, Any] = {"vocab_size": VOCABULARY, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": 0}

SERVED: dict[str, Callable[[], Any]] = {
    "llama": _llama_like(hf.LlamaConfig),
    "qwen3": _llama_like(hf.Qwen3Config, head_dim=16),
    "mistral": _llama_like(hf.MistralConfig, sliding_window=WINDOW),
    "gemma3_text": _llama_like(
        hf.Gemma3TextConfig,
        head_dim=16,
        num_hidden_layers=3,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=16,
    ),
    "gemma2": _llama_like(
        hf.Gemma2Config,
        head_dim=16,
        sliding_window=WINDOW,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=300.0,
    ),
    "gpt_neox": _llama_like(hf.GPTNeoXConfig, rotary_pct=0.5),
    "phi3": _llama_like(hf.Phi3Config),
    "gpt2": lambda: hf.GPT2Config(**_GPT2_LIKE, n_embd=64, n_layer=2, n_head=4, n_positions=CONTEXT),
    "olmo2": _llama_like(hf.Olmo2Config),
    "mixtral": _llama_like(hf.MixtralConfig, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
}
"""Architectures that are served, by model type."""

REFUSED: dict[str, Callable[[], Any]] = {
    "falcon": lambda: hf.FalconConfig(**_GPT2_LIKE, hidden_size=64, num_hidden_layers=2, num_attention_heads=4),
    "gptj": lambda: hf.GPTJConfig(**_GPT2_LIKE, n_embd=64, n_layer=2, n_head=4, rotary_dim=8, n_positions=CONTEXT),
    "mpt": lambda: hf.MptConfig(vocab_size=VOCABULARY, d_model=64, n_layers=2, n_heads=4, max_seq_len=CONTEXT),
    "lfm2": _llama_like(hf.Lfm2Config, layer_types=["conv", "full_attention"]),
    "falcon_h1": _llama_like(hf.FalconH1Config, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=16),
    "qwen3_next": _llama_like(
        hf.Qwen3NextConfig,
        head_dim=16,
        layer_types=["linear_attention", "full_attention"],
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
    ),
    "gpt_oss": _llama_like(
        hf.GptOssConfig, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW, rope_parameters=None
    ),
    "llama4_text": _llama_like(
        hf.Llama4TextConfig, head_dim=16, intermediate_size_mlp=96, num_local_experts=2, num_experts_per_tok=1, attention_chunk_size=32
    ),
    "deepseek_v3": _llama_like(
        hf.DeepseekV3Config,
        num_key_value_heads=4,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
    ),
}
"""Architectures that must be refused, by model type."""


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
        made = config if config is not None else (SERVED | REFUSED)[model_type]()
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
