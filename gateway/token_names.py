"""The bytes that each token id stands for, by what the tokenizer's decoder does with a token's piece."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

MARK = "\u2581"
"""What sentencepiece writes for a space."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """Names tokens, one look-up each: nothing is built for a vocabulary of which most is never named."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {token_id: token.content for token_id, token in tokenizer.get_added_tokens_decoder().items()}
        steps = {step["type"]: step for step in _steps(tokenizer.decoder)}
        self._byte_level = "ByteLevel" in steps
        self._word_piece = steps["WordPiece"]["prefix"] if "WordPiece" in steps else None

    def bytes_of(self, token_id: int) -> bytes:
        """Empty for an id without a token: models have rows beyond their tokenizer's vocabulary."""
        if token_id in self._added:
            return str(self._added[token_id]).encode()
        piece = self._tokenizer.id_to_token(token_id)
        return b"" if piece is None else self._plain(piece)

    def _plain(self, piece: str) -> bytes:
        if self._byte_level and all(char in BYTE_OF for char in piece):
            return bytes(BYTE_OF[char] for char in piece)
        if found := _BYTE.fullmatch(piece):
            return bytes((int(found[1], 16),))
        if self._word_piece is not None:
            piece = piece.removeprefix(self._word_piece) if piece.startswith(self._word_piece) else " " + piece
        return str(piece).replace(MARK, " ").encode()


def _steps(decoder: Any) -> Iterator[dict[str, Any]]:
    """A decoder's parts; a sequence is taken apart."""
    if decoder is None:
        return
    pending = [json.loads(decoder.__getstate__())]
    while pending:
        step = pending.pop(0)
        pending += step.get("decoders", [])
        yield step


def _byte_chars() -> dict[str, int]:
    """Byte-level pieces spell each byte as one printable character: those that print stand for themselves, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(others)}


BYTE_OF = _byte_chars()
