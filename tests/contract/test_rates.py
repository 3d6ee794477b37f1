"""The server's script takes and gives back like the bucket that the tests' fabric has; and it forgets."""

from __future__ import annotations

import random
from dataclasses import astuple

from shared.rates import Rates
from shared.redis_fabric import RedisFabric
from tests.support.bucket import Bucket

RATES = (Rates(600, 6000), Rates(requests=30), Rates(tokens=500))
LATER = 99_999_999_999_999
"""A last charge in the future: the clock stands still, and the arithmetic can be compared exactly."""


async def test_it_counts_like_a_bucket(valkey_url: str) -> None:
    fabric = await RedisFabric.connect(valkey_url)
    chance = random.Random(5)
    try:
        for rates in RATES:
            caller, bucket, answers = f"caller-{rates.requests}-{rates.tokens}", Bucket(), []
            for _ in range(40):
                taken = (chance.choice((0, 1, 9)), chance.choice((0, 3, 70, 900, -20, 7000)))
                told = await fabric.charge(caller, rates, *taken)
                known = bucket.charge(rates, *taken, 0)
                for ours, theirs in zip(astuple(known), astuple(told), strict=True):
                    assert abs(ours - theirs) <= 0.0015, (known, told)
                answers.append(told.granted)
                await fabric.connection.command("HSET", fabric.keys.rate(caller), "at_ms", LATER)
            assert set(answers) == {True, False}
            assert 0 < await fabric.connection.command("PTTL", fabric.keys.rate(caller)) <= 120_000
    finally:
        await fabric.disconnect()


async def test_time_fills_it_and_a_clock_that_steps_back_takes_nothing(valkey_url: str) -> None:
    fabric = await RedisFabric.connect(valkey_url)
    rates, key = Rates(requests=2), fabric.keys.rate("c")
    try:
        assert [(await fabric.charge("c", rates, 1, 0)).requests_left for _ in range(2)] == [1, 0]
        await fabric.connection.command("HSET", key, "at_ms", LATER)
        assert not (await fabric.charge("c", rates, 1, 0)).granted
        await fabric.connection.command("HSET", key, "at_ms", "1")
        assert (await fabric.charge("c", rates, 1, 0)).requests_left == 1
    finally:
        await fabric.disconnect()
