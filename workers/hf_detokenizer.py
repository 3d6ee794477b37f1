"""The detokenizer over a `tokenizers` file."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from shared.errors import ConfigError
from workers.detokenizer import PROMPT_TAIL, TokenStream


class HfDetokenizer:
    """Reads `tokenizer.json` of a model directory."""

    def __init__(self, model_dir: Path) -> None:
        file = model_dir / "tokenizer.json"
        if not file.is_file():
            raise ConfigError(f"--model {model_dir}: no tokenizer.json there; save the model with its fast tokenizer")
        self._tokenizer = Tokenizer.from_file(str(file))

    def open(self, prompt: tuple[int, ...]) -> TokenStream:
        return _HfStream(self._tokenizer, prompt[-PROMPT_TAIL:])


class _HfStream:
    def __init__(self, tokenizer: Tokenizer, primer: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(ids=list(primer), skip_special_tokens=True)
        self._undecided: list[int] = []

    def step(self, token_id: int) -> str:
        text: str | None = self._stream.step(self._tokenizer, token_id)
        if text is None:
            self._undecided.append(token_id)
            return ""
        if self._undecided:
            self._undecided.clear()
        return text

    def rest(self) -> str:
        undecided, self._undecided = self._undecided, []
        text: str = self._tokenizer.decode(undecided, skip_special_tokens=True) if undecided else ""
        return text
