"""Joined entries say what the single ones say."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from shared.messages import LogTokens
from shared.types import FinishReason
from workers.entry_joining import MOST_TOKENS, joined


@dataclass(slots=True)
class Said:
    """What a reader of a choice knows in the end."""

    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[float, ...] = ()
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()
    cached: int = 0
    finish: FinishReason | None = None

    def read(self, entry: LogTokens) -> None:
        assert self.finish is None
        assert entry.index == len(self.token_ids)
        self.token_ids += entry.token_ids
        self.text += entry.text
        self.logprobs += entry.logprobs
        self.alternatives += entry.top_logprobs
        self.cached += entry.cached_tokens
        self.finish = entry.finish


def told(entries: list[LogTokens]) -> dict[int, Said]:
    choices: dict[int, Said] = {}
    for entry in entries:
        choices.setdefault(entry.choice, Said()).read(entry)
    return choices


@st.composite
def written(draw: st.DrawFn) -> list[LogTokens]:
    """Entries of up to three choices as an output stage makes them, none behind a choice's end."""
    choices = draw(st.lists(st.integers(0, 2), max_size=60))
    with_logprobs, with_alternatives, cached = draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 9))
    index, ended, entries = [0, 0, 0], [False] * 3, list[LogTokens]()
    for choice in choices:
        count = draw(st.sampled_from([1, 1, 1, 2]))
        finish = draw(st.sampled_from([None] * 9 + [FinishReason.LENGTH]))
        if not ended[choice]:
            ids = tuple(range(index[choice], index[choice] + count))
            logprobs = tuple(-float(each) for each in ids) if with_logprobs else ()
            top = tuple(((each, -1.0),) for each in ids) if with_alternatives else ()
            text = draw(st.sampled_from(["", "a", "bc"]))
            entries.append(LogTokens(choice, index[choice], ids, text, logprobs, finish, len(entries), top, 0 if entries else cached))
            index[choice], ended[choice] = index[choice] + count, finish is not None
    return entries


@given(written())
def test_a_reader_learns_the_same(entries: list[LogTokens]) -> None:
    longer = joined(entries)
    assert told(longer) == told(entries)
    assert all(len(entry.token_ids) <= MOST_TOKENS for entry in longer)
    assert all(len(entry.logprobs) in (0, len(entry.token_ids)) for entry in longer)


@given(written())
def test_it_is_done_once(entries: list[LogTokens]) -> None:
    longer = joined(entries)
    assert [entry.choice for entry in longer if len(entry.token_ids) < MOST_TOKENS - 1 and not entry.finish].count(0) <= 1
    assert told(joined(longer)) == told(entries)


def test_what_waits_alone_is_left_alone() -> None:
    one = LogTokens(0, 3, (7,), " word", (-1.0,), None, 5)
    assert joined([one]) == [one]
    assert joined([]) == []


def test_tokens_that_wait_together_are_one_entry_of_the_latest_time() -> None:
    one, other = LogTokens(0, 3, (7,), " a", (-1.0,), None, 5, (), 4), LogTokens(0, 4, (8,), " b", (-2.0,), FinishReason.STOP, 6)
    assert joined([one, other]) == [LogTokens(0, 3, (7, 8), " a b", (-1.0, -2.0), FinishReason.STOP, 6, (), 4)]
