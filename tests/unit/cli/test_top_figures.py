"""Rates and roles from reports."""

from __future__ import annotations

from rich.console import Console

from cli.top import draw
from cli.top_figures import Frame, ReportBook, worker_rows
from shared.messages import AgentInfo, AssistState, Credit, ManagedState, ManagedWorker, OwnedState, Report, WorkerInfo, WorkerState
from shared.profile import Profile
from shared.types import AssistId, JobSeq, RequestId, WorkerId, WorkerRef

SLOW = Profile(0.01, 4e-4, 0.0, 0.0, 0.0, 16)


def info(name: str, profile: Profile) -> WorkerInfo:
    return WorkerInfo(WorkerRef(WorkerId(name), "1"), "m", b"f", "cpu", "h", profile, 16, 100, 8, 512, 2048)


LOW, HIGH = info("low-1", SLOW), info("high-1", SLOW.scaled(0.5))


def report(of: WorkerInfo, counter: int, tokens: int, free: int = 25) -> Report:
    owned = (OwnedState(RequestId("r"), 1, tokens, tokens - 1), OwnedState(RequestId("s"), 1, 64, 0))
    assists = (AssistState(AssistId("a"), RequestId("t"), 128, False),)
    return Report(of.ref, counter, WorkerState.READY, JobSeq(1, 1), Credit(0, free, 3), owned, assists)


def test_a_rate_is_what_was_gained_over_the_time_it_took() -> None:
    book = ReportBook()
    for at, tokens in enumerate((100, 120, 150)):
        book.add(f"{1000 + 500 * at}-0", report(HIGH, at, tokens))
    assert book.tokens_per_s(HIGH.ref) == 50.0
    for at in range(40):
        book.add(f"{2500 + 500 * at}-0", report(HIGH, 3 + at, 150))
    assert book.tokens_per_s(HIGH.ref) == 0.0, "what lies beyond the window counts no more"
    book.keep([])
    assert book.latest(HIGH.ref) is None


def test_a_row_says_role_load_and_memory() -> None:
    book = ReportBook()
    book.add("1-0", report(HIGH, 1, 100))
    high, low = worker_rows([LOW, HIGH], book)
    assert (high.name, high.role, high.state, high.running, high.waiting, high.head_starts) == ("high-1", "high", "ready", 1, 1, 1)
    assert (high.offered_tokens, high.kv_use) == (128, 0.75)
    assert (low.name, low.role, low.state, low.kv_use) == ("low-1", "low", "silent", 0.0)


def test_a_frame_fits_eighty_columns_and_names_the_given_up() -> None:
    book = ReportBook()
    book.add("1-0", report(HIGH, 1, 100))
    kept = ManagedWorker("low-1", "low", ManagedState.GIVEN_UP, 0, 5, (), "exit 2: no such model")
    agent = AgentInfo("h", "i", "q", 1, (), 2, (kept, ManagedWorker("high-1", "high", ManagedState.RUNNING)))
    console = Console(width=80, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(draw(Frame("p", {"queued": 2, "running": 1}, tuple(worker_rows([LOW, HIGH], book)), (agent,))))
    lines = captured.get().splitlines()
    assert lines[0] == "pool p: 2 queued, 1 running; 0 tokens/s"
    assert any(line.split()[:3] == ["high-1", "high", "ready"] for line in lines)
    assert "agent h: 1 of 2 workers run" in lines
    assert "  low-1 given_up, 5 restarts: exit 2: no such model" in lines
    assert max(map(len, lines)) <= 80
