"""Clients of every kind: they stream, poll, leave work in the background, cancel, and walk away. Each judges its own answer."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from shared.types import Phase, RequestId
from tests.machine.cluster import MODEL_NAME
from tests.machine.door import Door, Json, Lost, Twice, Wrong
from tests.machine.oracle import Oracle, texts_of
from tests.support.tiny_models import VOCABULARY

POLL_S = 0.3


@dataclass(slots=True)
class Tally:
    """What became of the requests."""

    asked: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    phases: Counter[Phase] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Bodies:
    """What is asked: token ids of any length, few of them for a model whose answers must be known before."""

    def __init__(self, seed: int, prompts: tuple[str, ...] = ()) -> None:
        self._random = Random(seed)
        self._known = [_known(prompt, at) for at, prompt in enumerate(prompts)]

    @property
    def known(self) -> list[Json]:
        return self._known

    def draw(self) -> Json:
        if self._known:
            return dict(self._random.choice(self._known))
        random = self._random
        prompt = [random.randrange(1, VOCABULARY) for _ in range(random.choice((3, 60, 150, 300)))]
        sampled = {"temperature": 1.0, "seed": random.randrange(10**6)} if random.random() < 0.5 else {"temperature": 0.0}
        more: Json = {"logprobs": 1} if random.random() < 0.3 else {}
        return {
            "model": MODEL_NAME, "prompt": prompt, "max_tokens": random.randint(20, 150), "n": random.choice((1, 1, 2)),
            "ignore_eos": True, **sampled, **more,
        }  # fmt: skip


def _known(prompt: str, at: int) -> Json:
    sampled = {"temperature": 0.8, "seed": at} if at % 2 else {"temperature": 0.0}
    return {"model": MODEL_NAME, "prompt": prompt, "max_tokens": 60, "ignore_eos": True, **sampled}


class Clients:
    def __init__(self, door: Door, oracle: Oracle, bodies: Bodies, seed: int) -> None:
        self.tally = Tally()
        self._door, self._oracle, self._bodies, self._random = door, oracle, bodies, Random(seed)
        self._names = (f"{seed}-{at}" for at in count())
        self._kinds: dict[str, Callable[[Json, str], Coroutine[Any, Any, None]]] = {
            "stream": self._stream, "plain": self._plain, "background": self._background, "cancel": self._cancel, "leave": self._leave,
        }  # fmt: skip
        self._shares = (4, 2, 2, 1, 1)

    async def keep_asking(self, until: asyncio.Event) -> None:
        """One client: a request after the other."""
        while not until.is_set():
            (kind,) = self._random.choices(list(self._kinds), self._shares)
            self.tally.asked[kind] += 1
            try:
                await self._kinds[kind](self._bodies.draw(), next(self._names))
            except Lost as error:
                self.tally.lost.append(f"{kind}: {error}")
            except Twice as error:
                self.tally.twice.append(f"{kind}: {error}")
            except (Wrong, AssertionError) as error:
                self.tally.wrong.append(f"{kind}: {error}")
            else:
                self.tally.right[kind] += 1

    async def _judge(self, public_id: str, body: Json, told: dict[int, str] | None, *, whole: bool) -> None:
        request_id = RequestId(
            public_id.rpartition("-")[2] if public_id.startswith(("cmpl-", "chatcmpl-")) else public_id.removeprefix("resp_")
        )
        self.tally.phases[await self._oracle.judge(request_id, _key(body), told, whole=whole)] += 1

    async def _stream(self, body: Json, name: str) -> None:
        told: dict[int, str] = {}
        public_id = ""
        async for event in self._streamed(body, name):
            public_id = event["id"]
            _hear(event, told)
        await self._judge(public_id, body, told, whole=True)

    async def _plain(self, body: Json, name: str) -> None:
        """One answer for one request, however often it is asked for."""
        answer = await self._door.ask("POST", "/v1/completions", body, name)
        await self._judge(answer["id"], body, dict(enumerate(texts_of(answer))), whole=True)

    async def _background(self, body: Json, name: str) -> None:
        """Submitted, forgotten, polled."""
        asked = as_response(body)
        found = await self._door.ask("POST", "/v1/responses", {**asked, "background": True}, name)
        while found["status"] in ("queued", "in_progress"):
            await asyncio.sleep(POLL_S)
            found = await self._door.ask("GET", f"/v1/responses/{found['id']}")
        await self._judge(found["id"], asked, {0: output_text(found)}, whole=True)

    async def _cancel(self, body: Json, name: str) -> None:
        """Asked for after a few tokens: it ends soon, and what was told stays true."""
        told: dict[int, str] = {}
        asked_for = self._random.randint(1, 8)
        public_id = ""
        async with aclosing(self._streamed(body, name)) as events:
            async for event in events:
                public_id = event["id"]
                _hear(event, told)
                asked_for -= 1
                if not asked_for:
                    break
        await self._door.ask("POST", f"/v1/requests/{public_id}/cancel", missing=True)
        await self._judge(public_id, body, told, whole=False)

    async def _leave(self, body: Json, name: str) -> None:
        """Gone after a few tokens: the request ends by itself, finished or cancelled."""
        told: dict[int, str] = {}
        public_id = ""
        async with aclosing(self._streamed(body, name)) as events:
            async for event in events:
                public_id = event["id"]
                _hear(event, told)
                if len(told.get(0, "")) > 5:
                    break
        await self._judge(public_id, body, told, whole=False)

    def _streamed(self, body: Json, name: str) -> AsyncGenerator[Json, None]:
        return self._door.events("/v1/completions", {**body, "stream": True}, name)


def _hear(event: Json, told: dict[int, str]) -> None:
    for choice in event["choices"]:
        told[choice["index"]] = told.get(choice["index"], "") + choice["text"]


def _key(body: Json) -> str:
    return json.dumps(body, sort_keys=True)


def as_response(body: Json) -> Json:
    """The same question to the Responses API: as a chat, so it is another question to a model."""
    said = " ".join(f"w{token}" for token in body["prompt"]) if isinstance(body["prompt"], list) else body["prompt"]
    common: Json = {key: body[key] for key in ("model", "temperature", "seed", "ignore_eos") if key in body}
    return {**common, "input": said, "max_output_tokens": body["max_tokens"]}


def output_text(response: Json) -> str:
    return "".join(part["text"] for item in response["output"] for part in item.get("content", ()))


async def learn_truth(door: Door, bodies: Bodies) -> dict[str, list[str]]:
    """What a model answers while nothing breaks."""
    truth: dict[str, list[str]] = {}
    for at, body in enumerate(bodies.known):
        truth[_key(body)] = texts_of(await door.ask("POST", "/v1/completions", body, f"truth-{at}"))
        response = await door.ask("POST", "/v1/responses", as_response(body), f"truth-response-{at}")
        truth[_key(as_response(body))] = [output_text(response)]
    return truth
