"""What every simulated process shares: it can be killed, stopped and woken, and it talks to the server over a link."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from scheduler.simulation.steps import Fault, Step
from workers.reading import behind

if TYPE_CHECKING:
    from scheduler.simulation.world import World

T = TypeVar("T")
M = TypeVar("M")
Action = Callable[[], None]

LATENCY_S = 0.001
"""One way to the server."""
ANSWER_TIMEOUT_S = 0.3
"""After which a lost answer is known to be lost."""


def nothing() -> None:
    """The answer, or its loss, changes nothing."""


class Process:
    """Runs actions while it lives; a stopped process runs them when it wakes, in order, as a real one finds its sockets."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.is_stalled = False
        self._deferred: list[Action] = []

    def run(self, action: Action) -> None:
        if not self.alive:
            return
        if self.is_stalled:
            self._deferred.append(action)
        else:
            action()

    def after(self, seconds: float, action: Action) -> None:
        self.world.after(seconds, lambda: self.run(action))

    def every(self, seconds: float, action: Action) -> None:
        def again() -> None:
            action()
            self.after(seconds, again)

        self.after(seconds, again)

    def moment(self, step: Step, then: Action) -> None:
        """A named moment of this process: `then` follows, unless the process is killed; later, if it is stopped."""
        fault = self.world.plan.strike(step)
        if fault is Fault.KILLED:
            self.kill()
        elif fault is Fault.STALLED:
            self.stall(self.world.rng.uniform(0.5, 12.0))
        self.run(then)

    def kill(self) -> None:
        if self.alive:
            self.tell("is killed", None)
            self.alive = False
            self._deferred.clear()
            self.world.killed(self)

    def stall(self, seconds: float) -> None:
        if not self.is_stalled and self.alive:
            self.tell("stops for seconds", seconds)
            self.is_stalled = True
            self.world.stalled(self, seconds)
            self.world.after(seconds, self._wake)

    def _wake(self) -> None:
        self.is_stalled = False
        self.tell("wakes", None)
        while self._deferred and not self.is_stalled and self.alive:
            self._deferred.pop(0)()

    def tell(self, what: str, thing: object) -> None:
        self.world.tell(self.name, what, thing)

    def write(
        self, step: Step, effect: Callable[[], T], answered: Callable[[T], None] = lambda answer: None, failed: Action = nothing
    ) -> None:
        """One atomic step on the server: ends in `answered`, or in `failed` when no answer comes."""
        fault = self.world.plan.strike(step)
        self.world.after(LATENCY_S, lambda: self._arrive(step, fault, effect, answered, failed))

    def ask(self, effect: Callable[[], T], answered: Callable[[T], None], failed: Action = nothing) -> None:
        """A read: no step of the protocol, but the server can be away."""
        self.world.after(LATENCY_S, lambda: self._answer(effect, answered, failed))

    def _answer(self, effect: Callable[[], T], answered: Callable[[T], None], failed: Action) -> None:
        if self.world.server.up:
            answer = effect()
            self.after(LATENCY_S, lambda: answered(answer))
        else:
            self.after(ANSWER_TIMEOUT_S, failed)

    def _arrive(self, step: Step, fault: Fault | None, effect: Callable[[], T], answered: Callable[[T], None], failed: Action) -> None:
        if not self.world.server.meets_a_write() or fault is Fault.LOST_BEFORE:
            self.after(ANSWER_TIMEOUT_S, failed)
            return
        answer = effect()
        self.world.server.took(step)
        if fault is Fault.LOST_AFTER:
            self.after(ANSWER_TIMEOUT_S, failed)
        else:
            self.after(LATENCY_S, lambda: answered(answer))


class Reader(Generic[M]):
    """Follows one stream of the server from a position; faults strike at each message as it is delivered."""

    def __init__(
        self,
        process: Process,
        read: Callable[[str], tuple[tuple[str, M], ...]],
        deliver: Callable[[str, M], None],
        step_of: Callable[[M], Step],
        after: str = "0-0",
        *,
        in_order: bool = False,
        newest: Callable[[], str] | None = None,
    ) -> None:
        """`in_order`: a late message holds up those behind it, as in a stream whose reader asks again from where it is.

        `newest`: the id of the stream's last entry, for a reader that looks whether a server went back behind what was read.
        """
        self._process = process
        self._read = read
        self._deliver = deliver
        self._step_of = step_of
        self.position = after
        self._coming = False
        self._closed = False
        self._in_order = in_order
        self._held_up = False
        self._newest = newest
        self._losses = process.world.server.losses

    def wake(self) -> None:
        """Something may be there to read."""
        if not self._coming and not self._closed:
            self._coming = True
            self._process.after(LATENCY_S, self._poll)

    def close(self) -> None:
        self._closed = True

    def _poll(self) -> None:
        self._coming = False
        if self._closed:
            return
        if not self._process.world.server.up:
            self._process.world.server.when_back(self.wake)
            return
        if self._held_up:
            return
        self._look_back()
        for entry_id, message in self._read(self.position):
            fault = self._process.world.plan.strike(self._step_of(message))
            if self._in_order and fault is Fault.LATE:
                self._hold_up(message)
                return
            self.position = entry_id
            self._meet(fault, entry_id, message)

    def _look_back(self) -> None:
        """As `workers.reading.Place` does."""
        losses = self._process.world.server.losses
        if self._newest is not None and losses > self._losses:
            self._losses, self.position = losses, behind(self.position, self._newest())

    def _hold_up(self, message: M) -> None:
        delay = self._process.world.rng.uniform(0.5, 6.0)
        self._process.tell(f"waits {delay:.3f} s for", message)
        self._held_up = True
        self._process.after(delay, self._go_on)

    def _go_on(self) -> None:
        self._held_up = False
        self.wake()

    def _meet(self, fault: Fault | None, entry_id: str, message: M) -> None:
        rng = self._process.world.rng
        if fault is None:
            self._hand_over(entry_id, message)
        elif fault is Fault.LOST:
            self._process.tell("never sees", message)
        elif fault is Fault.DUPLICATED:
            self._hand_over(entry_id, message)
            self._process.after(rng.choice((0.0, 0.05, 2.0)), lambda: self._hand_over(entry_id, message))
        else:
            delay = rng.uniform(0.5, 6.0) if fault is Fault.LATE else rng.uniform(0.005, 0.1)
            self._process.tell(f"sees {delay:.3f} s late", message)
            self._process.after(delay, lambda: self._hand_over(entry_id, message))

    def _hand_over(self, entry_id: str, message: M) -> None:
        if not self._closed:
            self._process.run(lambda: self._deliver(entry_id, message))
