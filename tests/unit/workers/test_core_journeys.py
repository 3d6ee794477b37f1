"""Whole requests through one or two cores: every answer is the one that the definition gives, whatever happened on the way."""

from __future__ import annotations

import pytest

from shared.messages import Source
from shared.types import FinishReason
from tests.support.core_harness import World, make_spec

DEPTHS = pytest.mark.parametrize("depth", [1, 2])


@DEPTHS
@pytest.mark.parametrize("num_prompt", [1, 15, 16, 17, 127, 128, 129, 300])
def test_one_request_alone(depth: int, num_prompt: int) -> None:
    world = World()
    node = world.add("high", depth=depth)
    spec = make_spec("r", num_prompt, max_tokens=20)
    world.assign(node, spec)
    world.settle()
    world.expect_answer(spec)
    assert world.finish[spec.request_id] is FinishReason.LENGTH


@DEPTHS
def test_many_requests_beside_each_other(depth: int) -> None:
    world = World()
    node = world.add("high", depth=depth)
    specs = [make_spec(f"r{at}", 1 + 37 * at % 400, max_tokens=1 + at % 13) for at in range(30)]
    for spec in specs:
        world.assign(node, spec)
        world.run(0.01)
    world.settle()
    for spec in specs:
        world.expect_answer(spec)


@DEPTHS
@pytest.mark.parametrize("cut", range(64, 321, 64))
def test_a_cut_at_every_granule(depth: int, cut: int) -> None:
    world = World()
    low, high = world.add("low", depth=depth), world.add("high", depth=depth)
    spec = make_spec("r", 321, max_tokens=10)
    assist = world.order(low, spec, limit=cut)
    world.run(2.0)
    assert low.reports[-1].assists[0].offered == cut
    world.assign(high, spec, source=Source(assist, low.ref, cut))
    world.settle()
    world.expect_answer(spec)
    assert [story.data["good_tokens"] for story in high.stories if story.what == "pulled"] == [cut]
