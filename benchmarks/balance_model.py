"""The small model of `benchmarks.balance`: random weights behind the demo model's tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import transformers as hf

from workers.model_loader import quiet_transformers

WEIGHTS = Path(__file__).resolve().parents[1] / "examples" / "demo_model" / "weights"
WINDOW = 2048
VOCABULARY = 2048
WORDS = range(300, VOCABULARY)
"""Token ids that prompts are drawn from: no special ones."""


def save_model(folder: Path, hidden: int, layers: int) -> Path:
    """A Llama with eight query heads of width 32 for each KV head pair; float32."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(WEIGHTS / name, folder / name)
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=max(1, hidden // 128),
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    with quiet_transformers():
        hf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
