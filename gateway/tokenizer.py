"""Text to token ids, off the event loop: the chat template and the encoder of the model's directory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from gateway.tokenizer_files import TokenizerFiles, read_tokenizer
from shared.errors import BadRequest

T = TypeVar("T")
Message = dict[str, str]
"""`role` and `content`."""


class Encoder(Protocol):
    """What the gateway needs of a tokenizer. Both raise `BadRequest` for what cannot become tokens."""

    vocabulary: int

    async def encode_chat(self, messages: Sequence[Message], param: str) -> tuple[int, ...]: ...

    async def encode_text(self, text: str, param: str) -> tuple[int, ...]: ...


class Tokenizer:
    """The tokenizer of a model directory on a small thread pool: encoding releases the interpreter, templates are quick."""

    def __init__(self, files: TokenizerFiles, threads: int = 2) -> None:
        self._tokenizer = files.tokenizer
        self._template = files.chat_template
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="tokenize")
        self.vocabulary: int = self._tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, model_dir: Path, threads: int = 2) -> Tokenizer:
        """Raises `ConfigError` if the directory holds no tokenizer that loads without running its code."""
        return cls(read_tokenizer(model_dir), threads)

    async def encode_chat(self, messages: Sequence[Message], param: str) -> tuple[int, ...]:
        return await self._in_thread(lambda: self._chat(messages, param))

    async def encode_text(self, text: str, param: str) -> tuple[int, ...]:
        return await self._in_thread(lambda: self._encode(text, param, add_special_tokens=True))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _chat(self, messages: Sequence[Message], param: str) -> tuple[int, ...]:
        if self._template is None:
            raise BadRequest("This model has no chat template: use /v1/completions.", param, "no_chat_template")
        try:
            text = self._template.render(messages)
        except Exception as error:  # it is the model's program: whatever it raises, it raises about these messages
            raise BadRequest(f"The model's chat template refuses these messages: {error}.", param, "chat_template_error") from error
        # The template wrote the special tokens itself.
        return self._encode(text, param, add_special_tokens=False)

    def _encode(self, text: str, param: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        if not ids:
            raise BadRequest(f"'{param}' gives no tokens: send at least one character.", param, "empty_prompt")
        return tuple(ids)
