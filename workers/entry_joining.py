"""What a server that is slower than the engine lets pile up: tokens that wait together go into the log together.

An entry costs every process the same, however many tokens it holds. A worker that keeps up writes each token by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.messages import LogTokens

MOST_TOKENS = 16
"""Of one entry: a stream that fell behind still moves in small steps."""


def joined(entries: Sequence[LogTokens]) -> list[LogTokens]:
    """The same tokens in fewer entries. A choice's tokens stay in order; what ends one is its last."""
    if len(entries) < 2:
        return list(entries)
    longer: list[LogTokens] = []
    latest: dict[int, int] = {}
    for entry in entries:
        at = latest.get(entry.choice)
        if at is not None and _may_join(longer[at], entry):
            longer[at] = _join(longer[at], entry)
        else:
            latest[entry.choice] = len(longer)
            longer.append(entry)
    return longer


def _may_join(one: LogTokens, other: LogTokens) -> bool:
    """An end stays the last word, and an entry that tells each token's log probability goes on doing so."""
    short = len(one.token_ids) + len(other.token_ids) <= MOST_TOKENS
    follows = one.index + len(one.token_ids) == other.index
    return short and follows and one.finish is None and _tells(one) == _tells(other) and not other.cached_tokens


def _tells(entry: LogTokens) -> tuple[bool, bool]:
    """Whether there is a log probability, and alternatives, for each token."""
    return len(entry.logprobs) == len(entry.token_ids), len(entry.top_logprobs) == len(entry.token_ids)


def _join(one: LogTokens, other: LogTokens) -> LogTokens:
    return LogTokens(
        one.choice,
        one.index,
        one.token_ids + other.token_ids,
        one.text + other.text,
        one.logprobs + other.logprobs,
        other.finish,
        other.at_ms,
        one.top_logprobs + other.top_logprobs,
        one.cached_tokens,
    )
