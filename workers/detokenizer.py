"""Token ids to text that is safe to show: a pure fold of the ids, so the next owner continues where the last one died."""

from __future__ import annotations

from typing import NamedTuple, Protocol

PROMPT_TAIL = 16
"""Prompt ids that prime the decoder, so that the first generated token keeps its leading space."""


class TokenStream(Protocol):
    """Incremental decoding: `step` answers the text that became certain, if any; `rest` what is still undecided."""

    def step(self, token_id: int) -> str: ...

    def rest(self) -> str: ...


class Detokenizer(Protocol):
    """Opens a token stream after a prompt. One per model."""

    def open(self, prompt: tuple[int, ...]) -> TokenStream: ...


class Piece(NamedTuple):
    """Text released by a token; `stopped` when it completed a stop string (which is not released)."""

    text: str
    stopped: bool = False


class SafeText:
    """Holds back what could still be the head of a stop string.

    What has been released depends on the ids alone, never on how they were batched.
    """

    def __init__(self, stream: TokenStream, stop: tuple[str, ...]) -> None:
        self._stream = stream
        self._stop = stop
        self._held = ""
        self.stops = bool(stop)
        self.step = stream.step
        """Text of a token, where there is no stop string to look for: `push` says the same."""

    def push(self, token_id: int) -> Piece:
        return self._release(self._stream.step(token_id))

    def finish(self) -> Piece:
        """The end of the choice: undecided bytes become replacement characters, held text is released."""
        piece = self._release(self._stream.rest())
        held, self._held = self._held, ""
        return piece if piece.stopped else Piece(piece.text + held)

    def _release(self, text: str) -> Piece:
        pending = self._held + text
        cut = min((at for at in (pending.find(stop) for stop in self._stop) if at >= 0), default=-1)
        if cut >= 0:
            self._held = ""
            return Piece(pending[:cut], stopped=True)
        safe = len(pending) - max((_overlap(pending, stop) for stop in self._stop), default=0)
        self._held = pending[safe:]
        return Piece(pending[:safe])


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper head of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
