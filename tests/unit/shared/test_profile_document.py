"""A profile's document: what is written is read, and whatever else is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from shared.errors import ConfigError
from shared.profile import Profile, StepShape
from shared.profile_document import SCHEMA, ProfileDocument, ProfileKey

KEY = ProfileKey("a CPU", "m", "ab12", "float32", "torch 2", 512, 32, 16)
PROFILE = Profile(0.01, 1e-4, 1e-8, 1e-3, 1e-6, 512, 0.002, 3e9, free_tokens=120.0)
TAKEN = "2026-11-21T07:00:00+00:00"
DOCUMENT = ProfileDocument(KEY, PROFILE, 35, 20, {"prefill": 0.02, "mixed": 0.05}, 1000, 9000, "UCX loopback", 12.5, TAKEN)


def changed(*path: str, value: Any) -> str:
    told = json.loads(DOCUMENT.to_json())
    inner = told
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return json.dumps(told)


def test_what_is_written_is_read() -> None:
    assert ProfileDocument.from_json(DOCUMENT.to_json(), "here") == DOCUMENT


def test_terms_that_a_document_does_not_have_take_their_defaults() -> None:
    told = json.loads(DOCUMENT.to_json())
    del told["profile"]["free_tokens"]
    assert ProfileDocument.from_json(json.dumps(told), "here").profile == replace(PROFILE, free_tokens=0.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "p.json: no profile, it is not JSON"),
        ("[]", "p.json: no profile, it has no `schema`"),
        ("{}", "it has no `schema`"),
        (changed("schema", value=99), f"profile schema 99 is unknown, this release knows {SCHEMA}: measure again with `headstart profile`"),
        (changed("colour", value=1), "unknown field 'colour'"),
        (changed("profile", "warp_s", value=1), "profile: unknown field 'warp_s'"),
        (changed("profile", "step_s", value="fast"), "step_s is 'fast', which cannot be"),
        (changed("profile", "step_s", value=-1.0), "step_s is -1.0"),
        (changed("profile", "step_s", value=float("nan")), "step_s is nan"),
        (changed("profile", "link_bytes_per_s", value=True), "link_bytes_per_s is True"),
        (changed("key", "token_budget", value=1.5), "token_budget is 1.5"),
        (changed("key", value=3), "ProfileKey must be an object"),
        (changed("profile", value={}), "missing"),
        (changed("held_out_errors", value={"mixed": "little"}), "held_out_errors is"),
    ],
)
def test_what_is_no_profile_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ProfileDocument.from_json(text, "p.json")
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["device", "model", "weights", "dtype", "engine", "token_budget", "max_sequences", "block_tokens"])
def test_every_part_of_the_key_makes_another_profile(name: str) -> None:
    old = getattr(KEY, name)
    other = replace(KEY, **{name: old + (1 if isinstance(old, int) else "x")})
    assert other.digest != KEY.digest
    assert KEY.differences(other).startswith(f"{name} ")
    assert KEY.differences(KEY) == ""


# --- the model of a step ---------------------------------------------------------------------------------------------


def test_tokens_that_ride_along_cost_nothing_and_decodes_use_them_up() -> None:
    alone = PROFILE.step_seconds(StepShape(100, 0, 0, 0))
    assert alone == PROFILE.step_s
    assert PROFILE.step_seconds(StepShape(150, 0, 0, 0)) == pytest.approx(alone + 30e-4)
    assert PROFILE.step_seconds(StepShape(100, 0, 50, 0)) == pytest.approx(alone + 30e-4 + 50e-3)


@pytest.mark.parametrize("free", [0.0, 1.0, 120.0, 4000.0])
@pytest.mark.parametrize(("start", "stop", "chunk"), [(0, 1, 512), (0, 1024, 512), (64, 1000, 100), (7, 7, 10), (0, 130, 128)])
def test_a_prefill_is_the_sum_of_its_chunks(free: float, start: int, stop: int, chunk: int) -> None:
    profile, total = replace(PROFILE, free_tokens=free), 0.0
    for first in range(start, stop, chunk):
        last = min(stop, first + chunk)
        total += profile.step_seconds(StepShape(last - first, (last * (last + 1) - first * (first + 1)) // 2, 0, 0))
    assert profile.prefill_seconds(start, stop, chunk) == pytest.approx(total)


def test_a_slower_device_is_slower_in_every_step_and_has_the_same_link() -> None:
    slow = PROFILE.scaled(2.0)
    for shape in (StepShape(512, 9999, 0, 0), StepShape(0, 0, 30, 9999), StepShape(300, 999, 30, 9999)):
        assert slow.step_seconds(shape) == pytest.approx(2 * PROFILE.step_seconds(shape))
    assert slow.transfer_seconds(100) == PROFILE.transfer_seconds(100)
