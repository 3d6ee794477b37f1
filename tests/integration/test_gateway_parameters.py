"""Everything the engine can honour, through the official client with its type checks on."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx2
import openai
import pytest

from shared.fabric import WriteStatus
from shared.types import RequestSpec
from tests.support.fake_owner import End, Hold, Say, Step
from tests.support.gateway_server import Stage, until

MESSAGES: Any = [{"role": "user", "content": "hi"}]


def told(spec: RequestSpec) -> tuple[Step, ...]:
    """Every choice says its own number, interleaved."""
    for_each = range(spec.sampling.n)
    return (*(Say(f"c{at} ", 1, at) for at in for_each), *(Say("end", 2, at) for at in reversed(for_each)), End())


def ids(stage: Stage, text: str) -> tuple[int, ...]:
    """Byte-level ids of a text, one a byte."""
    encoder = stage.served.gateway.default.encoder
    by_bytes = {encoder.bytes_of(token): token for token in range(encoder.vocabulary)}
    return tuple(by_bytes[bytes((byte,))] for byte in text.encode())


class TestChoices:
    async def test_each_has_its_text_and_its_end(self, stage: Stage) -> None:
        stage.owner.script = told
        answer = await stage.served.openai.chat.completions.create(model="org/tiny", messages=MESSAGES, n=3)
        assert [(one.index, one.message.content, one.finish_reason) for one in answer.choices] == [
            (at, f"c{at} end", "stop") for at in range(3)
        ]
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3 * 4
        assert stage.owner.seen[0].num_choices == 3

    async def test_streamed_deltas_name_their_choice(self, stage: Stage) -> None:
        stage.owner.script = told
        stream = await stage.served.openai.chat.completions.create(
            model="org/tiny", messages=MESSAGES, n=2, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        texts = ["", ""]
        ends = []
        for chunk in chunks[:-1]:
            (choice,) = chunk.choices
            texts[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []
        assert (texts, sorted(ends)) == (["c0 end", "c1 end"], [0, 1])
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 8


class TestSampling:
    async def test_every_parameter_reaches_the_worker(self, stage: Stage) -> None:
        specs = stage.remembers_specs()
        await stage.served.openai.chat.completions.create(
            model="org/tiny",
            messages=MESSAGES,
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            logit_bias={"7": -100, "3": 2},
            logprobs=True,
            top_logprobs=4,
            max_completion_tokens=9,
            service_tier="flex",
            extra_body={"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.2, "min_tokens": 3, "ignore_eos": True, "timeout_s": 2.5},
        )
        sampling = specs[0].sampling
        assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.5, -0.5, 1.2)
        assert (sampling.top_k, sampling.min_p, sampling.min_tokens, sampling.ignore_eos) == (40, 0.1, 3, True)
        assert (sampling.logit_bias, sampling.top_logprobs) == (((3, 2.0), (7, -100.0)), 4)
        assert (stage.owner.seen[0].priority, stage.owner.seen[0].timeout_s) == (10, 2.5)

    async def test_priority_by_number_or_by_tier(self, stage: Stage) -> None:
        for extra in ({"priority": -3}, {"service_tier": "priority"}, {"service_tier": "auto"}, {}):
            body = {"model": "org/tiny", "input": "hi", **extra}
            assert (await stage.served.http.post("/v1/responses", json=body)).status_code == 200
        assert [one.priority for one in stage.owner.seen] == [-3, -10, 0, 0]

    async def test_every_api_takes_targets_and_goodput_counts_who_kept_them(self, stage: Stage) -> None:
        stage.owner.script = told
        asked: list[tuple[str, dict[str, Any]]] = [
            ("/v1/chat/completions", {"messages": MESSAGES, "ttft_target_ms": 60_000, "itl_target_ms": 50_000}),
            ("/v1/completions", {"prompt": "hi", "ttft_target_ms": 0.001}),
            ("/v1/responses", {"input": "hi", "itl_target_ms": 40_000.5}),
            ("/v1/responses", {"input": "hi"}),
        ]
        for path, body in asked:
            assert (await stage.served.http.post(path, json={"model": "org/tiny", **body})).status_code == 200
        assert [(one.ttft_target_s, one.itl_target_s) for one in stage.owner.seen] == [(60, 50), (1e-6, 0), (0, 40.0005), (0, 0)]
        counted = (await stage.served.http.get("/metrics")).text
        shown = [line for line in counted.splitlines() if line.startswith("headstart:request_targets_total")]
        assert sorted((line.split('result="')[1].split('"')[0], line.split()[-1]) for line in shown) == [
            ("met", "2.0"),
            ("ttft_missed", "1.0"),
        ]

    async def test_who_asks_for_a_first_token_sooner_than_it_can_come_is_told_so_at_once(self, stage: Stage) -> None:
        stage.owner.script = told
        assert stage.fabric.model.publish_load(1 << 60, 1, 0, 30.0) is WriteStatus.DONE
        body = {"model": "org/tiny", "messages": MESSAGES}
        refused = await stage.served.http.post("/v1/chat/completions", json={**body, "ttft_target_ms": 29_000})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
        assert (await stage.served.http.post("/v1/chat/completions", json={**body, "ttft_target_ms": 31_000})).status_code == 200
        assert (await stage.served.http.post("/v1/chat/completions", json=body)).status_code == 200

    async def test_explain_holds_a_request_against_its_targets(self, stage: Stage) -> None:
        stage.owner.script = told
        body = {"model": "org/tiny", "messages": MESSAGES, "ttft_target_ms": 0.5, "itl_target_ms": 90_000}
        public_id = (await stage.served.http.post("/v1/chat/completions", json=body)).json()["id"]
        page = (await stage.served.http.get(f"/v1/requests/{public_id}/explain")).json()
        assert page["targets"] == {
            "ttft_ms": 0.5,
            "inter_token_ms": 90_000,
            "ttft_met": page["times"]["ttft_ms"] <= 0.5,
            "inter_token_met": True,
        }
        body = {"model": "org/tiny", "messages": MESSAGES}
        public_id = (await stage.served.http.post("/v1/chat/completions", json=body)).json()["id"]
        page = (await stage.served.http.get(f"/v1/requests/{public_id}/explain")).json()
        assert set(page["targets"].values()) == {None}

    async def test_cached_tokens_are_told_in_usage(self, stage: Stage) -> None:
        stage.plays(Say("a", cached=4), End())
        chat = await stage.served.openai.chat.completions.create(model="org/tiny", messages=MESSAGES)
        assert chat.usage is not None
        assert chat.usage.prompt_tokens_details is not None
        assert chat.usage.prompt_tokens_details.cached_tokens == 4
        answer = await stage.served.openai.responses.create(model="org/tiny", input="hi")
        assert answer.usage is not None
        assert answer.usage.input_tokens_details.cached_tokens == 4


class TestLogprobs:
    def play_euro(self, stage: Stage) -> None:
        """The first two bytes release no text; the third releases the character."""
        first, second, third, last = ids(stage, "€!")
        stage.plays(Say("", ids=(first,)), Say("", ids=(second,)), Say("€", ids=(third,)), Say("!", ids=(last,)), End())

    async def test_chat(self, stage: Stage) -> None:
        self.play_euro(stage)
        answer = await stage.served.openai.chat.completions.create(model="org/tiny", messages=MESSAGES, logprobs=True, top_logprobs=2)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        raw = bytes(byte for one in logprobs.content for byte in one.bytes or [])
        assert raw.startswith("€!".encode())
        assert answer.usage is not None
        assert len(logprobs.content) == answer.usage.completion_tokens
        assert all(len(one.top_logprobs) == 2 and one.logprob == -0.5 for one in logprobs.content)
        assert logprobs.content[3].token == "!"

    async def test_a_stream_tells_each_token_once_and_keeps_its_numbers(self, stage: Stage) -> None:
        self.play_euro(stage)
        create = stage.served.openai.chat.completions.create
        chunks = [chunk async for chunk in await create(model="org/tiny", messages=MESSAGES, logprobs=True, stream=True)]
        plain = [chunk async for chunk in await create(model="org/tiny", messages=MESSAGES, stream=True)]
        assert len(chunks) == len(plain)
        told = [one for chunk in chunks if (got := chunk.choices[0].logprobs) for one in got.content or []]
        assert bytes(byte for one in told for byte in one.bytes or []).startswith("€!".encode())
        assert len(told) == 5

    async def test_completions_have_four_lists_of_one_length(self, stage: Stage) -> None:
        self.play_euro(stage)
        answer = await stage.served.openai.completions.create(model="org/tiny", prompt="x", logprobs=1)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        lists = (logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset)
        assert {len(one or []) for one in lists} == {5}
        assert logprobs.tokens is not None
        assert logprobs.tokens[:4] == ["bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "!"]
        assert logprobs.text_offset == [0, 0, 0, 1, 2]

    async def test_responses_tell_them_when_included(self, stage: Stage) -> None:
        self.play_euro(stage)
        create = stage.served.openai.responses.create
        include: Any = ["message.output_text.logprobs"]
        answer = await create(model="org/tiny", input="hi", include=include, top_logprobs=3)
        part: Any = answer.output[0].content[0]  # type: ignore[union-attr, index]
        assert [len(one.top_logprobs) for one in part.logprobs] == [3] * 5
        events = [event async for event in await create(model="org/tiny", input="hi", include=include, stream=True)]
        deltas = [event for event in events if event.type == "response.output_text.delta"]
        assert [len(event.logprobs) for event in deltas] == [3, 1]
        assert (await create(model="org/tiny", input="hi")).output[0].content[0].logprobs == []  # type: ignore[union-attr, index]


class TestPrompts:
    async def test_echo_starts_with_the_prompt(self, stage: Stage) -> None:
        create = stage.served.openai.completions.create
        assert (await create(model="org/tiny", prompt="once: ", echo=True)).choices[0].text == "once: Hello there"
        echoed = await create(model="org/tiny", prompt=list(ids(stage, "by id")), echo=True, n=2)
        assert [one.text[:5] for one in echoed.choices] == ["by id", "by id"]
        stream = await stage.served.lax.completions.create(model="org/tiny", prompt="once: ", echo=True, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "once: Hello there"

    def says_its_prompt(self, stage: Stage) -> None:
        def script(spec: RequestSpec) -> tuple[Step, ...]:
            text = str(len(spec.prompt))
            return (*(Say(f"{text}.{at}", 1, at) for at in range(spec.sampling.n)), End())

        stage.owner.script = script

    async def test_several_prompts_are_numbered_prompt_by_prompt(self, stage: Stage) -> None:
        self.says_its_prompt(stage)
        answer = await stage.served.openai.completions.create(model="org/tiny", prompt=["a", "bb", "ccc"], n=2)
        assert [(one.index, one.text) for one in answer.choices] == [
            (0, "1.0"), (1, "1.1"), (2, "2.0"), (3, "2.1"), (4, "3.0"), (5, "3.1"),
        ]  # fmt: skip
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 12)
        ids_of = await stage.served.openai.completions.create(model="org/tiny", prompt=[[1, 2], [3]])
        assert [one.text for one in ids_of.choices] == ["2.0", "1.0"]

    async def test_their_stream_is_one_and_resumes_anywhere(self, stage: Stage) -> None:
        self.says_its_prompt(stage)
        body = {"model": "org/tiny", "prompt": ["a", "bb"], "stream": True, "stream_options": {"include_usage": True}}
        frames = events_of((await stage.served.http.post("/v1/completions", json=body)).text)
        assert [one["sequence_number"] for one in frames] == list(range(5))
        assert len({one["id"] for one in frames}) == 1
        assert "".join(one["choices"][0]["text"] for one in frames[:-1]) == "1.02.0"
        assert frames[-1]["usage"]["total_tokens"] == 3 + 4
        for after in range(-1, 5):
            path = f"/v1/requests/{frames[0]['id']}/stream?starting_after={after}"
            assert events_of((await stage.served.http.get(path)).text) == frames[after + 1 :]
        beyond = await stage.served.http.get(f"/v1/requests/{frames[0]['id']}/stream?starting_after=5")
        assert (beyond.status_code, beyond.json()["error"]["param"]) == (400, "starting_after")

    async def test_a_cancel_ends_all_of_them(self, stage: Stage) -> None:
        stage.plays(Hold(asyncio.Event()))
        waiting = asyncio.create_task(stage.served.http.post("/v1/completions", json={"model": "org/tiny", "prompt": ["a", "bb"]}))
        await until(lambda: len(stage.owner.seen) == 2)
        first = min((one.request_id for one in stage.owner.seen), key=len)
        assert (await stage.served.http.post(f"/v1/requests/{first}/cancel")).json()["status"] == "cancelled"
        answer: httpx2.Response = await waiting
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "request_cancelled")

    async def test_an_idempotency_key_names_all_of_them(self, stage: Stage) -> None:
        self.says_its_prompt(stage)
        answers = []
        for _ in range(2):
            body = {"model": "org/tiny", "prompt": ["a", "bb"]}
            answers.append((await stage.served.http.post("/v1/completions", json=body, headers={"Idempotency-Key": "k"})).json())
        assert answers[0] == answers[1]


def events_of(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


class TestConversations:
    async def test_a_chain_is_rebuilt_from_what_was_stored(self, stage: Stage) -> None:
        create = stage.served.openai.responses.create
        first = await create(model="org/tiny", input="one", instructions="only for the first")
        second = await create(model="org/tiny", input="two", previous_response_id=first.id)
        assert second.previous_response_id == first.id
        specs = stage.remembers_specs()
        await create(model="org/tiny", input="three", previous_response_id=second.id, instructions="now")
        encoder = stage.served.gateway.default.encoder
        expected = [
            {"role": "system", "content": "now"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "Hello there"},
            {"role": "user", "content": "two"},
            {"role": "assistant", "content": "Hello there"},
            {"role": "user", "content": "three"},
        ]
        assert specs[0].prompt == await encoder.encode_chat(expected, "input")
        assert len(stage.fabric.retained) == 3

    async def test_input_items_are_listed_in_pages(self, stage: Stage) -> None:
        history: Any = [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "1"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "two"}], "id": "mine"},
        ]
        made = await stage.served.openai.responses.create(model="org/tiny", input=history)
        items = stage.served.openai.responses.input_items
        with pytest.raises(openai.BadRequestError, match="when the response is created"):
            await stage.served.openai.responses.retrieve(made.id, include=["message.output_text.logprobs"])
        page = await items.list(made.id, limit=2, order="asc")
        assert [one.role for one in page.data] == ["user", "assistant"]  # type: ignore[union-attr]
        everything = [one async for one in page]
        assert everything[-1].id == "mine"
        assert len(everything) == 3
        assert [one.id async for one in await items.list(made.id)] == [one.id for one in reversed(everything)]
        with pytest.raises(openai.BadRequestError) as caught:
            await items.list(made.id, after="nothing")
        assert caught.value.param == "after"

    async def test_delete_takes_it_away(self, stage: Stage) -> None:
        responses = stage.served.openai.responses
        made = await responses.create(model="org/tiny", input="hi")
        later = await responses.create(model="org/tiny", input="hi", previous_response_id=made.id)
        await responses.delete(made.id)
        for call in (responses.retrieve, responses.delete, responses.cancel, responses.input_items.list):
            with pytest.raises(openai.NotFoundError):
                await call(made.id)
        with pytest.raises(openai.NotFoundError) as caught:
            await responses.create(model="org/tiny", input="hi", previous_response_id=later.id)
        assert caught.value.param == "previous_response_id"

    async def test_delete_ends_what_still_runs(self, stage: Stage) -> None:
        stage.plays(Hold(asyncio.Event()))
        running = await stage.served.openai.responses.create(model="org/tiny", input="hi", background=True)
        await stage.served.openai.responses.delete(running.id)
        with pytest.raises(openai.NotFoundError):
            await stage.served.openai.responses.retrieve(running.id)

    async def test_what_is_not_stored_cannot_be_read_or_continued(self, stage: Stage) -> None:
        responses = stage.served.openai.responses
        made = await responses.create(model="org/tiny", input="hi", store=False)
        assert made.output_text == "Hello there"
        with pytest.raises(openai.NotFoundError) as caught:
            await responses.retrieve(made.id)
        assert caught.value.code == "not_stored"
        polled = await responses.create(model="org/tiny", input="hi", store=False, background=True)
        assert (await responses.retrieve(polled.id)).id == polled.id
        for previous in (made.id, polled.id):
            with pytest.raises(openai.NotFoundError):
                await responses.create(model="org/tiny", input="hi", previous_response_id=previous)

    async def test_what_has_not_ended_cannot_be_continued(self, stage: Stage) -> None:
        stage.plays(Hold(asyncio.Event()))
        running = await stage.served.openai.responses.create(model="org/tiny", input="hi", background=True)
        with pytest.raises(openai.BadRequestError) as caught:
            await stage.served.openai.responses.create(model="org/tiny", input="hi", previous_response_id=running.id)
        assert caught.value.param == "previous_response_id"

    async def test_truncation_leaves_out_the_oldest(self, stage: Stage) -> None:
        specs = stage.remembers_specs()
        history: Any = [{"role": "user", "content": f"{at}" * 100} for at in range(9)]
        await stage.served.openai.responses.create(
            model="org/tiny", input=history, instructions="stay", truncation="auto", max_output_tokens=100
        )
        encoder = stage.served.gateway.default.encoder
        kept = [{"role": "system", "content": "stay"}, *history[6:]]
        assert specs[0].prompt == await encoder.encode_chat(kept, "input")


class TestTokenizer:
    async def test_there_and_back(self, stage: Stage) -> None:
        http = stage.served.http
        made = (await http.post("/tokenize", json={"prompt": "h€", "return_token_strs": True})).json()
        assert (made["count"], made["tokens"], made["max_model_len"]) == (4, list(ids(stage, "h€")), 512)
        assert made["token_strs"][0] == "h"
        assert (await http.post("/detokenize", json={"tokens": made["tokens"]})).json() == {"prompt": "h€"}
        chat = (await http.post("/tokenize", json={"model": "org/tiny", "messages": MESSAGES})).json()
        answer = await stage.served.openai.chat.completions.create(model="org/tiny", messages=MESSAGES)
        assert answer.usage is not None
        assert chat["count"] == answer.usage.prompt_tokens


class TestState:
    async def test_load_version_and_ready(self, stage: Stage) -> None:
        http = stage.served.http
        await until(lambda: stage.fabric.model.members())
        assert (await http.get("/ready")).json() == {"ready": True, "reasons": []}
        assert (await http.get("/version")).json()["version"]
        stage.plays(Hold(asyncio.Event()))
        await stage.served.openai.responses.create(model="org/tiny", input="hi", background=True)
        load = (await http.get("/load")).json()["models"]["org/tiny"]
        assert (load["live"], load["workers"], load["leader"]) == (1, 1, True)
        stage.fabric.model.leave(replace(stage.owner.member).ref)
        answer = await http.get("/ready")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["org/tiny: no worker has joined"])
