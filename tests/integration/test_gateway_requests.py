"""What is ours beside the OpenAI routes: resuming any stream, explanations, listeners, idempotency, keys, metrics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from gateway.settings import GatewaySettings
from shared.messages import GatewayBeat, ListenerChange, StoryLine
from shared.types import Phase
from tests.support.fake_owner import End, Hold, Say
from tests.support.gateway_server import Stage, staged, until
from tests.support.waiting import eventually

CHAT: dict[str, Any] = {"model": "org/tiny", "messages": [{"role": "user", "content": "hi"}]}


@dataclass(frozen=True)
class Frame:
    number: str
    name: str
    data: str


async def frames(http: httpx2.AsyncClient, path: str, **headers: str) -> list[Frame]:
    text = (await http.get(path, headers=headers)).raise_for_status().text
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append(Frame(fields.get("id", ""), fields.get("event", ""), fields["data"]))
    return found


class TestResume:
    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/chat/completions", CHAT),
            ("/v1/completions", {"model": "org/tiny", "prompt": "hi"}),
            ("/v1/responses", {"model": "org/tiny", "input": "hi"}),
        ],
    )
    async def test_any_request_by_its_id_with_or_without_prefix(self, stage: Stage, path: str, body: dict[str, Any]) -> None:
        http = stage.served.http
        public_id = (await http.post(path, json=body)).json()["id"]
        whole = await frames(http, f"/v1/requests/{public_id}/stream")
        assert [frame.number for frame in whole] == [*map(str, range(len(whole) - 1)), ""]
        assert whole[-1].data == "[DONE]"
        bare = stage.owner.seen[0].request_id
        assert await frames(http, f"/v1/requests/{bare}/stream?starting_after=1") == whole[2:]
        assert await frames(http, f"/v1/requests/{bare}/stream", **{"Last-Event-ID": "2"}) == whole[3:]

    async def test_a_live_stream_gives_the_same_frames_as_a_replay(self, stage: Stage) -> None:
        gate = asyncio.Event()
        stage.plays(Say("Hel"), Hold(gate), Say("lo"), End())
        http = stage.served.http
        submitted = (await http.post("/v1/responses", json={"model": "org/tiny", "input": "hi", "background": True})).json()["id"]
        live = asyncio.create_task(frames(http, f"/v1/requests/{submitted}/stream"))
        await until(lambda: len(stage.served.gateway.default.follower) > 0)
        gate.set()
        assert await live == await frames(http, f"/v1/requests/{submitted}/stream")

    async def test_an_event_the_log_does_not_tell_cannot_be_resumed_after(self, stage: Stage) -> None:
        http = stage.served.http
        public_id = (await http.post("/v1/chat/completions", json=CHAT)).json()["id"]
        answer = await http.get(f"/v1/requests/{public_id}/stream?starting_after=99")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "log_shortened")


class TestLostLogs:
    async def test_a_stream_ends_with_a_named_error_when_the_server_forgot_its_tail(self, tiny_model: Path) -> None:
        gate = asyncio.Event()
        settings = GatewaySettings(redis_url="", model=tiny_model, served_model_name="org/tiny", poll_s=0.02, verify_s=0.05)
        async with staged(settings) as stage:
            stage.plays(Say("Hel"), Say("lo"), Hold(gate), Say("!"), End())
            stream = await stage.served.openai.chat.completions.create(
                model="org/tiny", messages=[{"role": "user", "content": "hi"}], stream=True
            )
            text = ""
            while text != "Hello":
                text += (await stream.__anext__()).choices[0].delta.content or ""
            entries = stage.fabric.model._state.logs[stage.owner.seen[0].request_id].entries
            del entries.ids[1:], entries.items[1:]
            with pytest.raises(openai.APIError) as caught:
                await stream.__anext__()
            assert caught.value.code == "log_shortened"

    async def test_a_request_that_the_server_forgot_altogether(self, tiny_model: Path) -> None:
        settings = GatewaySettings(redis_url="", model=tiny_model, served_model_name="org/tiny", poll_s=0.02, verify_s=0.05)
        async with staged(settings) as stage:
            stage.plays(Hold(asyncio.Event()))
            waiting = asyncio.create_task(stage.served.http.post("/v1/chat/completions", json=CHAT))
            await until(lambda: stage.owner.seen)
            stage.fabric.model.restore(1.0)
            answer = await waiting
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "request_lost")


class TestListeners:
    def changes(self, stage: Stage) -> list[bool]:
        events = stage.fabric.model.read_events("0-0")
        return [event.listening for _, event in events if isinstance(event, ListenerChange)]

    async def test_a_stream_that_is_dropped_is_told_and_a_follower_ends_the_grace(self, stage: Stage) -> None:
        gate = asyncio.Event()
        stage.plays(Say("Hel"), Hold(gate), Say("lo"), End())
        stream = await stage.served.openai.chat.completions.create(
            model="org/tiny", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        public_id = (await stream.__anext__()).id
        await stream.close()
        await until(lambda: self.changes(stage) == [False])
        resumed = asyncio.create_task(frames(stage.served.http, f"/v1/requests/{public_id}/stream?starting_after=0"))
        await until(lambda: self.changes(stage) == [False, True])
        gate.set()
        assert (await resumed)[-1].data == "[DONE]"
        assert self.changes(stage) == [False, True]
        assert len(stage.served.gateway.default.listeners) == 0

    async def test_a_client_that_leaves_while_it_waits_for_the_whole_answer(self, stage: Stage) -> None:
        stage.plays(Say("Hel"), Hold(asyncio.Event()))
        waiting = asyncio.create_task(stage.served.http.post("/v1/chat/completions", json=CHAT))
        await until(lambda: len(stage.served.gateway.default.listeners) == 1)
        waiting.cancel()
        await until(lambda: self.changes(stage) == [False])
        await until(lambda: len(stage.served.gateway.default.listeners) == 0)

    async def test_background_requests_have_none(self, stage: Stage) -> None:
        created = await stage.served.openai.responses.create(model="org/tiny", input="hi", background=True)
        stream = await stage.served.openai.responses.retrieve(created.id, stream=True)
        [event async for event in stream]
        assert self.changes(stage) == []

    async def test_the_gateway_beats(self, tiny_model: Path) -> None:
        settings = GatewaySettings(redis_url="", model=tiny_model, served_model_name="org/tiny", beat_s=0.01)
        async with staged(settings) as stage:

            def beats() -> list[int]:
                events = stage.fabric.model.read_events("0-0")
                return [event.counter for _, event in events if isinstance(event, GatewayBeat) and event.gateway == settings.gateway_id]

            await until(lambda: beats()[:3] == [1, 2, 3])


class TestIdempotency:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_the_same_body_under_the_same_key_is_one_request(self, stage: Stage, stream: bool) -> None:
        answers = [
            (await stage.served.http.post("/v1/chat/completions", json={**CHAT, "stream": stream}, headers={"Idempotency-Key": "k"})).text
            for _ in range(2)
        ]
        assert answers[0] == answers[1]
        assert len(stage.owner.seen) == 1

    async def test_another_body_under_the_same_key_is_a_conflict(self, stage: Stage) -> None:
        headers = {"Idempotency-Key": "k"}
        await stage.served.http.post("/v1/chat/completions", json=CHAT, headers=headers)
        answer = await stage.served.http.post("/v1/chat/completions", json={**CHAT, "max_tokens": 3}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_conflict")
        assert answer.headers["x-should-retry"] == "false"


class TestKeys:
    async def test_what_belongs_to_one_key_does_not_exist_for_another(self, tiny_model: Path) -> None:
        settings = GatewaySettings(redis_url="", model=tiny_model, served_model_name="org/tiny", api_keys=("one", "two"))
        async with staged(settings, api_key="one") as stage:
            made = await stage.served.openai.responses.create(model="org/tiny", input="hi")
            other = stage.served.openai.with_options(api_key="two")
            with pytest.raises(openai.NotFoundError):
                await other.responses.retrieve(made.id)
            with pytest.raises(openai.AuthenticationError):
                await stage.served.openai.with_options(api_key="three").models.list()
            http = stage.served.http
            assert (await http.get("/v1/models")).headers["www-authenticate"] == "Bearer"
            assert (await http.get("/health")).status_code == 200
            assert (await http.get("/metrics")).status_code == 200


class TestExplain:
    async def test_a_timeline_from_log_record_and_story(self, stage: Stage) -> None:
        public_id = (await stage.served.http.post("/v1/chat/completions", json=CHAT)).json()["id"]
        created = stage.owner.seen[0].created_ms
        considered = [{"worker": "fast#1", "queued_s": 0.0}, {"worker": "slow#1", "queued_s": 0.5}]
        stage.fabric.model.tell_story(
            stage.owner.seen[0].request_id,
            (
                StoryLine(created - 1, "scheduler", "head_start", {"worker": "slow#1", "assist": "a1", "limit": 64}),
                StoryLine(
                    created + 2,
                    "scheduler",
                    "assigned",
                    {"worker": "fast#1", "considered": considered, "attempt": 1, "cut": 4, "source": "slow#1"},
                ),
                StoryLine(
                    created + 4,
                    "worker fast#1",
                    "pulled",
                    {"source": "slow#1", "tokens": 4, "good_tokens": 3, "bytes": 4096, "seconds": 0.25, "error": ""},
                ),
            ),
        )
        page = (await stage.served.http.get(f"/v1/requests/{public_id}/explain")).json()
        assert page["status"] == "finished"
        assert [(row["attempt"], row["owner"], row["cut"]) for row in page["attempts"]] == [(1, "fast#1", 4)]
        assert page["workers"] == {"considered": ["fast#1", "slow#1"], "gave_head_start": ["slow#1"], "owned": ["fast#1"]}
        assert page["transfers"] == {"count": 1, "failed": 0, "bytes": 4096, "seconds": 0.25}
        assert page["tokens"]["prefill_computed_by"] == {"slow#1": 3, "fast#1": 2}
        assert page["tokens"]["recomputed"] == 1
        assert page["times"]["queued_ms"] == 2
        assert {"submitted", "assigned", "pulled", "first token", "finished"} <= {line["what"] for line in page["timeline"]}
        assert page["times"]["inter_token_ms"]["count"] == 4
        assert [line["at_ms"] for line in page["timeline"]] == sorted(line["at_ms"] for line in page["timeline"])

    async def test_a_request_that_nobody_took_yet(self, stage: Stage) -> None:
        stage.plays(Hold(asyncio.Event()))
        created = await stage.served.openai.responses.create(model="org/tiny", input="hi", background=True)
        page = (await stage.served.http.get(f"/v1/requests/{created.id}/explain")).json()
        assert (page["attempts"], page["times"]["ttft_ms"], page["tokens"]["generated"]) == ([], None, 0)


class TestOperators:
    async def test_cancel_works_for_every_kind(self, stage: Stage) -> None:
        stage.plays(Say("Hel"), Hold(asyncio.Event()))
        stream = await stage.served.openai.chat.completions.create(
            model="org/tiny", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        public_id = (await stream.__anext__()).id
        assert (await stage.served.http.post(f"/v1/requests/{public_id}/cancel")).json()["status"] == "cancelled"
        with pytest.raises(openai.APIError) as caught:
            [chunk async for chunk in stream]
        assert caught.value.code == "request_cancelled"

    async def test_metrics_count_what_happened(self, stage: Stage) -> None:
        for phase in (Phase.FINISHED, Phase.FAILED):
            stage.plays(Say("a"), Say("b"), End(phase, None, "no luck" if phase is Phase.FAILED else ""))
            await stage.served.http.post("/v1/chat/completions", json=CHAT)

        async def exposition() -> str:
            text = (await stage.served.http.get("/metrics")).text
            return text if 'finished_reason="error",model_name="org/tiny"} 1.0' in text else ""

        text = await eventually(exposition)
        for line in (
            'vllm:num_requests_running{model_name="org/tiny"} 0.0',
            'vllm:num_requests_waiting{model_name="org/tiny"} 0.0',
            'vllm:request_success_total{finished_reason="stop",model_name="org/tiny"} 1.0',
            'vllm:prompt_tokens_total{model_name="org/tiny"} 10.0',
            'vllm:generation_tokens_total{model_name="org/tiny"} 4.0',
            'vllm:time_to_first_token_seconds_count{model_name="org/tiny"} 2.0',
            'vllm:inter_token_latency_seconds_count{model_name="org/tiny"} 2.0',
            'vllm:e2e_request_latency_seconds_count{model_name="org/tiny"} 2.0',
        ):
            assert line in text

    async def test_request_ids_are_echoed_or_made(self, stage: Stage) -> None:
        assert (await stage.served.http.get("/health", headers={"X-Request-Id": "mine"})).headers["x-request-id"] == "mine"
        assert (await stage.served.http.get("/health")).headers["x-request-id"].startswith("req_")

    async def test_ready_follows_the_message_server(self, stage: Stage) -> None:
        http = stage.served.http
        assert (await http.get("/ready")).status_code == 200
        stage.plays(Hold(asyncio.Event()))
        await stage.served.openai.responses.create(model="org/tiny", input="hi", background=True)
        stage.fabric.down = True
        await until(lambda: not stage.served.gateway.default.follower.connected)
        assert (await http.get("/ready")).status_code == 503
        stage.fabric.down = False
        await until(lambda: stage.served.gateway.default.follower.connected)
        assert (await http.get("/ready")).status_code == 200
