"""Tiny configurations of every decoder architecture that transformers knows, made by one rule and a few exceptions.

The rule: a configuration class gets the settings of `TINY` that it has at all, under whatever name; what an architecture needs
beyond that stands in `SPECIAL`. Sizes are small, windows are short enough for a test to cross, weights are large enough that a
random model's outputs vary.
"""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING

Settings = dict[str, Any]

VOCABULARY = 128
WINDOW = 24
"""Sliding window of the tiny models that have one."""
CONTEXT = 512

LLAMA_LIKE: Settings = {
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

_EXPERTS: Settings = {
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "num_dense_layers"), 1),
}
_LATENT: Settings = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}

TINY: Settings = {**LLAMA_LIKE, **_EXPERTS, **_LATENT, "head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 16}

_ROTARY_8: Settings = {"rotary_dim": 8}
_IDS: Settings = {"bos_token_id": 1, "pad_token_id": 0}

SPECIAL: dict[str, Settings] = {
    "codegen": _ROTARY_8,
    "cwm": _IDS,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW, "num_layers": 2},
    "gptj": _ROTARY_8,
    "gpt_neox": {"rotary_pct": 0.5},
    "gemma2": {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 300.0},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 16,
        "laurel_rank": 8,
        "intermediate_size": [96] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 16, "global_head_dim": 32},
    "gemma4_unified_text": {"global_head_dim": 32},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "llama4_text": {"attention_chunk_size": 32, "intermediate_size_mlp": 96, "num_experts_per_tok": 1},
    "longcat_flash": {"num_layers": 1, "head_dim": 8},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "mimo_v2_flash": {"v_head_dim": 12},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"]},
    "modernbert-decoder": _IDS | {"cls_token_id": 1, "sep_token_id": 1},
    "smollm3": {"no_rope_layers": [1, 0]},
    "zaya": {"num_experts_per_tok": 1},
}
"""What single architectures need: a setting here wins."""


def tiny_config(model_type: str, **more: Any) -> Any:
    """A tiny configuration of `model_type`; `more` wins over the rule."""
    made = CONFIG_MAPPING[model_type]
    default = made()
    known = vars(default) | dict.fromkeys(made.attribute_map)
    settings = {name: value for name, value in TINY.items() if name in known or name in LLAMA_LIKE} | _layers(known)
    if "qk_rope_head_dim" in known:  # latent attention: heads are not shared, and the rotated part is what `head_dim` means
        settings = {name: value for name, value in settings.items() if name != "head_dim"} | {"num_key_value_heads": 4}
    return made(**(settings | SPECIAL.get(model_type, {}) | more))


def _layers(known: Settings) -> Settings:
    """One layer of every type that the architecture has by default, and at least two."""
    types = list(dict.fromkeys(known.get("layer_types") or ()))
    return {"layer_types": types, "num_hidden_layers": len(types)} if len(types) > 1 else {}
