"""A low-end that dies or stalls before and in mid-transfer, an owner that dies or stalls while it streams: real processes, right tokens.

The engine without a model answers wrongly if one foreign byte reaches its KV; a tiny Llama runs the stall once more with real KV.
"""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cli.system import System, SystemPlan, WorkerPlan
from scheduler.events import Place, SchedulerCommand
from scheduler.settings import SchedulerSettings
from shared.fabric import Record
from shared.messages import Assign, Report
from shared.server import free_port
from shared.types import GRANULE_TOKENS, RequestId, SamplingParams, WorkerRef
from tests.support.pool import Answer, Pool, save_word_tokenizer
from tests.support.profiles import given_profile
from tests.support.scrape import scrape
from tests.support.tiny_models import CONTEXT, VOCABULARY, Reference, prompt_of, reference, save_tiny
from tests.support.waiting import eventually
from workers.fake_engine import FakeModel, reference_tokens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("kill-and-stall")]

CUT = 7 * GRANULE_TOKENS
LONG = CUT + 2
NEW_TOKENS = 12
KV_BYTES = 2**17 + 16
"""Of a fake token: the long prompt's transfer is 59 MB in eight segments."""
MODEL = FakeModel(vocab_size=VOCABULARY, max_model_tokens=CONTEXT)
ENOUGH_S = 120.0

FAKE = ("--engine", "fake", "--fake-kv-bytes", str(KV_BYTES))
TORCH = ("--threads", "1", "--kv-mib", "8")


@dataclass(frozen=True)
class Case:
    """A model's directory, how its workers are started, and what the right answer is."""

    folder: Path
    options: tuple[str, ...]
    truth: Reference | None = None

    def low(self, module: str = "cli", metrics_port: int | None = None) -> WorkerPlan:
        metrics = () if metrics_port is None else ("--metrics-port", str(metrics_port))
        return WorkerPlan("low", (*self.options, "--slowdown", "4", "--role", "low", *metrics), module)

    def high(self, name: str = "high", slowdown: float = 1) -> WorkerPlan:
        return WorkerPlan(name, (*self.options, "--slowdown", str(slowdown)))

    def right(self, prompt: tuple[int, ...], count: int) -> list[int]:
        if self.truth:
            return self.truth.greedy(prompt, count)
        return list(reference_tokens(prompt, greedy(count), MODEL))

    @asynccontextmanager
    async def running(self, *workers: WorkerPlan) -> AsyncIterator[Pool]:
        plan = SystemPlan(self.folder, "tiny", workers, ports=(), schedulers=0, log_level="info", echo=False)
        async with Pool.running(System(plan)) as pool:
            yield pool


@pytest.fixture
def fake(tmp_path: Path) -> Case:
    return Case(checkpoint(tmp_path), FAKE)


@pytest.fixture(params=["fake", "torch"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    folder = checkpoint(tmp_path)
    return Case(folder, FAKE) if request.param == "fake" else Case(folder, (*TORCH, *given_profile(folder)), reference(folder))


def checkpoint(folder: Path) -> Path:
    save_word_tokenizer(save_tiny("llama", folder), VOCABULARY)
    return folder


def greedy(count: int) -> SamplingParams:
    return SamplingParams(count, temperature=0.0, ignore_eos=True)


class SignalsTheSender:
    """Sends the low-end a signal when its offer has come to the cut and the owner is chosen, before anybody can pull."""

    def __init__(self, pool: Pool, number: signal.Signals) -> None:
        self._pool = pool
        self._number = number
        self._done = False

    async def __call__(self, command: SchedulerCommand) -> None:
        if not self._done and isinstance(command, Place) and isinstance(command.job, Assign) and command.job.source:
            self._done = True
            assert command.job.source.tokens == CUT
            self._pool.signal("low", self._number)


class TestSenderBeforeItServesThePull:
    async def test_stalled_and_woken(self, case: Case) -> None:
        settings = SchedulerSettings(policy="fixed-cut", cut_tokens=CUT, liveness_s=60.0)
        port = free_port()
        async with case.running(case.low(metrics_port=port), case.high()) as pool:
            async with pool.scheduled(settings, SignalsTheSender(pool, signal.SIGSTOP)):
                answer = await ask(pool, case, 0)
                assert not_pulled(answer).startswith("deadline: 0 of ")
                pool.signal("low", signal.SIGCONT)
                # What nobody waits for any more is sent all the same: nothing was before.
                await eventually(lambda: has_sent(port), ENOUGH_S)
                assert (await record(pool, answer)).attempt == 1
                await others_are_right(pool, case)

    async def test_stalled_until_it_counts_as_dead(self, fake: Case) -> None:
        """It comes back into a pool that had given it up."""
        settings = SchedulerSettings(policy="fixed-cut", cut_tokens=CUT)
        async with fake.running(fake.low(), fake.high()) as pool:
            low = await pool.member("low")
            async with pool.scheduled(settings, SignalsTheSender(pool, signal.SIGSTOP)):
                not_pulled(await ask(pool, fake, 0))
                await eventually(lambda: is_gone(pool, low), ENOUGH_S)
                pool.signal("low", signal.SIGCONT)
                await eventually(lambda: is_back(pool, low), ENOUGH_S)
                await others_are_right(pool, fake)

    async def test_killed(self, fake: Case) -> None:
        settings = SchedulerSettings(policy="fixed-cut", cut_tokens=CUT)
        async with fake.running(fake.low(), fake.high()) as pool:
            async with pool.scheduled(settings, SignalsTheSender(pool, signal.SIGKILL)):
                answer = await ask(pool, fake, 0)
                assert not_pulled(answer).startswith("deadline: 0 of ")
                assert (await record(pool, answer)).attempt == 1
                assert pool.child("high").running
                await pool.system.add_worker(fake.low())
                await others_are_right(pool, fake)


class TestSenderInMidTransfer:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGCONT], ids=["killed", "woken"])
    async def test_some_parts_have_landed(self, fake: Case, number: signal.Signals) -> None:
        settings = SchedulerSettings(policy="fixed-cut", cut_tokens=CUT, liveness_s=60.0)
        async with fake.running(fake.low("tests.support.stalling_worker"), fake.high()) as pool:
            async with pool.scheduled(settings):
                request_id = await pool.submit(prompt_of(LONG), greedy(NEW_TOKENS))
                await eventually(lambda: is_stopped(pool, "low"), ENOUGH_S)
                if number is signal.SIGKILL:
                    await pool.kill("low")
                answer = await pool.answer(request_id, ENOUGH_S)
                assert list(answer.token_ids) == fake.right(prompt_of(LONG), NEW_TOKENS)
                assert some_landed(not_pulled(answer))
                assert (await record(pool, answer)).attempt == 1
                assert pool.child("high").running
                if number is signal.SIGKILL:
                    await pool.system.add_worker(fake.low())
                else:
                    pool.signal("low", number)
                await others_are_right(pool, fake)


