"""Tokens become log entries: text that is safe, an end that is written once, and the same text whoever goes on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.clock import ManualClock
from shared.fabric import WriteStatus
from shared.messages import LogEnd, LogTokens
from shared.types import FinishReason, Phase, RequestId, RequestSpec, SamplingParams
from workers.detokenizer import SafeText, TokenStream
from workers.events import Closed, Delivered, DropOutput, Emit, EndRequest, OpenOutput, StopFound, Superseded
from workers.output import OutputBook

REQUEST = RequestId("r1")


class Letters:
    """Token id to one letter."""

    def open(self, prompt: tuple[int, ...]) -> TokenStream:
        return self

    def step(self, token_id: int) -> str:
        return chr(token_id)

    def rest(self) -> str:
        return ""


def ids(text: str) -> tuple[int, ...]:
    return tuple(ord(letter) for letter in text)


def spec(*stop: str) -> RequestSpec:
    return RequestSpec(REQUEST, "m", (1,), SamplingParams(max_tokens=99, stop=stop), 0)


def book(*stop: str, generated: str = "", attempt: int = 1) -> OutputBook:
    it = OutputBook(Letters(), ManualClock())
    it.handle(OpenOutput(spec(*stop), attempt, (Delivered(ids(generated)),)))
    return it


def emit(text: str, index: int = 0, finish: FinishReason | None = None, attempt: int = 1) -> Emit:
    return Emit(REQUEST, attempt, 0, index, ids(text), tuple(0.0 for _ in text), finish)


def test_a_token_becomes_an_entry_with_its_text() -> None:
    it = book()
    it.handle(emit("hi"))
    assert it.take() == [(REQUEST, 1, (LogTokens(0, 0, ids("hi"), "hi", (0.0, 0.0)),), None)]


def test_the_last_token_brings_the_end() -> None:
    it = book()
    it.handle(emit("hi", finish=FinishReason.LENGTH))
    ((_, _, (entry,), end),) = it.take()
    assert entry.finish is FinishReason.LENGTH
    assert end == LogEnd(Phase.FINISHED, counts=(2,))


def test_what_could_start_a_stop_string_is_held_and_released_at_the_end() -> None:
    it = book("END")
    it.handle(emit("aEN"))
    (first,) = it.take()
    assert [entry.text for entry in first[2]] == ["a"]
    it.answered(first, WriteStatus.DONE)
    it.handle(emit("x", 3, FinishReason.LENGTH))
    ((_, _, entries, _),) = it.take()
    assert [entry.text for entry in entries] == ["ENx"]


def test_a_stop_string_across_entries_ends_the_request_before_it() -> None:
    it = book("END")
    it.handle(emit("aEN"))
    it.handle(emit("Dzz", 3))
    ((_, _, entries, end),) = it.take()
    assert "".join(entry.text for entry in entries) == "a"
    assert tuple(token for entry in entries for token in entry.token_ids) == ids("aEND")
    assert entries[-1].finish is FinishReason.STOP
    assert end == LogEnd(Phase.FINISHED, counts=(4,))
    assert it.events() == [StopFound(REQUEST, 1, 0, 3)]


def test_nothing_is_written_behind_an_end() -> None:
    it = book("END")
    it.handle(emit("END"))
    it.handle(emit("more", 3))
    ((_, _, entries, _),) = it.take()
    assert [entry.index for entry in entries] == [0]


def test_the_next_owner_replays_and_goes_on_with_the_same_hold_back() -> None:
    it = book("END", generated="aEN", attempt=2)
    it.handle(emit("x", 3, attempt=2))
    ((_, _, (entry,), _),) = it.take()
    assert entry.text == "ENx"


def test_done_forgets_what_was_written_and_only_that() -> None:
    it = book()
    it.handle(emit("a"))
    (first,) = it.take()
    it.handle(emit("b", 1))
    assert it.answered(first, WriteStatus.DONE) is False
    assert [entry.text for entry in it.take()[0][2]] == ["b"]


def test_an_unanswered_append_is_repeated_as_it_was() -> None:
    it = book()
    it.handle(emit("a"))
    first = it.take()
    it.handle(emit("b", 1))
    assert it.take() == first


def test_an_end_that_is_done_closes_the_record_and_says_so() -> None:
    it = book()
    it.handle(EndRequest(REQUEST, 1, Phase.CANCELLED))
    (append,) = it.take()
    assert it.answered(append, WriteStatus.DONE) is True
    it.closed(REQUEST, 1)
    assert it.events() == [Closed(REQUEST, 1)]
    assert len(it) == 0


def test_a_fence_above_ours_ends_our_writing() -> None:
    it = book()
    it.handle(emit("a"))
    (append,) = it.take()
    assert it.answered(append, WriteStatus.SUPERSEDED) is False
    assert it.events() == [Superseded(REQUEST, 1)]
    assert it.take() == []


def test_a_late_answer_for_an_older_attempt_touches_nothing() -> None:
    it = book()
    it.handle(emit("a"))
    (append,) = it.take()
    it.handle(OpenOutput(spec(), 2, (Delivered(ids("a")),)))
    assert it.answered(append, WriteStatus.SUPERSEDED) is False
    assert it.events() == []
    assert len(it) == 1


def test_a_dropped_output_writes_no_more() -> None:
    it = book()
    it.handle(emit("a"))
    it.handle(DropOutput(REQUEST, 1))
    assert it.take() == []


@given(text=st.text("abEND", max_size=30), cuts=st.lists(st.integers(1, 5), max_size=30))
def test_released_text_depends_on_the_ids_alone(text: str, cuts: list[int]) -> None:
    whole = _released([text])
    parts, rest = [], text
    for cut in cuts:
        parts.append(rest[:cut])
        rest = rest[cut:]
    assert _released([*parts, rest]) == whole
    assert "END" not in whole


def _released(parts: list[str]) -> str:
    safe = SafeText(Letters(), ("END",))
    out = []
    for token_id in ids("".join(parts)):
        piece = safe.push(token_id)
        out.append(piece.text)
        if piece.stopped:
            return "".join(out)
    return "".join(out) + safe.finish().text


# --- several choices


def choices(stop: tuple[str, ...] = (), delivered: tuple[Delivered, ...] = (), n: int = 2) -> OutputBook:
    it = OutputBook(Letters(), ManualClock())
    it.handle(OpenOutput(RequestSpec(REQUEST, "m", (1,), SamplingParams(max_tokens=99, stop=stop, n=n), 0), 1, delivered))
    return it


def say(text: str, choice: int, index: int = 0, finish: FinishReason | None = None) -> Emit:
    return Emit(REQUEST, 1, choice, index, ids(text), tuple(0.0 for _ in text), finish)


def test_the_last_choice_brings_the_end() -> None:
    it = choices()
    it.handle(say("hi", 1, finish=FinishReason.LENGTH))
    ((_, _, entries, end),) = it.take()
    assert ([(entry.choice, entry.text, entry.finish) for entry in entries], end) == ([(1, "hi", FinishReason.LENGTH)], None)
    it.answered(it.take()[0], WriteStatus.DONE)
    it.handle(say("you", 0, finish=FinishReason.STOP))
    ((_, _, (entry,), end),) = it.take()
    assert (entry.choice, end) == (0, LogEnd(Phase.FINISHED, counts=(3, 2)))


def test_a_stop_string_ends_its_own_choice_alone() -> None:
    it = choices(stop=("ab",))
    for emit in (say("a", 0), say("a", 1), say("b", 1, 1), say("c", 0, 1), say("z", 1, 2)):
        it.handle(emit)
    ((_, _, entries, end),) = it.take()
    assert [(entry.choice, entry.text) for entry in entries] == [(0, "ac"), (1, "")]
    assert (it.events(), end) == ([StopFound(REQUEST, 1, 1, 1)], None)


def test_a_choice_that_had_ended_before_is_not_waited_for() -> None:
    it = choices(stop=("ab",), delivered=(Delivered(ids("xa")), Delivered(ids("q"), FinishReason.STOP)))
    it.handle(say("w", 1, 1))
    it.handle(say("b", 0, 2))
    ((_, _, (entry,), end),) = it.take()
    assert (entry.choice, entry.text, entry.finish, end) == (0, "", FinishReason.STOP, LogEnd(Phase.FINISHED, counts=(3, 1)))


def test_top_logprobs_are_logged_with_their_tokens_up_to_the_stop() -> None:
    it = choices(stop=("b",), n=1)
    best = tuple(((ord(letter), -0.5), (1, -1.0)) for letter in "abc")
    it.handle(Emit(REQUEST, 1, 0, 0, ids("abc"), (0.0,) * 3, None, best))
    ((_, _, (entry,), _),) = it.take()
    assert entry.top_logprobs == best[:2]


@given(st.text(st.characters(max_codepoint=0x24F), min_size=1, max_size=20))
def test_tokens_one_by_one_are_written_as_they_are_together(text: str) -> None:
    single, together = book(), book()
    for index, letter in enumerate(text):
        single.handle(emit(letter, index))
    together.handle(emit(text))
    (one,), (other,) = single.take(), together.take()
    assert "".join(entry.text for entry in one[2]) == other[2][0].text == text
    assert tuple(token for entry in one[2] for token in entry.token_ids) == other[2][0].token_ids
    assert sum((entry.logprobs for entry in one[2]), ()) == other[2][0].logprobs
