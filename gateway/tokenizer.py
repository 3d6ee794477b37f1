"""Text to token ids, off the event loop: the chat template and the encoder of the model's directory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gateway.grammar_check import Constraint
from gateway.token_names import Vocabulary
from gateway.tokenizer_files import TokenizerFiles, read_tokenizer
from gateway.tools_plan import Form, Json
from shared.errors import BadRequest

T = TypeVar("T")
Message = dict[str, Any]
"""`role` and `content`; `tool_calls` and `tool_call_id` where there are tools."""


class Encoder(Protocol):
    """What the gateway needs of a tokenizer. The encoding ones raise `BadRequest` for what cannot become tokens."""

    vocabulary: int
    call_format: str
    """How the model writes tool calls: a name in `shared.grammar.CALL_FORMATS`."""

    async def encode_chat(self, messages: Sequence[Message], param: str, tools: Sequence[Json] = ()) -> tuple[int, ...]: ...

    async def check_form(self, form: Form) -> None:
        """Raises `BadRequest` if an answer of this model cannot be held to this form."""
        ...

    async def encode_text(self, text: str, param: str, *, add_special_tokens: bool = True) -> tuple[int, ...]: ...

    async def decode(self, token_ids: Sequence[int]) -> str:
        """The text, special tokens included."""
        ...

    def bytes_of(self, token_id: int) -> bytes: ...


class Tokenizer:
    """The tokenizer of a model directory on a small thread pool: encoding releases the interpreter, templates are quick."""

    def __init__(self, files: TokenizerFiles, threads: int = 2, call_format: str = "") -> None:
        """`call_format` overrides what the template says of it."""
        self._tokenizer = files.tokenizer
        self._template = files.chat_template
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="tokenize")
        self._names = Vocabulary(self._tokenizer)
        self.call_format = call_format or (self._template.call_format if self._template else "generic")
        self._constraint = Constraint(self._tokenizer, files.model_dir)
        self.vocabulary: int = self._tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, model_dir: Path, threads: int = 2, call_format: str = "") -> Tokenizer:
        """Raises `ConfigError` if the directory holds no tokenizer that loads without running its code."""
        return cls(read_tokenizer(model_dir), threads, call_format)

    async def encode_chat(self, messages: Sequence[Message], param: str, tools: Sequence[Json] = ()) -> tuple[int, ...]:
        return await self._in_thread(lambda: self._chat(messages, param, tools))

    async def check_form(self, form: Form) -> None:
        await self._in_thread(lambda: self._constraint.check(form, self.call_format))

    async def encode_text(self, text: str, param: str, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        return await self._in_thread(lambda: self._encode(text, param, add_special_tokens=add_special_tokens))

    async def decode(self, token_ids: Sequence[int]) -> str:
        return await self._in_thread(lambda: str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False)))

    def bytes_of(self, token_id: int) -> bytes:
        return self._names.bytes_of(token_id)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _chat(self, messages: Sequence[Message], param: str, tools: Sequence[Json]) -> tuple[int, ...]:
        if self._template is None:
            raise BadRequest("This model has no chat template: use /v1/completions.", param, "no_chat_template")
        try:
            text = self._template.render(messages, tools, call_format=self.call_format)
        except Exception as error:  # it is the model's program: whatever it raises, it raises about these messages
            raise BadRequest(f"The model's chat template refuses these messages: {error}.", param, "chat_template_error") from error
        # The template wrote the special tokens itself.
        return self._encode(text, param, add_special_tokens=False)

    def _encode(self, text: str, param: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        if not ids:
            raise BadRequest(f"'{param}' gives no tokens: send at least one character.", param, "empty_prompt")
        return tuple(ids)
