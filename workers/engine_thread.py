"""The one thread that drives the engine: plans in, results out, up to two plans outstanding."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable

from workers.engine import Engine, StepPlan
from workers.events import StepDone, StepFailed

log = logging.getLogger(__name__)

OnStep = Callable[[StepDone | StepFailed], None]


class EngineThread:
    """`launch` from any thread; `on_step` is called on the engine's thread, once per plan, in order."""

    def __init__(self, engine: Engine, on_step: OnStep) -> None:
        self._engine = engine
        self._on_step = on_step
        self._plans: queue.SimpleQueue[StepPlan | None] = queue.SimpleQueue()
        self.calls = 0
        """Into the engine, begun and ended: odd while one is under way."""
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def launch(self, plan: StepPlan) -> None:
        self._plans.put(plan)

    def stop(self, timeout_s: float = 30.0) -> None:
        """Ends after the launched steps."""
        self._plans.put(None)
        self._thread.join(timeout_s)

    def _main(self) -> None:
        launched: deque[int] = deque()
        while True:
            if launched and self._plans.empty():
                self._collect(launched.popleft())
                continue
            plan = self._plans.get()
            if plan is None:
                for step in launched:
                    self._collect(step)
                return
            if self._launch(plan):
                launched.append(plan.step)
            if len(launched) > 1:
                self._collect(launched.popleft())

    def _launch(self, plan: StepPlan) -> bool:
        self.calls += 1
        try:
            self._engine.launch(plan)
        except Exception as error:
            self._fail(plan.step, error)
            return False
        finally:
            self.calls += 1
        return True

    def _collect(self, step: int) -> None:
        self.calls += 1
        try:
            result = self._engine.collect()
        except Exception as error:
            self._fail(step, error)
            return
        finally:
            self.calls += 1
        self._on_step(StepDone(result.step, result.token_ids, result.logprobs, result.seconds, result.top_logprobs))

    def _fail(self, step: int, error: Exception) -> None:
        # Whatever the model raised, the worker goes on: the core retries the step's sequences one by one.
        log.exception("step %d failed", step, exc_info=error)
        self._on_step(StepFailed(step, f"{type(error).__name__}: {error}"))
