"""Who may see what, which model answers, and what a refused request leaves on a real server: nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from gateway.auth import Keyring, salt_of
from gateway.limits import MAX_BODY_BYTES
from gateway.pools import ServedModel
from gateway.service import bare_id
from gateway.settings import ExtraModel, GatewaySettings
from shared.errors import ConfigError
from shared.redis_fabric import RedisFabric
from tests.support.fake_owner import End, FakeOwner, Say
from tests.support.gateway_server import HELLO, Stage, served, staged, tokenizer_of
from tests.support.key_check import TestServer
from tests.support.model_fabric import ModelFabric
from tests.support.waiting import eventually

INPUT: dict[str, Any] = {"model": "org/tiny", "input": "hi"}


def settings_for(model: Path, *keys: str) -> GatewaySettings:
    return GatewaySettings(redis_url="", model=model, served_model_name="org/tiny", api_keys=keys)


class TestTenants:
    async def test_what_one_key_submitted_is_a_404_to_another(self, tiny_model: Path) -> None:
        async with staged(settings_for(tiny_model, "one", "two"), api_key="one") as stage:
            made = (await stage.served.openai.responses.create(model="org/tiny", input="hi", background=True)).id
            http = stage.served.http
            for key, status in (("two", 404), ("one", 200)):
                headers = {"authorization": f"Bearer {key}"}
                for method, path in (
                    ("GET", f"/v1/responses/{made}"),
                    ("GET", f"/v1/responses/{made}?stream=true"),
                    ("GET", f"/v1/responses/{made}/input_items"),
                    ("POST", f"/v1/responses/{made}/cancel"),
                    ("GET", f"/v1/requests/{made}/stream"),
                    ("GET", f"/v1/requests/{made}/explain"),
                    ("POST", f"/v1/requests/{made}/cancel"),
                ):
                    assert (await http.request(method, path, headers=headers)).status_code == status, path
                goes_on = await http.post("/v1/responses", json={**INPUT, "previous_response_id": made}, headers=headers)
                assert goes_on.status_code == status
                assert (await http.delete(f"/v1/responses/{made}", headers=headers)).status_code == status

    async def test_an_idempotency_key_is_the_callers_own(self, tiny_model: Path) -> None:
        async with staged(settings_for(tiny_model, "one", "two")) as stage:
            made = []
            for key in ("one", "two", "one"):
                headers = {"authorization": f"Bearer {key}", "idempotency-key": "k"}
                made.append((await stage.served.http.post("/v1/responses", json=INPUT, headers=headers)).json()["id"])
            assert made[0] == made[2] != made[1]

    async def test_the_salt_is_the_tenants_and_no_key_is_stored(self, tiny_model: Path) -> None:
        async with staged(settings_for(tiny_model, "secret-one", "secret-two")) as stage:
            specs = stage.remembers_specs()
            for key in ("secret-one", "secret-two", "secret-one"):
                await stage.served.http.post("/v1/responses", json=INPUT, headers={"authorization": f"Bearer {key}"})
            assert specs[0].salt == specs[2].salt != specs[1].salt
            assert all(spec.salt for spec in specs)
            heads = [log.head for log in stage.fabric.model._state.logs.values()]
            assert all(len(head.owner_key) == 32 and head.owner_key != head.spec.salt for head in heads)
            assert "secret" not in repr(heads)

    async def test_everything_but_probes_needs_a_key(self, tiny_model: Path) -> None:
        async with staged(settings_for(tiny_model, "one")) as stage:
            for path in ("/v1/models", "/v1/models/org/tiny", "/v1/responses/resp_x", "/v1/requests/x/stream"):
                answer = await stage.served.http.get(path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            for path, body in (("/v1/responses", INPUT), ("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
                assert (await stage.served.http.post(path, json=body)).status_code == 401
            for path in ("/health", "/ready", "/version", "/load", "/metrics"):
                assert (await stage.served.http.get(path)).status_code in (200, 503)

    def test_a_ring_without_keys_knows_one_nameless_tenant(self) -> None:
        assert Keyring(()).owner_of("Bearer whatever") == ""
        assert salt_of("") == ""


class TestModels:
    async def test_requests_go_by_model_to_their_pool(self, tiny_model: Path) -> None:
        async with staged_pair(tiny_model) as (stage, second):
            client = stage.served.openai
            assert [model.id for model in (await client.models.list()).data] == ["org/tiny", "second"]
            first = await client.responses.create(model="org/tiny", input="hi")
            other = await client.responses.create(model="second", input="hi", previous_response_id=first.id)
            assert (first.output_text, other.output_text) == ("Hello there", "from the second")
            assert (len(stage.owner.seen), len(second.seen)) == (1, 1)
            assert (await client.responses.retrieve(other.id)).model == "second"
            with pytest.raises(openai.NotFoundError, match="'org/tiny', 'second'") as caught:
                await client.responses.create(model="third", input="hi")
            assert caught.value.code == "model_not_found"
            metrics = (await stage.served.http.get("/metrics")).text
            assert 'vllm:request_success_total{finished_reason="stop",model_name="second"} 1.0' in metrics
            assert set((await stage.served.http.get("/load")).json()["models"]) == {"org/tiny", "second"}

    def test_an_option_for_one_more(self, tmp_path: Path) -> None:
        assert ExtraModel.parse(f"a/b={tmp_path}@pool-2") == ExtraModel("a/b", tmp_path, "pool-2")
        for text in ("a", "a=b", f"a={tmp_path}", f"a={tmp_path}/none@p"):
            with pytest.raises(ConfigError, match="--extra-model"):
                ExtraModel.parse(text)

    def test_no_name_and_no_pool_twice(self, tiny_model: Path) -> None:
        settings = settings_for(tiny_model)
        for extra in (ExtraModel("org/tiny", tiny_model, "p"), ExtraModel("x", tiny_model, "default")):
            with pytest.raises(ConfigError, match="--extra-model"):
                replace(settings, extra_models=(extra,))


BAD: list[tuple[str, str, bytes | dict[str, Any], int]] = [
    ("POST", "/v1/completions", {"model": "org/tiny", "prompt": 7}, 400),
    ("POST", "/v1/completions", {"model": "nobody", "prompt": "a"}, 404),
    ("POST", "/v1/completions", {"model": "org/tiny", "prompt": ""}, 400),
    ("POST", "/v1/completions", {"model": "org/tiny", "prompt": ["a", "x" * 600]}, 400),
    ("POST", "/v1/completions", {"model": "org/tiny", "prompt": "x" * 100}, 400),
    ("POST", "/v1/completions", {"model": "org/tiny", "prompt": "a", "n": 0}, 400),
    ("POST", "/v1/completions", {"model": "org/tiny", "prompt": "a", "n": 10**9}, 400),
    ("POST", "/v1/completions", {"model": "org/tiny", "prompt": "a", "temperature": -1}, 400),
    ("POST", "/v1/completions", {"model": "org/tiny", "prompt": "a", "stop": ["a"] * 5}, 400),
    ("POST", "/v1/completions", b'{"model": "org/tiny", "prompt": "\xff"}', 400),
    ("POST", "/v1/completions", b'{"model": "org/tiny", "prom', 400),
    ("POST", "/v1/responses", {**INPUT, "previous_response_id": "resp_none"}, 404),
    ("GET", "/v1/responses/resp_none", b"", 404),
    ("GET", "/v1/requests/none/stream?starting_after=9", b"", 404),
]


class TestNothingIsLeft:
    async def test_on_a_real_server(self, tiny_model: Path, valkey_url: str, valkey_server: TestServer) -> None:
        fabric = await RedisFabric.connect(valkey_url)
        try:
            owner = FakeOwner(fabric, lambda spec: HELLO)
            owner.member = replace(owner.member, total_blocks=6)
            async with served(settings_for(tiny_model), fabric) as running, owner.working():
                await eventually(lambda: members_known(running.gateway))
                for method, path, body, status in BAD:
                    await self.refused(running.http, valkey_server, method, path, body, status)
                await self.refused_by_length(running.url)
                made = await running.openai.responses.create(model="org/tiny", input="hi")
                beyond = await running.http.get(f"/v1/requests/{made.id}/stream?starting_after=99")
                assert (beyond.status_code, beyond.json()["error"]["param"]) == (400, "starting_after")
                assert (await running.http.get("/ready")).status_code == 200
                head = fabric.keys.log(bare_id(made.id)).head
                valkey_server.client.expire(head, 100)
                again = await running.openai.responses.create(model="org/tiny", input="hi", previous_response_id=made.id)
                assert again.output_text == "Hello there"
                assert valkey_server.client.ttl(head) > 100, "a conversation that goes on is kept"
                assert (await running.http.get("/load")).json()["models"]["org/tiny"]["leader"]
                await running.openai.responses.delete(made.id)
                assert await fabric.head(bare_id(made.id)) is None
        finally:
            await fabric.disconnect()

    async def refused(
        self, http: httpx2.AsyncClient, server: TestServer, method: str, path: str, body: bytes | dict[str, Any], status: int
    ) -> None:
        sent: dict[str, Any] = (
            {"content": body, "headers": {"content-type": "application/json"}} if isinstance(body, bytes) else {"json": body}
        )
        answer = await http.request(method, path, **sent)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), (path, body)
        left = [key for key in map(bytes.decode, server.client.scan_iter()) if ":head:" in key or ":request:" in key or ":log:" in key]
        assert left == [], (path, body)

    async def refused_by_length(self, url: str) -> None:
        """A hundred megabytes announced, and some of them sent: the answer comes at once."""
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), family=socket.AF_INET)
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {100 << 20}\r\n\r\n"
        writer.write(head.encode() + b" " * 65536)
        assert b" 413 " in await reader.readline()
        writer.close()

    async def test_a_body_without_a_length_is_cut_where_the_limit_is(self, stage: Stage) -> None:
        async def chunks() -> Any:
            for _ in range(MAX_BODY_BYTES // 65536 + 1):
                yield b" " * 65536

        answer = await stage.served.http.post("/v1/completions", content=chunks(), headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "invalid_request_error")


async def members_known(gateway: Any) -> bool:
    return bool(gateway.default.members)


@asynccontextmanager
async def staged_pair(model: Path) -> AsyncIterator[tuple[Stage, FakeOwner]]:
    """A gateway over two pools, an owner in each."""
    pools = ModelFabric(), ModelFabric()
    first = FakeOwner(pools[0].as_fabric(), lambda spec: HELLO)
    second = FakeOwner(pools[1].as_fabric(), lambda spec: (Say("from the second"), End()))
    more = [ServedModel("second", pools[1].as_fabric(), tokenizer_of(model), 512)]
    async with served(settings_for(model), pools[0].as_fabric(), more=more) as running, first.working(), second.working():
        yield Stage(running, first, pools[0]), second
