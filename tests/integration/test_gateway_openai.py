"""The official client against the gateway: everything it may do here, with its type checks on where the API's own servers pass them."""

from __future__ import annotations

import asyncio

import openai
import pytest

from shared.types import FinishReason, Phase
from tests.support.fake_owner import End, Hold, Say
from tests.support.gateway_server import Stage
from tests.support.waiting import eventually


class TestModels:
    async def test_lists_and_retrieves_a_name_with_a_slash(self, stage: Stage) -> None:
        page = await stage.served.openai.models.list()
        assert [model.id for model in page.data] == ["org/tiny"]
        assert (await stage.served.openai.models.retrieve("org/tiny")).owned_by == "headstart"

    async def test_unknown_model_is_404(self, stage: Stage) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            await stage.served.openai.models.retrieve("other")
        assert caught.value.code == "model_not_found"


class TestChat:
    async def test_plain(self, stage: Stage) -> None:
        answer = await stage.served.openai.chat.completions.create(model="org/tiny", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == "Hello there"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.id.startswith("chatcmpl-")
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 6)
        assert answer._request_id is not None

    async def test_stream_with_usage(self, stage: Stage) -> None:
        stream = await stage.served.openai.chat.completions.create(
            model="org/tiny",
            messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello there"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 6
        assert [chunk.model_extra["sequence_number"] for chunk in chunks if chunk.model_extra] == list(range(len(chunks)))

    async def test_a_failure_in_the_middle_raises_in_the_client(self, stage: Stage) -> None:
        stage.plays(Say("Hel"), End(Phase.FAILED, None, "the engine gave up", "too_many_crashes"))
        stream = await stage.served.openai.chat.completions.create(
            model="org/tiny", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match="the engine gave up") as caught:
            [chunk async for chunk in stream]
        assert caught.value.code == "too_many_crashes"

    async def test_a_failure_without_stream_is_a_500_that_is_not_retried(self, stage: Stage) -> None:
        stage.plays(End(Phase.FAILED, None, "no luck", "too_many_crashes"))
        with pytest.raises(openai.InternalServerError) as caught:
            await stage.served.openai.chat.completions.create(model="org/tiny", messages=[{"role": "user", "content": "hi"}])
        assert caught.value.code == "too_many_crashes"
        assert caught.value.response.headers["x-should-retry"] == "false"

    async def test_sampling_reaches_the_worker(self, stage: Stage) -> None:
        specs = stage.remembers_specs()
        await stage.served.openai.chat.completions.create(
            model="org/tiny",
            messages=[{"role": "user", "content": "hi"}],
            temperature=0,
            top_p=0.5,
            seed=7,
            stop=["a", "b"],
            max_completion_tokens=9,
        )
        sampling = specs[0].sampling
        assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.stop, sampling.max_tokens) == (0.0, 0.5, 7, ("a", "b"), 9)

    async def test_without_a_seed_each_request_gets_its_own(self, stage: Stage) -> None:
        specs = stage.remembers_specs()
        for _ in range(2):
            await stage.served.openai.chat.completions.create(model="org/tiny", messages=[{"role": "user", "content": "hi"}])
        seeds = [spec.sampling.seed for spec in specs]
        assert seeds[0] != seeds[1]
        assert all(0 <= seed < 2**63 for seed in seeds)

    async def test_pings_between_tokens_do_not_disturb_the_client(self, stage: Stage) -> None:
        gate = asyncio.Event()
        stage.plays(Say("Hel"), Hold(gate), Say("lo"), End())
        async with stage.served.http.stream(
            "POST",
            "/v1/chat/completions",
            json={"model": "org/tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True},
        ) as raw:
            lines: list[str] = []
            async for line in raw.aiter_lines():
                lines.append(line)
                if line.startswith(":"):
                    gate.set()
        assert ": ping" in lines
        assert not any(line.startswith(("id:", "retry:")) for line in lines)
        assert lines[-2:] == ["data: [DONE]", ""]
        gate.clear()
        stream = await stage.served.openai.chat.completions.create(
            model="org/tiny", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if text == "Hel" and not gate.is_set():
                asyncio.get_running_loop().call_later(0.2, gate.set)
        assert text == "Hello"


class TestCompletions:
    async def test_plain_takes_sixteen_tokens_by_default(self, stage: Stage) -> None:
        answer = await stage.served.openai.completions.create(model="org/tiny", prompt="once")
        assert answer.choices[0].text == "Hello there"
        assert stage.owner.seen[0].max_tokens == 16
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 4

    async def test_stream_of_token_ids(self, stage: Stage) -> None:
        stream = await stage.served.lax.completions.create(model="org/tiny", prompt=[1, 2, 3], stream=True, max_tokens=5)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello there"
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert stage.owner.seen[0].num_prompt == 3

    async def test_length_is_told(self, stage: Stage) -> None:
        stage.plays(Say("a"), End(finish=FinishReason.LENGTH))
        answer = await stage.served.openai.completions.create(model="org/tiny", prompt="once", max_tokens=2)
        assert answer.choices[0].finish_reason == "length"


class TestResponses:
    async def test_plain(self, stage: Stage) -> None:
        answer = await stage.served.openai.responses.create(
            model="org/tiny", input="hi", instructions="be brief", metadata={"a": "b"}, max_output_tokens=20
        )
        assert answer.status == "completed"
        assert answer.output_text == "Hello there"
        assert (answer.instructions, answer.metadata, answer.max_output_tokens) == ("be brief", {"a": "b"}, 20)
        assert answer.usage is not None
        assert answer.usage.output_tokens == 6

    async def test_an_answer_can_be_sent_back_as_history(self, stage: Stage) -> None:
        first = await stage.served.openai.responses.create(model="org/tiny", input="hi")
        history = [{"role": "user", "content": "hi"}, *[item.model_dump() for item in first.output], {"role": "user", "content": "and?"}]
        second = await stage.served.openai.responses.create(model="org/tiny", input=history)  # type: ignore[arg-type]
        assert second.status == "completed"

    async def test_stream_has_the_documented_order(self, stage: Stage) -> None:
        stream = await stage.served.openai.responses.create(model="org/tiny", input="hi", stream=True)
        events = [event async for event in stream]
        kinds = [event.type for event in events]
        assert kinds[:5] == [
            "response.created",
            "response.queued",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert kinds[5:-4] == ["response.output_text.delta"] * 3
        assert kinds[-4:] == [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert [event.sequence_number for event in events] == list(range(len(events)))

    async def test_the_clients_own_stream_helper_agrees(self, stage: Stage) -> None:
        async with stage.served.openai.responses.stream(model="org/tiny", input="hi") as stream:
            final = await stream.get_final_response()
        assert final.output_text == "Hello there"

    async def test_background_submit_poll_and_resume(self, stage: Stage) -> None:
        gate = asyncio.Event()
        stage.plays(Say("Hel"), Hold(gate), Say("lo"), End())
        responses = stage.served.openai.responses
        submitted = await responses.create(model="org/tiny", input="hi", background=True)
        assert (submitted.status, submitted.background, submitted.output) == ("queued", True, [])

        async def in_progress() -> bool:
            return (await responses.retrieve(submitted.id)).status == "in_progress"

        await eventually(in_progress)
        assert (await responses.retrieve(submitted.id)).output_text == "Hel"
        gate.set()
        everything = [event async for event in await responses.retrieve(submitted.id, stream=True)]
        rest = [event async for event in await responses.retrieve(submitted.id, stream=True, starting_after=4)]
        assert everything[5:] == rest
        final = await responses.retrieve(submitted.id)
        assert (final.status, final.output_text) == ("completed", "Hello")
        assert stage.owner.seen[0].background

    async def test_background_stream_at_creation(self, stage: Stage) -> None:
        stream = await stage.served.openai.responses.create(model="org/tiny", input="hi", background=True, stream=True)
        assert [event async for event in stream][-1].type == "response.completed"

    async def test_cancel_is_idempotent_and_ends_the_stream(self, stage: Stage) -> None:
        stage.plays(Say("Hel"), Hold(asyncio.Event()), Say("lo"), End())
        responses = stage.served.openai.responses
        stream = await responses.create(model="org/tiny", input="hi", background=True, stream=True)
        kinds: list[str] = []
        response_id = ""
        async for event in stream:
            kinds.append(event.type)
            if event.type == "response.created":
                response_id = event.response.id
            if event.type == "response.output_text.delta":
                assert (await responses.cancel(response_id)).status == "cancelled"
        assert kinds[-1] == "response.output_text.delta"
        assert (await responses.cancel(response_id)).status == "cancelled"
        assert (await responses.retrieve(response_id)).output_text == "Hel"

    async def test_cancel_of_a_finished_one_returns_it(self, stage: Stage) -> None:
        done = await stage.served.openai.responses.create(model="org/tiny", input="hi")
        assert (await stage.served.openai.responses.cancel(done.id)).status == "completed"

    async def test_incomplete_when_the_tokens_run_out(self, stage: Stage) -> None:
        stage.plays(Say("a"), End(finish=FinishReason.LENGTH))
        stream = await stage.served.openai.responses.create(model="org/tiny", input="hi", stream=True)
        last = [event async for event in stream][-1]
        assert last.type == "response.incomplete"
        assert last.response.incomplete_details is not None
        assert last.response.incomplete_details.reason == "max_output_tokens"

    async def test_failure_is_an_error_event_and_then_failed(self, stage: Stage) -> None:
        stage.plays(Say("a"), End(Phase.FAILED, None, "no luck", "too_many_crashes"))
        stream = await stage.served.openai.responses.create(model="org/tiny", input="hi", stream=True)
        events = [event async for event in stream]
        assert [event.type for event in events[-2:]] == ["error", "response.failed"]
        assert events[-1].type == "response.failed"
        assert events[-1].response.error is not None
        assert events[-1].response.error.type == "too_many_crashes"
        failed = await stage.served.openai.responses.create(model="org/tiny", input="hi")
        assert failed.status == "failed"

    async def test_unknown_ids_are_404(self, stage: Stage) -> None:
        chat = await stage.served.openai.chat.completions.create(model="org/tiny", messages=[{"role": "user", "content": "hi"}])
        for unknown in ("resp_nothing", chat.id):
            with pytest.raises(openai.NotFoundError):
                await stage.served.openai.responses.retrieve(unknown)
            with pytest.raises(openai.NotFoundError):
                await stage.served.openai.responses.cancel(unknown)