class TestOwnerWhileItStreams:
    PROMPT = prompt_of(100)
    TOKENS = 400

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stalled"])
    async def test_another_owner_continues(self, fake: Case, number: signal.Signals) -> None:
        """The first owner is slow, so that a second one can come before it is done; a head start plays no part."""
        async with fake.running(fake.high("first", 20)) as pool, pool.scheduled(SchedulerSettings(policy="high-only")):
            first = await pool.member("first")
            request_id = await pool.submit(self.PROMPT, greedy(self.TOKENS))
            await pool.streamed(request_id, 5, ENOUGH_S)
            await pool.system.add_worker(fake.high("second"))
            await pool.streamed(request_id, 10, ENOUGH_S)
            pool.signal("first", number)
            answer = await pool.answer(request_id, ENOUGH_S)
            await self.check(pool, fake, answer)
            if number is signal.SIGSTOP:
                written = await pool.fabric.read_log(request_id)
                pool.signal("first", signal.SIGCONT)
                await eventually(lambda: has_let_go(pool, first), ENOUGH_S)
                assert await pool.fabric.read_log(request_id) == written

    async def check(self, pool: Pool, fake: Case, answer: Answer) -> None:
        """`Pool.answer` has seen to it that every index is there once."""
        assert list(answer.token_ids) == fake.right(self.PROMPT, self.TOKENS)
        assert answer.text == "".join(f"w{token}" for token in answer.token_ids)
        found = await record(pool, answer)
        assert (found.attempt, found.crashes) == (2, 1)
        first, second = answer.told("taken")
        assert first["generated"] == 0
        assert 10 <= int(str(second["generated"])) < self.TOKENS


# -- the pieces


async def ask(pool: Pool, case: Case, salt: int, length: int = LONG) -> Answer:
    """One request, and its tokens are right."""
    prompt = prompt_of(length, salt)
    answer = await pool.answer(await pool.submit(prompt, greedy(NEW_TOKENS)), ENOUGH_S)
    assert list(answer.token_ids) == case.right(prompt, NEW_TOKENS)
    return answer


async def others_are_right(pool: Pool, case: Case) -> None:
    """Ten more of other lengths and other tokens, where late bytes would do harm; and head starts are given as before."""
    answers = [await ask(pool, case, salt, LONG - 5 * salt) for salt in range(1, 11)]
    assert any(line["good_tokens"] for answer in answers for line in answer.told("pulled"))


def not_pulled(answer: Answer) -> str:
    """Why nothing of the one pull was believed."""
    (line,) = answer.told("pulled")
    assert line["good_tokens"] == 0
    return str(line["error"])


def some_landed(error: str) -> bool:
    """More than the header, and not all."""
    found = re.search(r"(\d+) of (\d+) parts came", error)
    assert found, error
    return 2 <= int(found[1]) < int(found[2])


async def record(pool: Pool, answer: Answer) -> Record:
    found = await pool.fabric.record(RequestId(answer.request_id))
    assert found
    return found


async def has_sent(port: int) -> bool:
    """Whether a worker's transfers have ended, trials of its link apart."""
    return (await scrape(port))("headstart:kv_transfers_total", direction="out") > 0


async def is_gone(pool: Pool, ref: WorkerRef) -> bool:
    return ref not in {info.ref for info in await pool.fabric.members()}


async def is_back(pool: Pool, ref: WorkerRef) -> bool:
    return not await is_gone(pool, ref)


async def is_stopped(pool: Pool, name: str) -> bool:
    process = pool.child(name).process
    return process is not None and psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


async def has_let_go(pool: Pool, ref: WorkerRef) -> bool:
    """Its latest report, spoken after it was woken, lists nothing."""
    reports = [event for _, event in await pool.fabric.read_events("0-0", count=5000) if isinstance(event, Report) and event.ref == ref]
    return bool(reports) and not reports[-1].owned
