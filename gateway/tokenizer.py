"""Text to token ids, off the event loop: the chat template and the encoder of the model's directory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from jinja2 import TemplateError

from shared.errors import BadRequest, ConfigError

T = TypeVar("T")
Message = dict[str, str]
"""`role` and `content`."""


class Encoder(Protocol):
    """What the gateway needs of a tokenizer. Both raise `BadRequest` for what cannot become tokens."""

    vocabulary: int

    async def encode_chat(self, messages: Sequence[Message], param: str) -> tuple[int, ...]: ...

    async def encode_text(self, text: str, param: str) -> tuple[int, ...]: ...


class Tokenizer:
    """A `transformers` tokenizer on a small thread pool: encoding releases the interpreter, templates are quick."""

    def __init__(self, tokenizer: Any, threads: int = 2) -> None:
        self._tokenizer = tokenizer
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="tokenize")
        self.vocabulary = len(tokenizer)

    @classmethod
    def load(cls, model_dir: Path, threads: int = 2) -> Tokenizer:
        """Raises `ConfigError` if the directory holds no tokenizer that loads without running its code."""
        from transformers import AutoTokenizer  # slow to import, and only the process that serves needs it

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--model {model_dir} holds no tokenizer that can be loaded: {error}") from error
        return cls(tokenizer, threads)

    async def encode_chat(self, messages: Sequence[Message], param: str) -> tuple[int, ...]:
        return await self._in_thread(lambda: self._chat(messages, param))

    async def encode_text(self, text: str, param: str) -> tuple[int, ...]:
        return await self._in_thread(lambda: _nonempty(self._tokenizer.encode(text), param))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _chat(self, messages: Sequence[Message], param: str) -> tuple[int, ...]:
        if not self._tokenizer.chat_template:
            raise BadRequest("This model has no chat template: use /v1/completions.", param, "no_chat_template")
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise BadRequest(f"The model's chat template refuses these messages: {error}.", param, "chat_template_error") from error
        # The template wrote the special tokens itself.
        return _nonempty(self._tokenizer.encode(text, add_special_tokens=False), param)


def _nonempty(ids: Sequence[int], param: str) -> tuple[int, ...]:
    if not ids:
        raise BadRequest(f"'{param}' gives no tokens: send at least one character.", param, "empty_prompt")
    return tuple(ids)
