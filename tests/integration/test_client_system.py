"""The official client against a running system: gateway, scheduler, a worker with the demo model's weights.

Every parameter of the three POSTs does here what it says, on real logits; its client checks every answer against its types. The one
exception is a stream of `/v1/completions`: its `finish_reason` is null until the end, on OpenAI's own servers too, and the client's types
do not allow that. Schemas and tools are in `test_structured_openai.py`. The table of parameters and tests is in `docs/clients.md`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from tokenizers import Tokenizer

from cli.system import System, SystemPlan, WorkerPlan
from tests.support.profiles import given_profile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("client")]

DEMO = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
ASK: list[Any] = [{"role": "user", "content": "Tell me about the whale."}]
LONG = "The whale went down to the sea and said nothing at all to anybody. " * 12
SAID = 24
WORDS = Tokenizer.from_file(str(DEMO / "tokenizer.json"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    worker = WorkerPlan("one", ("--kv-mib", "16", "--threads", "1", *given_profile(tmp_path_factory.mktemp("profile"))))
    async with System(SystemPlan(DEMO, "demo", (worker,), pool="client")) as system:
        yield f"{system.urls[0]}/v1"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=60, _strict_response_validation=True) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def greedy(client: AsyncOpenAI) -> str:
    """What the model says without chance: what the parameters are held against."""
    return said(await chat(client, temperature=0))


async def chat(client: AsyncOpenAI, **asked: Any) -> ChatCompletion:
    """One plain answer of at most `SAID` tokens, unless asked otherwise. Seeded: chance could end it at its first token."""
    asked = {"model": "demo", "messages": ASK, "max_completion_tokens": SAID, "seed": 1, **asked}
    answer = await client.chat.completions.create(**asked)
    assert isinstance(answer, ChatCompletion)
    return answer


async def respond(client: AsyncOpenAI, **asked: Any) -> Response:
    answer = await client.responses.create(**{"model": "demo", "input": "The whale?", "max_output_tokens": 8, "temperature": 0, **asked})
    assert isinstance(answer, Response)
    return answer


def said(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def generated(answer: Any) -> int:
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    return int(answer.usage.completion_tokens)


class TestChat:
    async def test_a_plain_answer(self, client: AsyncOpenAI, greedy: str) -> None:
        answer = await chat(client, temperature=0)
        assert (said(answer), answer.choices[0].finish_reason, generated(answer)) == (greedy, "length", SAID)
        assert answer.model == "demo"
        assert greedy

    async def test_a_stream_is_the_plain_answer_and_tells_usage(self, client: AsyncOpenAI) -> None:
        asked: dict[str, Any] = {"temperature": 0.8, "seed": 3}
        plain = await chat(client, **asked)
        stream = await client.chat.completions.create(
            model="demo", messages=ASK, max_completion_tokens=SAID, stream=True, stream_options={"include_usage": True}, **asked
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == said(plain)
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == ["length"]
        assert (chunks[-1].choices, chunks[-1].usage and chunks[-1].usage.completion_tokens) == ([], SAID)
        assert all(chunk.usage is None for chunk in chunks[:-1])

    async def test_usage_in_every_chunk(self, client: AsyncOpenAI) -> None:
        options: Any = {"include_usage": True, "continuous_usage_stats": True}
        stream = await client.chat.completions.create(
            model="demo", messages=ASK, max_tokens=6, temperature=0, stream=True, stream_options=options
        )
        counted = [chunk.usage.completion_tokens if chunk.usage else None async for chunk in stream]
        assert counted[-1] == 6
        assert None not in counted

    async def test_the_clients_stream_helper(self, client: AsyncOpenAI, greedy: str) -> None:
        """It wants an answer with an end: the client makes an error of one that ran out of tokens."""
        asked: dict[str, Any] = {"model": "demo", "messages": ASK, "max_completion_tokens": SAID, "temperature": 0, "stop": greedy[-3:]}
        async with client.chat.completions.stream(**asked) as stream:
            kinds = {event.type async for event in stream}
            final = await stream.get_final_completion()
        assert {"chunk", "content.delta", "content.done"} <= kinds
        assert final.choices[0].message.content == greedy.split(greedy[-3:])[0]

    async def test_every_role_and_parts(self, client: AsyncOpenAI) -> None:
        messages: list[Any] = [
            {"role": "developer", "content": "Be brief."},
            {"role": "system", "content": "Be old."},
            {"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]},
            {"role": "assistant", "content": "Three."},
            {"role": "user", "content": "Four?"},
        ]
        whole = await chat(client, messages=messages, max_tokens=2, max_completion_tokens=None)
        less = await chat(client, messages=messages[2:], max_tokens=2, max_completion_tokens=None)
        assert whole.usage is not None
        assert less.usage is not None
        assert whole.usage.prompt_tokens > less.usage.prompt_tokens
        assert generated(whole) == 2

    async def test_choices_differ_and_are_counted(self, client: AsyncOpenAI) -> None:
        answer = await chat(client, n=3, temperature=1, seed=4)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert len({choice.message.content for choice in answer.choices}) == 3
        assert SAID < generated(answer) <= 3 * SAID

    async def test_log_probabilities(self, client: AsyncOpenAI) -> None:
        answer = await chat(client, temperature=0, logprobs=True, top_logprobs=3)
        assert answer.choices[0].logprobs is not None
        tokens = answer.choices[0].logprobs.content or []
        assert len(tokens) == generated(answer)
        assert "".join(one.token for one in tokens) == said(answer)
        for one in tokens:
            assert len(one.top_logprobs) == 3
            assert one.top_logprobs[0].logprob == max(other.logprob for other in one.top_logprobs) == one.logprob

    async def test_accepted_and_told_back(self, client: AsyncOpenAI) -> None:
        answer = await chat(
            client, metadata={"a": "b"}, service_tier="priority", store=False, user="u", safety_identifier="s", prompt_cache_key="p",
            prompt_cache_retention="in_memory", modalities=["text"], max_completion_tokens=2,
        )  # fmt: skip
        assert answer.service_tier == "priority"
        assert (await chat(client, extra_body={"priority": 7}, max_completion_tokens=2)).choices[0].finish_reason == "length"

    async def test_raw_and_streamed_answers_have_headers(self, client: AsyncOpenAI) -> None:
        raw = await client.chat.completions.with_raw_response.create(
            model="demo", messages=ASK, max_tokens=1, temperature=0, extra_headers={"X-Request-Id": "mine"}
        )
        assert (raw.headers["x-request-id"], raw.parse().choices[0].finish_reason) == ("mine", "length")


class TestSampling:
    @pytest.mark.parametrize("only_the_best", [{"top_p": 1e-6}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1.0}}])
    async def test_a_cut_to_the_best_token_is_greedy(self, client: AsyncOpenAI, greedy: str, only_the_best: dict[str, Any]) -> None:
        assert said(await chat(client, temperature=1.5, **only_the_best)) == greedy

    @pytest.mark.parametrize("penalty", [{"frequency_penalty": 2}, {"presence_penalty": 2}, {"extra_body": {"repetition_penalty": 3.0}}])
    async def test_a_penalty_breaks_the_circle(self, client: AsyncOpenAI, greedy: str, penalty: dict[str, Any]) -> None:
        """Greedy, this model repeats itself."""
        words, others = greedy.split(), said(await chat(client, temperature=0, **penalty)).split()
        assert len(set(words)) / len(words) < len(set(others)) / len(others)

    async def test_a_seed_repeats_an_answer(self, client: AsyncOpenAI) -> None:
        first, again, other = [said(await chat(client, temperature=1, seed=seed)) for seed in (11, 11, 12)]
        assert first == again != other

    async def test_a_bias_forces_and_forbids(self, client: AsyncOpenAI, greedy: str) -> None:
        forced, first = (WORDS.encode(text, add_special_tokens=False).ids[0] for text in (" whale", greedy))
        answer = await chat(client, logit_bias={str(forced): 100}, max_completion_tokens=4)
        assert said(answer) == WORDS.decode([forced] * 4)
        assert not said(await chat(client, temperature=0, logit_bias={str(first): -100})).startswith(greedy[0])

    @pytest.mark.parametrize("several", [False, True])
    async def test_a_stop_string_ends_and_is_not_shown(self, client: AsyncOpenAI, greedy: str, several: bool) -> None:
        stop = greedy[len(greedy) // 2 :][:5]
        answer = await chat(client, temperature=0, stop=["nowhere in it", stop] if several else stop)
        assert (said(answer), answer.choices[0].finish_reason) == (greedy.split(stop)[0], "stop")

    async def test_the_end_of_sequence(self, client: AsyncOpenAI) -> None:
        """Forced as the first token: it ends, unless so many must come before, or it means nothing."""
        eos = {str(WORDS.token_to_id("<|eos|>")): 100}
        ended = await chat(client, logit_bias=eos)
        assert (ended.choices[0].finish_reason, generated(ended), said(ended)) == ("stop", 1, "")
        later = await chat(client, logit_bias=eos, extra_body={"min_tokens": 5})
        assert (later.choices[0].finish_reason, generated(later)) == ("stop", 6)
        never = await chat(client, logit_bias=eos, extra_body={"ignore_eos": True}, max_completion_tokens=4)
        assert (never.choices[0].finish_reason, generated(never)) == ("length", 4)


class TestCompletions:
    async def test_text_ids_and_several_prompts_agree(self, client: AsyncOpenAI) -> None:
        create, ids = client.completions.create, WORDS.encode("Call me Ishmael.").ids
        asked: dict[str, Any] = {"model": "demo", "temperature": 0, "max_tokens": 6}
        text = (await create(prompt="Call me Ishmael.", **asked)).choices[0].text
        assert (await create(prompt=ids, **asked)).choices[0].text == text
        both = await create(prompt=["Call me Ishmael.", "She was"], n=2, **asked)
        assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
        assert [both.choices[0].text, both.choices[1].text] == [text, text]
        assert generated(both) == 4 * 6
        by_ids = await create(prompt=[ids, ids], **asked)
        assert [choice.text for choice in by_ids.choices] == [text, text]

    async def test_echo_and_log_probabilities(self, client: AsyncOpenAI) -> None:
        asked: dict[str, Any] = {"model": "demo", "prompt": "Call me", "temperature": 0, "max_tokens": 5}
        plain = (await client.completions.create(**asked, logprobs=2)).choices[0]
        assert (await client.completions.create(**asked, echo=True)).choices[0].text == f"Call me{plain.text}"
        assert plain.logprobs is not None
        assert "".join(plain.logprobs.tokens or []) == plain.text
        assert {len(top) for top in plain.logprobs.top_logprobs or []} == {2}

    async def test_a_stream(self, client: AsyncOpenAI) -> None:
        asked: dict[str, Any] = {"model": "demo", "prompt": "Call me", "temperature": 1, "seed": 5, "max_tokens": 6, "stop": ["zzz"]}
        plain = (await client.completions.create(**asked)).choices[0].text
        lax = AsyncOpenAI(base_url=client.base_url, api_key="none", max_retries=0, timeout=60)
        async with lax:
            stream = await lax.completions.create(**asked, stream=True, stream_options={"include_usage": True})
            chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == plain
        assert (chunks[-2].choices[0].finish_reason, generated(chunks[-1])) == ("length", 6)

    async def test_a_shared_beginning_is_cached(self, client: AsyncOpenAI) -> None:
        cached = []
        for _ in range(3):
            answer = await client.completions.create(model="demo", prompt=LONG, max_tokens=2)
            assert answer.usage is not None
            assert answer.usage.prompt_tokens_details is not None
            cached.append(answer.usage.prompt_tokens_details.cached_tokens or 0)
        assert cached[0] == 0
        assert cached[-1] > 0


class TestResponses:
    async def test_what_was_asked_is_told_back(self, client: AsyncOpenAI) -> None:
        answer = await respond(
            client, instructions="Be brief.", metadata={"a": "b"}, top_p=0.9, service_tier="flex", truncation="auto", store=True,
            parallel_tool_calls=False, text={"format": {"type": "text"}}, user="u", prompt_cache_key="p", safety_identifier="s",
        )  # fmt: skip
        assert (answer.instructions, answer.metadata, answer.top_p, answer.temperature) == ("Be brief.", {"a": "b"}, 0.9, 0.0)
        assert (answer.service_tier, answer.truncation, answer.parallel_tool_calls, answer.max_output_tokens) == ("flex", "auto", False, 8)
        assert (answer.status, answer.incomplete_details and answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert answer.usage is not None
        assert answer.usage.output_tokens == 8
        assert answer.output_text

    async def test_the_events_in_order(self, client: AsyncOpenAI) -> None:
        """`stop` ends it: the text's events, and `completed`. Without, the tokens run out: `incomplete`."""
        text = (await respond(client)).output_text
        stream = await client.responses.create(
            model="demo", input="The whale?", max_output_tokens=8, temperature=0, stream=True, extra_body={"stop": [text[-3:]]}
        )
        events: list[Any] = [event async for event in stream]
        kinds = [event.type.removeprefix("response.") for event in events]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert kinds[:5] == ["created", "queued", "in_progress", "output_item.added", "content_part.added"]
        assert set(kinds[5:-4]) == {"output_text.delta"}
        assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
        (done,) = (event for event in events if event.type == "response.output_text.done")
        assert (
            done.text == "".join(event.delta for event in events if event.type == "response.output_text.delta") == text.split(text[-3:])[0]
        )
        options: Any = {"include_usage": True}
        cut = await client.responses.create(
            model="demo", input="The whale?", max_output_tokens=8, temperature=0, stream=True, stream_options=options
        )
        assert [event.type async for event in cut][-1] == "response.incomplete"

    async def test_a_deadline_is_an_error_and_a_failure(self, client: AsyncOpenAI) -> None:
        stream = await client.responses.create(
            model="demo", input="hi", max_output_tokens=1500, stream=True, extra_body={"timeout_s": 0.05, "ignore_eos": True}
        )
        events = [event async for event in stream]
        assert [event.type for event in events[-2:]] == ["error", "response.failed"]

    async def test_log_probabilities_when_included(self, client: AsyncOpenAI) -> None:
        answer = await respond(client, include=["message.output_text.logprobs"], top_logprobs=2)
        part: Any = answer.output[0].content[0]  # type: ignore[union-attr, index]
        assert [len(one.top_logprobs) for one in part.logprobs] == [2] * 8
        assert "".join(one.token for one in part.logprobs) == answer.output_text

    async def test_a_conversation_is_stored_listed_and_deleted(self, client: AsyncOpenAI) -> None:
        items: list[Any] = [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "So?"},
        ]
        first = await respond(client, input=items)
        second = await respond(client, input="And then?", previous_response_id=first.id)
        by_hand = await respond(
            client, input=[*items, {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "And then?"}]
        )
        assert second.previous_response_id == first.id
        assert second.output_text == by_hand.output_text
        listed = [item async for item in await client.responses.input_items.list(first.id, order="asc", limit=2)]
        assert [item.role for item in listed] == ["user", "assistant", "user"]  # type: ignore[union-attr]
        assert (await client.responses.retrieve(second.id)).output_text == second.output_text
        await client.responses.delete(second.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(second.id)

    async def test_what_is_not_stored_is_only_answered(self, client: AsyncOpenAI) -> None:
        answer = await respond(client, store=False)
        with pytest.raises(openai.NotFoundError) as caught:
            await client.responses.retrieve(answer.id)
        assert caught.value.code == "not_stored"

    async def test_background_stream_resume_and_cancel(self, client: AsyncOpenAI) -> None:
        asked: dict[str, Any] = {"model": "demo", "input": "hi", "background": True, "extra_body": {"ignore_eos": True}}
        stream = await client.responses.create(**asked, max_output_tokens=12, stream=True)
        events = [event async for event in stream]
        assert events[0].type == "response.created"
        resumed = await client.responses.retrieve(events[0].response.id, stream=True, starting_after=6)
        assert [event async for event in resumed] == events[7:]
        running = await client.responses.create(**asked, max_output_tokens=1500)
        assert running.status == "queued"
        assert (await client.responses.cancel(running.id)).status == "cancelled"
        assert (await client.responses.retrieve(running.id)).status == "cancelled"


class TestErrors:
    @pytest.mark.parametrize(
        ("asked", "param", "error"),
        [
            ({"model": "nobody"}, "model", openai.NotFoundError),
            ({"temperature": 3}, "temperature", openai.BadRequestError),
            ({"n": 0}, "n", openai.BadRequestError),
            ({"messages": []}, "messages", openai.BadRequestError),
            ({"max_completion_tokens": 100_000}, "max_completion_tokens", openai.BadRequestError),
            ({"reasoning_effort": "low"}, "reasoning_effort", openai.BadRequestError),
            ({"extra_body": {"nonsense": 1}}, "nonsense", openai.BadRequestError),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
    )
    async def test_what_cannot_be_served_is_refused_by_name(self, client: AsyncOpenAI, asked: Any, param: str, error: Any) -> None:
        with pytest.raises(error) as caught:
            await chat(client, **asked)
        assert caught.value.param == param

    async def test_a_key_names_one_request(self, client: AsyncOpenAI) -> None:
        """With the client's own retries on: a conflict is not retried, as its header says."""
        patient, headers = client.with_options(max_retries=2), {"Idempotency-Key": "once"}
        first, again = [await chat(patient, max_completion_tokens=2, extra_headers=headers) for _ in range(2)]
        assert (first.id, said(first)) == (again.id, said(again))
        with pytest.raises(openai.ConflictError) as caught:
            await chat(patient, max_completion_tokens=3, extra_headers=headers)
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert caught.value.response.request.headers.get("x-stainless-retry-count") == "0"

    async def test_models(self, client: AsyncOpenAI) -> None:
        assert [model.id async for model in client.models.list()] == ["demo"]
        assert (await client.models.retrieve("demo")).id == "demo"
