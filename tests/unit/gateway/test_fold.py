"""The numbers and objects that clients get depend on the log alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.chunks import usage_of
from gateway.fold import ApiHead, Fold, Kind, LogLost
from gateway.folds import fold_of
from gateway.sse import encode
from shared.fabric import LogHead
from shared.messages import LogEnd, LogEntry, LogTokens
from shared.types import FinishReason, Phase, RequestId, RequestSpec, SamplingParams

TEXTS = st.lists(st.text(max_size=5), min_size=1, max_size=8)
ENDS = st.sampled_from([LogEnd(Phase.FINISHED, at_ms=9000), LogEnd(Phase.CANCELLED), LogEnd(Phase.FAILED, "no luck", "timeout")])


def head(api: ApiHead, **sampling: Any) -> LogHead:
    return LogHead(RequestSpec(RequestId("r1"), "m", (1, 2, 3), SamplingParams(16, **sampling), 5000), api.to_json(), "")


class Names:
    """Token `i` is the `i`-th letter."""

    def bytes_of(self, token_id: int) -> bytes:
        return bytes((ord("a") + token_id % 26,))


def folded(api: ApiHead, **sampling: Any) -> Fold:
    return fold_of(head(api, **sampling), Names())


def log_of(texts: list[str], end: LogEnd) -> list[LogEntry]:
    entries: list[LogEntry] = [LogTokens(0, index, (index,), text) for index, text in enumerate(texts)]
    finish = FinishReason.STOP if end.phase is Phase.FINISHED else None
    return [*entries, LogTokens(0, len(texts), (7,), "", finish=finish), end]


def frames(fold: Fold, entries: list[LogEntry]) -> list[bytes]:
    return [encode(event) for event in [*fold.opening(), *fold.feed_all(entries)]]


@given(kind=st.sampled_from(Kind), texts=TEXTS, end=ENDS, split=st.integers(0, 9), usage=st.booleans())
def test_however_the_log_is_read_the_stream_is_the_same(kind: Kind, texts: list[str], end: LogEnd, split: int, usage: bool) -> None:
    api = ApiHead(kind, include_usage=usage)
    entries = log_of(texts, end)
    at_once = frames(folded(api), entries)
    fold = folded(api)
    piecewise = [*fold.opening(), *fold.feed_all(entries[:split]), *fold.feed_all(entries[split:])]
    assert [encode(event) for event in piecewise] == at_once
    assert [event.number for event in piecewise] == list(range(len(piecewise)))


@given(kind=st.sampled_from(Kind), texts=TEXTS, end=ENDS)
def test_the_deltas_add_up_to_the_answer(kind: Kind, texts: list[str], end: LogEnd) -> None:
    fold = folded(ApiHead(kind))
    fold.opening()
    deltas = ""
    for event in fold.feed_all(log_of(texts, end)):
        choices = event.data.get("choices") or [{}]
        assert isinstance(choices, list)
        deltas += str(event.data.get("delta") or choices[0].get("text") or choices[0].get("delta", {}).get("content") or "")
    assert deltas == "".join(texts) == fold.transcript.text


def test_one_delta_per_entry_with_text() -> None:
    fold = folded(ApiHead(Kind.COMPLETION))
    events = fold.feed_all([LogTokens(0, 0, (1, 2), "ab"), LogTokens(0, 2, (3,), ""), LogTokens(0, 3, (4,), "c")])
    assert [event.number for event in events] == [0, 1]


def test_the_first_end_wins() -> None:
    fold = folded(ApiHead(Kind.RESPONSE, background=True))
    fold.feed(LogEnd(Phase.CANCELLED))
    assert fold.feed(LogEnd(Phase.FINISHED)) == []
    assert fold.answer()["status"] == "cancelled"


@pytest.mark.parametrize("index", [0, 2, 9])
def test_an_entry_that_does_not_continue_the_log_is_never_shown(index: int) -> None:
    fold = folded(ApiHead(Kind.CHAT))
    fold.feed(LogTokens(0, 0, (1,), "a"))
    with pytest.raises(LogLost) as caught:
        fold.feed(LogTokens(0, index, (1,), "another version"))
    assert caught.value.code == "log_shortened"
    assert fold.transcript.text == "a"


@pytest.mark.parametrize(
    ("entries", "status"),
    [
        ([], "queued"),
        ([LogTokens(0, 0, (1,), "")], "in_progress"),
        ([LogTokens(0, 0, (1,), "a", finish=FinishReason.STOP), LogEnd(Phase.FINISHED)], "completed"),
        ([LogTokens(0, 0, (1,), "a", finish=FinishReason.LENGTH), LogEnd(Phase.FINISHED)], "incomplete"),
        ([LogTokens(0, 0, (1,), "a"), LogEnd(Phase.CANCELLED)], "cancelled"),
        ([LogEnd(Phase.FAILED, "no luck")], "failed"),
    ],
)
def test_status_of_a_polled_response(entries: list[LogEntry], status: str) -> None:
    fold = folded(ApiHead(Kind.RESPONSE))
    fold.feed_all(entries)
    answer = fold.answer()
    assert answer["status"] == status
    assert (answer["usage"] is None) == (status in ("queued", "in_progress"))
    assert (answer["error"] is None) == (status != "failed")


def test_response_objects_have_every_field_that_open_responses_requires() -> None:
    required = (
        "completed_at status incomplete_details previous_response_id instructions error truncation text top_p presence_penalty "
        "frequency_penalty top_logprobs temperature reasoning user usage max_output_tokens max_tool_calls store background "
        "service_tier metadata safety_identifier prompt_cache_key id object created_at model output tools tool_choice parallel_tool_calls"
    )
    assert set(required.split()) <= set(folded(ApiHead(Kind.RESPONSE)).answer())


def test_continuous_usage_counts_up() -> None:
    fold = folded(ApiHead(Kind.CHAT, continuous_usage=True))
    first, second = fold.feed_all([LogTokens(0, 0, (1,), "a"), LogTokens(0, 1, (2, 3), "b")])
    assert first.data["usage"] == usage_of(3, 1, 0)
    assert second.data["usage"] == usage_of(3, 3, 0)


def test_the_head_survives_its_json() -> None:
    api = ApiHead(Kind.RESPONSE, True, True, True, True, {"metadata": {"a": "b"}}, True, "p", 3, 1, "r0", ({"id": None},), "r9", False)
    assert ApiHead.from_json(api.to_json()) == api
