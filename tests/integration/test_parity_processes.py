"""Same tokens as `generate()`: two worker processes with unlike blocks, UCX between them, the cut forced."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cli.system import System, SystemPlan, WorkerPlan
from scheduler.settings import SchedulerSettings
from shared.types import GRANULE_TOKENS
from tests.support.pool import Pool, save_word_tokenizer
from tests.support.profiles import given_profile
from tests.support.tiny_models import VOCABULARY, WINDOW, Reference, prompt_of, reference, save_tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("parity")]

NEW_TOKENS = 10
TOLERANCE = 1e-4
TRIES = 3
LONG = 4 * GRANULE_TOKENS + 2
"""Has granules 0 to 4 below its last token."""
EVERY_CUT = tuple(range(0, LONG, GRANULE_TOKENS))
SPREAD = (GRANULE_TOKENS, 3 * GRANULE_TOKENS)
CASES = {"llama": EVERY_CUT, "qwen3": SPREAD, "mistral": SPREAD, "gemma3_text": SPREAD}
LENGTHS = (1, 2, WINDOW - 1, WINDOW + 1, GRANULE_TOKENS, GRANULE_TOKENS + 1, 2 * GRANULE_TOKENS + 7, LONG)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=sorted(CASES))
async def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Pool, Reference, str]]:
    kind: str = request.param
    folder = save_tiny(kind, tmp_path_factory.mktemp(kind))
    save_word_tokenizer(folder, VOCABULARY)
    async with Pool.running(System(plan_of(folder))) as pool:
        yield pool, reference(folder), kind


def plan_of(folder: Path) -> SystemPlan:
    """A slow worker with blocks of 32 and a fast one with blocks of 16: only the wire layout is common to both.

    Nothing is cached: every cut must cross the wire, also where a prompt begins like an earlier one.
    """
    common = ("--kv-mib", "8", "--threads", "1", "--no-prefix-cache", *given_profile(folder))
    low = WorkerPlan("low", ("--slowdown", "4", "--role", "low", "--block-tokens", "32", "--token-budget", "96", *common))
    high = WorkerPlan("high", ("--block-tokens", "16", "--token-budget", "64", *common))
    return SystemPlan(folder, "tiny", (low, high), ports=(), schedulers=0)


async def test_every_length_and_every_cut(model: tuple[Pool, Reference, str]) -> None:
    pool, truth, kind = model
    for cut in CASES[kind]:
        async with pool.scheduled(SchedulerSettings(policy="fixed-cut", cut_tokens=cut)):
            for length in LENGTHS if cut == GRANULE_TOKENS else (LONG,):
                await one_request(pool, truth, length, cut)


async def one_request(pool: Pool, truth: Reference, length: int, cut: int) -> None:
    """The tokens are right whatever happens. The cut may be lost to a machine that stood still for too long: then once more."""
    prompt, wanted = prompt_of(length, salt=cut), min(cut, (length - 1) // GRANULE_TOKENS * GRANULE_TOKENS)
    stories = []
    for _ in range(TRIES):
        answer = await pool.ask(prompt, NEW_TOKENS)
        assert list(answer.token_ids) == truth.greedy(prompt, NEW_TOKENS)
        expected = truth.logprobs([*prompt, *answer.token_ids], length)
        assert max(abs(ours - theirs) for ours, theirs in zip(answer.logprobs, expected, strict=True)) < TOLERANCE
        if pulled(answer.told("pulled")) == wanted:
            return
        stories.append(answer.story)
    raise AssertionError(f"{length} tokens were never cut at {wanted}: {stories}")


def pulled(lines: list[dict[str, object]]) -> int:
    """Tokens that came over the wire, and were believed."""
    assert all(line["error"] == "" for line in lines)
    return sum(int(str(line["good_tokens"])) for line in lines)
