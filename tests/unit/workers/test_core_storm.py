"""Seeded storms: little memory, bad wires, failing steps, cancels and moves at random; every answer is a prefix of the right one."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from shared.messages import Cancel, Drain, Source, StopAssist
from shared.types import FinishReason, Phase, RequestSpec
from tests.support.core_harness import Node, World, make_spec
from workers.fake_engine import FakeModel
from workers.loopback_transport import Fault

GRANULE_BYTES = 64 * 16


class Storm:
    """A scheduler that knows no policy: orders, takes, cancels and moves as the seed says."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.world = World(FakeModel(vocab_size=50, max_model_tokens=600))
        depth = 1 + seed % 2
        self.lows = [self._add(f"low{at}", depth, token_budget=64) for at in range(2)]
        self.highs = [self._add(f"high{at}", depth, token_budget=128) for at in range(2)]
        self.attempts: dict[str, tuple[RequestSpec, int, Node]] = {}

    def _add(self, name: str, depth: int, **settings: Any) -> Node:
        blocks = self.random.randint(26, 40)
        fault = self.random.choice([None, lambda plan: "planned" if plan.step % 23 == 0 else None])
        return self.world.add(name, fault, depth=depth, total_blocks=blocks, max_sequences=8, watermark_blocks=2, **settings)

    def run(self, requests: int) -> None:
        for at in range(requests):
            self._request(at)
            self.world.run(self.random.expovariate(16.0))
            self._trouble()
        self._to_the_end()

    def _request(self, at: int) -> None:
        draw, world = self.random, self.world
        spec = make_spec(f"r{at}", draw.choice([1, 63, 64, 65, 130, 257, 300]), draw.randint(1, 100), ignore_eos=draw.random() < 0.5)
        source, owner = None, draw.choice(self.highs)
        if draw.random() < 0.6:
            low = draw.choice([*self.lows, owner])
            assist = world.order(low, spec)
            world.run(draw.uniform(0.0, 0.3))
            offered = [state.offered for state in low.reports[-1].assists if state.assist == assist] if low.reports else []
            world.tell(low.ref, StopAssist(assist, owner.ref))
            source = Source(assist, low.ref, offered[0]) if offered and offered[0] else None
        self._assign(owner, spec, 1, source)

    def _assign(self, owner: Node, spec: RequestSpec, attempt: int, source: Source | None = None) -> None:
        self.attempts[spec.request_id] = (spec, attempt, owner)
        self.world.assign(owner, spec, attempt, source)

    def _trouble(self) -> None:
        draw = self.random
        spec, attempt, owner = draw.choice(list(self.attempts.values()))
        match draw.randrange(6):
            case 0:
                owner.feed(Cancel(spec.request_id))
            case 1 if spec.request_id not in self.world.finish:
                self._assign(draw.choice(self.highs), spec, attempt + 1)
            case 2 | 3:
                self.world.hub.inject(self._fault())
            case _:
                pass

    def _fault(self) -> Fault:
        draw = self.random
        faults = [
            Fault(corrupt=(draw.randrange(4 * GRANULE_BYTES),)),
            Fault(truncate_to=draw.randrange(4 * GRANULE_BYTES)),
            Fault(delay_s=3.0),
        ]
        return draw.choice([*faults, Fault(duplicate=True)])

    def _to_the_end(self) -> None:
        """Whatever was handed back is placed again, until everything has ended."""
        for _ in range(20):
            self.world.run(10.0, until=lambda: all(node.core.idle for node in self.highs))
            for node in self.highs:
                for returned in list(node.core.returned.values()):
                    spec, attempt, _ = self.attempts[returned.request_id]
                    if attempt == returned.attempt and returned.request_id not in self.world.finish:
                        self._assign(self.random.choice(self.highs), spec, attempt + 1)
        for low in self.lows:
            low.feed(Drain(0.0))
        self.world.settle()

    def check(self) -> None:
        for spec, _, _ in self.attempts.values():
            self.world.expect_prefix(spec)
            if isinstance(self.world.finish[spec.request_id], FinishReason):
                self.world.expect_answer(spec)
            else:
                assert self.world.finish[spec.request_id] in (Phase.CANCELLED, Phase.FAILED)


@pytest.mark.parametrize("seed", range(8))
def test_a_storm(seed: int) -> None:
    storm = Storm(seed)
    storm.run(requests=25)
    storm.check()
