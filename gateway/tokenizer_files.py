"""What a model's directory says of its tokenizer, read by the rules of `transformers` 5 and without importing it: that takes torch along.

`tokenizer.json` is the truth about text and ids. Beside it `tokenizer_config.json` (and, where that one lists no added tokens,
`special_tokens_map.json`) name the special tokens; the chat template stands in `chat_template.jinja` or in the configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import AddedToken, Tokenizer

from gateway.chat_template import ChatTemplate
from shared.errors import ConfigError

Config = dict[str, Any]
REMEDY = "save it with `AutoTokenizer.from_pretrained(...).save_pretrained(...)` of transformers 5"
STANDARD_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TOKEN_FIELDS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer as it is to be used: nothing cut, nothing padded."""

    tokenizer: Any
    """A `tokenizers.Tokenizer`."""
    chat_template: ChatTemplate | None
    model_dir: Path


def read_tokenizer(model_dir: Path) -> TokenizerFiles:
    """Raises `ConfigError` that names the file and the remedy."""
    config = _config(model_dir)
    tokenizer = _backend(model_dir / "tokenizer.json")
    if tokenizer.padding:
        config.setdefault("pad_token", tokenizer.padding["pad_token"])
    # What a training script left in the file would change prompts silently.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    named = dict(_named_tokens(config))
    tokenizer.add_tokens(list(_missing_tokens(tokenizer, config, named)))
    tokenizer.encode_special_tokens = bool(config.get("split_special_tokens", False))
    source = _template_source(model_dir, config)
    return TokenizerFiles(tokenizer, _compiled(model_dir, source, named) if source else None, model_dir)


def _backend(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"--model {path.parent} holds no tokenizer.json: {REMEDY}")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"{path} cannot be loaded ({error}): {REMEDY}") from error


def _config(model_dir: Path) -> Config:
    config = _json(model_dir / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= _json(model_dir / "special_tokens_map.json")
    if "additional_special_tokens" in config and not config.get("extra_special_tokens"):
        config["extra_special_tokens"] = config.pop("additional_special_tokens")
    return config


def _json(path: Path) -> Config:
    try:
        read = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} ({error}): {REMEDY}") from error
    if not isinstance(read, dict):
        raise ConfigError(f"{path} holds no JSON object: {REMEDY}")
    return read


def _named_tokens(config: Config) -> Iterator[tuple[str, AddedToken]]:
    """`bos_token`, `eos_token`, ..., then the model's own (`image_token`, ...): what a template may write by name."""
    extra = config.get("extra_special_tokens")
    own = {name: value for name, value in config.items() if name.endswith("_token")} | (extra if isinstance(extra, dict) else {})
    for name in dict.fromkeys((*STANDARD_TOKENS, *own)):
        if isinstance(value := own.get(name), (str, dict)):
            yield name, _token(value, special=True)


def _missing_tokens(tokenizer: Any, config: Config, named: dict[str, AddedToken]) -> Iterator[AddedToken]:
    """Tokens that the configuration has beyond `tokenizer.json`, in the order in which they get their ids."""
    known = {repr(token): token.content for token in tokenizer.get_added_tokens_decoder().values()}
    contents = set(known.values())
    for _, value in sorted(config.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0])):
        token = _token(value)
        if repr(token) not in known:
            contents.add(token.content)
            yield token
    for token in (*named.values(), *_extra_tokens(config)):
        if token.content not in contents:
            contents.add(token.content)
            yield token


def _extra_tokens(config: Config) -> Iterable[AddedToken]:
    extra = config.get("extra_special_tokens") or ()
    return () if isinstance(extra, dict) else (_token(value, special=True) for value in extra)


def _token(value: str | Config, **fixed: bool) -> AddedToken:
    """A token is written as its text, or as an object with flags."""
    if isinstance(value, str):
        return AddedToken(value, **fixed)
    return AddedToken(value["content"], **{name: value[name] for name in TOKEN_FIELDS if name in value} | fixed)


def _template_source(model_dir: Path, config: Config) -> str | None:
    """The template named `default`, where there are several. A file of its own wins over the configuration."""
    file = model_dir / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {one["name"]: one["template"] for one in template}
    return template.get("default") if isinstance(template, dict) else template


def _compiled(model_dir: Path, source: str, named: dict[str, AddedToken]) -> ChatTemplate:
    try:
        return ChatTemplate(source, {name: token.content for name, token in named.items()})
    except TemplateError as error:
        raise ConfigError(f"--model {model_dir}: its chat template does not compile ({error}): mend it, or take it out") from error
