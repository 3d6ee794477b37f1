"""Model directories whose tokenizers and chat templates are unlike each other, as old and new versions of transformers saved them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

Json = dict[str, Any]

LONG_TEMPLATE = """\
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%Y") %}
{%- endif %}
{%- set ns = namespace(system='none', turns=0) %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {%- set ns.system = message['content'] | trim %}
        {%- continue %}
    {%- endif %}
    {%- if ns.turns >= 3 %}
        {%- break %}
    {%- endif %}
    {%- set ns.turns = ns.turns + 1 %}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
{{ message['content'] }}{{ eos_token }}
        {%- endgeneration %}
    {%- else %}
<|{{ message['role'] }}|>{{ message | tojson }}
    {% endif %}
{%- endfor %}
System: {{ ns.system }} in {{ date_string }}{{ ' with tools' if tools is not none }}{{ dict(a=1) | tojson(indent=1) }}{{ image_token }}
{% if add_generation_prompt %}
<|assistant|>
{% endif %}
"""

RAISING_TEMPLATE = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ cls_token }} {{ message['role'] }} : {{ message.content + 1 if message.content == 'add' else message.content }} {{ sep_token }} "
    "{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


def byte_level(folder: Path) -> Path:
    """As Llama 3: byte-level BPE, a post-processor that adds the first token, a template file of its own, a named token of its own."""
    backend = byte_backend("<|begin|>", "<|end|>", "<|user|>", "<|assistant|>")
    backend.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", backend.token_to_id("<|begin|>"))])
    backend.enable_truncation(5)
    backend.enable_padding(length=20)
    config = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "image_token": "<|image|>", "extra_special_tokens": ["<|pause|>"]}
    (folder / "chat_template.jinja").write_text(LONG_TEMPLATE)
    return save(folder, backend, config | {"chat_template": "never read", "add_bos_token": False, "tokenizer_class": "TokenizersBackend"})


def word_level(folder: Path) -> Path:
    """As the days before `added_tokens_decoder`: special tokens in a file of their own, some of them in no vocabulary, named templates."""
    words = ["[UNK]", "[CLS]", "[SEP]", "user", "assistant", "system", ":", "hello", "world", "who", "are", "you"]
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    flags = {"single_word": False, "lstrip": True, "rstrip": False, "normalized": False}
    named = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": {"content": "[SEP]", **flags}}
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"mask_token": "[MASK]", "pad_token": "[PAD]", **named, "additional_special_tokens": ["[EXTRA]"]})
    )
    templates = [{"name": "tool_use", "template": "never read"}, {"name": "default", "template": RAISING_TEMPLATE}]
    return save(folder, backend, {"chat_template": templates, "cls_token": "[OLD]", "tokenizer_class": "PreTrainedTokenizerFast"})


def metaspace(folder: Path) -> Path:
    """As Mistral: metaspace with byte fallback, tokens in `added_tokens_decoder` that `tokenizer.json` lacks, no chat template."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    vocabulary |= {piece: len(vocabulary) + at for at, piece in enumerate(["▁", "h", "e", "l", "o", "he", "ll", "▁he"])}
    merges = [("h", "e"), ("l", "l"), ("▁", "he")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    decoder = {str(at): flagged(token) for at, token in enumerate(["<unk>", "<s>", "</s>"])} | {"300": flagged("[INST]", rstrip=True)}
    config = {
        "bos_token": flagged("<s>") | {"__type": "AddedToken"},
        "eos_token": "</s>",
        "pad_token": None,
        "added_tokens_decoder": decoder,
    }
    return save(folder, backend, config | {"tokenizer_class": "TokenizersBackend"})


UNLIKE: dict[str, Callable[[Path], Path]] = {"byte_level": byte_level, "word_level": word_level, "metaspace": metaspace}


def byte_backend(*special: str) -> Any:
    """One token per byte, and the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: at for at, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    return backend


def flagged(content: str, **flags: bool) -> Json:
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, **flags}


def save(folder: Path, backend: Any, config: Json, length: int = 512, eos: int | None = None) -> Path:
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": length, "eos_token_id": eos}))
    return folder
