"""The output's own thread: it starts whether the server is there or not, and ends when it is told."""

from __future__ import annotations

from collections.abc import Sequence

from shared.clock import ManualClock
from shared.errors import FabricUnavailable
from shared.fabric import WriteStatus
from shared.types import Phase, RequestId
from tests.support.waiting import eventually_now
from tests.unit.workers_shell.test_output import Letters, emit, spec
from workers.events import OpenOutput
from workers.output import Append, LogWriter, OutputBook, OutputStage


class Writer:
    """Takes everything."""

    def __init__(self) -> None:
        self.appends: list[Append] = []

    async def write(self, appends: Sequence[Append]) -> Sequence[WriteStatus]:
        self.appends += appends
        return [WriteStatus.DONE] * len(appends)

    async def close_many(self, ends: Sequence[tuple[RequestId, int, Phase]]) -> Sequence[WriteStatus]:
        return [WriteStatus.DONE] * len(ends)

    async def disconnect(self) -> None: ...


def stage_over(writer: Writer, refusals: int) -> tuple[OutputStage, list[int]]:
    """Its server refuses the first so many connections."""
    tried: list[int] = []

    async def connect() -> LogWriter:
        tried.append(1)
        if len(tried) <= refusals:
            raise FabricUnavailable("loading")
        return writer

    return OutputStage(OutputBook(Letters(), ManualClock()), connect, lambda _: None), tried


def test_a_server_that_is_away_at_the_start_is_waited_for_and_nothing_is_lost() -> None:
    writer = Writer()
    stage, tried = stage_over(writer, refusals=2)
    stage.start()
    asked = spec()
    stage.put([OpenOutput(asked, 1, ()), emit("ab")])
    eventually_now(lambda: bool(writer.appends), 30.0)
    stage.stop()
    assert len(tried) == 3
    ((request_id, attempt, (entry,), end),) = writer.appends
    assert (request_id, attempt, entry.text, end) == (asked.request_id, 1, "ab", None)


def test_one_that_never_connected_can_be_stopped() -> None:
    stage, _ = stage_over(Writer(), refusals=10**9)
    stage.start()
    stage.stop()
    assert not stage._thread.is_alive()
