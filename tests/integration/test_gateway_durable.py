"""A server that cannot say that a request is safe: the client is told to come again, and comes again to one and the same request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.settings import GatewaySettings
from shared.durability import Durability
from shared.fabric_settings import FabricSettings
from shared.redis_fabric import RedisFabric
from tests.support.fake_owner import FakeOwner
from tests.support.gateway_server import served
from tests.support.replicas import pair, stopped, until_followed

BODY: dict[str, Any] = {"model": "org/tiny", "prompt": "hi", "max_tokens": 3}
KEY = {"Idempotency-Key": "one"}


async def test_503_not_durable_and_the_same_key_is_the_same_request(tiny_model: Path) -> None:
    with pair() as (primary, replica):
        plain = await RedisFabric.connect(primary.url)
        waiting = FabricSettings(durability=Durability.parse("wait-replicas=1"), durable_wait_s=0.3)
        fabric = await RedisFabric.connect(primary.url, settings=waiting)
        async with served(GatewaySettings(primary.url, tiny_model, "org/tiny"), fabric) as running, FakeOwner(plain).working() as owner:
            first = await running.http.post("/v1/completions", json=BODY)
            assert first.status_code == 200, "the scripts are known"
            with stopped(replica):
                refused = await running.http.post("/v1/completions", json=BODY, headers=KEY)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_durable")
            assert "Idempotency-Key" in refused.json()["error"]["message"]
            assert int(refused.headers["retry-after"]) >= 1
            until_followed(primary)
            again = [await running.http.post("/v1/completions", json=BODY, headers=KEY) for _ in range(2)]
            assert [answer.status_code for answer in again] == [200, 200]
            assert len({answer.json()["id"] for answer in again}) == 1
            assert again[0].json()["choices"][0]["text"] == first.json()["choices"][0]["text"]
            assert len(owner.seen) == 2, "the first one, and one for the key"
        await fabric.disconnect()
        await plain.disconnect()
