"""A model directory with a tokenizer and a length, and no weights: what a gateway needs of a model."""

from __future__ import annotations

from pathlib import Path

from tests.support.tokenizer_dirs import byte_backend, save

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'developer' %}{{ raise_exception('no developers here') }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LENGTH = 512


def write_tiny_model(directory: Path, length: int = LENGTH) -> Path:
    """A byte-level tokenizer: one token per byte, and the template's marks."""
    backend = byte_backend("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
    return save(directory, backend, {"eos_token": "<|end|>", "chat_template": CHAT_TEMPLATE}, length, eos=256)
